//! How old an answer may be: expiry, consistency, and where an answer came
//! from.

use std::time::{Duration, Instant};

use tidepool_tests::{PATIENCE, built};

use crate::{one, three, with};

#[tokio::test]
async fn a_value_with_a_time_to_live_expires_everywhere() {
    let server = three().await;
    let written = Instant::now();
    let put = server.region("us-east-1").put("/kv/k").value("short");
    let version = put
        .header("tidepool-ttl", 1)
        .send()
        .await
        .expect(201)
        .version();
    server.all_caught_up(version).await;
    for (name, plane) in server.regions() {
        // No event tells of an expiry: a clock passes. Ask until it has.
        let gone = loop {
            let asked = Instant::now();
            let answer = plane.get("/kv/k").send().await;
            if answer.status == 404 {
                break answer;
            }
            assert_eq!(answer.expect(200).json()["value"], "short", "{name}");
            assert!(written.elapsed() < PATIENCE, "{name} still has it");
            assert!(
                asked.duration_since(written) < Duration::from_secs(2),
                "{name} had it for longer than twice its time"
            );
        };
        assert!(written.elapsed() >= Duration::from_secs(1), "{name}");
        gone.problem(404, "not-found");
        assert_eq!(gone.version(), version, "{name}");
    }
    // What has expired is not there: it can be created.
    let put = server.region("us-west-1").put("/kv/k").value("new");
    let put = put.header("if-none-match", "*").send().await.expect(201);
    assert!(put.version() > version);
}

#[tokio::test]
async fn a_time_to_live_is_1_second_to_10_years() {
    let (_server, here) = one().await;
    for ttl in ["1", "60", "315360000"] {
        let put = here.put("/kv/k").value("v").header("tidepool-ttl", ttl);
        put.send().await.expect(201);
    }
    for ttl in ["", "0", "-1", "+5", "1.5", "soon", "315360001", "1 s"] {
        let put = here.put("/kv/k").value("no").header("tidepool-ttl", ttl);
        let answer = put.send().await;
        let document = answer.problem(400, "bad-request");
        let detail = document["detail"].as_str().unwrap();
        assert!(detail.contains("Tidepool-TTL"), "{detail}");
    }
    // Which one would be meant?
    let put = here.put("/kv/k").value("no").header("tidepool-ttl", "5");
    let answer = put.header("tidepool-ttl", "60").send().await;
    let document = answer.problem(400, "bad-request");
    assert_eq!(document["detail"], "header Tidepool-TTL: send it once");
}

#[tokio::test]
async fn x_cache_says_where_the_answer_came_from() {
    let (server, here) = one().await;
    // Keeps nothing in the cache, so that reads miss.
    let evict = built::fixture("hydrate-evict");
    server.deploy("hydrate", &evict, None).await;
    let version = here.write("k", "v").await;
    server.all_caught_up(version).await;
    for (consistency, from) in [
        ("log", "BYPASS"),
        // What may be older is not put into the cache.
        ("max-staleness=60", "MISS"),
        ("max-staleness=60", "MISS"),
        ("cached", "MISS"),
        ("cached", "HIT"),
        ("max-staleness=60", "HIT"),
        ("log", "BYPASS"),
    ] {
        let get = here
            .get("/kv/k")
            .header("tidepool-consistency", consistency);
        let answer = get.send().await.expect(200);
        assert_eq!(answer.header("x-cache"), Some(from), "{consistency}");
        assert_eq!(answer.version(), version);
    }
}

#[tokio::test]
async fn at_least_asks_the_log_only_when_the_cache_is_behind() {
    let (server, here) = one().await;
    let evict = built::fixture("hydrate-evict");
    server.deploy("hydrate", &evict, None).await;
    let first = here.write("k", "one").await;
    let at_least = |version: i64| {
        here.get("/kv/k")
            .header("tidepool-consistency", format!("at-least={version}"))
    };
    assert_eq!(at_least(first).send().await.expect(200).version(), first);
    let second = here.write("k", "two").await;
    server.all_caught_up(second).await;
    // Evicted: what the cache had was older.
    let answer = at_least(second).send().await.expect(200);
    assert_eq!(answer.json()["value"], "two");
    assert_eq!(answer.header("x-cache"), Some("MISS"));
    for version in [1, first, second] {
        let answer = at_least(version).send().await.expect(200);
        assert_eq!(answer.header("x-cache"), Some("HIT"), "{version}");
        assert_eq!(answer.version(), second);
    }
}

#[tokio::test]
async fn a_version_that_is_not_there_yet_is_503_and_worth_another_try() {
    let (_server, here) = one().await;
    let version = here.write("k", "v").await;
    for key in ["k", "nothing"] {
        let get = here.get(&format!("/kv/{key}"));
        let later = format!("at-least={}", version + 1_000_000_000);
        let answer = get.header("tidepool-consistency", later).send().await;
        answer.problem(503, "unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
}

#[tokio::test]
async fn what_is_no_consistency_is_400() {
    let (_server, here) = one().await;
    here.write("k", "v").await;
    for text in [
        "",
        "fresh",
        "at-least",
        "at-least=",
        "at-least=-1",
        "at-least=\"1\"",
        "at-least=01",
        "at-least=99999999999999999999",
        "LOG",
        "max-staleness=0",
        "max-staleness=86401",
    ] {
        let get = here.get("/kv/k").header("tidepool-consistency", text);
        get.send().await.problem(400, "bad-request");
    }
    let twice = here.get("/kv/k").header("tidepool-consistency", "log");
    let twice = twice.header("tidepool-consistency", "log");
    twice.send().await.problem(400, "bad-request");
    for method in ["PUT", "DELETE"] {
        let write = here.call(method, "/kv/k").value("no");
        let write = write.header("tidepool-consistency", "log");
        write.send().await.problem(400, "bad-request");
    }
}

#[tokio::test]
async fn a_cache_that_may_be_older_than_allowed_is_not_asked() {
    // A feed that says nothing for a day is further behind with each second.
    let setup = tidepool_tests::Setup::new()
        .set("feed.resolved_interval=1day")
        .set("feed.max_lag=1day");
    let (server, here) = with(setup).await;
    server.caught_up("here", 1).await;
    let version = here.write("k", "v").await;
    let asked = Instant::now();
    let read = async |staleness: u32| {
        let get = here.get("/kv/k");
        let get = get.header("tidepool-consistency", format!("max-staleness={staleness}"));
        let answer = get.send().await.expect(200);
        assert_eq!(answer.version(), version, "{staleness}");
        answer.header("x-cache").map(str::to_owned)
    };
    // No event tells of it: a clock passes.
    while read(1).await.as_deref() != Some("BYPASS") {
        assert!(asked.elapsed() < PATIENCE, "an answer of the cache, still");
    }
    assert_ne!(read(86_400).await.as_deref(), Some("BYPASS"));
}

#[tokio::test]
async fn a_region_that_is_behind_its_bound_is_not_ready() {
    // A feed that says nothing for a day is behind after a millisecond.
    let setup = tidepool_tests::Setup::new()
        .set("feed.resolved_interval=1day")
        .set("feed.max_lag=1ms");
    let (server, here) = with(setup).await;
    server.caught_up("here", 1).await;
    let asked = Instant::now();
    let answer = loop {
        let answer = here.get("/readyz").send().await;
        if answer.status == 503 {
            break answer;
        }
        assert!(asked.elapsed() < PATIENCE, "{answer:#?}");
    };
    assert_eq!(answer.json()["ready"], false);
    assert_eq!(answer.json()["max_lag_ms"], 1);
    // It still answers what it is asked.
    here.write("k", "v").await;
    here.get("/healthz").send().await.expect(200);
}
