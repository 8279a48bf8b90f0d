//! Hydrate components that misbehave: the region evicts what nobody decides
//! about, and stays right.

use serde_json::{Value, json};
use tidepool_tests::{Server, Setup, built};

use crate::Good;

/// A region's report.
pub(crate) async fn report(server: &Server, region: &str) -> Value {
    let reports = server.admin().get("/v1/regions").send().await.expect(200);
    let reports = reports.json();
    let all = reports.as_array().unwrap();
    all.iter().find(|r| r["region"] == region).unwrap().clone()
}

/// Asserts that a region answers a key from where it should.
async fn reads(server: &Server, region: &str, value: &str, version: i64, from: &str) {
    let answer = server.region(region).get("/kv/k").send().await.expect(200);
    assert_eq!(answer.json()["value"], value, "{region}");
    assert_eq!(answer.version(), version, "{region}");
    assert_eq!(answer.header("x-cache"), Some(from), "{region}");
}

async fn falls_back_to_eviction(fixture: &str, says: &str) {
    let server = Setup::new()
        .regions(&["bad", "good"])
        .set("handlers.trial=0s")
        .start()
        .await;
    let first = server.region("good").write("k", "first").await;
    server.all_caught_up(first).await;
    reads(&server, "bad", "first", first, "HIT").await;
    let good = Good::start(&server).await;
    let component = built::fixture(fixture);
    server.deploy("hydrate", &component, Some("bad")).await;

    // What the cache had may not stay: it is older now.
    let second = server.region("good").write("k", "second").await;
    server.all_caught_up(second).await;
    reads(&server, "bad", "second", second, "MISS").await;
    reads(&server, "bad", "second", second, "HIT").await;
    reads(&server, "good", "second", second, "HIT").await;
    let deleted = server.region("bad").remove("k").await;
    server.all_caught_up(deleted).await;
    for region in ["bad", "good"] {
        let answer = server.region(region).get("/kv/k").send().await;
        answer.problem(404, "not-found");
        assert_eq!(answer.version(), deleted, "{region}");
    }
    let bad = report(&server, "bad").await;
    assert!(bad["rows_evicted_by_fallback"].as_u64().unwrap() >= 2);
    let error = bad["last_error"].as_str().unwrap();
    assert!(
        error.contains("revision 2") && error.contains(says),
        "{error}"
    );
    // It fails on single rows too.
    assert!(bad["rows_set_aside"].as_u64().unwrap() >= 2);
    let evicted = ["ERROR", "bad", "they are evicted and set aside"];
    server.log().line(&evicted).await;
    assert_eq!(report(&server, "good").await["rows_evicted_by_fallback"], 0);

    // Mended, it keeps again.
    server
        .cli(&["rollback", "hydrate", "--region", "bad"])
        .await
        .success();
    good.stop().await;
    let third = server.region("good").write("k", "third").await;
    server.all_caught_up(third).await;
    reads(&server, "bad", "third", third, "HIT").await;
    let mended = report(&server, "bad").await["rows_evicted_by_fallback"].clone();
    let fourth = server.region("bad").write("k", "fourth").await;
    server.all_caught_up(fourth).await;
    assert_eq!(
        report(&server, "bad").await["rows_evicted_by_fallback"],
        mended
    );
}

#[tokio::test]
async fn a_hydrate_that_traps_is_replaced_by_eviction() {
    falls_back_to_eviction("hydrate-trap", "trapped").await;
}

#[tokio::test]
async fn a_hydrate_that_decides_too_little_is_replaced_by_eviction() {
    falls_back_to_eviction("hydrate-short", "decisions").await;
}

#[tokio::test]
async fn no_row_is_lost_while_a_hydrate_traps() {
    const KEYS: usize = 50;
    let server = Setup::new()
        .regions(&["bad", "good"])
        .set("handlers.trial=0s")
        .start()
        .await;
    let component = built::fixture("hydrate-trap");
    server.deploy("hydrate", &component, Some("bad")).await;
    let mut versions = Vec::new();
    for n in 0..KEYS {
        versions.push(server.region("good").write(&format!("k{n}"), "v").await);
    }
    server.all_caught_up(versions[KEYS - 1]).await;
    let bad = report(&server, "bad").await;
    assert!(bad["rows_applied"].as_u64().unwrap() >= KEYS as u64);
    for (n, version) in versions.iter().enumerate() {
        let get = server.region("bad").get(&format!("/kv/k{n}"));
        assert_eq!(get.send().await.expect(200).version(), *version);
    }
}

#[tokio::test]
async fn a_hydrate_that_keeps_nothing_only_costs_hits() {
    let server = Setup::new()
        .regions(&["bad", "good"])
        .set("handlers.trial=0s")
        .start()
        .await;
    let component = built::fixture("hydrate-evict");
    server.deploy("hydrate", &component, Some("bad")).await;
    for value in ["first", "second"] {
        let version = server.region("good").write("k", value).await;
        server.all_caught_up(version).await;
        reads(&server, "good", value, version, "HIT").await;
        reads(&server, "bad", value, version, "MISS").await;
        // What a reader has fetched stays, until the next change.
        reads(&server, "bad", value, version, "HIT").await;
    }
    // It has decided so: that is no fault.
    let bad = report(&server, "bad").await;
    assert_eq!(bad["rows_evicted_by_fallback"], 0);
    assert_eq!(bad["last_error"], Value::Null);
    // The scan is over, and nothing strange was met.
    assert_eq!(bad["scan"], Value::Null);
    assert_eq!(bad["feed"], json!({"skipped": 0, "removed": 0, "late": 0}));
}
