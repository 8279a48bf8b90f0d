//! `tidepool doctor` on a real PostgreSQL: that every fact is really asked for. The
//! judging has tests of its own.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::sync::Arc;

use tidepool::clock::SystemEntropy;
use tidepool::config::{self, Database, Secret};
use tidepool::doctor::{self, Finding, Severity, is_healthy};
use tidepool::log::sql::SqlLog;
use tidepool::sql::SqlConfig;
use tidepool_tests::servers::postgres::{PASSWORD, Postgres, ROLE};
use tidepool_tests::within;

async fn examine(url: String) -> Vec<Finding> {
    let database = Database {
        url: Some(Secret::new(url)),
        ..Database::default()
    };
    let config = SqlConfig::new(&database).unwrap();
    within("the checks", doctor::database(&config)).await
}

/// What is not as it should be.
fn open(findings: &[Finding]) -> Vec<(Severity, &str)> {
    let findings = findings.iter();
    let findings = findings.filter(|finding| finding.severity != Severity::Ok);
    findings
        .map(|finding| (finding.severity, &*finding.subject))
        .collect()
}

fn what<'a>(findings: &'a [Finding], subject: &str) -> &'a str {
    let mut found = findings.iter().filter(|finding| finding.subject == subject);
    &found.next().unwrap_or_else(|| panic!("{findings:#?}")).what
}

#[tokio::test]
async fn a_server_with_its_defaults_is_healthy() {
    let server = Postgres::start().await;
    let url = server.database("kv").await;
    let findings = examine(url.clone()).await;
    // Nobody has let the role see more than its own.
    assert_eq!(open(&findings), [(Severity::Advice, "long transactions")]);
    assert!(is_healthy(&findings));
    assert!(what(&findings, "connection").contains("PostgreSQL"));
    assert!(what(&findings, "table kv_log").contains("not there yet"));

    server
        .admin("kv", &format!("GRANT pg_read_all_stats TO {ROLE}"))
        .await;
    assert_eq!(open(&examine(url).await), []);
}

#[tokio::test]
async fn what_is_wrong_with_a_server_is_found() {
    let server = Postgres::start_with(&[
        "fsync=off",
        "full_page_writes=off",
        "synchronous_commit=off",
        "max_connections=20",
        "max_prepared_transactions=2",
    ])
    .await;
    let url = server.database("kv").await;
    let statements = format!("GRANT pg_read_all_stats TO {ROLE}; CREATE TABLE kv_log (key bytea)");
    server.admin("kv", &statements).await;
    let client = server.admin_client("kv").await;
    let left = "BEGIN; INSERT INTO kv_log VALUES ('a'); PREPARE TRANSACTION 'left'";
    within("a transaction", client.batch_execute(left))
        .await
        .unwrap();
    let findings = examine(url).await;
    assert!(!is_healthy(&findings));
    assert_eq!(
        open(&findings),
        [
            (Severity::Problem, "privilege SELECT"),
            (Severity::Problem, "privilege INSERT"),
            (Severity::Problem, "fsync"),
            (Severity::Problem, "full_page_writes"),
            (Severity::Problem, "synchronous_commit"),
            (Severity::Advice, "max_connections"),
            (Severity::Advice, "prepared transactions"),
        ]
    );
}

#[tokio::test]
async fn every_table_of_a_host_is_looked_at() {
    let server = Postgres::start().await;
    let url = server.database("kv").await;
    let grant = format!("GRANT pg_read_all_stats TO {ROLE}");
    server.admin("kv", &grant).await;
    let database = Database {
        url: Some(Secret::new(url.clone())),
        ..Database::default()
    };
    let config = SqlConfig::new(&database).unwrap();
    let settings = config::Log::default();
    let log = SqlLog::open(config, &settings, Arc::new(SystemEntropy));
    drop(log.await.unwrap());
    let findings = examine(url.clone()).await;
    assert_eq!(open(&findings), []);
    for table in ["deployments", "components", "hosts", "quarantine"] {
        let table = format!("table tidepool_{table}");
        assert!(
            what(&findings, &table).starts_with("there"),
            "{findings:#?}"
        );
    }
    let less = format!(
        "REVOKE INSERT ON tidepool_deployments FROM {ROLE}; \
         REVOKE UPDATE, DELETE ON tidepool_quarantine FROM {ROLE}; \
         DROP TABLE tidepool_hosts"
    );
    server.admin("kv", &less).await;
    let findings = examine(url).await;
    assert_eq!(
        open(&findings),
        [
            (Severity::Problem, "table tidepool_deployments"),
            (Severity::Problem, "table tidepool_quarantine"),
        ]
    );
    let fixes = findings.iter().filter_map(|finding| finding.fix.as_deref());
    assert_eq!(
        fixes.collect::<Vec<_>>(),
        [
            "GRANT INSERT ON TABLE tidepool_deployments TO \"tidepool\";",
            "GRANT UPDATE, DELETE ON TABLE tidepool_quarantine TO \"tidepool\";",
        ]
    );
    assert!(what(&findings, "table tidepool_hosts").contains("not there yet"));
}

#[tokio::test]
async fn a_server_that_lets_nobody_in_is_a_problem_without_secrets() {
    let server = Postgres::start().await;
    let url = server.database("kv").await.replace("secret", "wrong");
    let findings = examine(url).await;
    assert_eq!(open(&findings), [(Severity::Problem, "connection")]);
    let text = format!("{findings:?}");
    for secret in ["wrong", PASSWORD] {
        assert!(!text.contains(secret), "{text}");
    }
}
