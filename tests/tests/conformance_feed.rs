//! Every feed has to do the same: the suite over SQLite, PostgreSQL and, where there
//! is one, CockroachDB, with tiny batches and with those of production.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidepool::clock::{SystemClock, SystemEntropy};
use tidepool::config::{self, Database, Secret};
use tidepool::doctor;
use tidepool::feed::cockroach::{CockroachFeedSettings, CockroachFeedSource};
use tidepool::feed::postgres::{PostgresFeedSettings, PostgresFeedSource};
use tidepool::feed::sqlite::{SqliteFeedSettings, SqliteFeedSource};
use tidepool::log::sql::SqlLog;
use tidepool::log::sqlite::{SqliteDatabase, SqliteLog, SqliteSettings};
use tidepool::sql::{SqlConfig, connect_dedicated};
use tidepool_tests::conformance::feed;
use tidepool_tests::servers::cockroach::Cockroach;
use tidepool_tests::servers::postgres::Postgres;

const EVERY: Duration = Duration::from_millis(20);
/// Rows and bytes in a batch.
const BOUNDS: [(usize, usize); 2] = [(3, 1 << 20), (1024, 4 << 20)];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sqlite() {
    for (batch_rows, batch_bytes) in BOUNDS {
        let folder = TempDir::new().unwrap();
        let clock = Arc::new(SystemClock);
        let database =
            SqliteDatabase::open(folder.path(), clock, SqliteSettings::default()).unwrap();
        let settings = SqliteFeedSettings {
            batch_rows,
            batch_bytes,
            resolved_every: EVERY,
        };
        let log = Arc::new(SqliteLog::new(database.clone()));
        feed::run(log, Arc::new(SqliteFeedSource::new(database, settings))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn postgres() {
    let server = Postgres::start().await;
    for (batch_rows, batch_bytes) in BOUNDS {
        let url = server.database(&format!("feed_{batch_rows}")).await;
        let database = Database {
            url: Some(Secret::new(url)),
            ..Database::default()
        };
        let config = SqlConfig::new(&database).unwrap();
        let settings = config::Log::default();
        let log = SqlLog::open(config.clone(), &settings, Arc::new(SystemEntropy));
        let log = Arc::new(log.await.unwrap());
        let settings = PostgresFeedSettings {
            batch_rows,
            batch_bytes,
            resolved_every: EVERY,
        };
        feed::run(log, Arc::new(PostgresFeedSource::new(config, settings))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cockroach() {
    let Some(server) = Cockroach::find("the feed").await else {
        return;
    };
    for (batch_rows, batch_bytes) in BOUNDS {
        let url = server.database(&format!("feed_{batch_rows}")).await;
        let database = Database {
            url: Some(Secret::new(url)),
            ..Database::default()
        };
        let config = SqlConfig::new(&database).unwrap();
        let settings = config::Log::default();
        let log = SqlLog::open(config.clone(), &settings, Arc::new(SystemEntropy));
        let log = Arc::new(log.await.unwrap());
        // Without rangefeeds, which are off as it is installed, there is no feed.
        let (client, task, kind) = connect_dedicated(&config).await.unwrap();
        doctor::tune(&client, kind, config.role()).await;
        drop((client, task));
        let settings = CockroachFeedSettings {
            batch_rows,
            batch_bytes,
            resolved_every: Duration::from_millis(100),
            ..CockroachFeedSettings::default()
        };
        feed::run(log, Arc::new(CockroachFeedSource::new(config, settings))).await;
    }
}
