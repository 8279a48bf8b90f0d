//! Deployments that go on by themselves, step by step.

use serde_json::Value;
use tidepool_tests::{REGIONS, Server, Setup, within};

use crate::{fixture, tag};

/// The plan of GET, once it is in a state.
async fn plan(server: &Server, state: &str) -> Value {
    let reached = async {
        loop {
            let list = server.admin().get("/v1/handlers").send().await;
            let plan = list.expect(200).json()["plans"][0].clone();
            if plan["state"] == state {
                return plan;
            }
            tokio::task::yield_now().await;
        }
    };
    within(state, reached).await
}

async fn begin(server: &Server, name: &str, plan: &str, pause: &str) -> tidepool_tests::Ran {
    let component = fixture(name);
    let plan = ["--plan", plan, "--pause", pause];
    let deploy = ["deploy", "get", &component];
    server.cli(&[&deploy[..], &plan].concat()).await
}

async fn tags(server: &Server) -> Vec<Option<String>> {
    let mut tags = Vec::new();
    for region in REGIONS {
        tags.push(tag(server.region(region)).await);
    }
    tags
}

#[tokio::test]
async fn a_plan_goes_through_the_regions_and_a_restart() {
    let setup = Setup::new();
    let server = setup.start().await;
    let steps = "us-west-1: 100%; *: 50%, 100%";
    let text = begin(&server, "tagged-a", steps, "2s").await;
    let shown = text.success();
    assert!(shown.contains("[x] us-west-1 at 100%"), "{shown}");
    assert!(shown.contains("[ ] eu-west-1, us-east-1 at 50%"), "{shown}");
    assert_eq!(tag(server.region("us-west-1")).await.as_deref(), Some("a"));
    assert_eq!(tag(server.region("us-east-1")).await, None);
    server.kill().await;
    let server = setup.start().await;
    let done = plan(&server, "done").await;
    assert_eq!(done["step"], 3);
    assert_eq!(tags(&server).await, vec![Some("a".to_owned()); 3]);
    let audit = server.cli(&["audit"]).await;
    let audit = audit.success();
    assert!(audit.contains("2s after each step"), "{audit}");
    assert!(audit.contains("to step 2") && audit.contains("to step 3"));
    // As it is everywhere.
    let again = begin(&server, "tagged-a", steps, "1h").await;
    assert!(again.success().contains("ran it already"));
}

#[tokio::test]
async fn a_plan_is_waited_for_aborted_and_seen() {
    let server = Server::start().await;
    let steps = "us-east-1: 5%, 100%; *: 100%";
    begin(&server, "tagged-a", steps, "1h").await.success();
    let listed = server.cli(&["handlers"]).await;
    let listed = listed.success();
    assert!(listed.contains("plan ") && listed.contains("running, the next step at"));
    let component = fixture("tagged-b");
    let other = server.cli(&["deploy", "get", &component]).await;
    assert!(other.refused(1).contains("has a plan"));
    let promote = server.cli(&["promote", "get"]).await;
    assert!(promote.refused(1).contains("step 1 of 3"));
    server.cli(&["abort", "get"]).await.success();
    let stopped = plan(&server, "stopped").await;
    assert_eq!(stopped["why"], "it was aborted");
    assert_eq!(tags(&server).await, vec![None; 3]);
    server.cli(&["deploy", "get", &component]).await.success();
}

#[tokio::test]
async fn a_plan_stops_when_its_revision_takes_itself_back() {
    let server = Server::start().await;
    let east = server.region("us-east-1");
    let version = east.write("k", "v").await;
    server.all_caught_up(version).await;
    let steps = "us-east-1: 100%; *: 100%";
    begin(&server, "trap", steps, "1h").await.success();
    loop {
        let answer = east.get("/kv/k").send().await;
        if answer.status == 200 {
            break;
        }
        answer.expect(500);
    }
    let stopped = plan(&server, "stopped").await;
    let why = stopped["why"].as_str().unwrap();
    assert!(why.contains("took itself back in us-east-1"), "{why}");
    assert_eq!(server.active("eu-west-1", "get").await, 1);
}

#[tokio::test]
async fn what_is_no_plan_is_refused_before_the_component() {
    let server = Server::start().await;
    for (steps, pause, code, why) in [
        ("us-east-1", "1s", 2, "REGIONS: SHARES"),
        ("us-east-1: 50%, 5%", "1s", 2, "do not grow"),
        ("mars: 100%", "1s", 1, "no region \"mars\""),
        ("mars: 5%; *: 100%", "1s", 1, "no region \"mars\""),
        ("*: 100%", "8d", 1, "not a time up to"),
        ("*: 100%", "soon", 2, "invalid value"),
    ] {
        let refused = begin(&server, "tagged-a", steps, pause).await;
        let text = refused.refused(code);
        assert!(text.contains(why), "{steps} {pause}: {text}");
    }
    let admin = server.admin();
    for query in [
        "?pause=1s",
        "?plan=*:5%25&canary=5%25",
        "?plan=*:5%25&region=us-east-1",
    ] {
        let call = admin.post(&format!("/v1/handlers/get{query}"));
        call.send().await.problem(400, "bad-request");
    }
    assert_eq!(server.active("us-east-1", "get").await, 1);
}
