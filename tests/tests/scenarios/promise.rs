//! The three scenarios of the original: a write, an update and a delete, each
//! in another region, are seen in all of them.

use std::sync::Arc;

use tidepool_tests::REGIONS;

use crate::{Three, three};

/// Asserts that every region answers a key with this value, from its cache.
async fn everywhere(server: &Three, key: &str, value: &str, version: i64) {
    server.all_caught_up(version).await;
    for region in REGIONS {
        let get = server.region(region).get(&format!("/kv/{key}"));
        let answer = get.send().await.expect(200);
        assert_eq!(
            answer.json(),
            serde_json::json!({"key": key, "value": value}),
            "{region}"
        );
        assert_eq!(answer.version(), version, "{region}");
        assert_eq!(answer.header("x-cache"), Some("HIT"), "{region}");
    }
}

/// Asserts that every region knows that a key was deleted, from its cache.
async fn nowhere(server: &Three, key: &str, version: i64) {
    server.all_caught_up(version).await;
    for region in REGIONS {
        let get = server.region(region).get(&format!("/kv/{key}"));
        let answer = get.send().await;
        answer.problem(404, "not-found");
        assert_eq!(answer.version(), version, "{region}");
    }
}

#[tokio::test]
async fn a_write_in_us_east_1_is_readable_in_all_regions() {
    let server = three().await;
    let version = server.region("us-east-1").write("greeting", "hello").await;
    everywhere(&server, "greeting", "hello", version).await;
}

#[tokio::test]
async fn an_update_in_us_west_1_is_seen_everywhere() {
    let server = three().await;
    let first = server.region("us-east-1").write("greeting", "hello").await;
    everywhere(&server, "greeting", "hello", first).await;
    let second = server.region("us-west-1").write("greeting", "howdy").await;
    assert!(second > first);
    everywhere(&server, "greeting", "howdy", second).await;
}

#[tokio::test]
async fn a_delete_in_eu_west_1_is_seen_everywhere() {
    let server = three().await;
    let first = server.region("us-east-1").write("greeting", "hello").await;
    everywhere(&server, "greeting", "hello", first).await;
    let second = server.region("eu-west-1").remove("greeting").await;
    assert!(second > first);
    nowhere(&server, "greeting", second).await;
    // And written again, it is back.
    let third = server.region("us-west-1").write("greeting", "again").await;
    assert!(third > second);
    everywhere(&server, "greeting", "again", third).await;
}

#[tokio::test]
async fn what_one_region_wrote_another_reads_at_once_when_it_asks_for_that_version() {
    let server = three().await;
    for n in 0..20 {
        let value = n.to_string();
        let version = server.region("us-east-1").write("counter", &value).await;
        // No wait for the feed: the region has to ask the log when it is behind.
        let get = server.region("eu-west-1").get("/kv/counter");
        let get = get.header("tidepool-consistency", format!("at-least={version}"));
        let answer = get.send().await.expect(200);
        assert_eq!(answer.version(), version);
        assert_eq!(answer.json()["value"], value);
    }
}

#[tokio::test]
async fn caught_up_holds_for_each_of_many_that_write_at_once() {
    const WRITERS: usize = 24;
    const TIMES: usize = 20;
    let server = Arc::new(three().await);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let server = Arc::clone(&server);
        writers.spawn(async move {
            let key = format!("key-{writer}");
            let at = |n: usize| REGIONS[(writer + n) % REGIONS.len()];
            for n in 0..TIMES {
                // Commits of others are under way at every moment.
                let written = server.region(at(n)).write(&key, &n.to_string()).await;
                let reader = at(n + 1);
                server.caught_up(reader, written).await;
                let get = server.region(reader).get(&format!("/kv/{key}"));
                let answer = get.send().await.expect(200);
                assert_eq!(answer.version(), written, "{key} in {reader}");
                assert_eq!(answer.header("x-cache"), Some("HIT"), "{key} in {reader}");
            }
        });
    }
    writers.join_all().await;
}
