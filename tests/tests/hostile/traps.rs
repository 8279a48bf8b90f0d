//! Components that trap, or answer what cannot be sent.

use tidepool_tests::{Setup, built};

use crate::{Good, Hostile, tells_nothing};

#[tokio::test]
async fn a_trap_is_a_problem_for_the_client_and_a_backtrace_in_the_log() {
    let hostile = Hostile::start("trap", Setup::new()).await;
    let answer = hostile.get("k").await;
    let document = hostile.names_it(&answer, 500, "handler-failed", "trapped");
    tells_nothing(&document);
    hostile.logged(&["the handler failed", "unreachable"]).await;
    // Its frames, from the trap to the export.
    hostile.server.log().line(&["wasm", "misbehave"]).await;
    hostile.server.log().line(&["wasm", "handle"]).await;
    let handler = hostile.server.revisions("bad", "get").await.remove(0);
    assert_eq!(handler["failures"], 1);
    assert_eq!(handler["calls"], 1);
    hostile.survived().await;
}

#[tokio::test]
async fn a_handler_that_always_traps_does_not_fill_the_log() {
    let hostile = Hostile::start("trap", Setup::new()).await;
    let begun = std::time::Instant::now();
    for n in 0..200 {
        let answer = hostile.get(&format!("k{n}")).await;
        hostile.names_it(&answer, 500, "handler-failed", "trapped");
    }
    // Its last word is the revision, which `logged` wants something after.
    let says = ["ERROR", "region=\"bad\"", "revision=2", "keeps failing"];
    hostile.server.log().line(&says).await;
    let seconds = begun.elapsed().as_secs() as usize + 2;
    let whole = hostile.server.log().count(&["the handler failed: "]);
    assert!(whole <= 5 * seconds, "{whole} in {seconds} s");
    // None is lost to the count.
    let handler = hostile.server.revisions("bad", "get").await.remove(0);
    assert_eq!(handler["failures"], 200);
    hostile.survived().await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_sent_is_not() {
    let hostile = Hostile::start("bad-answer", Setup::new()).await;
    for (key, says) in [
        ("informational", "101"),
        ("high", "1000"),
        ("low", "99"),
        ("header-value", "x-split"),
        ("header-name", "x split"),
        ("framing", "content-length"),
        ("content-type", "content-type"),
        ("version", "version"),
    ] {
        let answer = hostile.get(key).await;
        let document = hostile.names_it(&answer, 500, "handler-failed", says);
        tells_nothing(&document);
        assert_eq!(answer.header("set-cookie"), None, "{key}");
        assert_eq!(answer.header("etag"), None, "{key}");
    }
    hostile.logged(&["cannot be used"]).await;
    hostile.survived().await;
}

#[tokio::test]
async fn a_put_that_traps_after_its_write_is_an_unknown_outcome() {
    let server = Setup::new()
        .regions(&["bad", "good"])
        .set("handlers.trial=0s")
        .start()
        .await;
    let good = Good::start(&server).await;
    let component = built::fixture("put-trap");
    server.deploy("put", &component, Some("bad")).await;
    let bad = server.region("bad");
    let put = bad.put("/kv/k").header("content-type", "text/plain");
    let answer = put.body("written").send().await;
    let document = answer.problem(504, "outcome-unknown");
    tells_nothing(&document);
    assert_eq!(document["operation"], "put");
    assert_eq!(document["revision"], 2);
    let detail = document["detail"].as_str().unwrap();
    assert!(detail.contains("read the key"), "{detail}");
    // Here it had happened.
    let get = bad.get("/kv/k").header("tidepool-consistency", "log");
    let answer = get
        .header("accept", "application/octet-stream")
        .send()
        .await;
    assert_eq!(answer.expect(200).body, "written");
    server
        .log()
        .line(&["ERROR", "operation=put", "unreachable"])
        .await;
    good.stop().await;
}
