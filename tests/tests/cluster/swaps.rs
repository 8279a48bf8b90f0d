//! Handlers are replaced in one region's host, under load, and nobody else
//! notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidepool_tests::cluster::Cluster;
use tidepool_tests::wire::Wire;
use tidepool_tests::{Plane, REGIONS, built};

use crate::{one, report, says, three};

/// Asks for a key until it is told to stop; how often each kind of handler has
/// answered: ours, and the tagged one.
async fn read(plane: Plane, stop: Arc<AtomicBool>) -> (u64, u64) {
    let mut wire = Wire::connect(plane.address()).await;
    let (mut ours, mut tagged) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        wire.send("GET /kv/k HTTP/1.1\r\nHost: t\r\n\r\n").await;
        let answer = wire.answer().await;
        match answer.header("x-tag") {
            Some("a") => {
                assert_eq!(answer.expect(200).text(), "a:k");
                tagged += 1;
            }
            _ => {
                says(answer, "v", "HIT");
                ours += 1;
            }
        }
    }
    (ours, tagged)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_in_one_region_costs_no_request_and_leaves_the_others_alone() {
    let cluster = three().await;
    let version = cluster.region("us-east-1").write("k", "v").await;
    cluster.all_caught_up(version).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = tokio::task::JoinSet::new();
    for region in REGIONS {
        for _ in 0..8 {
            let plane = cluster.region(region).clone();
            let reading = read(plane, Arc::clone(&stop));
            readers.spawn(async move { (region, reading.await) });
        }
    }
    let host = &cluster.member("us-west-1").host;
    let component = built::fixture("tagged-a");
    let component = component.to_str().unwrap();
    for _ in 0..5 {
        let deploy = ["deploy", "get", component, "--region", "us-west-1"];
        let ran = host.cli(&deploy).await;
        ran.success();
        let tagged = host.region("us-west-1").get("/kv/k").send().await;
        assert_eq!(tagged.header("x-tag"), Some("a"));
        let back = ["rollback", "get", "--to", "1", "--region", "us-west-1"];
        let ran = host.cli(&back).await;
        ran.success();
        says(
            host.region("us-west-1").get("/kv/k").send().await,
            "v",
            "HIT",
        );
    }
    stop.store(true, Ordering::Relaxed);
    let mut swapped = 0;
    while let Some(ended) = readers.join_next().await {
        let (region, (ours, tagged)) = ended.unwrap();
        assert!(ours > 0, "{region}");
        match region {
            "us-west-1" => swapped += tagged,
            _ => assert_eq!(tagged, 0, "{region}"),
        }
    }
    assert!(
        swapped > 0,
        "no request was made between a deploy and its end"
    );
}

#[tokio::test]
async fn what_was_deployed_is_there_after_a_kill() {
    let (host, _) = one().await;
    host.deploy("get", &built::fixture("tagged-b"), None).await;
    let setup = host.setup().clone();
    host.kill().await;
    let host = setup.start().await;
    let answer = host.region("here").get("/kv/k").send().await;
    assert_eq!(answer.header("x-tag"), Some("b"));
    assert_eq!(host.active("here", "get").await, 2);
    host.cli(&["rollback", "get"]).await.success();
    let version = host.region("here").write("k", "v").await;
    host.caught_up("here", version).await;
    says(host.region("here").get("/kv/k").send().await, "v", "HIT");
}

#[tokio::test]
async fn a_hydrate_that_traps_and_stays_only_costs_its_region_hits() {
    let cluster = Cluster::with(|setup| setup.set("handlers.trial=0s")).await;
    let (bad, good) = ("us-east-1", "eu-west-1");
    let first = cluster.region(good).write("k", "first").await;
    cluster.all_caught_up(first).await;
    says(
        cluster.region(bad).get("/kv/k").send().await,
        "first",
        "HIT",
    );
    let component = built::fixture("hydrate-trap");
    cluster.deploy("hydrate", &component, Some(bad)).await;
    let second = cluster.region(good).write("k", "second").await;
    cluster.all_caught_up(second).await;
    // What its Redis had is gone, and the log is asked.
    let get = |region: &str| cluster.region(region).get("/kv/k").send();
    says(get(bad).await, "second", "MISS");
    says(get(bad).await, "second", "HIT");
    says(get(good).await, "second", "HIT");
    let host = &cluster.member(bad).host;
    let told = report(host).await;
    assert!(told["rows_evicted_by_fallback"].as_u64().unwrap() > 0);
    assert!(told["last_error"].as_str().unwrap().contains("trapped"));
    host.region(bad).get("/readyz").send().await.expect(200);
    let back = ["rollback", "hydrate", "--region", bad];
    host.cli(&back).await.success();
    let third = cluster.region(good).write("k", "third").await;
    cluster.all_caught_up(third).await;
    says(get(bad).await, "third", "HIT");
}
