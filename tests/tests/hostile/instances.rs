//! Instances: used again, replaced after a failure, and clean of whatever an
//! earlier request left.

use tidepool_tests::{Plane, Server, Setup, built};

use crate::Hostile;

/// The number that the counting handler answers.
async fn count(here: &Plane) -> u64 {
    let answer = here.get("/kv/k").send().await.expect(200);
    answer.text().parse().unwrap()
}

async fn counting(setup: Setup) -> (Server, Plane) {
    let server = setup.regions(&["here"]).start().await;
    let component = built::fixture("stateful");
    server.deploy("get", &component, None).await;
    let here = server.region("here").clone();
    (server, here)
}

#[tokio::test]
async fn an_instance_is_used_again() {
    let (_server, here) = counting(Setup::new()).await;
    for expected in 1..=50 {
        assert_eq!(count(&here).await, expected);
    }
}

#[tokio::test]
async fn an_instance_retires_after_its_uses_or_somewhat_earlier() {
    let (_server, here) = counting(Setup::new().set("handlers.instance_uses=10")).await;
    let mut lives = Vec::new();
    let mut before = 0;
    while lives.len() < 20 {
        let count = count(&here).await;
        if count == 1 && before > 0 {
            lives.push(before);
        } else {
            assert_eq!(count, before + 1);
        }
        before = count;
    }
    assert!(
        lives.iter().all(|uses| (5..=10).contains(uses)),
        "{lives:?}"
    );
    // At random, so that many instances do not retire at once.
    assert!(lives.iter().any(|uses| *uses != lives[0]), "{lives:?}");
}

#[tokio::test]
async fn with_one_use_every_request_has_an_instance_of_its_own() {
    let (_server, here) = counting(Setup::new().set("handlers.instance_uses=1")).await;
    for _ in 0..50 {
        assert_eq!(count(&here).await, 1);
    }
}

#[tokio::test]
async fn after_a_trap_there_is_a_fresh_instance() {
    let (_server, here) = counting(Setup::new()).await;
    for expected in 1..=3 {
        assert_eq!(count(&here).await, expected);
    }
    let answer = here.get("/kv/trap").send().await;
    answer.problem(500, "handler-failed");
    for expected in 1..=3 {
        assert_eq!(count(&here).await, expected);
    }
}

#[tokio::test]
async fn a_swap_back_starts_with_fresh_instances() {
    let (server, here) = counting(Setup::new()).await;
    assert_eq!(count(&here).await, 1);
    assert_eq!(count(&here).await, 2);
    server.cli(&["rollback", "get"]).await.success();
    let rollback = ["rollback", "get", "--to", "2"];
    server.cli(&rollback).await.success();
    assert_eq!(count(&here).await, 1);
}

#[tokio::test]
async fn handles_that_are_never_given_back_cost_the_host_nothing() {
    const REQUESTS: u64 = 3000;
    let server = Setup::new().regions(&["here"]).start().await;
    let component = built::fixture("leaky");
    server.deploy("get", &component, None).await;
    let here = server.region("here").clone();
    let mut most = 0;
    for _ in 0..200 {
        most = most.max(count(&here).await);
    }
    let before = resident_mib(&server);
    for _ in 0..REQUESTS {
        most = most.max(count(&here).await);
    }
    let grown = resident_mib(&server).saturating_sub(before);
    // It has kept thousands of them, of 64 KiB each, in one instance.
    assert!(most > 2000, "{most}");
    let leaked = REQUESTS * 64 / 1024;
    assert!(grown < leaked / 4, "{grown} MiB of {leaked}");
}

#[tokio::test]
async fn handles_that_are_never_given_back_fail_nobody() {
    let hostile = Hostile::start("leaky", Setup::new()).await;
    // More requests than one call may have handles: they end with their call.
    for n in 0..1500 {
        hostile.get(&format!("k{n}")).await.expect(200);
    }
    hostile.survived().await;
}

/// Memory of the server's process.
fn resident_mib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap();
    kib / 1024
}
