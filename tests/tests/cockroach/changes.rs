//! Hearing that something has changed, and not what.

use tidepool::feed::FeedError;
use tidepool::feed::cockroach::changes::Changes;
use tidepool::sql::connect_dedicated;
use tidepool_tests::servers::pgwire::{Script, StandIn, Step};
use tidepool_tests::within;

use super::{PATIENT, config, playing, resolved};

const TABLES: &str = "tidepool_deployments, tidepool_hosts";
const SOME: &str = "1795431600000000000.0000000000";

async fn open(server: &StandIn) -> Result<Changes, FeedError> {
    let connected = connect_dedicated(&config(&[server])).await.unwrap();
    within(
        "it to open",
        Changes::open(connected, "app", TABLES, PATIENT),
    )
    .await
}

fn row(table: &str) -> Step {
    Step::Row(Some(table.into()), Some("[1]".into()), "{}".into())
}

#[tokio::test]
async fn every_row_is_told_and_resolved_positions_are_not_rows() {
    let server = playing(vec![
        resolved(SOME),
        row("tidepool_deployments"),
        resolved(SOME),
        row("tidepool_hosts"),
        row("tidepool_hosts"),
        Step::End,
    ])
    .await;
    let mut changes = open(&server).await.unwrap();
    for row in [false, true, false, true, true] {
        assert_eq!(within("a message", changes.next()).await, Ok(row));
    }
    let error = within("the end", changes.next()).await.unwrap_err();
    assert!(matches!(error, FeedError::Interrupted(_)), "{error}");
    let statements = server.changefeeds();
    let begin = "CREATE CHANGEFEED FOR TABLE tidepool_deployments, tidepool_hosts WITH ";
    assert!(statements[0].starts_with(begin), "{statements:?}");
    assert!(
        statements[0].contains("cursor='1795431443"),
        "{statements:?}"
    );
    drop(changes);
    server.deserted().await;
}

#[tokio::test]
async fn what_the_server_does_not_understand_is_said_otherwise() {
    let refusal = |part: &str, message: &str| (part.into(), "22023".into(), message.into());
    let server = StandIn::start(Script {
        feeds: [vec![row("tidepool_hosts")]].into(),
        refusals: vec![refusal(
            "mvcc_timestamp",
            "invalid option \"mvcc_timestamp\"",
        )],
        ..Script::default()
    })
    .await;
    let mut changes = open(&server).await.unwrap();
    assert_eq!(within("a row", changes.next()).await, Ok(true));
}

#[tokio::test]
async fn a_missing_privilege_names_the_tables() {
    let message = "current user must have a role WITH CONTROLCHANGEFEED";
    let server = StandIn::start(Script {
        refusals: vec![("CHANGEFEED".into(), "42501".into(), message.into())],
        version: "CockroachDB CCL v23.2.1 (x86_64-linux, built 2024/02/01, go1.21)".into(),
        ..Script::default()
    })
    .await;
    let mut changes = open(&server).await.unwrap();
    let error = within("a refusal", changes.next()).await.unwrap_err();
    let grant = "GRANT CHANGEFEED ON TABLE tidepool_deployments, tidepool_hosts TO \"app\"";
    assert!(
        matches!(&error, FeedError::Repair(why) if why.contains(grant)),
        "{error}"
    );
}
