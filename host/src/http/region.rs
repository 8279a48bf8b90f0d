//! What the planes know of a region.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::cache::CacheStats;
use crate::feed::FeedCounts;
use crate::hydrate::{HydratorStatus, ScanProgress};
use crate::quarantine::Keeper;
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
    /// Where the rows are that its hydrator could not decide about.
    pub quarantine: Arc<Keeper>,
    /// How far it may be behind the log and still be ready.
    pub max_lag: Duration,
    /// Whether all of its slots run something that was deployed.
    pub is_complete: Box<dyn Fn() -> bool + Send + Sync>,
}

/// A region's state, as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct RegionReport {
    /// Its name.
    pub region: String,
    /// Where its data plane listens.
    pub address: SocketAddr,
    /// Whether it has caught up with the log within its bound, and every slot runs
    /// what was deployed.
    pub ready: bool,
    /// Whether every slot does.
    pub has_handlers: bool,
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
    /// Those of them that were set aside, each by itself, since this process began.
    pub rows_set_aside: u64,
    /// Rows of the region that are in the quarantine. None while the database has not
    /// said; it may be half a minute old.
    pub quarantined: Option<u64>,
    /// What the feed has met that should not be, since this process began.
    pub feed: FeedCounts,
    /// The last error of the feed or the handler, if any.
    pub last_error: Option<String>,
    /// The cache.
    pub cache: CacheStats,
}

/// Whether regions are ready, as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Readiness {
    /// Whether all are.
    pub ready: bool,
    /// Those that are not.
    pub waiting_for: Vec<String>,
    /// How far those of them are whose cache is being filled by a scan of the log.
    pub scans: BTreeMap<String, ScanProgress>,
}

impl Readiness {
    /// That of these regions now.
    pub fn of(regions: &[Arc<Region>]) -> Readiness {
        let waiting = regions.iter().filter(|region| !region.ready());
        let mut found = Readiness {
            ready: true,
            waiting_for: Vec::new(),
            scans: BTreeMap::new(),
        };
        for region in waiting {
            found.ready = false;
            found.waiting_for.push(region.name.to_string());
            if let Some(scan) = region.status.scan() {
                found.scans.insert(region.name.to_string(), scan);
            }
        }
        found
    }
}

impl Region {
    /// Whether it has caught up with the log within its bound, and every slot runs
    /// what was deployed.
    pub fn ready(&self) -> bool {
        self.is_within(self.max_lag) && (self.is_complete)()
    }

    /// Whether its cache is at most so far behind the log.
    pub fn is_within(&self, staleness: Duration) -> bool {
        let now = self.backends.clock.now_micros();
        self.status.ready(now, staleness)
    }

    /// Its state now.
    pub fn report(&self) -> RegionReport {
        let now = self.backends.clock.now_micros();
        RegionReport {
            region: self.name.to_string(),
            address: self.address,
            ready: self.ready(),
            has_handlers: (self.is_complete)(),
            lag_ms: self
                .status
                .lag_micros(now)
                .map(|micros| u64::try_from(micros / 1000).unwrap_or(0)),
            max_lag_ms: u64::try_from(self.max_lag.as_millis()).unwrap_or(u64::MAX),
            scan: self.status.scan(),
            rows_applied: self.status.rows_applied(),
            rows_evicted_by_fallback: self.status.rows_evicted_by_fallback(),
            rows_set_aside: self.status.rows_set_aside(),
            quarantined: self.quarantine.count(&self.name),
            feed: self.status.feed(),
            last_error: self.status.last_error(),
            cache: self.backends.cache.stats(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cache::memory::{MemoryCache, MemoryCacheSettings};
    use crate::clock::{ManualClock, SeededEntropy};
    use crate::feed::Position;
    use crate::hydrate::Progress;
    use crate::log::sqlite::{SqliteDatabase, SqliteLog, SqliteSettings};
    use crate::quarantine::sqlite::SqliteQuarantine;

    fn region(name: &'static str, folder: &std::path::Path) -> Arc<Region> {
        let clock = Arc::new(ManualClock::at(1_000_000));
        let database = SqliteDatabase::open(folder, clock.clone(), SqliteSettings::default());
        let database = database.unwrap();
        let quarantine = Arc::new(SqliteQuarantine::new(database.clone()));
        let entropy = Arc::new(SeededEntropy::new(1));
        let settings = MemoryCacheSettings::default();
        Arc::new(Region {
            index: 0,
            name: name.into(),
            address: ([127, 0, 0, 1], 1).into(),
            backends: Arc::new(Backends {
                log: Arc::new(SqliteLog::new(database)),
                cache: Arc::new(MemoryCache::new(settings, clock.clone(), entropy)),
                clock: clock.clone(),
                max_value_bytes: 1,
            }),
            status: Arc::default(),
            quarantine: Arc::new(Keeper::new(quarantine, clock)),
            max_lag: Duration::from_secs(1),
            is_complete: Box::new(move || name != "empty"),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_region_that_scans_says_how_far_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["done", "idle", "scans", "empty"];
        let regions = names.map(|name| region(name, &folder.path().join(name)));
        let scans = &regions[2].status;
        scans.scanned(100, Some(1000));
        tokio::time::advance(Duration::from_secs(2)).await;
        for done in [&regions[0].status, &regions[3].status] {
            done.resolved(Progress {
                position: Position("1".into()),
                as_of_micros: 1_000_000,
            });
        }
        scans.scanned(400, Some(1000));
        let scan = json!({
            "rows": 400, "total": 1000, "rows_per_second": 150, "seconds_left": 4,
        });
        assert_eq!(
            serde_json::to_value(Readiness::of(&regions)).unwrap(),
            json!({
                "ready": false,
                "waiting_for": ["idle", "scans", "empty"],
                "scans": {"scans": scan},
            })
        );
        assert_eq!(json!(regions[2].report())["scan"], scan);
        assert_eq!(json!(regions[0].report())["scan"], json!(null));
        assert!(Readiness::of(&regions[..1]).ready);
    }
}
