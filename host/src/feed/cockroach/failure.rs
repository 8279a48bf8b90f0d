//! What an error of the database means for a feed: the one table of it. Pure.
//!
//! CockroachDB gives most errors of changefeeds the same code, so the message
//! decides. What is not in the table is an interruption: the feed is opened again,
//! with a growing wait, and the message is told.

use super::statement::ServerVersion;
use crate::feed::FeedError;

/// An error as the database, or the connection to it, has told it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// The SQLSTATE; `None` when it is not the database that speaks.
    pub code: Option<String>,
    /// The message.
    pub message: String,
}

/// What an error means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Open the feed again from the saved position, on another node.
    Interrupted,
    /// What lies after the position is no longer kept.
    PositionLost,
    /// The statement, or an option of it, is unknown to this server.
    Spelling,
    /// The table is not there, or was not at the position.
    NoTable,
    /// An operator has to do this first.
    Repair(String),
}

/// What can be read in an error of a server of this release.
pub fn classify(told: &Told, version: Option<ServerVersion>) -> Failure {
    let says = |text: &str| told.message.contains(text);
    let code = told.code.as_deref().unwrap_or_default();
    if says("kv.rangefeed.enabled") {
        return Failure::Repair(
            "rangefeeds are off; as an administrator, run: \
             SET CLUSTER SETTING kv.rangefeed.enabled = true;"
                .into(),
        );
    }
    if says("GC threshold") || says("timestamp in the future") || says("too far in future") {
        return Failure::PositionLost;
    }
    if says("was truncated") {
        return Failure::Repair(
            "the table was truncated, so that the cache has what the log no longer has; \
             flush the cache of every region, and it is filled again from the log"
                .into(),
        );
    }
    if says("was dropped") {
        return Failure::Repair(
            "the table was dropped; restore it, or restart Tidepool to create an empty one, \
             and flush the cache of every region: it is filled again from the log"
                .into(),
        );
    }
    if says("column famil") {
        return Failure::Repair(
            "the table has more than one column family; let Tidepool create the table".into(),
        );
    }
    match code {
        "42501" => Failure::Repair(privilege(version)),
        "42601" => Failure::Spelling,
        "22023" | "XXUUU" | "0A000" if says("invalid option") || says("unknown option") => {
            Failure::Spelling
        }
        "42P01" => Failure::NoTable,
        "XXUUU" if says("failed to resolve targets") && says("does not exist") => Failure::NoTable,
        "3D000" => Failure::Repair("create the database, or correct its name in the URL".into()),
        "28P01" | "28000" => Failure::Repair("correct the user or the password in the URL".into()),
        "XXC01" | "XXC02" => Failure::Repair(
            "the cluster has no licence that allows it; as an administrator, run: \
             SET CLUSTER SETTING enterprise.license = '...';"
                .into(),
        ),
        _ => Failure::Interrupted,
    }
}

/// The grants that a changefeed without a sink needs, by release; each is enough
/// for the feed, with the SELECT that reading the log needs too.
pub(crate) fn grants(version: Option<ServerVersion>, user: &str) -> String {
    let select = format!("GRANT SELECT ON TABLE kv_log TO {user};");
    match version.map(|version| (version.major, version.minor)) {
        Some(release) if release < (22, 2) => {
            format!("{select} ALTER USER {user} WITH CONTROLCHANGEFEED;")
        }
        _ => format!("{select} GRANT CHANGEFEED ON TABLE kv_log TO {user};"),
    }
}

fn privilege(version: Option<ServerVersion>) -> String {
    format!(
        "the user of the URL may not follow the table; as an administrator, run: {}",
        grants(version, "<user>")
    )
}

/// The error of a feed, with what the database has said.
pub(super) fn error(told: &Told, version: Option<ServerVersion>) -> FeedError {
    let said = match &told.code {
        Some(code) => format!("{} ({code})", told.message),
        None => told.message.clone(),
    };
    match classify(told, version) {
        Failure::Interrupted => FeedError::Interrupted(said),
        Failure::PositionLost => FeedError::PositionLost(said),
        Failure::Spelling => FeedError::Repair(format!(
            "this server does not understand the statement that starts a changefeed: {said}; \
             upgrade it to {} or newer",
            super::statement::OLDEST
        )),
        Failure::NoTable => FeedError::Repair(format!(
            "{said}; restart Tidepool to create the table, or correct the database in the URL"
        )),
        Failure::Repair(advice) => FeedError::Repair(format!("{said}: {advice}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meaning(code: &str, message: &str) -> Failure {
        let told = Told {
            code: (!code.is_empty()).then(|| code.to_owned()),
            message: message.to_owned(),
        };
        classify(&told, ServerVersion::parse("CockroachDB CCL v22.1.0"))
    }

    #[test]
    fn what_passes_by_itself_is_an_interruption() {
        for (code, message) in [
            ("57P01", "server is shutting down"),
            ("57014", "query execution canceled"),
            (
                "40001",
                "restart transaction: TransactionRetryWithProtoRefreshError",
            ),
            (
                "40003",
                "result is ambiguous (error=unable to determine whether command was applied)",
            ),
            ("53300", "sorry, too many clients already"),
            ("08006", "connection lost"),
            (
                "XXUUU",
                "CHANGEFEED cannot target offline table: kv_log (offline reason: \"importing\")",
            ),
            ("XXUUU", "something that nobody has seen before"),
            ("", "connection closed"),
        ] {
            assert_eq!(meaning(code, message), Failure::Interrupted, "{message}");
        }
    }

    #[test]
    fn what_lies_too_far_back_is_a_lost_position() {
        for message in [
            "batch timestamp 1795431520.657337230,0 must be after replica GC threshold 1795431527.664569790,0",
            "cursor is older than the GC threshold",
            "AS OF SYSTEM TIME: cannot specify timestamp in the future (1 > 0)",
        ] {
            assert_eq!(
                meaning("XXUUU", message),
                Failure::PositionLost,
                "{message}"
            );
        }
    }

    #[test]
    fn what_an_operator_has_to_repair_says_how() {
        for (code, message, how) in [
            (
                "XXUUU",
                "rangefeeds require the kv.rangefeed.enabled setting. See https://",
                "SET CLUSTER SETTING kv.rangefeed.enabled = true;",
            ),
            ("XXUUU", "\"kv_log\" was truncated", "flush the cache"),
            ("XXUUU", "\"kv_log\" was dropped", "restore it"),
            (
                "42501",
                "current user must have a role WITH CONTROLCHANGEFEED",
                "ALTER USER <user> WITH CONTROLCHANGEFEED;",
            ),
            (
                "3D000",
                "database \"kv\" does not exist",
                "create the database",
            ),
            (
                "28P01",
                "password authentication failed for user u",
                "password",
            ),
        ] {
            let Failure::Repair(advice) = meaning(code, message) else {
                panic!("{message}")
            };
            assert!(advice.contains(how), "{advice}");
        }
    }

    #[test]
    fn the_grant_is_that_of_the_release() {
        let told = Told {
            code: Some("42501".into()),
            message: "user u requires the SELECT privilege on all target tables".into(),
        };
        for (version, grant) in [
            ("v22.1.3", "CONTROLCHANGEFEED"),
            ("v22.2.0", "GRANT CHANGEFEED"),
            ("v25.4.1", "GRANT CHANGEFEED"),
        ] {
            let version = ServerVersion::parse(&format!("CockroachDB CCL {version}"));
            let text = error(&told, version).to_string();
            assert!(
                text.contains(grant) && text.contains("GRANT SELECT"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_spelling_is_told_from_the_rest() {
        assert_eq!(
            meaning("42601", "at or near \"changefeed\": syntax error"),
            Failure::Spelling
        );
        assert_eq!(
            meaning("XXUUU", "invalid option \"mvcc_timestamp\""),
            Failure::Spelling
        );
        assert_eq!(
            meaning(
                "XXUUU",
                "failed to resolve targets in the CHANGEFEED stmt: table \"kv_log\" does not exist"
            ),
            Failure::NoTable
        );
        assert_eq!(
            meaning("42P01", "relation \"kv_log\" does not exist"),
            Failure::NoTable
        );
    }

    proptest! {
        #[test]
        fn every_error_has_a_meaning(code in prop::option::of(".{0,5}"), message in ".*") {
            let told = Told { code, message: message.clone() };
            // And the feed's error says what the database said.
            prop_assert!(error(&told, None).to_string().contains(&message));
        }
    }
}
