//! A first fill: the hydrator between a real PostgreSQL and a real Redis, killed in
//! the middle of the scan, with writes while it is away.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tidepool::cache::redis::RedisCache;
use tidepool::cache::{Cache, Decision, Lookup};
use tidepool::clock::{SystemClock, SystemEntropy};
use tidepool::config::{self, Database, Secret};
use tidepool::feed::postgres::{PostgresFeedSettings, PostgresFeedSource};
use tidepool::hydrate::{Decide, Hydrator, HydratorSettings, HydratorStatus, ScanProgress};
use tidepool::log::sql::SqlLog;
use tidepool::log::{Change, Log};
use tidepool::model::{Condition, Key, Row, State, Version};
use tidepool::quarantine::Keeper;
use tidepool::quarantine::sql::SqlQuarantine;
use tidepool::sql::SqlConfig;
use tidepool_tests::servers::Redis;
use tidepool_tests::servers::postgres::Postgres;
use tidepool_tests::within;
use tokio::sync::watch;

const KEYS: u64 = 20_000;

/// Stores every row, and counts them.
struct Storing(watch::Sender<u64>);

#[async_trait]
impl Decide for Storing {
    async fn decide(&self, rows: &Arc<[Row]>) -> Result<Vec<Decision>, String> {
        self.0.send_modify(|count| *count += rows.len() as u64);
        Ok(vec![Decision::Store; rows.len()])
    }
}

struct Region {
    source: Arc<PostgresFeedSource>,
    cache: Arc<RedisCache>,
    decided: Arc<Storing>,
    quarantine: Arc<Keeper>,
}

impl Region {
    fn hydrator(&self) -> (Hydrator, Arc<HydratorStatus>) {
        let status = Arc::new(HydratorStatus::default());
        let hydrator = Hydrator {
            region: "test".into(),
            feed: self.source.clone(),
            cache: self.cache.clone(),
            decide: self.decided.clone(),
            quarantine: self.quarantine.clone(),
            status: status.clone(),
            entropy: Arc::new(SystemEntropy),
            settings: HydratorSettings {
                silence: tidepool_tests::PATIENCE,
                // What is killed does not give it up.
                lead_ttl: Duration::from_secs(1),
                lead_interval: Duration::from_millis(100),
                ..HydratorSettings::default()
            },
        };
        (hydrator, status)
    }

    /// Runs one until it has come to so many rows, all runs together, and kills it.
    /// Gives what it said of its scan.
    async fn killed_at(&self, rows: u64) -> ScanProgress {
        let (hydrator, status) = self.hydrator();
        let mut decided = self.decided.0.subscribe();
        let (_stop, stopped) = watch::channel(false);
        let running = tokio::spawn(hydrator.run(stopped));
        let reached = decided.wait_for(|count| *count >= rows);
        within("rows", reached).await.unwrap();
        running.abort();
        let ended = running.await.unwrap_err();
        assert!(ended.is_cancelled());
        assert!(!status.snapshot_complete(), "the scan is not over");
        status.scan().unwrap()
    }
}

async fn write(log: &SqlLog, key: &str, change: Change) -> (Key, Version) {
    let key = Key::new(key).unwrap();
    let receipt = log.append(key.clone(), change, Condition::None, None).await;
    (key, receipt.unwrap().version)
}

fn put(text: &str) -> Change {
    Change::Put {
        value: text.to_owned().into(),
        content_type: None,
        ttl: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fill_that_is_killed_twice_ends_complete() {
    let (server, redis) = (Postgres::start().await, Redis::start().await);
    let url = server.database("fill").await;
    let config = SqlConfig::new(&Database {
        url: Some(Secret::new(url)),
        request_timeout: tidepool_tests::PATIENCE,
        ..Database::default()
    });
    let config = config.unwrap();
    let settings = config::Log::default();
    let log = SqlLog::open(config.clone(), &settings, Arc::new(SystemEntropy));
    let log = log.await.unwrap();
    // Two versions of each key, and one in ten deleted.
    let rows = format!(
        "INSERT INTO kv_log (key, version, \"timestamp\", deleted, write_id, value)
         SELECT convert_to('key/' || lpad(n::text, 8, '0'), 'UTF8'), version, version,
             version = 2 AND n % 10 = 0, 0, convert_to(repeat(md5(n::text), 4), 'UTF8')
         FROM generate_series(0, {KEYS} - 1) AS n, generate_series(1, 2) AS version;
         ANALYZE kv_log;"
    );
    server.admin("fill", &rows).await;

    let bounds = PostgresFeedSettings {
        batch_rows: 1024,
        batch_bytes: 4 << 20,
        resolved_every: Duration::from_millis(100),
    };
    let quarantine = Arc::new(SqlQuarantine::new(config.clone()));
    let region = Region {
        quarantine: Arc::new(Keeper::new(quarantine, Arc::new(SystemClock))),
        source: Arc::new(PostgresFeedSource::new(config, bounds)),
        cache: Arc::new(redis.cache().await),
        decided: Arc::new(Storing(watch::Sender::new(0))),
    };
    let mut expected: BTreeMap<Key, Version> = (0..KEYS)
        .map(|n| (Key::new(&format!("key/{n:08}")).unwrap(), Version(2)))
        .collect();
    let mut done = Vec::new();
    for round in 1..=2 {
        done.push(region.killed_at(round * KEYS / 3).await);
        // What was scanned, what was not, and what is new, while nobody follows.
        for n in 0..50 {
            let spread = n * KEYS / 50 + round;
            let change = if n % 5 == 0 {
                Change::Delete
            } else {
                put("later")
            };
            let (key, version) = write(&log, &format!("key/{spread:08}"), change).await;
            expected.insert(key, version);
            let (key, version) = write(&log, &format!("new/{round}/{n}"), put("new")).await;
            expected.insert(key, version);
        }
    }
    let rows: Vec<u64> = done.iter().map(|scan| scan.rows).collect();
    assert!(
        0 < rows[0] && rows[0] < rows[1] && rows[1] < KEYS,
        "{done:?}"
    );
    // By the statistics of a sample.
    let about = KEYS * 8 / 10..=KEYS * 12 / 10;
    let totals = done.iter().map(|scan| scan.total.unwrap());
    assert!(
        totals.clone().all(|total| about.contains(&total)),
        "{done:?}"
    );

    let (hydrator, status) = region.hydrator();
    let (stop, stopped) = watch::channel(false);
    let begun = Instant::now();
    let running = tokio::spawn(hydrator.run(stopped));
    let newest = expected.values().max().unwrap().0;
    let mut progress = status.progress();
    let caught_up = progress.wait_for(|progress| {
        let as_of = progress.as_ref().map(|progress| progress.as_of_micros);
        as_of.is_some_and(|as_of| as_of > newest)
    });
    drop(within("the hydrator to catch up", caught_up).await.unwrap());
    println!(
        "killed at {done:?} of {KEYS}; the rest, {} rows, took {:?}",
        status.rows_applied(),
        begun.elapsed()
    );
    for (key, version) in &expected {
        let found = region.cache.lookup(key, None).await.unwrap();
        let Lookup::Found(state) = found else {
            panic!("{key} is not there")
        };
        assert_eq!(state.version(), Some(*version), "{key}");
        let deleted = version.0 == 2 && key.as_str().ends_with('0');
        assert!(!deleted || matches!(state, State::Deleted { .. }), "{key}");
    }
    // What is repeated is what was under way at a kill: a batch that was applied and
    // one that waited, each time.
    let repeated = *region.decided.0.borrow() - KEYS;
    assert!(repeated <= 4 * 1024 + 400, "{repeated} rows came again");
    stop.send(true).unwrap();
    running.await.unwrap();
}
