//! What every backend of a contract has to do, as one suite for each contract.
//! `tests/tests/conformance_*.rs` run them over every backend there is.
//!
//! A suite writes only through the contract and waits for nothing but events. A
//! panic is its report.

#![allow(clippy::unwrap_used)] // In a suite a panic is the report.

pub mod cache;
pub mod feed;
pub mod ledger;
pub mod log;
pub mod quarantine;

use std::sync::Arc;
use std::time::Duration;

use tidepool::clock::SystemEntropy;
use tidepool::config::{self, Database, Secret};
use tidepool::log::sql::SqlLog;
use tidepool::sql::SqlConfig;

/// The configuration of a database, after its tables were made.
///
/// # Panics
///
/// It cannot be reached.
pub async fn migrated(url: &str) -> SqlConfig {
    let database = Database {
        url: Some(Secret::new(url)),
        request_timeout: Duration::from_secs(10),
        ..Database::default()
    };
    let config = SqlConfig::new(&database).unwrap();
    let settings = config::Log::default();
    let log = SqlLog::open(config.clone(), &settings, Arc::new(SystemEntropy));
    drop(log.await.unwrap());
    config
}
