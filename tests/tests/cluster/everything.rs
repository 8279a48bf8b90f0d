//! Everything that can go away does, one after the other, while two regions are
//! written and read: nothing acknowledged is lost, no cache goes back, and in the
//! end both are what the log is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tidepool_tests::servers::Redis;
use tidepool_tests::servers::postgres::Postgres;
use tidepool_tests::{Answer, PATIENCE, Plane, Server, Setup, within};
use tokio::sync::watch;

use crate::ready;

/// Keys that all writers of both regions share.
const KEYS: usize = 6;

/// Writers in each region.
const WRITERS: usize = 3;

/// Writes in each region between two faults.
const BETWEEN: u64 = 40;

/// A region as its clients see it.
struct Region {
    /// Where it is now: a host that is started again has another port.
    plane: Mutex<Plane>,
    /// How many writes it has acknowledged.
    writes: watch::Sender<u64>,
    stop: AtomicBool,
}

impl Region {
    fn new(host: &Server) -> Arc<Region> {
        Arc::new(Region {
            plane: Mutex::new(host.region("here").clone()),
            writes: watch::Sender::new(0),
            stop: AtomicBool::new(false),
        })
    }

    fn plane(&self) -> Plane {
        self.plane.lock().unwrap().clone()
    }

    fn moved(&self, host: &Server) {
        *self.plane.lock().unwrap() = host.region("here").clone();
    }

    fn runs(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Waits until it has acknowledged some more writes.
    async fn works(&self) {
        let mut writes = self.writes.subscribe();
        let goal = *writes.borrow() + BETWEEN;
        let enough = writes.wait_for(|writes| *writes >= goal);
        within("some writes", enough).await.unwrap();
    }
}

/// The highest version of each key that was acknowledged.
type Acknowledged = Arc<Mutex<BTreeMap<String, i64>>>;

/// Writes and deletes until it is told to stop.
async fn write(region: Arc<Region>, writer: usize, acknowledged: Acknowledged) {
    for n in 0.. {
        if !region.runs() {
            return;
        }
        let key = format!("k{}", (n + writer) % KEYS);
        let path = format!("/kv/{key}");
        let call = match n % 7 {
            0 => region.plane().delete(&path),
            _ => region.plane().put(&path).value(&format!("{writer}:{n}")),
        };
        // An error: the host was killed meanwhile.
        let Ok(answer) = call.try_send().await else {
            continue;
        };
        match answer.status {
            200 | 201 => {
                let version = answer.version();
                let mut all = acknowledged.lock().unwrap();
                let known = all.entry(key).or_insert(0);
                *known = version.max(*known);
                region.writes.send_modify(|writes| *writes += 1);
            }
            503 => drop(answer.problem(503, "unavailable")),
            _ => drop(answer.problem(504, "outcome-unknown")),
        }
    }
}

/// What an answer says of a key: its version, 0 when there has never been one.
fn version(answer: &Answer) -> i64 {
    match answer.header("etag") {
        Some(_) => answer.version(),
        None => 0,
    }
}

/// Reads until it is told to stop; how many were answered by the cache.
async fn read(region: Arc<Region>, name: &'static str) -> u64 {
    let mut newest = BTreeMap::new();
    let mut hits = 0;
    for n in 0.. {
        if !region.runs() {
            break;
        }
        let key = n % KEYS;
        let get = region.plane().get(&format!("/kv/k{key}"));
        let Ok(answer) = get.try_send().await else {
            continue;
        };
        match answer.status {
            200 => assert!(answer.json()["value"].is_string()),
            404 => drop(answer.problem(404, "not-found")),
            _ => drop(answer.problem(503, "unavailable")),
        }
        if answer.header("x-cache") == Some("HIT") {
            let found = version(&answer);
            let before = newest.insert(key, found).unwrap_or(0);
            assert!(
                found >= before,
                "{name} went back from {before}: {answer:#?}"
            );
            hits += 1;
        }
    }
    hits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_away_nothing_is_lost_and_no_cache_goes_back() {
    let mut postgres = Postgres::start().await;
    let url = postgres.database("kv").await;
    let (mut redis, other_redis) = (Redis::start().await, Redis::start().await);
    let setup = |redis: &Redis| {
        let setup = Setup::new().over("here", &url, &redis.url());
        setup.set("database.request_timeout=1s")
    };
    let (setup, other_setup) = (setup(&redis), setup(&other_redis));
    let mut host = setup.start().await;
    let other_host = other_setup.start().await;
    let (region, other) = (Region::new(&host), Region::new(&other_host));
    let acknowledged = Acknowledged::default();
    let mut writers = tokio::task::JoinSet::new();
    let mut readers = tokio::task::JoinSet::new();
    for (region, name) in [(&region, "the region"), (&other, "the other region")] {
        for writer in 0..WRITERS {
            let acknowledged = Arc::clone(&acknowledged);
            writers.spawn(write(Arc::clone(region), writer, acknowledged));
        }
        readers.spawn(read(Arc::clone(region), name));
    }
    for _ in 0..2 {
        redis.kill();
        region.works().await;
        redis.start_again().await;
        region.works().await;

        let () = other_redis.command(&["FLUSHALL"]).await;
        other.works().await;

        host.kill().await;
        other.works().await;
        host = setup.start().await;
        region.moved(&host);
        region.works().await;

        postgres.kill();
        postgres.restart().await;
        region.works().await;
        other.works().await;

        host.signal("STOP").await;
        other.works().await;
        host.signal("CONT").await;
        region.works().await;

        redis.kill();
        host.kill().await;
        postgres.kill();
        postgres.restart().await;
        host = setup.start().await;
        region.moved(&host);
        redis.start_again().await;
        region.works().await;
    }
    for region in [&region, &other] {
        region.stop.store(true, Ordering::Relaxed);
    }
    while let Some(ended) = within("the end of a writer", writers.join_next()).await {
        ended.unwrap();
    }
    while let Some(hits) = within("the end of a reader", readers.join_next()).await {
        assert!(hits.unwrap() > 0, "nothing was read from a cache");
    }

    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    assert_eq!(acknowledged.len(), KEYS);
    for (key, newest) in acknowledged {
        let path = format!("/kv/{key}");
        let log = region.plane().get(&path);
        let log = log.header("tidepool-consistency", "log").send().await;
        assert!(version(&log) >= newest, "{key}: {newest}, {log:#?}");
        for host in [&host, &other_host] {
            let here = host.region("here");
            host.caught_up("here", log.version()).await;
            let start = Instant::now();
            // One more row of it may evict what came before Redis was restarted.
            loop {
                let cached = here.get(&path).send().await;
                assert_eq!(
                    (cached.status, cached.version()),
                    (log.status, log.version())
                );
                assert_eq!(cached.body, log.body, "{key}");
                if cached.header("x-cache") == Some("HIT") || cached.status == 404 {
                    break;
                }
                assert!(start.elapsed() < PATIENCE, "{cached:#?}");
            }
            ready(here).await;
        }
    }
}
