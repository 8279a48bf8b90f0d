//! A hydrate component that traps on one key: that row is set aside, where it can be
//! seen and tried again, and nothing else is worse for it.

use serde_json::Value;
use tidepool_tests::{PATIENCE, Server, Setup, built};

use crate::Good;
use crate::hydrate::report;

/// What is set aside, as the admin plane lists it.
async fn aside(server: &Server) -> Vec<Value> {
    let list = server.admin().get("/v1/feed/quarantine").send().await;
    list.expect(200).json()["entries"]
        .as_array()
        .unwrap()
        .clone()
}

/// A region with so many keys and `poison`, whose hydrate handler traps on that; all
/// of them come in one batch. The version of `poison`.
async fn poisoned(keys: usize) -> (Server, i64) {
    let setup = Setup::new().regions(&["bad", "good"]);
    let server = setup.set("handlers.trial=0s").start().await;
    let component = built::fixture("hydrate-poison");
    server.deploy("hydrate", &component, Some("bad")).await;
    for n in 0..keys {
        server.region("good").write(&format!("k{n}"), "v").await;
    }
    let version = server.region("good").write("poison", "v").await;
    server.all_caught_up(version).await;
    // A start fills the caches by a scan, which has it all in one page.
    let setup = server.setup().clone();
    server.stop().await;
    let server = setup.start().await;
    server.all_caught_up(version).await;
    (server, version)
}

/// Asserts that a region answers a key from where it should.
async fn reads(server: &Server, key: &str, version: i64, from: &str) {
    let get = server.region("bad").get(&format!("/kv/{key}"));
    let answer = get.send().await.expect(200);
    assert_eq!(answer.version(), version);
    assert_eq!(answer.header("x-cache"), Some(from), "{key}");
}

#[tokio::test]
async fn one_row_is_set_aside_and_replayed_by_a_better_handler() {
    const KEYS: usize = 40;
    let (server, version) = poisoned(KEYS).await;
    for n in 0..KEYS {
        let get = server.region("bad").get(&format!("/kv/k{n}"));
        let answer = get.send().await.expect(200);
        assert_eq!(answer.header("x-cache"), Some("HIT"), "k{n}");
    }
    // Right all the same, from the log.
    reads(&server, "poison", version, "MISS").await;
    let entries = aside(&server).await;
    assert_eq!(entries.len(), 1, "{entries:#?}");
    let entry = &entries[0];
    assert_eq!(entry["region"], "bad");
    assert_eq!(entry["key"], "poison");
    assert_eq!(entry["version"], version);
    let why = entry["why"].as_str().unwrap();
    assert!(
        why.contains("revision 2") && why.contains("trapped"),
        "{why}"
    );
    let bad = report(&server, "bad").await;
    assert_eq!(bad["rows_set_aside"], 1);
    assert_eq!(bad["rows_evicted_by_fallback"], 1);
    assert_eq!(report(&server, "good").await["rows_set_aside"], 0);
    let line = ["ERROR", "bad", "rows=1", "set aside"];
    server.log().line(&line).await;
    let table = server.cli(&["feed", "quarantine"]).await;
    let table = table.success().to_owned();
    let version = version.to_string();
    for says in ["REGION", "bad", "poison", &version, "trapped"] {
        assert!(table.contains(says), "{table}");
    }

    // The same handler fails again, and that is said.
    let again = server.cli(&["feed", "quarantine", "replay"]).await;
    assert!(again.refused(1).contains("still fails on 1"), "{again:?}");
    assert!(again.stdout.contains("replayed 0; 1 could"), "{again:?}");
    assert_eq!(aside(&server).await.len(), 1);

    // The region goes on meanwhile.
    let good = Good::start(&server).await;
    let newer = server.region("bad").write("poison", "newer").await;
    server.all_caught_up(newer).await;
    assert_eq!(aside(&server).await[0]["version"], newer);
    let other = server.region("bad").write("other", "v").await;
    server.all_caught_up(other).await;
    reads(&server, "other", other, "HIT").await;
    good.stop().await;

    // A better one decides about it.
    let component = built::guest("hydrate");
    server.deploy("hydrate", &component, Some("bad")).await;
    let only = ["--region", "bad", "--key", "poison"];
    let replay = [&["feed", "quarantine", "replay"][..], &only].concat();
    let replayed = server.cli(&replay).await;
    assert_eq!(replayed.success().trim(), "replayed 1");
    assert_eq!(aside(&server).await, Vec::<Value>::new());
    reads(&server, "poison", newer, "HIT").await;
    let table = server.cli(&["feed", "quarantine"]).await;
    assert_eq!(table.success().trim(), "nothing is set aside");
}

#[tokio::test]
async fn what_is_set_aside_survives_a_restart_and_can_be_dropped() {
    let (server, version) = poisoned(0).await;
    let setup = server.setup().clone();
    server.kill().await;
    let server = setup.start().await;
    server.all_caught_up(version).await;
    assert_eq!(aside(&server).await.len(), 1);
    let start = std::time::Instant::now();
    // It is counted by who writes it.
    while report(&server, "bad").await["quarantined"] != 1 {
        assert!(start.elapsed() < PATIENCE);
    }
    let refused = server.cli(&["feed", "quarantine", "drop"]).await;
    assert!(refused.refused(2).contains("--all"), "{refused:?}");
    let misspelt = ["feed", "quarantine", "drop", "--region", "bed"];
    let misspelt = server.cli(&misspelt).await;
    assert!(misspelt.refused(1).contains("bad, good"), "{misspelt:?}");
    let dropped = server.cli(&["feed", "quarantine", "drop", "--all"]).await;
    assert_eq!(dropped.success().trim(), "dropped 1");
    assert_eq!(aside(&server).await, Vec::<Value>::new());
    // Once: of nothing there is nothing to tell.
    let again = server.cli(&["feed", "quarantine", "drop", "--all"]).await;
    assert_eq!(again.success().trim(), "dropped 0");
    let audit = server.cli(&["audit"]).await;
    let told = "forgets rows that were set aside: 1 of bad";
    assert_eq!(audit.success().matches(told).count(), 1, "{audit:?}");
}
