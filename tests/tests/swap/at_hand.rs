//! Hits that the cache has in memory, and handlers that ask for more than those.

use tidepool_tests::{Server, Setup, built};

use crate::fixture;

/// One region, with one key in its cache.
async fn start(key: &str) -> Server {
    let server = Setup::new().regions(&["here"]).start().await;
    let version = server.region("here").write(key, "v").await;
    server.caught_up("here", version).await;
    server
}

#[tokio::test]
async fn a_handler_that_asks_for_more_on_a_hit_gets_it() {
    // More often than it is tried without a wait.
    const CALLS: u64 = 300;
    let server = start("k").await;
    let here = server.region("here");
    let component = built::fixture("always-asks");
    server.deploy("get", &component, None).await;
    for _ in 0..CALLS {
        let answer = here.get("/kv/k").send().await.expect(200);
        assert_eq!(answer.text(), "told live, found v");
    }
    let revisions = server.revisions("here", "get").await;
    assert_eq!(revisions[0]["failures"], 0);
    assert!(revisions[0]["calls"].as_u64().unwrap() >= CALLS);
    assert!(
        here.head("/kv/k")
            .send()
            .await
            .expect(200)
            .text()
            .is_empty()
    );
}

#[tokio::test]
async fn a_hit_is_answered_with_the_configuration_and_by_the_default_as_ever() {
    let server = start("greeting").await;
    let here = server.region("here");
    let hit = here.get("/kv/greeting").send().await.expect(200);
    assert_eq!(hit.header("x-cache"), Some("HIT"));
    let tag = hit.header("etag").unwrap().to_owned();
    let same = here.get("/kv/greeting").header("if-none-match", &tag);
    same.send().await.expect(304);
    let other = here.get("/kv/greeting").header("if-match", "\"1\"");
    other.send().await.problem(412, "precondition-failed");
    let component = fixture("configured");
    let deploy = ["deploy", "get", &component, "--config", "greeting=hello"];
    server.cli(&deploy).await.success();
    for _ in 0..3 {
        let answer = here.get("/kv/greeting").send().await.expect(200);
        assert_eq!(answer.text(), "hello");
    }
}

#[tokio::test]
async fn a_handler_that_fails_on_a_hit_fails_once_and_is_reported_once() {
    let server = Setup::new()
        .regions(&["here"])
        .set("handlers.trial=0s")
        .start()
        .await;
    let here = server.region("here");
    let version = here.write("k", "v").await;
    server.caught_up("here", version).await;
    server.deploy("get", &built::fixture("trap"), None).await;
    for _ in 0..7 {
        here.get("/kv/k")
            .send()
            .await
            .problem(500, "handler-failed");
    }
    let revisions = server.revisions("here", "get").await;
    assert_eq!(revisions[0]["failures"], 7);
    assert_eq!(revisions[0]["calls"], 7);
}
