//! The log and the feed on a real PostgreSQL, beyond what every backend has to do:
//! servers that die, hosts that start at once, transactions that stay open, and
//! everything that can be set up wrong.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

mod crash;
mod follow;
mod ids;
mod setup;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidepool::clock::SystemEntropy;
use tidepool::config::{self, Database, Secret};
use tidepool::feed::postgres::{PostgresFeedSettings, PostgresFeedSource};
use tidepool::log::sql::{MigrateError, SqlLog};
use tidepool::log::{Change, Log};
use tidepool::model::{Condition, Key, Version};
use tidepool::sql::{SqlConfig, UrlError};

/// The settings of a database, patient enough for a machine that is busy.
fn config(url: &str) -> Result<SqlConfig, UrlError> {
    SqlConfig::new(&Database {
        url: Some(Secret::new(url)),
        request_timeout: Duration::from_secs(10),
        ..Database::default()
    })
}

async fn open(url: &str) -> Result<Arc<SqlLog>, MigrateError> {
    let config = config(url).unwrap();
    let settings = config::Log::default();
    let log = SqlLog::open(config, &settings, Arc::new(SystemEntropy)).await?;
    Ok(Arc::new(log))
}

fn feed(url: &str) -> PostgresFeedSource {
    let settings = PostgresFeedSettings {
        batch_rows: 64,
        batch_bytes: 1 << 20,
        resolved_every: Duration::from_millis(50),
    };
    PostgresFeedSource::new(config(url).unwrap(), settings)
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn put(text: impl Into<Bytes>) -> Change {
    Change::Put {
        value: text.into(),
        content_type: None,
        ttl: None,
    }
}

async fn write(log: &SqlLog, name: &str) -> Version {
    let receipt = log.append(key(name), put("x"), Condition::None, None).await;
    receipt.unwrap().version
}
