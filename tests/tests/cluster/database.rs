//! PostgreSQL goes away and comes back: what is cached is still read, nothing is
//! acknowledged that is not kept, and nobody has to restart anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidepool_tests::servers::Redis;
use tidepool_tests::servers::postgres::Postgres;
use tidepool_tests::{PATIENCE, Plane, Setup};

use crate::{ready, says, until};

/// How long a write may take whose outcome is not known: three times
/// `database.request_timeout`, and what a busy machine needs.
const BOUND: Duration = Duration::from_secs(20);

/// Writes 1, 2, 3 and so on to a key until it is told to stop; the last number
/// that was acknowledged, and how many were not.
async fn count(here: Plane, key: String, stop: Arc<AtomicBool>) -> (u64, u64) {
    let (mut acknowledged, mut refused) = (0, 0);
    for n in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let start = Instant::now();
        let put = here.put(&format!("/kv/{key}")).value(&n.to_string());
        let answer = put.send().await;
        assert!(
            start.elapsed() < BOUND,
            "{:?}: {answer:#?}",
            start.elapsed()
        );
        match answer.status {
            201 => acknowledged = n,
            503 => {
                answer.problem(503, "unavailable");
                refused += 1;
            }
            _ => {
                answer.problem(504, "outcome-unknown");
                refused += 1;
            }
        }
    }
    (acknowledged, refused)
}

#[tokio::test]
async fn what_is_cached_is_read_and_nothing_acknowledged_is_lost() {
    let mut postgres = Postgres::start().await;
    let url = postgres.database("kv").await;
    let redis = Redis::start().await;
    // No wait for a write that cannot be sent any more: the test sits through it.
    let setup = Setup::new()
        .over("here", &url, &redis.url())
        .set("database.request_timeout=1s");
    let host = setup.start().await;
    let here = host.region("here").clone();
    let version = here.write("cached", "value").await;
    host.caught_up("here", version).await;

    for _ in 0..2 {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..6 {
            let key = format!("counter-{writer}");
            let stop = Arc::clone(&stop);
            let here = here.clone();
            writers.spawn(async move { (key.clone(), count(here, key, stop).await) });
        }
        // In the middle of their writes.
        until(&here, "/kv/counter-5", |answer| answer.status == 200).await;
        postgres.kill();

        let start = Instant::now();
        says(here.get("/kv/cached").send().await, "value", "HIT");
        let unread = here.get("/kv/cached").header("tidepool-consistency", "log");
        unread.send().await.problem(503, "unavailable");
        here.get("/kv/not-cached")
            .send()
            .await
            .problem(503, "unavailable");
        let put = here.put("/kv/refused").value("no").send().await;
        put.problem(503, "unavailable");
        let delete = here.delete("/kv/cached").send().await;
        delete.problem(503, "unavailable");
        assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
        let behind = |answer: &tidepool_tests::Answer| answer.status == 503;
        let (unready, _) = until(&here, "/readyz", behind).await;
        assert!(unready.json()["last_error"].is_string());
        // Still.
        says(here.get("/kv/cached").send().await, "value", "HIT");

        postgres.restart().await;
        let start = Instant::now();
        loop {
            let put = here.put("/kv/back").value("yes").send().await;
            if put.status == 201 {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{put:#?}");
        }
        stop.store(true, Ordering::Relaxed);
        while let Some(ended) = writers.join_next().await {
            let (key, (acknowledged, refused)) = ended.unwrap();
            assert!(acknowledged > 0 && refused > 0, "{key}");
            let get = here.get(&format!("/kv/{key}"));
            let get = get.header("tidepool-consistency", "log");
            let found = get.send().await.expect(200);
            let number = found.json()["value"].as_str().unwrap().parse::<u64>();
            // One whose outcome was not known may have been written after it.
            assert!(number.unwrap() >= acknowledged, "{key}: {found:#?}");
            host.caught_up("here", found.version()).await;
            let cached = here.get(&format!("/kv/{key}")).send().await;
            assert_eq!(cached.version(), found.version(), "{key}");
        }
        ready(&here).await;
        here.get("/kv/refused").send().await.expect(404);
    }
    let version = here.write("cached", "new").await;
    host.caught_up("here", version).await;
    says(here.get("/kv/cached").send().await, "new", "HIT");
    assert!(host.stop().await.success());
}

#[tokio::test]
async fn a_host_stops_in_time_while_its_servers_are_away() {
    let mut postgres = Postgres::start().await;
    let url = postgres.database("kv").await;
    let mut redis = Redis::start().await;
    let host = Setup::new().over("here", &url, &redis.url()).start().await;
    host.region("here").write("k", "v").await;
    postgres.kill();
    redis.kill();
    let start = Instant::now();
    assert!(host.stop().await.success());
    assert!(start.elapsed() < Duration::from_secs(15), "{start:?}");
}
