//! Swaps under traffic: what is in flight is finished by what it started
//! with, and no request notices a swap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tidepool_tests::wire::Wire;
use tidepool_tests::{Answer, Server, Setup, built};

use crate::tag;

const CONNECTIONS: usize = 64;
const SWAPS: usize = 200;

/// Deploys the looping handler and then another one while the first is at
/// work on a request. The answer to that request, if it had begun by then.
async fn swapped_in_flight(server: &Server) -> Option<Answer> {
    let here = server.region("us-east-1").clone();
    let looping = built::fixture("loop");
    let tagged = built::fixture("tagged-a");
    server.deploy("get", &looping, Some("us-east-1")).await;
    let revision = server.active("us-east-1", "get").await;
    let in_flight = tokio::spawn(here.get("/kv/k").send());
    server.deploy("get", &tagged, Some("us-east-1")).await;
    // The swap is done: new requests are not kept waiting by the old one.
    assert_eq!(tag(&here).await.as_deref(), Some("a"));
    let revisions = server.revisions("us-east-1", "get").await;
    let old = revisions.iter().find(|r| r["revision"] == revision);
    let draining = old.is_some_and(|old| old["state"] == "draining");
    let answer = in_flight.await.unwrap();
    (draining && answer.status != 200).then_some(answer)
}

#[tokio::test]
async fn a_request_in_flight_is_finished_by_the_revision_it_started_with() {
    // It loops for as long as it may, and is then named in the answer.
    let server = Setup::new().set("limits.cpu=500ms").start().await;
    // Whether a request was quicker than the swap only its answer tells.
    for _ in 0..5 {
        let revision = server.active("us-east-1", "get").await + 1;
        if let Some(answer) = swapped_in_flight(&server).await {
            let document = answer.problem(504, "handler-deadline");
            assert_eq!(document["revision"], revision);
            let revision = format!("revision={revision} ");
            let dropped = ["us-east-1", &revision, "revision drained and dropped"];
            server.log().line(&dropped).await;
            return;
        }
    }
    panic!("no request was in flight at a swap");
}

/// Reads its own key for as long as it is wanted; how often.
async fn read(mut wire: Wire, connection: usize, stop: Arc<AtomicBool>) -> u64 {
    let key = format!("key-{connection}");
    let request = format!("GET /kv/{key} HTTP/1.1\r\nHost: t\r\n\r\n");
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        wire.send(&request).await;
        let answer = wire.answer().await.expect(200);
        let tag = answer.header("x-tag").unwrap();
        assert!(matches!(tag, "a" | "b"), "{answer:#?}");
        assert_eq!(answer.text(), format!("{tag}:{key}"), "{answer:#?}");
        count += 1;
    }
    count
}

#[tokio::test]
async fn two_hundred_swaps_under_64_connections_cost_not_one_response() {
    let server = Setup::new().regions(&["here"]).start().await;
    let here = server.region("here").clone();
    let components = ["tagged-a", "tagged-b"].map(built::fixture);
    server.deploy("get", &components[0], None).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = tokio::task::JoinSet::new();
    for connection in 0..CONNECTIONS {
        let wire = Wire::connect(here.address()).await;
        readers.spawn(read(wire, connection, Arc::clone(&stop)));
    }
    let swapped = AtomicU64::new(0);
    for swap in 1..=SWAPS {
        let deployed = server.deploy("get", &components[swap % 2], None).await;
        assert_eq!(deployed["slots"][0]["unchanged"], false);
        // Who asks after the answer is answered by the new one.
        let expected = ["a", "b"][swap % 2];
        assert_eq!(tag(&here).await.as_deref(), Some(expected));
        swapped.fetch_add(1, Ordering::Relaxed);
    }
    stop.store(true, Ordering::Relaxed);
    let counts = readers.join_all().await;
    let total: u64 = counts.iter().sum();
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    assert!(total > SWAPS as u64, "{total} requests for {SWAPS} swaps");
    assert_eq!(swapped.into_inner(), SWAPS as u64);

    // Every revision but the last has gone, and with it its memory.
    let dropped = ["operation=get", "revision drained and dropped"];
    server.log().lines(SWAPS + 1, &dropped).await;
    let revisions = server.revisions("here", "get").await;
    assert_eq!(revisions[0]["state"], "active");
    for old in &revisions[1..] {
        assert_eq!(old["state"], "retired", "{old}");
    }
}
