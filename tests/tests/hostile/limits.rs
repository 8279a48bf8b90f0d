//! Components that want too much of something: each is ended at its limit.

use std::time::{Duration, Instant};

use tidepool_tests::Setup;

use crate::{Hostile, tells_nothing};

#[tokio::test]
async fn an_endless_loop_is_ended_at_its_processor_time() {
    let setup = Setup::new().set("limits.cpu=50ms").set("limits.wall=10s");
    let hostile = Hostile::start("loop", setup).await;
    let start = Instant::now();
    let answer = hostile.get("k").await;
    assert!(start.elapsed() >= Duration::from_millis(50));
    let document = hostile.names_it(&answer, 504, "handler-deadline", "limits.cpu");
    tells_nothing(&document);
    hostile.logged(&["50 ms of processor time"]).await;
    // Many at once take the processors from each other, not from all others.
    let mut requests = tokio::task::JoinSet::new();
    for n in 0..16 {
        requests.spawn(hostile.bad.get(&format!("/kv/k{n}")).send());
    }
    for answer in requests.join_all().await {
        answer.problem(504, "handler-deadline");
    }
    hostile.survived().await;
}

#[tokio::test]
async fn a_memory_bomb_is_refused_more_memory() {
    let setup = Setup::new().set("limits.memory_bytes=16MiB");
    let hostile = Hostile::start("memory-bomb", setup).await;
    for _ in 0..5 {
        let answer = hostile.get("k").await;
        let document = hostile.names_it(&answer, 500, "handler-failed", "limits.memory_bytes");
        tells_nothing(&document);
    }
    hostile.logged(&["limits.memory_bytes"]).await;
    hostile.survived().await;
}

#[tokio::test]
async fn deep_recursion_is_ended_at_its_stack() {
    let setup = Setup::new().set("limits.cpu=5s");
    let hostile = Hostile::start("deep-recursion", setup).await;
    for _ in 0..5 {
        let answer = hostile.get("k").await;
        let document = hostile.names_it(&answer, 500, "handler-failed", "limits.stack_bytes");
        tells_nothing(&document);
    }
    hostile.logged(&["limits.stack_bytes"]).await;
    hostile.survived().await;
}

#[tokio::test]
async fn a_huge_result_is_not_taken() {
    let setup = Setup::new()
        .set("http.max_value_bytes=256KiB")
        .set("limits.response_bytes=1MiB")
        .set("limits.cpu=5s");
    let hostile = Hostile::start("huge-result", setup).await;
    let mib = 1 << 20;
    // The key is the length.
    let answer = hostile.get(&mib.to_string()).await.expect(200);
    assert_eq!(answer.body.len(), mib);
    let answer = hostile.get(&(mib + 1).to_string()).await;
    hostile.names_it(&answer, 500, "handler-failed", "limits.response_bytes");
    // So much that it is not even copied out of the component.
    let answer = hostile.get(&(64 * mib).to_string()).await;
    let document = hostile.names_it(&answer, 500, "handler-failed", "");
    tells_nothing(&document);
    // More than it has memory for: 300 MiB.
    let answer = hostile.get("much").await;
    hostile.names_it(&answer, 500, "handler-failed", "limits.memory_bytes");
    hostile.logged(&["limits.response_bytes"]).await;
    hostile.survived().await;
}

#[tokio::test]
async fn a_storm_of_host_calls_is_ended_at_their_number() {
    let setup = Setup::new()
        .set("limits.host_calls=1000")
        .set("limits.cpu=5s");
    let hostile = Hostile::start("host-call-storm", setup).await;
    for _ in 0..5 {
        let answer = hostile.get("k").await;
        let document = hostile.names_it(&answer, 500, "handler-failed", "limits.host_calls");
        tells_nothing(&document);
    }
    hostile.logged(&["1000 host calls"]).await;
    hostile.survived().await;
}

#[tokio::test]
async fn a_storm_of_host_calls_is_ended_at_its_processor_time_too() {
    let setup = Setup::new()
        .set("limits.host_calls=1000000000")
        .set("limits.cpu=50ms");
    let hostile = Hostile::start("host-call-storm", setup).await;
    let answer = hostile.get("k").await;
    hostile.names_it(&answer, 504, "handler-deadline", "limits.cpu");
    hostile.survived().await;
}
