//! Killed at any point, and started again: no acknowledged write is lost, and
//! once a region has caught up it serves nothing older than the newest.
//!
//! Where it is killed is drawn from a seed and counted in acknowledged writes,
//! so that a slow machine is killed in the same places as a fast one.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tidepool_tests::{Answer, Plane, REGIONS, Server, Setup, within};
use tokio::sync::Notify;

/// What the random numbers start from.
const SEED: u64 = 0x7469_6465_706f_6f6c;

/// How often it is killed.
const ROUNDS: usize = 12;

/// Writers, each on a connection of its own, spread over the regions.
const WRITERS: usize = 9;

/// Keys that all writers share: each is written by many at once.
const SHARED: u64 = 5;

/// Keys that each writer has to itself.
const OWN: u64 = 4;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// A version of a key, and its value; none for a tombstone.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Written {
    version: i64,
    value: Option<String>,
}

/// The newest acknowledged write of every key.
#[derive(Default)]
struct Acknowledged {
    newest: Mutex<BTreeMap<String, Written>>,
    count: AtomicUsize,
    /// At how many writes the server is to be killed.
    kill_at: AtomicUsize,
    kill: Notify,
}

impl Acknowledged {
    fn add(&self, key: &str, written: Written) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let known = newest.entry(key.to_owned()).or_insert(written.clone());
        if written.version > known.version {
            *known = written;
        }
        drop(newest);
        if self.count.fetch_add(1, Ordering::SeqCst) + 1 == self.kill_at.load(Ordering::SeqCst) {
            self.kill.notify_one();
        }
    }

    fn all(&self) -> BTreeMap<String, Written> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.clone()
    }
}

/// Writes and deletes until the server is gone.
async fn write(plane: Plane, name: String, mut random: Random, acknowledged: Arc<Acknowledged>) {
    for n in 0_u64.. {
        let key = match random.below(3) {
            0 => format!("shared-{}", random.below(SHARED)),
            _ => format!("{name}-{}", random.below(OWN)),
        };
        let path = format!("/kv/{key}");
        // Now and then a value of several pages.
        let filler = match random.below(8) {
            0 => "#".repeat(20_000),
            _ => String::new(),
        };
        let (call, status, value) = match random.below(6) {
            0 => (plane.delete(&path), 200, None),
            _ => {
                let value = format!("{name}, write {n}{filler}");
                (plane.put(&path).value(&value), 201, Some(value))
            }
        };
        // An error: it was killed, and nobody knows whether this was written.
        let Ok(answer) = call.try_send().await else {
            return;
        };
        let version = answer.expect(status).version();
        acknowledged.add(&key, Written { version, value });
    }
}

/// What an answer to a GET says of its key.
fn read(answer: &Answer) -> Written {
    match answer.status {
        200 => Written {
            version: answer.version(),
            value: answer.json()["value"].as_str().map(str::to_owned),
        },
        _ => {
            answer.problem(404, "not-found");
            Written {
                version: answer.version(),
                value: None,
            }
        }
    }
}

/// Asserts that everything acknowledged is in the log, and that every region
/// serves what is in the log once it has caught up.
async fn verify(server: &Server, acknowledged: &Acknowledged, when: &str) {
    let mut truth = BTreeMap::new();
    for (key, newest) in acknowledged.all() {
        let mut answers = Vec::new();
        for region in REGIONS {
            let get = server.region(region).get(&format!("/kv/{key}"));
            let get = get.header("tidepool-consistency", "log");
            answers.push(read(&get.send().await));
        }
        let found = &answers[0];
        // A newer one was written without an acknowledgement that arrived.
        assert!(
            found.version > newest.version || *found == newest,
            "{when}: {key} was acknowledged as {newest:?} and is {found:?}"
        );
        assert!(
            answers.iter().all(|answer| answer == found),
            "{when}: the log of {key} says {answers:?}"
        );
        truth.insert(key, found.clone());
    }
    let last = truth.values().map(|found| found.version).max();
    server.all_caught_up(last.unwrap_or(0)).await;
    for (key, found) in truth {
        for region in REGIONS {
            let get = server.region(region).get(&format!("/kv/{key}"));
            let get = get.header("tidepool-consistency", "cached");
            let served = read(&get.send().await);
            assert_eq!(served, found, "{when}: {key} in {region}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_and_no_region_goes_back() {
    let setup = Setup::new();
    let acknowledged = Arc::new(Acknowledged::default());
    let mut random = Random(SEED);
    for round in 0..ROUNDS {
        let server = setup.start().await;
        let when = format!("seed {SEED:#x}, after {round} kills");
        verify(&server, &acknowledged, &when).await;

        // From the very first writes to several commits and checkpoints.
        let more = 1 + random.below([8, 80, 4000][round % 3]) as usize;
        let before = acknowledged.count.load(Ordering::SeqCst);
        acknowledged.kill_at.store(before + more, Ordering::SeqCst);
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            // A plane of its own, so that it has a connection of its own.
            let plane = Plane::new(server.region(REGIONS[writer % 3]).address());
            let name = format!("round-{round}-writer-{writer}");
            let choices = Random(random.below(u64::MAX));
            writers.spawn(write(plane, name, choices, Arc::clone(&acknowledged)));
        }
        within("the writes before the kill", acknowledged.kill.notified()).await;
        server.kill().await;
        while let Some(ended) = within("the end of a writer", writers.join_next()).await {
            if let Err(error) = ended {
                panic!("{when}: a writer failed: {error}");
            }
        }
    }
    let server = setup.start().await;
    let when = format!("seed {SEED:#x}, after {ROUNDS} kills");
    verify(&server, &acknowledged, &when).await;
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn killed_before_it_has_written_anything_it_starts_again() {
    let setup = Setup::new();
    for _ in 0..2 {
        setup.start().await.kill().await;
    }
    let server = setup.start().await;
    let version = server.region("us-east-1").write("key", "value").await;
    server.kill().await;
    // Killed again before it has followed the log to its end.
    setup.start().await.kill().await;
    let server = setup.start().await;
    server.all_caught_up(version).await;
    for region in REGIONS {
        let answer = server.region(region).get("/kv/key").send().await;
        let answer = answer.expect(200);
        assert_eq!(answer.version(), version, "{region}");
        assert_eq!(answer.json()["value"], "value", "{region}");
    }
}
