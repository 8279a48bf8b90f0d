//! The checks of a CockroachDB, and the tuning of one, asked of a stand-in: that
//! every answer arrives where it is judged. The judging has tests of its own.

use std::collections::BTreeMap;

use tidepool::doctor::{self, Finding, Severity, is_healthy};
use tidepool::sql::connect_dedicated;
use tidepool_tests::servers::pgwire::{Script, StandIn};
use tidepool_tests::within;

use super::{config, resolved};

fn answer(part: &str, value: &str) -> (String, Vec<Vec<Option<String>>>) {
    (part.to_owned(), vec![vec![Some(value.to_owned())]])
}

/// A cluster with these settings, and everything else as it should be.
fn cluster(rangefeeds: &str, locked: bool, poll: &str, closed: &str) -> Script {
    let table = format!("CREATE TABLE kv_log (key BYTES) WITH (schema_locked = {locked})");
    let mut regions = answer("FROM DATABASE", "");
    regions.1.clear();
    let mut cluster_regions = answer("FROM CLUSTER", "");
    cluster_regions.1.clear();
    Script {
        version: "CockroachDB CCL v23.2.4 (x86_64-pc-linux-gnu)".into(),
        binary_keys: true,
        answers: vec![
            answer("SHOW CLUSTER SETTING kv.rangefeed.enabled", rangefeeds),
            answer(
                "SHOW CLUSTER SETTING changefeed.experimental_poll_interval",
                poll,
            ),
            answer("SHOW CLUSTER SETTING kv.closed_timestamp", closed),
            answer(
                "SHOW CLUSTER SETTING kv.rangefeed.closed_timestamp",
                "00:00:00.25",
            ),
            answer("SHOW CLUSTER SETTING enterprise.license", ""),
            answer("information_schema.tables", "1"),
            answer("has_table_privilege", "t"),
            answer("has_database_privilege", "t"),
            answer("SHOW CREATE TABLE", &table),
            answer("SHOW ZONE CONFIGURATION", "gc.ttlseconds = 14400"),
            answer("SELECT current_database()", "kv"),
            regions,
            cluster_regions,
        ],
        feeds: [vec![resolved("1795431450000000000.0000000000")]].into(),
        ..Script::default()
    }
}

/// The findings that are not as they should be, by what they are about.
fn open(findings: &[Finding]) -> BTreeMap<&str, Severity> {
    let open = findings
        .iter()
        .filter(|finding| finding.severity != Severity::Ok);
    open.map(|finding| (&*finding.subject, finding.severity))
        .collect()
}

#[tokio::test]
async fn a_cluster_is_looked_at_and_not_changed() {
    let server = StandIn::start(cluster("true", true, "00:00:01", "00:00:01")).await;
    let findings = within("the checks", doctor::database(&config(&[&server]))).await;
    // The stand-in has no clock.
    assert_eq!(
        open(&findings),
        [("clock", Severity::Advice)].into(),
        "{findings:#?}"
    );
    assert!(is_healthy(&findings));
    let feed = findings
        .iter()
        .find(|finding| finding.subject == "changefeed");
    assert!(feed.unwrap().what.contains("it answers after"), "{feed:?}");
    let changes = ["SET CLUSTER", "ALTER", "GRANT", "CREATE TABLE", "INSERT"];
    for statement in server.statements() {
        let changes = changes.iter().any(|change| statement.starts_with(change));
        assert!(!changes, "{statement}");
    }
    server.deserted().await;
}

#[tokio::test]
async fn a_cluster_that_cannot_feed_is_a_problem() {
    let mut script = cluster("false", false, "00:00:01", "00:00:03");
    script.refusals = vec![(
        "CREATE CHANGEFEED".into(),
        "XXUUU".into(),
        "rangefeeds require the kv.rangefeed.enabled setting".into(),
    )];
    let server = StandIn::start(script).await;
    let findings = within("the checks", doctor::database(&config(&[&server]))).await;
    assert!(!is_healthy(&findings));
    let expected = [
        ("kv.rangefeed.enabled", Severity::Problem),
        ("changefeed", Severity::Problem),
        ("schema_locked", Severity::Advice),
        ("changefeed.experimental_poll_interval", Severity::Advice),
        ("kv.closed_timestamp.target_duration", Severity::Advice),
        ("clock", Severity::Advice),
    ];
    assert_eq!(open(&findings), expected.into(), "{findings:#?}");
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_a_problem_without_secrets() {
    let draining = StandIn::start(Script {
        draining: true,
        ..Script::default()
    })
    .await;
    let findings = within("the checks", doctor::database(&config(&[&draining]))).await;
    assert_eq!(open(&findings), [("connection", Severity::Problem)].into());
}

/// What tuning does to a cluster: what is left to say, and what it has run.
async fn tuned(script: Script) -> (Vec<Finding>, Vec<String>) {
    let server = StandIn::start(script).await;
    let config = config(&[&server]);
    let (client, _task, kind) = connect_dedicated(&config).await.unwrap();
    let findings = within("tuning", doctor::tune(&client, kind, config.role())).await;
    let mut run = server.statements();
    run.retain(|text| text.starts_with("SET CLUSTER") || text.starts_with("ALTER"));
    (findings, run)
}

#[tokio::test]
async fn what_is_slow_is_set_and_what_is_refused_is_advised() {
    let (left, run) = tuned(cluster("false", false, "00:00:01", "00:00:03")).await;
    assert_eq!(left, []);
    assert_eq!(
        run,
        [
            "SET CLUSTER SETTING kv.rangefeed.enabled = true;",
            "ALTER TABLE kv_log SET (schema_locked = true);",
            // The poll interval is without effect then.
            "SET CLUSTER SETTING kv.closed_timestamp.target_duration = '1s';",
        ]
    );

    let mut script = cluster("true", false, "00:00:01", "00:00:01");
    script.refusals = vec![(
        "schema_locked = true);".into(),
        "42501".into(),
        "user feed must be owner of kv_log".into(),
    )];
    let (left, run) = tuned(script).await;
    assert_eq!(run.len(), 2, "{run:?}");
    let [refused] = &left[..] else {
        panic!("{left:#?}")
    };
    assert_eq!(refused.severity, Severity::Advice);
    assert!(
        refused.what.contains("must be owner of kv_log"),
        "{refused:?}"
    );
    assert!(refused.fix.as_deref().unwrap().contains("schema_locked"));
}

#[tokio::test]
async fn what_is_fast_is_left_alone() {
    let (left, run) = tuned(cluster("true", true, "00:00:01", "00:00:00.2")).await;
    assert_eq!((left, run), (vec![], vec![]));
}
