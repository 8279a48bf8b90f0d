//! What an error of the database means for a feed: the one table of it. Pure.
//!
//! CockroachDB gives most errors of changefeeds the same code, so the message
//! decides. What is not in the table is an interruption: the feed is opened again,
//! with a growing wait, and the message is told.

use crate::feed::FeedError;
use crate::sql::{Class, ServerKind, SqlError, quote};

/// An error as the database, or the connection to it, has told it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// The SQLSTATE; `None` when it is not the database that speaks.
    pub code: Option<String>,
    /// The message.
    pub message: String,
}

impl Told {
    /// What an error of the client says.
    pub fn of(error: &tokio_postgres::Error) -> Told {
        match error.as_db_error() {
            Some(said) => Told {
                code: Some(said.code().code().to_owned()),
                message: said.message().replace('\n', " "),
            },
            None => Told {
                code: None,
                message: error.to_string(),
            },
        }
    }
}

/// Who asks whom: what a grant has to name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Who {
    /// The server.
    pub server: ServerKind,
    /// The user.
    pub role: String,
    /// Of which tables, with commas between them.
    pub tables: &'static str,
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

/// What can be read in an error.
pub fn classify(told: &Told, who: &Who) -> Failure {
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
            "the table was dropped; restore it from a backup, or drop the table tidepool_schema \
             too and restart Tidepool to begin with an empty log; then flush the cache of every \
             region, and it is filled again from the log"
                .into(),
        );
    }
    if says("column famil") {
        return Failure::Repair(
            "the table has more than one column family; let Tidepool create the table".into(),
        );
    }
    match code {
        "42501" => Failure::Repair(format!(
            "this user may not follow the table; as an administrator, run: {}",
            grants(who)
        )),
        "42601" => Failure::Spelling,
        "22023" | "XXUUU" | "0A000" if says("invalid option") || says("unknown option") => {
            Failure::Spelling
        }
        "42P01" => Failure::NoTable,
        "XXUUU" if says("failed to resolve targets") && says("does not exist") => Failure::NoTable,
        // Both also come when a connection is asked for: see `unconnected`.
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

/// The grants that reading and following the tables needs.
pub fn grants(who: &Who) -> String {
    let (role, tables) = (quote(&who.role), who.tables);
    let select = format!("GRANT SELECT ON TABLE {tables} TO {role};");
    match who.server.cockroach_since(22, 2) {
        true => format!("{select} GRANT CHANGEFEED ON TABLE {tables} TO {role};"),
        false => format!("{select} ALTER USER {role} WITH CONTROLCHANGEFEED;"),
    }
}

/// The error of a feed, with what the database has said.
pub fn error(told: &Told, who: &Who) -> FeedError {
    let said = match &told.code {
        Some(code) => format!("{} ({code})", told.message),
        None => told.message.clone(),
    };
    match classify(told, who) {
        Failure::Interrupted => FeedError::Interrupted(said),
        Failure::PositionLost => FeedError::PositionLost(said),
        Failure::Spelling => FeedError::Repair(format!(
            "{} does not understand what it was asked: {said}; run another release of it",
            who.server
        )),
        Failure::NoTable => FeedError::Repair(format!(
            "{said}: correct the database in the URL, restore the table from a backup, or, when \
             there never was one, restart Tidepool to create it"
        )),
        Failure::Repair(advice) => FeedError::Repair(format!("{said}: {advice}")),
    }
}

/// The error of a feed that has no connection.
pub fn unconnected(error: &SqlError) -> FeedError {
    let said = error.to_string();
    let repair = match error {
        SqlError::NotSupported { .. } => true,
        error => matches!(
            error.class(),
            Class::Login | Class::NoDatabase | Class::Privilege | Class::Tls
        ),
    };
    match repair {
        true => FeedError::Repair(said),
        false => FeedError::Interrupted(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn who(major: u32, minor: u32) -> Who {
        Who {
            server: ServerKind::Cockroach { major, minor },
            role: "app".into(),
            tables: "kv_log",
        }
    }

    fn meaning(code: &str, message: &str) -> Failure {
        let told = Told {
            code: (!code.is_empty()).then(|| code.to_owned()),
            message: message.to_owned(),
        };
        classify(&told, &who(22, 1))
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
            (
                "XXUUU",
                "\"kv_log\" was dropped",
                "restore it from a backup",
            ),
            (
                "42501",
                "current user must have a role WITH CONTROLCHANGEFEED",
                "ALTER USER \"app\" WITH CONTROLCHANGEFEED;",
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
        for (minor, grant) in [(1, "CONTROLCHANGEFEED"), (2, "GRANT CHANGEFEED")] {
            let text = error(&told, &who(22, minor)).to_string();
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
            prop_assert!(error(&told, &who(25, 4)).to_string().contains(&message));
        }
    }
}
