//! The table of requests: what each method answers, and what nothing answers.

use serde_json::json;

use crate::one;

/// Whether a text is RFC 3339 in UTC with microseconds.
fn is_timestamp(text: &str) -> bool {
    let pattern = "0000-00-00T00:00:00.000000Z";
    text.len() == pattern.len()
        && text.bytes().zip(pattern.bytes()).all(|(found, wanted)| {
            if wanted == b'0' {
                found.is_ascii_digit()
            } else {
                found == wanted
            }
        })
}

#[tokio::test]
async fn put_answers_201_with_what_was_written() {
    let (_server, here) = one().await;
    let answer = here.put("/kv/k").value("v").send().await.expect(201);
    let document = answer.json();
    assert!(answer.version() > 0);
    let timestamp = document["timestamp"].as_str().unwrap();
    assert!(is_timestamp(timestamp), "{timestamp}");
    // The members in the order that the original's clients know.
    let expected =
        format!(r#"{{"key":"k","value":"v","timestamp":"{timestamp}","deleted":false}}"#);
    assert_eq!(answer.text(), expected);
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn get_answers_200_with_key_and_value() {
    let (_server, here) = one().await;
    let version = here.write("k", "v").await;
    let answer = here.get("/kv/k").send().await.expect(200);
    assert_eq!(answer.text(), r#"{"key":"k","value":"v"}"#);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.version(), version);
}

#[tokio::test]
async fn a_later_put_wins_and_has_a_higher_version() {
    let (server, here) = one().await;
    let mut before = 0;
    for value in ["one", "two", "three"] {
        let version = here.write("k", value).await;
        assert!(version > before);
        before = version;
    }
    server.all_caught_up(before).await;
    let answer = here.get("/kv/k").send().await.expect(200);
    assert_eq!(answer.json()["value"], "three");
    assert_eq!(answer.version(), before);
}

#[tokio::test]
async fn a_key_that_was_never_written_is_404_without_a_version() {
    let (_server, here) = one().await;
    let answer = here.get("/kv/nothing").send().await;
    let document = answer.problem(404, "not-found");
    assert_eq!(document.get("version"), None);
    assert_eq!(answer.header("etag"), None);
}

#[tokio::test]
async fn delete_answers_200_whether_the_key_exists_or_not() {
    let (_server, here) = one().await;
    let written = here.write("k", "v").await;
    for key in ["k", "never-written"] {
        let answer = here.delete(&format!("/kv/{key}")).send().await.expect(200);
        let timestamp = answer.json()["timestamp"].as_str().unwrap().to_owned();
        assert!(is_timestamp(&timestamp), "{timestamp}");
        let expected = format!(r#"{{"key":"{key}","timestamp":"{timestamp}","deleted":true}}"#);
        assert_eq!(answer.text(), expected);
        assert!(answer.version() > written);
    }
}

#[tokio::test]
async fn a_deleted_key_is_404_with_the_version_of_its_deletion() {
    let (server, here) = one().await;
    here.write("k", "v").await;
    let version = here.remove("k").await;
    server.all_caught_up(version).await;
    for freshness in ["cached", "log"] {
        let get = here.get("/kv/k").header("tidepool-consistency", freshness);
        let answer = get.send().await;
        let document = answer.problem(404, "not-found");
        assert_eq!(document["version"], version, "{freshness}");
        assert_eq!(answer.version(), version, "{freshness}");
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let (server, here) = one().await;
    let version = here.write("k", "some value").await;
    server.all_caught_up(version).await;
    let get = here.get("/kv/k").send().await.expect(200);
    let head = here.head("/kv/k").send().await.expect(200);
    assert!(head.body.is_empty());
    assert_eq!(
        head.header("content-length"),
        Some(&*get.body.len().to_string())
    );
    for name in ["etag", "content-type", "x-cache"] {
        assert_eq!(head.header(name), get.header(name), "{name}");
        assert!(head.header(name).is_some(), "{name}");
    }
    let head = here.head("/kv/nothing").send().await.expect(404);
    assert!(head.body.is_empty());
    assert_eq!(
        head.header("content-type"),
        Some("application/problem+json")
    );
}

#[tokio::test]
async fn other_methods_are_405_with_those_that_are_allowed() {
    let (_server, here) = one().await;
    for method in ["POST", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        let answer = here.call(method, "/kv/k").send().await;
        answer.problem(405, "method-not-allowed");
        assert_eq!(
            answer.header("allow"),
            Some("GET, HEAD, PUT, DELETE"),
            "{method}"
        );
    }
    for path in ["/healthz", "/readyz"] {
        for method in ["PUT", "DELETE", "POST"] {
            let answer = here.call(method, path).send().await;
            answer.problem(405, "method-not-allowed");
            assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn there_is_nothing_at_other_paths() {
    let (_server, here) = one().await;
    for path in ["/", "/kv", "/KV/k", "/kvs/k", "/v1/handlers", "/healthz/"] {
        for method in ["GET", "PUT", "DELETE"] {
            here.call(method, path)
                .send()
                .await
                .problem(404, "no-such-path");
        }
    }
}

#[tokio::test]
async fn probes_say_that_the_process_lives_and_that_the_region_is_ready() {
    let (server, here) = one().await;
    let alive = here.get("/healthz").send().await.expect(200);
    assert_eq!(alive.json(), json!({"status": "alive"}));
    // Anything resolved is after this version.
    server.caught_up("here", 1).await;
    let ready = here.get("/readyz").send().await.expect(200);
    assert_eq!(ready.json()["ready"], true);
    assert_eq!(ready.json()["region"], "here");
    for path in ["/healthz", "/readyz"] {
        for plane in [&here, server.admin()] {
            let get = plane.get(path).send().await.expect(200);
            for plane in [plane.clone(), plane.http2()] {
                let head = plane.head(path).send().await.expect(200);
                assert!(head.body.is_empty(), "{path}");
                let length: usize = head.header("content-length").unwrap().parse().unwrap();
                // How far behind the region is has not always as many digits.
                assert!(length > 0, "{path}");
                assert_eq!(head.header("content-type"), get.header("content-type"));
            }
        }
        let answer = server.admin().post(path).send().await;
        answer.problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
}
