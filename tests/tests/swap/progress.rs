//! A deployment shows what happens as it happens.

use serde_json::Value;
use tidepool_tests::client::Call;
use tidepool_tests::{REGIONS, Server, Setup, built};

use crate::fixture;

const LINES: &str = "application/x-ndjson";

fn deploy(server: &Server, component: &str) -> Call {
    let call = server.admin().post("/v1/handlers/get");
    let call = call.header("accept", LINES);
    call.body(built::bytes(&built::fixture(component)))
}

/// All lines of a deployment.
async fn told(server: &Server, component: &str) -> Vec<Value> {
    deploy(server, component).lines().await.rest().await
}

/// The names of the steps, and the last line.
fn steps(lines: &[Value]) -> (Vec<&str>, &Value) {
    let (last, steps) = lines.split_last().unwrap();
    let name = |line: &Value| assert!(line["ms"].as_f64().unwrap() >= 0.0, "{line}");
    steps.iter().for_each(name);
    let steps = steps.iter().map(|line| line["step"].as_str().unwrap());
    (steps.collect(), last)
}

const ALL: [&str; 8] = [
    "received",
    "compile",
    "verify",
    "self-test",
    "store",
    "live",
    "live",
    "live",
];

#[tokio::test]
async fn steps_are_lines_in_their_order_and_every_region_has_one() {
    let server = Server::start().await;
    let lines = told(&server, "tagged-a").await;
    let (names, last) = steps(&lines);
    assert_eq!(names, ALL);
    let mut live: Vec<_> = lines
        .iter()
        .filter_map(|it| it["region"].as_str())
        .collect();
    live.sort_unstable();
    let mut regions = REGIONS;
    regions.sort_unstable();
    assert_eq!(live, regions);
    assert!(
        lines[5..8].iter().all(|it| it["revision"] == 2),
        "{lines:?}"
    );
    let slots = last["done"]["slots"].as_array().unwrap();
    assert!(slots.iter().all(|it| it["live_ms"].is_number()), "{last}");
    assert_eq!(slots.len(), 3);
    // What runs already: nothing is compiled, nothing goes live.
    let lines = told(&server, "tagged-a").await;
    let (names, last) = steps(&lines);
    assert_eq!(names, ["received", "store"]);
    assert_eq!(last["done"]["slots"][0]["unchanged"], true);
    // Who does not ask for lines gets the document.
    let answer = server
        .deploy("get", &built::fixture("tagged-b"), None)
        .await;
    assert_eq!(answer["slots"][0]["revision"], 3);
}

#[tokio::test]
async fn a_refusal_is_the_last_line_and_nothing_has_changed() {
    let server = Server::start().await;
    let lines = told(&server, "trap-always").await;
    let (names, last) = steps(&lines);
    assert_eq!(names, ["received", "compile", "verify"]);
    assert_eq!(last["problem"]["type"], "/problems/unprocessable");
    assert_eq!(last["problem"]["status"], 422);
    let refused = fixture("trap-always");
    let ran = server.cli(&["deploy", "get", &refused]).await;
    assert!(ran.refused(1).contains("self-test"), "{ran:#?}");
    assert!(ran.stdout.contains("verify"), "{ran:#?}");
    let ran = server.cli(&["deploy", "get", &refused, "--json"]).await;
    ran.refused(1);
    let last: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["problem"]["type"], "/problems/unprocessable");
    for region in REGIONS {
        assert_eq!(server.active(region, "get").await, 1);
    }
}

#[tokio::test]
async fn what_is_known_before_it_begins_is_refused_with_its_status() {
    let setup = Setup::new().set("handlers.max_component_bytes=64KiB");
    let server = setup
        .set("admin.token=the-token-of-this-test")
        .start()
        .await;
    let admin = server.admin().clone().with_token("the-token-of-this-test");
    let post = |path: &str| admin.post(path).header("accept", LINES);
    let answer = post("/v1/handlers/list").send().await;
    answer.problem(404, "no-such-path");
    let answer = post("/v1/handlers/get?regoin=x").send().await;
    answer.problem(400, "bad-request");
    let answer = post("/v1/handlers/get")
        .body(vec![0; 65 << 10])
        .send()
        .await;
    answer.problem(413, "too-large");
    let answer = deploy(&server, "tagged-a").send().await;
    answer.problem(401, "unauthorized");
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_all_or_nothing() {
    let server = Server::start().await;
    for n in 0..5 {
        // Never seen before, so that there is something to compile.
        let mut component = built::bytes(&built::fixture("tagged-a"));
        component.extend([0, 3, 1, b'n', n]);
        let call = deploy(&server, "tagged-a").body(component);
        let mut lines = call.lines().await;
        assert_eq!(lines.next().await.unwrap()["step"], "received");
        drop(lines);
    }
    server.log().line(&["a client went away"]).await;
    // Nothing that was left behind is in the way.
    let ran = server.cli(&["deploy", "put", &fixture("put-trap")]).await;
    ran.success();
    let active = server.active("us-east-1", "get").await;
    for region in REGIONS {
        assert_eq!(server.active(region, "get").await, active, "{region}");
    }
}

#[tokio::test]
async fn the_command_prints_each_step_and_then_what_runs() {
    let server = Server::start().await;
    let ran = server.cli(&["deploy", "get", &fixture("tagged-a")]).await;
    let said = ran.success();
    let names: Vec<_> = said
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let mut all = ALL;
    all[0] = "upload";
    assert_eq!(names[..8], all, "{said}");
    assert!(said.contains("live after"), "{said}");
    let ran = server
        .cli(&["deploy", "get", &fixture("tagged-b"), "--json"])
        .await;
    let lines = ran
        .success()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    let (names, last) = steps(&lines);
    assert_eq!(names[0], "upload");
    assert_eq!(names[1..], ALL);
    assert_eq!(last["done"]["slots"][0]["revision"], 3);
}
