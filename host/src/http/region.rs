//! What the planes know of a region.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::cache::CacheStats;
use crate::feed::FeedCounts;
use crate::hydrate::{HydratorStatus, ScanProgress};
use crate::wit_host::context::Backends;

/// A region of this process.
pub struct Region {
    /// Its position in the handler table.
    pub index: usize,
    /// Its name.
    pub name: Arc<str>,
    /// Where its data plane listens.
    pub address: SocketAddr,
    /// What stands behind its handlers.
    pub backends: Arc<Backends>,
    /// What its hydrator is doing.
    pub status: Arc<HydratorStatus>,
    /// How far it may be behind the log and still be ready.
    pub max_lag: Duration,
}

/// A region's state, as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct RegionReport {
    /// Its name.
    pub region: String,
    /// Where its data plane listens.
    pub address: SocketAddr,
    /// Whether it has caught up with the log within its bound.
    pub ready: bool,
    /// How far it is behind the log, in milliseconds. None before the first
    /// scan of the log is done.
    pub lag_ms: Option<u64>,
    /// The bound on `lag_ms`.
    pub max_lag_ms: u64,
    /// How far the scan of the log is that fills the cache, while there is one.
    pub scan: Option<ScanProgress>,
    /// Rows applied since this process began.
    pub rows_applied: u64,
    /// Rows that were evicted because the `hydrate` handler failed.
    pub rows_evicted_by_fallback: u64,
    /// What the feed has met that should not be, since this process began.
    pub feed: FeedCounts,
    /// The last error of the feed or the handler, if any.
    pub last_error: Option<String>,
    /// The cache.
    pub cache: CacheStats,
}

impl Region {
    /// Whether it has caught up with the log within its bound.
    pub fn ready(&self) -> bool {
        self.status
            .ready(self.backends.clock.now_micros(), self.max_lag)
    }

    /// Its state now.
    pub fn report(&self) -> RegionReport {
        let now = self.backends.clock.now_micros();
        RegionReport {
            region: self.name.to_string(),
            address: self.address,
            ready: self.ready(),
            lag_ms: self
                .status
                .lag_micros(now)
                .map(|micros| u64::try_from(micros / 1000).unwrap_or(0)),
            max_lag_ms: u64::try_from(self.max_lag.as_millis()).unwrap_or(u64::MAX),
            scan: self.status.scan(),
            rows_applied: self.status.rows_applied(),
            rows_evicted_by_fallback: self.status.rows_evicted_by_fallback(),
            feed: self.status.feed(),
            last_error: self.status.last_error(),
            cache: self.backends.cache.stats(),
        }
    }
}
