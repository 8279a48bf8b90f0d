//! `If-Match` and `If-None-Match`, on reads and on writes.

use tidepool_tests::{Plane, REGIONS};

use crate::{one, three};

fn quoted(version: i64) -> String {
    format!("\"{version}\"")
}

/// Asserts that a write is refused, and says which version the key has.
async fn refused(here: &Plane, method: &str, condition: (&str, &str), has: Option<i64>) {
    let call = here.call(method, "/kv/k").value("refused");
    let answer = call.header(condition.0, condition.1).send().await;
    let document = answer.problem(412, "precondition-failed");
    assert_eq!(
        document["version"].as_i64(),
        has,
        "{method} with {condition:?}"
    );
    assert_eq!(answer.header("etag"), has.map(quoted).as_deref());
}

/// Asserts that a write is done; its version.
async fn done(here: &Plane, method: &str, condition: (&str, &str)) -> i64 {
    let call = here.call(method, "/kv/k").value("done");
    let answer = call.header(condition.0, condition.1).send().await;
    assert!(matches!(answer.status, 200 | 201), "{answer:#?}");
    answer.version()
}

#[tokio::test]
async fn if_none_match_star_creates_and_never_overwrites() {
    let (_server, here) = one().await;
    let create = ("if-none-match", "*");
    let first = done(&here, "PUT", create).await;
    refused(&here, "PUT", create, Some(first)).await;
    refused(&here, "DELETE", create, Some(first)).await;
    let deleted = done(&here, "DELETE", ("if-match", &*quoted(first))).await;
    assert!(deleted > first);
    // A deleted key has no value: it can be created again.
    assert!(done(&here, "PUT", create).await > deleted);
}

#[tokio::test]
async fn if_match_writes_only_over_the_version_that_was_seen() {
    let (_server, here) = one().await;
    for tags in ["*", "\"1\""] {
        refused(&here, "PUT", ("if-match", tags), None).await;
    }
    let first = here.write("k", "one").await;
    let second = done(&here, "PUT", ("if-match", &*quoted(first))).await;
    for method in ["PUT", "DELETE"] {
        refused(&here, method, ("if-match", &*quoted(first)), Some(second)).await;
        // A weak tag never matches here (RFC 9110, section 13.1.1).
        let weak = format!("W/{}", quoted(second));
        refused(&here, method, ("if-match", &*weak), Some(second)).await;
        // Not as versions are written.
        let padded = format!("\"0{second}\"");
        refused(&here, method, ("if-match", &*padded), Some(second)).await;
        refused(&here, method, ("if-match", "\"other\""), Some(second)).await;
    }
    let list = format!("\"x\" ,{}, {}", quoted(first), quoted(second));
    let third = done(&here, "PUT", ("if-match", &*list)).await;
    let fourth = done(&here, "DELETE", ("if-match", "*")).await;
    assert!(first < second && second < third && third < fourth);
    refused(&here, "DELETE", ("if-match", "*"), None).await;
}

#[tokio::test]
async fn if_none_match_writes_unless_the_version_is_listed() {
    let (_server, here) = one().await;
    let first = here.write("k", "one").await;
    let list = format!("\"1\", {}", quoted(first));
    refused(&here, "PUT", ("if-none-match", &*list), Some(first)).await;
    // For If-None-Match a weak tag is as good (section 13.1.2).
    let weak = format!("W/{}", quoted(first));
    refused(&here, "PUT", ("if-none-match", &*weak), Some(first)).await;
    done(&here, "PUT", ("if-none-match", "\"1\", \"other\"")).await;
}

#[tokio::test]
async fn a_read_of_what_the_client_has_is_304() {
    let (server, here) = one().await;
    let version = here.write("k", "v").await;
    server.all_caught_up(version).await;
    let same = [
        quoted(version),
        format!("W/{}", quoted(version)),
        format!("\"1\", {}", quoted(version)),
        "*".to_owned(),
    ];
    for tags in &same {
        for method in ["GET", "HEAD"] {
            let call = here.call(method, "/kv/k").header("if-none-match", tags);
            let answer = call.send().await.expect(304);
            assert!(answer.body.is_empty(), "{answer:#?}");
            assert_eq!(answer.version(), version);
            assert_eq!(answer.header("x-cache"), Some("HIT"));
        }
    }
    let get = here.get("/kv/k").header("if-none-match", "\"1\"");
    assert_eq!(get.send().await.expect(200).version(), version);
    // Nothing is there that could be unchanged.
    let get = here.get("/kv/nothing").header("if-none-match", "*");
    get.send().await.problem(404, "not-found");
}

#[tokio::test]
async fn a_read_with_if_match_is_412_when_it_does_not() {
    let (server, here) = one().await;
    let version = here.write("k", "v").await;
    server.all_caught_up(version).await;
    for tags in ["*", &quoted(version)] {
        here.get("/kv/k")
            .header("if-match", tags)
            .send()
            .await
            .expect(200);
    }
    let answer = here.get("/kv/k").header("if-match", "\"1\"").send().await;
    answer.problem(412, "precondition-failed");
    assert_eq!(answer.version(), version);
    let get = here.get("/kv/nothing").header("if-match", "*");
    get.send().await.problem(412, "precondition-failed");
}

#[tokio::test]
async fn what_is_no_condition_is_400() {
    let (_server, here) = one().await;
    let version = here.write("k", "v").await;
    let many = |count| vec!["\"1\""; count].join(",");
    for tags in [
        "",
        ",",
        "1",
        "\"1",
        "\"1\" \"2\"",
        "*, \"1\"",
        "\"1\", *",
        "w/\"1\"",
        &many(101),
    ] {
        for header in ["if-match", "if-none-match"] {
            for method in ["GET", "PUT", "DELETE"] {
                let call = here.call(method, "/kv/k").value("no").header(header, tags);
                call.send().await.problem(400, "bad-request");
            }
        }
    }
    let put = here.put("/kv/k").value("no").header("if-match", "*");
    let both = put.header("if-none-match", "*").send().await;
    both.problem(400, "bad-request");
    // Nothing of this was written, and 100 tags are not too many.
    let get = here.get("/kv/k").header("tidepool-consistency", "log");
    let get = get.header("if-none-match", many(100));
    assert_eq!(get.send().await.expect(200).version(), version);
}

#[tokio::test]
async fn of_many_that_create_a_key_at_once_one_does() {
    let server = three().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..48 {
        let plane = server.region(REGIONS[n % REGIONS.len()]).clone();
        let put = plane.put("/kv/once").value(&n.to_string());
        tasks.spawn(put.header("if-none-match", "*").send());
    }
    let answers = tasks.join_all().await;
    let created: Vec<_> = answers.iter().filter(|a| a.status == 201).collect();
    assert_eq!(created.len(), 1, "{created:#?}");
    let version = created[0].version();
    for answer in answers.iter().filter(|a| a.status != 201) {
        answer.problem(412, "precondition-failed");
        assert_eq!(answer.version(), version);
    }
}

#[tokio::test]
async fn a_counter_that_many_raise_by_compare_and_set_loses_nothing() {
    const WRITERS: usize = 12;
    const TIMES: u64 = 8;
    let server = three().await;
    server.region("us-east-1").write("counter", "0").await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..WRITERS {
        let plane = server.region(REGIONS[n % REGIONS.len()]).clone();
        tasks.spawn(async move {
            let mut raised = 0;
            while raised < TIMES {
                let get = plane
                    .get("/kv/counter")
                    .header("tidepool-consistency", "log");
                let seen = get.send().await.expect(200);
                let count: u64 = seen.json()["value"].as_str().unwrap().parse().unwrap();
                let put = plane.put("/kv/counter").value(&(count + 1).to_string());
                let answer = put.header("if-match", quoted(seen.version())).send().await;
                if answer.status == 201 {
                    raised += 1;
                } else {
                    answer.problem(412, "precondition-failed");
                }
            }
        });
    }
    tasks.join_all().await;
    let get = server.region("eu-west-1").get("/kv/counter");
    let get = get.header("tidepool-consistency", "log");
    let total = WRITERS as u64 * TIMES;
    assert_eq!(
        get.send().await.expect(200).json()["value"],
        total.to_string()
    );
}
