//! Looking into a log or a cache from outside of a host, by the settings of one.

use std::sync::Arc;

use crate::cache::redis::{RedisCache, RedisCacheSettings};
use crate::cache::{Cache, Holding};
use crate::clock::{SystemClock, SystemEntropy};
use crate::config::Settings;
use crate::log::look::Table;
use crate::log::{sql, sqlite};
use crate::sql::SqlConfig;

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LookError(String);

/// Which log, and what it answers to statements that change nothing: the one at
/// `database.url`, or the embedded one in the folder `data`.
///
/// # Errors
///
/// It cannot be reached or opened, refuses a statement, or takes longer than
/// `database.request_timeout`.
pub async fn log(settings: &Settings, statements: &str) -> Result<(String, Vec<Table>), LookError> {
    if settings.database.url.is_some() {
        let config = SqlConfig::new(&settings.database).map_err(failed)?;
        let tables = sql::look(&config, statements).await.map_err(failed)?;
        return Ok((config.target().to_owned(), tables));
    }
    let bound = settings.database.request_timeout;
    let tables = sqlite::look(&settings.data, statements, bound).map_err(failed)?;
    let name = format!("the log in {}", settings.data.display());
    Ok((name, tables))
}

/// Which Redis, and what it holds, at most `most` keys: the one at `redis.url`.
///
/// # Errors
///
/// It cannot be reached.
pub async fn cache(settings: &Settings, most: usize) -> Result<(String, Vec<Holding>), LookError> {
    let redis = RedisCacheSettings::new(settings).map_err(failed)?;
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let cache = RedisCache::new(redis, clock, entropy).map_err(failed)?;
    cache.first_connection().await.map_err(failed)?;
    let holdings = cache.holdings(most).await.map_err(failed)?;
    Ok((cache.shown_server().to_owned(), holdings))
}

fn failed(error: impl std::fmt::Display) -> LookError {
    LookError(error.to_string())
}
