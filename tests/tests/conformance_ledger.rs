//! Every ledger of deployments has to do the same: the suite over SQLite, PostgreSQL
//! and, where there is one, CockroachDB; and what a server that dies must not lose.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidepool::clock::ManualClock;
use tidepool::deployments::ledger::{ALIVE, KEEP_UNUSED};
use tidepool::deployments::sql::SqlLedger;
use tidepool::deployments::sqlite::SqliteLedger;
use tidepool::deployments::{Digest, Ledger};
use tidepool::doctor;
use tidepool::log::sqlite::{SqliteDatabase, SqliteSettings};
use tidepool::sql::{SqlConfig, connect_dedicated};
use tidepool_tests::conformance::ledger;
use tidepool_tests::conformance::migrated;
use tidepool_tests::servers::cockroach::Cockroach;
use tidepool_tests::servers::postgres::Postgres;
use tidepool_tests::within;

/// Longer ago than components are kept for.
const OLD: Duration = KEEP_UNUSED.saturating_add(Duration::from_secs(1));

/// Runs statements behind the ledger's back.
async fn run(config: &SqlConfig, statement: &str) {
    let (client, _task, _) = connect_dedicated(config).await.unwrap();
    client.batch_execute(statement).await.unwrap();
}

fn hex(digest: Digest) -> String {
    let text = digest.to_string();
    text.strip_prefix("sha256:").unwrap().to_owned()
}

/// All that needs no server to die.
async fn conforms(config: &SqlConfig) {
    let a: Arc<dyn Ledger> = Arc::new(SqlLedger::new(config.clone()));
    let b: Arc<dyn Ledger> = Arc::new(SqlLedger::new(config.clone()));
    ledger::run(a.clone()).await;
    ledger::run_two(a.clone(), b.clone()).await;

    // Bytes of the last chunk, a chunk that is missing, and one too many.
    for damage in [
        "UPDATE tidepool_components SET bytes = '\\x00' WHERE digest = $digest AND chunk = $last",
        "DELETE FROM tidepool_components WHERE digest = $digest AND chunk = $last; \
         INSERT INTO tidepool_components VALUES ($digest, 2000, 0, '')",
        "INSERT INTO tidepool_components VALUES ($digest, 1000, 0, '\\x01')",
    ] {
        ledger::a_damaged_component_is_refused(&*a, async |digest| {
            let digest = format!("decode('{}', 'hex')", hex(digest));
            let last =
                format!("(SELECT max(chunk) FROM tidepool_components WHERE digest = {digest})");
            let damage = damage.replace("$last", &last);
            run(config, &damage.replace("$digest", &digest)).await;
        })
        .await;
    }
    ledger::what_nobody_uses_is_forgotten(&*b, async || {
        let micros = OLD.as_micros();
        let age = format!("UPDATE tidepool_components SET put_at = put_at - {micros}");
        run(config, &age).await;
    })
    .await;

    // Who is not seen for a while is not alive, and after a day forgotten.
    for (ago, rows) in [(ALIVE, 2), (Duration::from_secs(24 * 60 * 60), 1)] {
        a.report(ledger::report("away", 1)).await.unwrap();
        let micros = ago.as_micros() + 1;
        let away = format!(
            "DELETE FROM tidepool_hosts WHERE host NOT IN ('away', 'here'); \
             UPDATE tidepool_hosts SET seen_at = seen_at - {micros} WHERE host = 'away'"
        );
        run(config, &away).await;
        b.report(ledger::report("here", 2)).await.unwrap();
        assert_eq!(a.hosts().await.unwrap(), [ledger::report("here", 2)]);
        let (client, _task, _) = connect_dedicated(config).await.unwrap();
        let found = client.query("SELECT 1 FROM tidepool_hosts", &[]).await;
        assert_eq!(found.unwrap().len(), rows);
    }

    // What a newer release writes is read as far as it is understood.
    let strange = "INSERT INTO tidepool_hosts
        SELECT 'strange', '{\"who\": \"knows\"}', max(seen_at) FROM tidepool_hosts";
    run(config, strange).await;
    assert_eq!(a.hosts().await.unwrap(), [ledger::report("here", 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sqlite() {
    let folder = TempDir::new().unwrap();
    let settings = SqliteSettings::default();
    let clock = Arc::new(ManualClock::at(1));
    clock.advance(1_000_000_000_000);
    let database = SqliteDatabase::open(folder.path(), clock.clone(), settings).unwrap();
    let ledger = Arc::new(SqliteLedger::new(database.clone()));
    ledger::run(ledger.clone()).await;
    ledger::a_damaged_component_is_refused(&*ledger, async |digest| {
        let damaged = database.exec(move |tx| {
            tx.execute(
                "UPDATE deployed_components SET bytes = x'00' WHERE digest = ?1",
                [&digest.as_bytes()[..]],
            )
        });
        assert_eq!(damaged.await.unwrap(), 1);
    })
    .await;
    ledger::what_nobody_uses_is_forgotten(&*ledger, async || {
        clock.advance(i64::try_from(OLD.as_micros()).unwrap());
    })
    .await;
    database.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn postgres() {
    let server = Postgres::start().await;
    conforms(&migrated(&server.database("ledger").await).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cockroach() {
    let Some(server) = Cockroach::find("the ledger of deployments").await else {
        return;
    };
    let config = migrated(&server.database("tidepool_test_ledger").await).await;
    // Without rangefeeds, which are off as it is installed, there is no changefeed.
    let (client, task, kind) = connect_dedicated(&config).await.unwrap();
    doctor::tune(&client, kind, config.role()).await;
    drop((client, task));
    conforms(&config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_postgres_that_is_killed_loses_nothing() {
    let mut server = Postgres::start().await;
    let config = migrated(&server.database("killed").await).await;
    let open = || Arc::new(SqlLedger::new(config.clone())) as Arc<dyn Ledger>;
    ledger::a_restart_loses_nothing([open(), open()], async || server.restart().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_ledger_ends_with_its_connections() {
    let server = Postgres::start().await;
    let config = migrated(&server.database("ends").await).await;
    let ledger = SqlLedger::new(config.clone());
    ledger.after(0).await.unwrap();
    let client = server.admin_client("ends").await;
    let count = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = 'ends' AND usename = 'tidepool'";
    let until = async |enough: fn(i64) -> bool| {
        let counted = async || -> i64 { client.query_one(count, &[]).await.unwrap().get(0) };
        within("connections to come and go", async {
            while !enough(counted().await) {}
        })
        .await;
    };
    until(|count| count == 3).await;
    drop(ledger);
    until(|count| count == 0).await;
}
