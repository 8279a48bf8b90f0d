//! From a write that was acknowledged to its version in the caches of all three
//! regions, with nothing else to do and under load.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tidepool::cache::Cache;
use tidepool::model::{Key, Version};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::{Cluster, REGIONS, Region};
use crate::beside::caught_up;
use crate::load::{self, Connection, Plan, http_whole};
use crate::report::{Bound, Part, Reach};
use crate::requests::{created, put, put_of, version};
use crate::{Result, Sizes};
use tidepool_tests::server::ADMIN_TOKEN;

/// Keys that are waited for, in turn. They are in all caches before.
const KEYS: usize = 16;

/// The pause before the nth write is this many milliseconds and less, so that
/// writes are not in step with anything.
const PAUSE: usize = 8;

/// A version that is not there by then is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes per second of the load, and the connections that they come on.
const LOAD: u32 = 500;
const LOAD_CONNECTIONS: u32 = 6;

/// Bounds, in milliseconds.
const P50: f64 = 10.0;
const P99: f64 = 50.0;

/// Milliseconds until the last of the caches had it.
#[derive(Default)]
struct Delays {
    since_acknowledged: Vec<f64>,
    /// The database's clock, read before the row was on disk.
    since_timestamp: Vec<f64>,
}

/// Measures it.
pub fn measure(runtime: &Runtime, cluster: &Cluster, sizes: &Sizes, part: &mut Part) -> Result<()> {
    let regions = runtime.block_on(start(cluster))?;
    let idle = runtime.block_on(delays(&regions, sizes.writes))?;
    idle.report("idle", part);

    let pace = Duration::from_secs(1) * LOAD_CONNECTIONS / LOAD;
    let plan = Plan {
        addresses: regions.iter().map(|region| region.address).collect(),
        pace: Some(pace),
        ..Plan::http(
            regions[0].address,
            LOAD_CONNECTIONS as usize,
            put_of,
            created,
        )
    };
    let stop = Arc::clone(&plan.stop);
    let loading = std::thread::spawn(move || load::run(&plan, Duration::from_secs(600)));
    let loaded = runtime.block_on(delays(&regions, sizes.writes));
    stop.store(true, Ordering::Relaxed);
    let load = loading.join().map_err(|_| "the load generator panicked")?;
    loaded?.report("under load", part);
    part.fact("that load, writes", load.rate(), "/s");
    part.fact("of them failed", load.failures as f64, "");
    runtime.block_on(async {
        for region in regions {
            region.app.stop().await;
        }
    });
    Ok(())
}

/// Starts all regions, with the keys in all caches.
async fn start(cluster: &Cluster) -> Result<Vec<Region>> {
    let url = cluster.postgres.database("visible").await;
    let mut regions = Vec::new();
    for number in 0..REGIONS.len() {
        regions.push(cluster.region(number, &url).await?);
    }
    let mut connection = Connection::open(regions[0].address, http_whole).await?;
    for number in 0..KEYS {
        let answer = connection.exchange(&put(&key(number), 0)).await?;
        version(answer).ok_or("a key cannot be written")?;
    }
    for region in &regions {
        caught_up(&region.app, Some(ADMIN_TOKEN)).await?;
    }
    Ok(regions)
}

fn key(number: usize) -> String {
    format!("seen-{}", number % KEYS)
}

/// Writes one after another to the first region, and waits for each in all caches.
async fn delays(regions: &[Region], writes: usize) -> Result<Delays> {
    let mut connection = Connection::open(regions[0].address, http_whole).await?;
    let mut delays = Delays::default();
    for number in 0..writes {
        let pause = 1 + number * 5 % PAUSE;
        tokio::time::sleep(Duration::from_millis(pause as u64)).await;
        let key = key(number);
        let answer = connection.exchange(&put(&key, number as u64)).await?;
        let acknowledged = Instant::now();
        let version = version(answer).ok_or("a write was refused")?;
        let key = Key::new(&key)?;
        let mut looking = JoinSet::new();
        for region in regions {
            let cache = Arc::clone(&region.app.backends[0].cache);
            looking.spawn(seen(cache, key.clone(), Version(version)));
        }
        let mut last = acknowledged;
        while let Some(seen) = looking.join_next().await {
            last = last.max(seen??);
        }
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        delays.since_acknowledged.push(millis(last - acknowledged));
        // A version is the database's clock, in microseconds, on this machine.
        let now = SystemTime::now() - last.elapsed();
        let written = UNIX_EPOCH + Duration::from_micros(version.unsigned_abs());
        let since = now.duration_since(written).unwrap_or_default();
        delays.since_timestamp.push(millis(since));
    }
    Ok(delays)
}

/// When a version is in a cache.
async fn seen(cache: Arc<dyn Cache>, key: Key, version: Version) -> Result<Instant> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if cache.peek(&key, Some(version)).await?.is_some() {
            return Ok(Instant::now());
        }
    }
    Err(format!("version {version} of {key} is not in the cache after {PATIENCE:?}").into())
}

impl Delays {
    fn report(mut self, when: &str, part: &mut Part) {
        for (name, q, bound) in [("p50", 0.5, P50), ("p99", 0.99, P99)] {
            part.bounds.push(Bound {
                what: format!("acknowledged to visible in three caches, {when}, {name}, ms"),
                measured: quantile(&mut self.since_acknowledged, q),
                reach: Reach::Under(bound),
            });
            let from = quantile(&mut self.since_timestamp, q);
            let what = format!("timestamp of the row to visible in three caches, {when}, {name}");
            part.fact(what, from, "ms");
        }
        part.fact(
            format!("writes waited for, {when}"),
            self.since_acknowledged.len() as f64,
            "",
        );
    }
}

fn quantile(numbers: &mut [f64], q: f64) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let at = (numbers.len().saturating_sub(1) as f64 * q).round() as usize;
    numbers.get(at).copied().unwrap_or(f64::NAN)
}
