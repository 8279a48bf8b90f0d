//! `Idempotency-Key`: a write that is sent again is not another write.

use tidepool_tests::{Answer, Plane, REGIONS};
use tokio::task::JoinSet;

use crate::{one, three};

/// A put with an id.
async fn put(here: &Plane, value: &str, id: &str) -> Answer {
    let call = here.put("/kv/k").value(value);
    call.header("idempotency-key", id).send().await
}

async fn delete(here: &Plane, id: &str) -> Answer {
    let call = here.delete("/kv/k").header("idempotency-key", id);
    call.send().await
}

/// Asserts that an answer is the answer to the same write.
#[track_caller]
fn same(answer: &Answer, first: &Answer) {
    assert_eq!(
        (answer.status, answer.text(), answer.version()),
        (first.status, first.text(), first.version())
    );
}

#[tokio::test]
async fn a_repeat_is_answered_as_the_first_in_every_region() {
    let server = three().await;
    let first_region = server.region(REGIONS[0]);
    let created = put(first_region, "v", "\"write-1\"").await.expect(201);
    let deleted = delete(first_region, "write-2").await.expect(200);
    let last = first_region.write("k", "other").await;
    for region in REGIONS {
        let here = server.region(region);
        // As a string and bare it is the same id.
        same(&put(here, "v", "\"write-1\"").await, &created);
        same(&put(here, "v", "write-1").await, &created);
        same(&delete(here, "\"write-2\"").await, &deleted);
        let get = here.get("/kv/k").header("tidepool-consistency", "log");
        assert_eq!(get.send().await.expect(200).version(), last);
        // Of another key it is another id.
        let call = here.put(&format!("/kv/{region}")).value("v");
        let other = call.header("idempotency-key", "write-1").send().await;
        assert!(other.expect(201).version() > last);
    }
}

#[tokio::test]
async fn repeats_at_once_are_one_write() {
    let server = three().await;
    let mut tasks = JoinSet::new();
    for n in 0..32 {
        let plane = server.region(REGIONS[n % REGIONS.len()]).clone();
        tasks.spawn(async move {
            let call = plane.put("/kv/k").value("v").header("if-none-match", "*");
            let call = call.header("idempotency-key", "at-once");
            call.send().await.expect(201)
        });
    }
    let answers = tasks.join_all().await;
    for answer in &answers {
        same(answer, &answers[0]);
    }
}

#[tokio::test]
async fn a_conditional_write_that_was_done_is_not_refused_when_repeated() {
    let (_server, here) = one().await;
    let create = || {
        let call = here.put("/kv/k").value("v").header("if-none-match", "*");
        call.header("idempotency-key", "create").send()
    };
    let created = create().await.expect(201);
    same(&create().await, &created);
    let tag = created.header("etag").unwrap();
    let remove = || {
        let call = here.delete("/kv/k").header("if-match", tag);
        call.header("idempotency-key", "remove").send()
    };
    let removed = remove().await.expect(200);
    same(&remove().await, &removed);
    same(&create().await, &created);
    // Without the id they are what they always were.
    let call = here.delete("/kv/k").header("if-match", tag);
    call.send().await.problem(412, "precondition-failed");
}

#[tokio::test]
async fn another_change_with_the_same_id_is_422_and_no_failure_of_the_handler() {
    let (server, here) = one().await;
    let first = put(&here, "v", "write-1").await.expect(201);
    let kind = "idempotency-key-reused";
    put(&here, "w", "write-1").await.problem(422, kind);
    delete(&here, "write-1").await.problem(422, kind);
    let call = here.put("/kv/k").value("v").header("tidepool-ttl", "60");
    let call = call.header("idempotency-key", "write-1");
    call.send().await.problem(422, kind);
    let call = here.put("/kv/k").header("content-type", "text/plain");
    let call = call.body("v").header("idempotency-key", "write-1");
    let document = call.send().await.problem(422, kind);
    let detail = document["detail"].as_str().unwrap();
    assert!(detail.contains("an id of its own"), "{detail}");
    same(&put(&here, "v", "write-1").await, &first);
    for operation in ["put", "delete"] {
        let handler = server.revisions("here", operation).await.remove(0);
        assert_eq!(handler["failures"], 0, "{handler}");
    }
}

#[tokio::test]
async fn what_is_no_id_is_400_where_one_is_read() {
    let (_server, here) = one().await;
    let long = "x".repeat(256);
    for id in ["", "\"\"", "\"a", "\"a\"b", "a b", &long] {
        for method in ["PUT", "DELETE"] {
            let call = here.call(method, "/kv/k").value("v");
            let answer = call.header("idempotency-key", id).send().await;
            let document = answer.problem(400, "bad-request");
            let detail = document["detail"].as_str().unwrap();
            assert!(detail.contains("Idempotency-Key"), "{detail}");
        }
        // A read is idempotent by itself.
        let get = here.get("/kv/k").header("idempotency-key", id);
        get.send().await.problem(404, "not-found");
    }
    let call = here.put("/kv/k").value("v").header("idempotency-key", "a");
    let twice = call.header("idempotency-key", "a").send().await;
    twice.problem(400, "bad-request");
    put(&here, "v", &long[1..]).await.expect(201);
}
