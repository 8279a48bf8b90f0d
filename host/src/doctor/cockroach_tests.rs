//! Clusters as they come and as they should be.

use proptest::prelude::*;

use super::*;
use crate::doctor::{Severity, is_healthy};

/// A cluster as it is installed, with the table made.
fn installed() -> Facts {
    Facts {
        server: ServerKind::Cockroach {
            major: 23,
            minor: 2,
        },
        role: "app".into(),
        database: Some("kv".into()),
        settings: vec![
            (RANGEFEEDS, Some("f".into())),
            (POLL.name, Some("00:00:01".into())),
            (CLOSED[0].name, Some("00:00:03".into())),
            (CLOSED[1].name, Some("00:00:03".into())),
        ],
        licensed: Some(false),
        table: true,
        may_select: true,
        may_insert: true,
        may_create: true,
        others: vec![],
        definition: Some("CREATE TABLE public.kv_log (key BYTES NOT NULL)".into()),
        zone: Some(
            "ALTER DATABASE kv CONFIGURE ZONE USING\n\tgc.ttlseconds = 14400,\n\tnum_replicas = 3"
                .into(),
        ),
        cluster_regions: vec![],
        database_regions: vec![],
        survival: None,
        clock_offset_micros: Some(-3_000),
    }
}

/// One that is set up as it should be.
fn tuned() -> Facts {
    Facts {
        settings: vec![
            (RANGEFEEDS, Some("true".into())),
            (POLL.name, Some("00:00:01".into())),
            (CLOSED[0].name, Some("1s".into())),
            (CLOSED[1].name, Some("250ms".into())),
        ],
        definition: Some("CREATE TABLE t (k BYTES) WITH (schema_locked = true)".into()),
        ..installed()
    }
}

fn finding(facts: &Facts, subject: &str) -> Finding {
    let found = evaluate(facts).into_iter();
    let mut found = found.filter(|finding| finding.subject == subject);
    found
        .next()
        .unwrap_or_else(|| panic!("nothing about {subject}"))
}

#[test]
fn a_cluster_that_is_set_up_has_nothing_to_be_said() {
    let findings = evaluate(&tuned());
    let all_ok = findings
        .iter()
        .all(|finding| finding.severity == Severity::Ok);
    assert!(all_ok, "{findings:#?}");
}

#[test]
fn a_cluster_as_installed_is_told_every_statement_to_run() {
    let facts = installed();
    assert!(!is_healthy(&evaluate(&facts)));
    let findings = evaluate(&facts);
    let fixes: Vec<_> = findings
        .iter()
        .filter_map(|finding| finding.fix.as_deref())
        .collect();
    assert_eq!(
        fixes,
        [
            "SET CLUSTER SETTING kv.rangefeed.enabled = true;",
            "ALTER TABLE kv_log SET (schema_locked = true);",
            "SET CLUSTER SETTING changefeed.experimental_poll_interval = '10ms';",
            "SET CLUSTER SETTING kv.closed_timestamp.target_duration = '1s';",
            "SET CLUSTER SETTING kv.rangefeed.closed_timestamp_refresh_interval = '250ms';",
        ]
    );
    // What costs nothing to leave is not said to.
    let costly = findings.iter().filter(|finding| finding.fix.is_some());
    assert!(costly.into_iter().all(|finding| finding.cost.is_some()));
}

#[test]
fn a_locked_schema_is_not_asked_of_releases_without() {
    let old = Facts {
        server: ServerKind::Cockroach {
            major: 22,
            minor: 1,
        },
        ..installed()
    };
    assert!(
        evaluate(&old)
            .iter()
            .all(|finding| finding.subject != "schema_locked")
    );
    assert_eq!(finding(&old, POLL.name).severity, Severity::Advice);
}

#[test]
fn a_missing_privilege_names_its_grant() {
    let facts = Facts {
        may_insert: false,
        role: "o\"k".into(),
        ..tuned()
    };
    let missing = finding(&facts, "privilege INSERT");
    assert_eq!(missing.severity, Severity::Problem);
    assert_eq!(
        missing.fix.as_deref(),
        Some("GRANT INSERT ON TABLE kv_log TO \"o\"\"k\";")
    );
    let facts = Facts {
        table: false,
        may_create: false,
        ..tuned()
    };
    let missing = finding(&facts, "table kv_log");
    assert_eq!(
        missing.fix.as_deref(),
        Some("GRANT CREATE ON DATABASE \"kv\" TO \"app\";")
    );
}

#[test]
fn what_may_not_be_seen_is_no_problem() {
    let facts = Facts {
        settings: SETTINGS.iter().map(|name| (*name, None)).collect(),
        licensed: None,
        definition: None,
        zone: None,
        clock_offset_micros: None,
        ..installed()
    };
    assert!(is_healthy(&evaluate(&facts)));
}

#[test]
fn a_short_memory_is_pointed_out() {
    let facts = Facts {
        zone: Some("gc.ttlseconds = 600".into()),
        ..tuned()
    };
    let found = finding(&facts, "gc.ttlseconds");
    assert_eq!(found.severity, Severity::Advice);
    assert!(found.what.contains("10m"), "{}", found.what);
}

#[test]
fn a_cluster_of_regions_is_told_how_to_use_them() {
    let cluster_regions: Vec<String> = ["eu-west-1", "us-east-1", "us-west-1"]
        .map(Into::into)
        .into();
    let facts = Facts {
        cluster_regions: cluster_regions.clone(),
        ..tuned()
    };
    let found = finding(&facts, "regions");
    assert_eq!(
        found.fix.as_deref(),
        Some(
            "ALTER DATABASE \"kv\" SET PRIMARY REGION \"eu-west-1\"; \
             ALTER DATABASE \"kv\" ADD REGION \"us-east-1\"; \
             ALTER DATABASE \"kv\" ADD REGION \"us-west-1\";"
        )
    );
    let facts = Facts {
        cluster_regions: cluster_regions.clone(),
        database_regions: cluster_regions,
        survival: Some("zone".into()),
        ..tuned()
    };
    let found = finding(&facts, "regions");
    assert_eq!(
        found.fix.as_deref(),
        Some("ALTER DATABASE \"kv\" SURVIVE REGION FAILURE;")
    );
}

#[test]
fn a_licence_is_asked_for_since_it_is_needed() {
    let new = ServerKind::Cockroach {
        major: 24,
        minor: 3,
    };
    for (server, licensed, severity) in [
        (installed().server, Some(false), Severity::Ok),
        (new, Some(false), Severity::Advice),
        (new, Some(true), Severity::Ok),
        (new, None, Severity::Ok),
    ] {
        let facts = Facts {
            server,
            licensed,
            ..tuned()
        };
        assert_eq!(finding(&facts, "licence").severity, severity);
    }
}

#[test]
fn clocks_that_differ_are_noticed() {
    for (offset, severity) in [
        (0, Severity::Ok),
        (-200_000, Severity::Ok),
        (300_000, Severity::Advice),
        (-6_000_000, Severity::Problem),
        (i64::MIN, Severity::Problem),
    ] {
        assert_eq!(clock(Some(offset)).severity, severity, "{offset}");
    }
}

#[test]
fn durations_are_read_as_servers_write_them() {
    for (text, millis) in [
        ("00:00:01", Some(1000)),
        ("00:00:00.25", Some(250)),
        ("01:00:00", Some(3_600_000)),
        ("0s", Some(0)),
        ("10ms", Some(10)),
        ("1.5s", Some(1500)),
        ("1h2m3s", Some(3_723_000)),
        ("", None),
        ("10", None),
        ("fast", None),
        ("-1s", None),
        ("1:2", None),
    ] {
        assert_eq!(
            interval(text),
            millis.map(Duration::from_millis),
            "{text:?}"
        );
    }
}

proptest! {
    #[test]
    fn no_answer_of_a_server_makes_it_panic(text in ".*|[0-9hms:.µu]{0,20}") {
        let _ = interval(&text);
        let _ = boolean(&text);
        let _ = kept(&text);
        let _ = kept(&format!("gc.ttlseconds{text}"));
        let _ = is_locked(&text);
    }
}
