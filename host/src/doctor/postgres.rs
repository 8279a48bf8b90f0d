//! What is to be said about a PostgreSQL, from facts about it. Pure.

use std::time::Duration;

use super::Finding;
use super::cockroach::{boolean, clock};
use super::tables::{self, Table};
use crate::sql::quote;

/// The settings that are asked for.
pub(super) const SETTINGS: &[&str] = &[
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "max_connections",
    "superuser_reserved_connections",
    "max_prepared_transactions",
];

/// Connections beside those that requests share: two that write, one for the feed
/// of each region (up to 16), one that makes the tables, three of the deployments and
/// one of the quarantine.
const OTHER_CONNECTIONS: i64 = 23;

/// Age after which a transaction that has written is worth a word.
const LONG: Duration = Duration::from_secs(60);

/// What was asked of the server. `None`: it did not say.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub role: String,
    /// Connections that requests will share.
    pub wanted_connections: usize,
    /// Values of [`SETTINGS`].
    pub settings: Vec<(&'static str, Option<String>)>,
    /// Whether it only follows another server.
    pub standby: bool,
    /// Whether `kv_log` is there.
    pub table: bool,
    pub may_select: bool,
    pub may_insert: bool,
    pub may_create: bool,
    /// The tables beside it.
    pub others: Vec<Table>,
    /// Whether it tells this user of other users' transactions.
    pub sees_all: bool,
    /// Connections of clients, ours included.
    pub used_connections: Option<i64>,
    /// Age of the oldest transaction that has written; 0 without one.
    pub oldest_writer_seconds: Option<i64>,
    /// Age of the oldest prepared transaction, if there is one.
    pub oldest_prepared_seconds: Option<i64>,
    /// Whether this connection uses TLS.
    pub tls: Option<bool>,
    /// Where the server sees us; `None` on a socket in the file system.
    pub client_address: Option<String>,
    pub clock_offset_micros: Option<i64>,
}

/// What is to be said.
pub(super) fn evaluate(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.standby {
        findings.push(
            Finding::problem("standby", "this server only follows another one")
                .costs("nothing can be written")
                .fixed_by("name the primary in the URL"),
        );
    }
    findings.extend(privileges(facts));
    findings.extend(durability(facts));
    findings.push(connections(facts));
    findings.extend(long_transactions(facts));
    findings.push(tls(facts));
    findings.push(clock(facts.clock_offset_micros));
    findings
}

fn setting<'a>(facts: &'a Facts, name: &str) -> Option<&'a str> {
    let (_, value) = facts.settings.iter().find(|(found, _)| *found == name)?;
    value.as_deref()
}

fn privileges(facts: &Facts) -> Vec<Finding> {
    let role = quote(&facts.role);
    let create = format!("GRANT CREATE ON SCHEMA public TO {role};");
    if !facts.table {
        let subject = "table kv_log";
        return vec![match facts.may_create {
            true => Finding::ok(
                subject,
                "it is not there yet; Tidepool creates it when it starts",
            ),
            false => Finding::problem(subject, "it is not there, and this user may not create it")
                .fixed_by(create),
        }];
    }
    let privilege = |name: &str, held: bool, without: &str| match held {
        true => Finding::ok(&format!("privilege {name}"), "held on kv_log"),
        false => Finding::problem(&format!("privilege {name}"), "missing on kv_log")
            .costs(without)
            .fixed_by(format!("GRANT {name} ON TABLE kv_log TO {role};")),
    };
    let mut findings = vec![
        privilege(
            "SELECT",
            facts.may_select,
            "nothing can be read or followed",
        ),
        privilege("INSERT", facts.may_insert, "nothing can be written"),
    ];
    let others = tables::evaluate(&facts.others, &role, facts.may_create, &create);
    findings.extend(others);
    findings
}

/// What is acknowledged has to be on disk.
fn durability(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, lost) in [
        (
            "fsync",
            "a crash of the machine can lose acknowledged writes and the whole database",
        ),
        (
            "full_page_writes",
            "a crash of the machine can damage pages beyond repair",
        ),
    ] {
        findings.push(match setting(facts, name).and_then(boolean) {
            Some(true) => Finding::ok(name, "on"),
            Some(false) => Finding::problem(name, "off").costs(lost).fixed_by(format!(
                "ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();"
            )),
            None => Finding::advice(name, "the server did not say"),
        });
    }
    let name = "synchronous_commit";
    findings.push(match setting(facts, name) {
        Some("off") => Finding::problem(name, "off")
            .costs(
                "a crash of the server can lose writes of the last second that were acknowledged",
            )
            .fixed_by(format!(
                "ALTER ROLE {} SET synchronous_commit = on;",
                quote(&facts.role)
            )),
        // The local disk is enough for one server; others wait for standbys too.
        Some(other) => Finding::ok(name, other),
        None => Finding::advice(name, "the server did not say"),
    });
    findings
}

fn connections(facts: &Facts) -> Finding {
    const SUBJECT: &str = "max_connections";
    let number = |name| setting(facts, name).and_then(|text| text.parse::<i64>().ok());
    let (Some(most), Some(used)) = (number(SUBJECT), facts.used_connections) else {
        return Finding::advice(SUBJECT, "the server did not say");
    };
    let reserved = number("superuser_reserved_connections").unwrap_or(0);
    let free = most.saturating_sub(reserved).saturating_sub(used);
    let shared = i64::try_from(facts.wanted_connections).unwrap_or(i64::MAX);
    let wanted = shared.saturating_add(OTHER_CONNECTIONS);
    let what = format!("{most}, of which {free} are free; this host uses up to {wanted}");
    match free >= wanted {
        true => Finding::ok(SUBJECT, what),
        false => Finding::advice(SUBJECT, what)
            .costs("connections are refused, and requests that need one wait or fail")
            .fixed_by(format!(
                "ALTER SYSTEM SET max_connections = {}; -- and restart the server",
                most.saturating_add(wanted)
            )),
    }
}

fn long_transactions(facts: &Facts) -> Vec<Finding> {
    let cost = "the feed declares nothing resolved that is younger than the oldest transaction \
                that has written, so that every region looks as far behind; and nothing that was \
                deleted since can be cleaned up";
    let mut findings = Vec::new();
    let long = |seconds: i64| u64::try_from(seconds).ok().map(Duration::from_secs);
    let age = |seconds: i64| humantime::format_duration(long(seconds).unwrap_or_default());
    let subject = "long transactions";
    findings.push(match facts.oldest_writer_seconds {
        Some(seconds) if long(seconds).is_some_and(|time| time >= LONG) => Finding::advice(
            subject,
            format!("one that has written is {} old", age(seconds)),
        )
        .costs(cost)
        .fixed_by(
            "SELECT pid, usename, xact_start, query FROM pg_stat_activity \
                     WHERE backend_xid IS NOT NULL ORDER BY xact_start; -- then end it",
        ),
        Some(_) if facts.sees_all => Finding::ok(subject, "none"),
        _ => Finding::advice(subject, "this user cannot see those of others").fixed_by(format!(
            "GRANT pg_read_all_stats TO {};",
            quote(&facts.role)
        )),
    });
    if let Some(seconds) = facts.oldest_prepared_seconds {
        findings.push(
            Finding::advice(
                "prepared transactions",
                format!("the oldest has waited for {} to be committed", age(seconds)),
            )
            .costs(cost)
            .fixed_by("SELECT gid, prepared, owner FROM pg_prepared_xacts; -- then ROLLBACK PREPARED 'gid';"),
        );
    }
    findings
}

fn tls(facts: &Facts) -> Finding {
    const SUBJECT: &str = "TLS";
    let loopback = match facts.client_address.as_deref() {
        None => true,
        Some(address) => address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
    };
    match facts.tls {
        Some(true) => Finding::ok(SUBJECT, "on"),
        _ if loopback => Finding::ok(SUBJECT, "off, on this machine"),
        _ => Finding::advice(SUBJECT, "off, over the network")
            .costs("whoever is on the way reads and changes everything, the password included")
            .fixed_by("add sslmode=verify-full to the URL, and give the server a certificate"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Severity, is_healthy};

    fn healthy() -> Facts {
        let on = || Some("on".to_owned());
        Facts {
            role: "app".into(),
            wanted_connections: 4,
            settings: vec![
                ("fsync", on()),
                ("full_page_writes", on()),
                ("synchronous_commit", on()),
                ("max_connections", Some("100".into())),
                ("superuser_reserved_connections", Some("3".into())),
            ],
            standby: false,
            table: true,
            may_select: true,
            may_insert: true,
            may_create: true,
            others: vec![],
            sees_all: true,
            used_connections: Some(5),
            oldest_writer_seconds: Some(0),
            oldest_prepared_seconds: None,
            tls: Some(false),
            client_address: Some("127.0.0.1".into()),
            clock_offset_micros: Some(0),
        }
    }

    /// The findings that are not as they should be.
    fn found(facts: &Facts) -> Vec<Finding> {
        let mut findings = evaluate(facts);
        findings.retain(|finding| finding.severity != Severity::Ok);
        findings
    }

    #[test]
    fn a_healthy_server_has_nothing_to_be_said() {
        assert_eq!(found(&healthy()), []);
    }

    #[test]
    fn what_loses_acknowledged_writes_is_a_problem() {
        for name in ["fsync", "full_page_writes", "synchronous_commit"] {
            let mut facts = healthy();
            facts.settings.retain(|(found, _)| *found != name);
            facts.settings.push((name, Some("off".into())));
            let found = found(&facts);
            assert_eq!(found.len(), 1, "{found:#?}");
            assert_eq!(
                (found[0].severity, &*found[0].subject),
                (Severity::Problem, name)
            );
            assert!(found[0].fix.as_deref().unwrap().contains(name));
        }
    }

    #[test]
    fn each_lack_is_found_and_named() {
        type Change = fn(&mut Facts);
        let changes: [(Change, &str, Severity); 9] = [
            (|facts| facts.standby = true, "standby", Severity::Problem),
            (
                |facts| facts.may_insert = false,
                "privilege INSERT",
                Severity::Problem,
            ),
            (
                |facts| facts.may_select = false,
                "privilege SELECT",
                Severity::Problem,
            ),
            (
                |facts| facts.used_connections = Some(90),
                "max_connections",
                Severity::Advice,
            ),
            (
                |facts| facts.oldest_writer_seconds = Some(61),
                "long transactions",
                Severity::Advice,
            ),
            (
                |facts| facts.sees_all = false,
                "long transactions",
                Severity::Advice,
            ),
            (
                |facts| facts.oldest_prepared_seconds = Some(5),
                "prepared transactions",
                Severity::Advice,
            ),
            (
                |facts| facts.client_address = Some("10.0.0.7".into()),
                "TLS",
                Severity::Advice,
            ),
            (
                |facts| facts.clock_offset_micros = Some(9_000_000),
                "clock",
                Severity::Problem,
            ),
        ];
        for (change, subject, severity) in changes {
            let mut facts = healthy();
            change(&mut facts);
            let found = found(&facts);
            assert_eq!(found.len(), 1, "{subject}: {found:#?}");
            assert_eq!((found[0].severity, &*found[0].subject), (severity, subject));
            assert!(found[0].fix.is_some(), "{subject}");
        }
    }

    #[test]
    fn a_table_that_cannot_be_made_is_a_problem() {
        let facts = Facts {
            table: false,
            may_create: false,
            may_select: false,
            may_insert: false,
            ..healthy()
        };
        let found = found(&facts);
        assert!(!is_healthy(&found));
        assert_eq!(
            found[0].fix.as_deref(),
            Some("GRANT CREATE ON SCHEMA public TO \"app\";")
        );
    }

    #[test]
    fn a_server_that_says_nothing_makes_no_problem_of_it() {
        let facts = Facts {
            settings: vec![],
            used_connections: None,
            oldest_writer_seconds: None,
            tls: None,
            client_address: None,
            clock_offset_micros: None,
            ..healthy()
        };
        assert!(is_healthy(&evaluate(&facts)));
    }
}
