//! Every quarantine has to do the same: the suite over SQLite, PostgreSQL and, where
//! there is one, CockroachDB; and what neither a restart nor an older database may lose.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::sync::Arc;

use tempfile::TempDir;
use tidepool::clock::SystemClock;
use tidepool::log::sqlite::{SqliteDatabase, SqliteSettings};
use tidepool::quarantine::Quarantine;
use tidepool::quarantine::sql::SqlQuarantine;
use tidepool::quarantine::sqlite::SqliteQuarantine;
use tidepool::sql::SqlConfig;
use tidepool_tests::conformance::migrated;
use tidepool_tests::conformance::quarantine::{self, entry};
use tidepool_tests::servers::cockroach::Cockroach;
use tidepool_tests::servers::postgres::Postgres;

fn on(config: &SqlConfig) -> Arc<dyn Quarantine> {
    Arc::new(SqlQuarantine::new(config.clone()))
}

fn embedded(folder: &TempDir) -> Arc<SqliteDatabase> {
    let settings = SqliteSettings::default();
    SqliteDatabase::open(folder.path(), Arc::new(SystemClock), settings).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sqlite() {
    let folder = TempDir::new().unwrap();
    let database = embedded(&folder);
    let open = || Arc::new(SqliteQuarantine::new(database.clone())) as Arc<dyn Quarantine>;
    quarantine::run(open(), open()).await;
    let before = open().list("full").await.unwrap();
    database.close().await;
    let again = SqliteQuarantine::new(embedded(&folder));
    assert_eq!(again.list("full").await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn postgres() {
    let server = Postgres::start().await;
    let config = migrated(&server.database("quarantine").await).await;
    quarantine::run(on(&config), on(&config)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cockroach() {
    let Some(server) = Cockroach::find("the quarantine").await else {
        return;
    };
    let config = migrated(&server.database("tidepool_test_quarantine").await).await;
    quarantine::run(on(&config), on(&config)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_postgres_that_is_killed_loses_nothing() {
    let mut server = Postgres::start().await;
    let config = migrated(&server.database("killed").await).await;
    let it = on(&config);
    it.put("eu", vec![entry("k", 1, 1)]).await.unwrap();
    server.restart().await;
    assert_eq!(it.list("eu").await.unwrap(), [entry("k", 1, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_of_an_older_release_gets_the_table() {
    let server = Postgres::start().await;
    let url = server.database("older").await;
    migrated(&url).await;
    let undo = "DROP TABLE tidepool_quarantine; DELETE FROM tidepool_schema WHERE version >= 4";
    server.admin("older", undo).await;
    let it = on(&migrated(&url).await);
    it.put("eu", vec![entry("k", 1, 1)]).await.unwrap();
    assert_eq!(it.counts().await.unwrap()["eu"], 1);
}
