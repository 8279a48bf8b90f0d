//! What a restart continues with: everything, handlers included.

use serde_json::Value;
use tidepool_tests::{REGIONS, Server};

use crate::{fixture, tag};

/// What names a revision, for comparison across restarts.
fn recorded(revisions: &[Value]) -> Vec<Value> {
    let names = ["revision", "digest", "size", "deployed_at", "deployed_by"];
    let pick = |revision: &Value| names.iter().map(|name| revision[name].clone()).collect();
    revisions.iter().map(pick).collect()
}

/// Deploys and writes; then what there was is there after `restarted`.
async fn continues(restarted: impl AsyncFnOnce(Server) -> Server) {
    let server = Server::start().await;
    let [a, b] = ["tagged-a", "tagged-b"].map(fixture);
    for arguments in [
        ["deploy", "get", &a, "--region", "us-east-1"],
        ["deploy", "get", &b, "--region", "us-east-1"],
        ["deploy", "get", &b, "--region", "us-west-1"],
    ] {
        server.cli(&arguments).await.success();
    }
    let rollback = ["rollback", "get", "--region", "us-east-1"];
    server.cli(&rollback).await.success();
    let kept = server.region("eu-west-1").write("kept", "value").await;
    server.region("eu-west-1").write("gone", "value").await;
    let gone = server.region("us-east-1").remove("gone").await;
    let mut before = Vec::new();
    for region in REGIONS {
        before.push(recorded(&server.revisions(region, "get").await));
    }

    let server = restarted(server).await;

    for (region, before) in REGIONS.into_iter().zip(before) {
        let after = recorded(&server.revisions(region, "get").await);
        assert_eq!(before, after, "{region}");
    }
    assert_eq!(server.active("us-east-1", "get").await, 2);
    let tagged = tag(server.region("us-east-1")).await;
    assert_eq!(tagged.as_deref(), Some("a"));
    let tagged = tag(server.region("us-west-1")).await;
    assert_eq!(tagged.as_deref(), Some("b"));
    server.caught_up("eu-west-1", gone).await;
    let eu = server.region("eu-west-1");
    let answer = eu.get("/kv/kept").send().await.expect(200);
    assert_eq!(answer.json()["value"], "value");
    assert_eq!(answer.version(), kept);
    assert_eq!(answer.header("x-cache"), Some("HIT"));
    let answer = eu.get("/kv/gone").send().await;
    answer.problem(404, "not-found");
    assert_eq!(answer.version(), gone);
    assert!(eu.write("kept", "newer").await > kept);
}

#[tokio::test]
async fn a_stop_and_a_start_continue_with_everything() {
    continues(async |server: Server| {
        let setup = server.setup().clone();
        assert_eq!(server.stop().await.code(), Some(0));
        setup.start().await
    })
    .await;
}

#[tokio::test]
async fn a_kill_and_a_start_continue_with_everything() {
    continues(async |server: Server| {
        let setup = server.setup().clone();
        server.kill().await;
        setup.start().await
    })
    .await;
}

#[tokio::test]
async fn the_handler_that_came_with_the_host_is_kept_when_it_is_deployed() {
    let server = Server::start().await;
    let tagged = fixture("tagged-a");
    server.cli(&["deploy", "get", &tagged]).await.success();
    let own = tidepool_tests::built::guest("get").display().to_string();
    server.cli(&["deploy", "get", &own]).await.success();
    let setup = server.setup().clone();
    server.kill().await;
    // Not even what is compiled is left.
    std::fs::remove_dir_all(setup.data().join("compiled")).unwrap();
    let server = setup.start().await;
    let revisions = server.revisions("us-east-1", "get").await;
    assert_eq!(revisions[0]["revision"], 3);
    assert_eq!(revisions[0]["state"], "active");
    assert!(revisions[0].get("note").is_none(), "{revisions:#?}");
    server
        .region("us-east-1")
        .get("/kv/k")
        .send()
        .await
        .expect(404);
    assert_eq!(server.revisions("us-east-1", "get").await[0]["calls"], 1);
}
