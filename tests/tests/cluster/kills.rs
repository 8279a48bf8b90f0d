//! A host is killed in the middle of writes: what it acknowledged is there, and
//! the next one goes on where it was.

use std::collections::BTreeMap;

use tidepool_tests::cluster::Database;
use tidepool_tests::servers::Redis;
use tidepool_tests::{Plane, Setup};
use tokio::sync::mpsc;

use crate::{ready, report, says};

const WRITERS: usize = 8;

/// An acknowledged write: its key, its version and its number.
type Written = (String, i64, u64);

/// Writes to a key of its own until the host is gone.
async fn write(here: Plane, key: String, written: mpsc::UnboundedSender<Written>) {
    for n in 1.. {
        let put = here.put(&format!("/kv/{key}")).value(&n.to_string());
        // An error: it was killed, and nobody knows whether this was written.
        let Ok(answer) = put.try_send().await else {
            return;
        };
        let version = answer.expect(201).version();
        let _ = written.send((key.clone(), version, n));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_is_there_after_a_kill() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let setup = Setup::new().over("here", database.url(), &redis.url());
    let mut newest: BTreeMap<String, (i64, u64)> = BTreeMap::new();
    for round in 0..4 {
        let host = setup.start().await;
        let (sender, mut written) = mpsc::unbounded_channel();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let plane = Plane::new(host.region("here").address());
            let key = format!("round-{round}-writer-{writer}");
            writers.spawn(write(plane, key, sender.clone()));
        }
        drop(sender);
        let mut note = |(key, version, n): Written| newest.insert(key, (version, n));
        for _ in 0..[1, 50, 400, 100][round] {
            let next = tidepool_tests::within("a write", written.recv()).await;
            note(next.unwrap());
        }
        host.kill().await;
        while let Some(next) = written.recv().await {
            note(next);
        }
        while let Some(ended) = writers.join_next().await {
            ended.unwrap();
        }
    }
    let host = setup.start().await;
    let here = host.region("here");
    for (key, (version, n)) in newest {
        let get = here.get(&format!("/kv/{key}"));
        let get = get.header("tidepool-consistency", "log");
        let found = get.send().await.expect(200);
        // One that was written and not acknowledged may have come after it.
        assert!(found.version() >= version, "{key}: {found:#?}");
        let number: u64 = found.json()["value"].as_str().unwrap().parse().unwrap();
        assert!(number >= n && number <= n + 1, "{key}: {n}, {number}");
        host.caught_up("here", found.version()).await;
        let cached = here.get(&format!("/kv/{key}")).send().await;
        assert_eq!(cached.version(), found.version(), "{key}");
    }
}

#[tokio::test]
async fn the_next_host_goes_on_from_the_saved_position() {
    const KEYS: usize = 300;
    let (database, redis) = (Database::new().await, Redis::start().await);
    let setup = Setup::new().over("here", database.url(), &redis.url());
    let host = setup.start().await;
    let here = host.region("here").clone();
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..KEYS {
        let here = here.clone();
        writers.spawn(async move { here.write(&format!("k{n}"), "v").await });
    }
    let last = writers.join_all().await.into_iter().max().unwrap();
    host.caught_up("here", last).await;
    assert!(report(&host).await["rows_applied"].as_u64().unwrap() >= KEYS as u64);
    host.kill().await;

    let host = setup.start().await;
    let here = host.region("here").clone();
    ready(&here).await;
    let version = here.write("k0", "new").await;
    host.caught_up("here", version).await;
    // A scan would have brought all of them again.
    let applied = report(&host).await["rows_applied"].as_u64().unwrap();
    assert!((1..KEYS as u64 / 2).contains(&applied), "{applied}");
    says(here.get("/kv/k0").send().await, "new", "HIT");
    says(here.get("/kv/k1").send().await, "v", "HIT");
}

#[tokio::test]
async fn what_others_wrote_while_a_host_was_away_is_caught_up_with() {
    let database = Database::new().await;
    let (ours, theirs) = (Redis::start().await, Redis::start().await);
    let here = Setup::new().over("here", database.url(), &ours.url());
    let there = Setup::new().over("there", database.url(), &theirs.url());
    let (host, other) = (here.start().await, there.start().await);
    let first = host.region("here").write("k", "first").await;
    let gone = host.region("here").write("gone", "soon").await;
    host.caught_up("here", first.max(gone)).await;
    host.kill().await;
    other.region("there").write("k", "second").await;
    other.region("there").write("new", "one").await;
    let last = other.region("there").remove("gone").await;
    let host = here.start().await;
    host.caught_up("here", last).await;
    let region = host.region("here");
    says(region.get("/kv/k").send().await, "second", "HIT");
    says(region.get("/kv/new").send().await, "one", "HIT");
    let gone = region.get("/kv/gone").send().await;
    gone.problem(404, "not-found");
    assert_eq!(gone.version(), last);
}
