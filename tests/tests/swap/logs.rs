//! What handlers print, and how they fail, seen from elsewhere.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidepool_tests::{Lines, PATIENCE, Plane, REGIONS, Server, Setup, built, within};

/// A server whose `get` prints in every region.
async fn chatty(setup: Setup) -> Server {
    let server = setup.set("handlers.trial=0s").start().await;
    server.deploy("get", &built::fixture("chatty"), None).await;
    server
}

async fn ask(server: &Server, region: &str, key: &str) -> u16 {
    let get = server.region(region).get(&format!("/kv/{key}"));
    get.send().await.status
}

async fn follow(plane: &Plane, query: &str) -> Lines {
    let path = format!("/v1/logs/get?follow=true{query}");
    plane.get(&path).lines().await
}

/// The texts of the lines that are kept.
async fn kept(server: &Server, query: &str) -> Vec<Value> {
    let lines = server.admin().get(&format!("/v1/logs/get{query}"));
    lines.lines().await.rest().await
}

#[tokio::test]
async fn the_command_follows_all_regions_until_the_host_stops() {
    let server = chatty(Setup::new()).await;
    ask(&server, "us-east-1", "before").await;
    let following = server.start_cli(&["logs", "get", "--follow"]);
    following
        .out()
        .line(&["us-east-1 get@2 asked for before"])
        .await;
    for region in REGIONS {
        ask(&server, region, "now").await;
        let line = format!("{region} get@2 asked for now [2J");
        following.out().line(&[&line]).await;
    }
    let log = server.log().clone();
    assert_eq!(server.stop().await.code(), Some(0));
    assert_eq!(log.count(&["cut connections"]), 0, "{}", log.text());
    let ran = following.ended().await;
    assert!(ran.refused(3).contains("has stopped"), "{ran:#?}");
    assert!(!ran.stdout.contains('\u{1b}'), "{ran:#?}");
}

#[tokio::test]
async fn ctrl_c_ends_the_command_well() {
    let server = chatty(Setup::new()).await;
    let following = server.start_cli(&["logs", "get", "-f", "--region", "eu-west-1", "--json"]);
    // Answered by all: only one is followed.
    for region in REGIONS {
        ask(&server, region, "k").await;
    }
    following.out().line(&["asked for k"]).await;
    following.interrupt().await;
    let ran = following.ended().await;
    let line: Value = serde_json::from_str(ran.success()).unwrap();
    assert_eq!(line["region"], "eu-west-1");
    assert_eq!(line["kind"], "printed");
    // Whoever does not follow is done at once.
    let ran = server.cli(&["logs", "get", "--limit", "2"]).await;
    assert_eq!(ran.success().lines().count(), 2);
    let ran = server.cli(&["logs", "get", "--region", "nowhere"]).await;
    assert!(ran.refused(1).contains("us-east-1"), "{ran:#?}");
    let ran = server.cli(&["logs", "put"]).await;
    assert_eq!(ran.success(), "");
}

#[tokio::test]
async fn a_trap_is_among_the_lines_with_its_backtrace() {
    let server = chatty(Setup::new()).await;
    assert_eq!(ask(&server, "us-west-1", "trap").await, 500);
    let lines = kept(&server, "?region=us-west-1").await;
    let [printed, failed] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert_eq!(printed["text"], "asked for trap\u{1b}[2J");
    assert_eq!(
        (&failed["kind"], &failed["revision"], &failed["region"]),
        (&json!("failed"), &json!(2), &json!("us-west-1"))
    );
    let text = failed["text"].as_str().unwrap();
    assert!(
        text.starts_with("the handler failed: ") && text.contains('\n'),
        "{text}"
    );
    assert_eq!(kept(&server, "?region=us-west-1&limit=1").await.len(), 1);
    assert_eq!(kept(&server, "?region=us-east-1").await.len(), 0);
    let plane = server.admin();
    let answer = plane.get("/v1/logs/get?follow=yes").send().await;
    answer.problem(400, "bad-request");
    plane
        .get("/v1/logs/list")
        .send()
        .await
        .problem(404, "no-such-path");
    plane
        .post("/v1/logs/get")
        .send()
        .await
        .problem(405, "method-not-allowed");
}

#[tokio::test]
async fn a_slow_follower_is_told_what_it_missed_and_holds_nobody_up() {
    let server = chatty(Setup::new()).await;
    let mut slow = follow(server.admin(), "&limit=0").await;
    let mut slowest = Duration::ZERO;
    for _ in 0..30 {
        assert_eq!(ask(&server, "us-east-1", "flood").await, 200);
        let start = Instant::now();
        ask(&server, "eu-west-1", "k").await;
        slowest = slowest.max(start.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let missed = loop {
        let line = slow.next().await.unwrap();
        if line["missed"].is_number() {
            break line;
        }
    };
    assert_eq!(missed["region"], "us-east-1");
    assert!(missed["missed"].as_u64().unwrap() < 30 * 501, "{missed}");
    // The host's own log has a bound.
    let more = ["WARN", "us-east-1", "the handler prints more"];
    assert!(server.log().count(&more) > 0);
    assert!(server.log().count(&["xxxxx"]) < 15_000 / 2);
    // It goes on from there, up to the last one.
    ask(&server, "us-east-1", "last").await;
    loop {
        let line = slow.next().await.unwrap();
        if line["text"]
            .as_str()
            .is_some_and(|text| text.contains("for last"))
        {
            break;
        }
    }
}

#[tokio::test]
async fn a_quiet_follower_stays_and_one_that_goes_makes_room() {
    let server = chatty(Setup::new().set("http.idle_timeout=300ms")).await;
    let mut quiet = follow(server.admin(), "&limit=0").await;
    // Longer than a connection may be idle.
    for _ in 0..8 {
        assert_eq!(quiet.any().await.as_deref(), Some(""));
    }
    ask(&server, "us-east-1", "k").await;
    assert_eq!(quiet.next().await.unwrap()["region"], "us-east-1");
    let mut all = vec![quiet];
    while all.len() < 64 {
        all.push(follow(server.admin(), "").await);
    }
    let one_more = || server.admin().get("/v1/logs/get?follow=true");
    one_more().send().await.problem(503, "overloaded");
    all.clear();
    let start = Instant::now();
    // Their ends are seen one by one; an answer that is open has no end to wait for.
    loop {
        let get = server.admin().post("/v1/handlers/get?region=nowhere");
        let get = get.header("accept", "application/x-ndjson");
        let answer = get.body("not wasm").send().await;
        if answer.status == 200 {
            break;
        }
        answer.problem(503, "overloaded");
        assert!(start.elapsed() < PATIENCE);
    }
}

#[tokio::test]
async fn who_may_read_follows_until_the_token_is_taken_back() {
    const ROOT: &str = "the-token-of-the-settings";
    let setup = Setup::new().set(&format!("admin.token={ROOT}"));
    let server = setup.start().await;
    let root = server.admin().clone().with_token(ROOT);
    let answer = server.admin().get("/v1/logs/get?follow=true").send().await;
    answer.problem(401, "unauthorized");
    let body = json!({"name": "reader", "scopes": ["read"]}).to_string();
    let made = root.post("/v1/tokens").body(body).send().await.expect(201);
    let text = |name: &str| made.json()[name].as_str().unwrap().to_owned();
    let reader = server.admin().clone().with_token(&text("token"));
    let mut lines = follow(&reader, "").await;
    let revoke = root.delete(&format!("/v1/tokens/{}", text("id")));
    revoke.send().await.expect(200);
    let end = within("the end of what is followed", lines.next()).await;
    assert_eq!(end.unwrap()["problem"]["status"], 401);
    assert_eq!(lines.next().await, None);
}
