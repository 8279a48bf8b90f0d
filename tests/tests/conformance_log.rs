//! Every log has to do the same: the suite over SQLite, PostgreSQL and CockroachDB.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::sync::Arc;

use tempfile::TempDir;
use tidepool::clock::{SystemClock, SystemEntropy};
use tidepool::config::{self, Database, Secret};
use tidepool::log::sql::SqlLog;
use tidepool::log::sqlite::{SqliteDatabase, SqliteLog, SqliteSettings};
use tidepool::sql::SqlConfig;
use tidepool_tests::conformance::log;
use tidepool_tests::servers::cockroach::Cockroach;
use tidepool_tests::servers::postgres::Postgres;

async fn open(url: &str) -> Arc<SqlLog> {
    let database = Database {
        url: Some(Secret::new(url)),
        ..Database::default()
    };
    let config = SqlConfig::new(&database).unwrap();
    let settings = config::Log::default();
    let log = SqlLog::open(config, &settings, Arc::new(SystemEntropy)).await;
    Arc::new(log.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sqlite() {
    let folder = TempDir::new().unwrap();
    let settings = SqliteSettings::default();
    let database = SqliteDatabase::open(folder.path(), Arc::new(SystemClock), settings).unwrap();
    log::run(Arc::new(SqliteLog::new(database.clone()))).await;
    database.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn postgres() {
    let server = Postgres::start().await;
    log::run(open(&server.database("log").await).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cockroach() {
    if let Some(server) = Cockroach::find("the log").await {
        log::run(open(&server.database("tidepool_test_log").await).await).await;
    }
}
