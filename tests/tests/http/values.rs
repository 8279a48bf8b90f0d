//! Values in and out: the JSON envelope, raw bytes, and how `Content-Type`
//! and `Accept` choose between them.

use bytes::Bytes;
use serde_json::json;
use tidepool_tests::{Answer, Plane};

use crate::one;

/// Puts a body; the answer.
async fn put(here: &Plane, path: &str, content_type: Option<&str>, body: &[u8]) -> Answer {
    let mut call = here.put(path).body(Bytes::copy_from_slice(body));
    if let Some(content_type) = content_type {
        call = call.header("content-type", content_type);
    }
    call.send().await
}

/// Gets `/kv/k`, saying what is accepted.
async fn get(here: &Plane, accept: Option<&str>) -> Answer {
    let mut call = here.get("/kv/k").header("tidepool-consistency", "log");
    if let Some(accept) = accept {
        call = call.header("accept", accept);
    }
    call.send().await
}

const BINARY: &[u8] = b"\x00\xff\xfe\x80 and text";
const BINARY_BASE64: &str = "AP/+gCBhbmQgdGV4dA==";

#[tokio::test]
async fn json_and_what_curl_sends_unasked_are_envelopes() {
    let (_server, here) = one().await;
    for content_type in [
        None,
        Some("application/json"),
        Some("Application/JSON; charset=utf-8"),
        Some("application/x-www-form-urlencoded"),
    ] {
        let value = format!("sent as {content_type:?}");
        let body = json!({"value": value, "note": ["passed", "over"]}).to_string();
        let answer = put(&here, "/kv/k", content_type, body.as_bytes()).await;
        assert_eq!(answer.expect(201).json()["value"], value);
        let answer = get(&here, None).await.expect(200);
        assert_eq!(answer.json(), json!({"key": "k", "value": value}));
    }
}

#[tokio::test]
async fn any_text_comes_back_as_it_was() {
    let (_server, here) = one().await;
    for value in [
        "",
        "\u{0}\u{1f}\"\\/\u{7f}",
        "späte Grüße 🌊",
        "line\nline\r\n\ttab",
        "\u{10ffff}",
    ] {
        let answer = here.put("/kv/k").value(value).send().await.expect(201);
        assert_eq!(answer.json()["value"], value);
        let answer = get(&here, None).await.expect(200);
        assert_eq!(answer.json(), json!({"key": "k", "value": value}));
        // The same text, not in an envelope.
        let answer = get(&here, Some("text/plain")).await.expect(200);
        assert_eq!(answer.text(), value);
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
    }
}

#[tokio::test]
async fn bytes_go_through_the_envelope_as_base64() {
    let (_server, here) = one().await;
    let body = json!({"value": BINARY_BASE64, "encoding": "base64"});
    let answer = put(&here, "/kv/k", None, body.to_string().as_bytes()).await;
    let answer = answer.expect(201).json();
    assert_eq!(answer["value"], BINARY_BASE64);
    assert_eq!(answer["encoding"], "base64");
    let answer = get(&here, None).await.expect(200);
    let expected = format!(r#"{{"key":"k","value":"{BINARY_BASE64}","encoding":"base64"}}"#);
    assert_eq!(answer.text(), expected);
    let answer = get(&here, Some("application/octet-stream")).await;
    assert_eq!(answer.expect(200).body, BINARY);
    // Base64 of what is text comes back as text.
    let body = json!({"value": "aGVsbG8=", "encoding": "base64"});
    put(&here, "/kv/k", None, body.to_string().as_bytes())
        .await
        .expect(201);
    let answer = get(&here, None).await.expect(200);
    assert_eq!(answer.json(), json!({"key": "k", "value": "hello"}));
}

#[tokio::test]
async fn a_body_of_another_type_is_the_value_and_keeps_its_type() {
    let (_server, here) = one().await;
    for (content_type, body) in [
        ("image/png", BINARY),
        ("text/html; charset=utf-8", b"<p>hello"),
        ("application/jsonl", b"{}\n{}"),
        ("image/png", b""),
    ] {
        let answer = put(&here, "/kv/k", Some(content_type), body).await;
        let answer = answer.expect(201).json();
        assert_eq!(answer["size"], body.len());
        assert_eq!(answer.get("value"), None);
        let answer = get(&here, None).await.expect(200);
        assert_eq!(answer.body, body);
        assert_eq!(answer.header("content-type"), Some(content_type));
        let head = here
            .head("/kv/k")
            .header("tidepool-consistency", "log")
            .send();
        let head = head.await.expect(200);
        assert_eq!(
            head.header("content-length"),
            Some(&*body.len().to_string())
        );
        assert_eq!(head.header("content-type"), Some(content_type));
    }
}

#[tokio::test]
async fn raw_in_the_query_makes_any_body_the_value() {
    let (_server, here) = one().await;
    let document = br#"{"value": "this is not an envelope"}"#;
    put(&here, "/kv/k?raw", Some("application/json"), document)
        .await
        .expect(201);
    for accept in [None, Some("application/json"), Some("*/*")] {
        let answer = get(&here, accept).await.expect(200);
        assert_eq!(answer.body, &document[..]);
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    put(&here, "/kv/k?raw=1", None, BINARY).await.expect(201);
    let answer = get(&here, None).await.expect(200);
    assert_eq!(answer.body, BINARY);
    assert_eq!(
        answer.header("content-type"),
        Some("application/octet-stream")
    );
}

#[tokio::test]
async fn accept_chooses_among_the_forms_of_a_value() {
    let (_server, here) = one().await;
    let html = b"<p>hello";
    put(&here, "/kv/k", Some("text/html"), html)
        .await
        .expect(201);
    for (accept, content_type) in [
        ("text/html", "text/html"),
        ("text/*", "text/html"),
        ("application/octet-stream", "application/octet-stream"),
        ("application/json", "application/json"),
        (
            "text/html;q=0.1, application/json;q=0.9",
            "application/json",
        ),
        ("image/png, */*;q=0.1", "text/html"),
    ] {
        let answer = get(&here, Some(accept)).await.expect(200);
        assert_eq!(
            answer.header("content-type"),
            Some(content_type),
            "{accept}"
        );
        if content_type == "application/json" {
            assert_eq!(answer.json(), json!({"key": "k", "value": "<p>hello"}));
        } else {
            assert_eq!(answer.body, &html[..]);
        }
    }
    for accept in ["image/png", "text/plain", "*/*;q=0", "text/html;q=0"] {
        let answer = get(&here, Some(accept)).await;
        let document = answer.problem(406, "not-acceptable");
        let detail = document["detail"].as_str().unwrap();
        assert!(detail.contains("text/html"), "{detail}");
    }
    let long = format!("text/html, {}", "x/y,".repeat(1100));
    get(&here, Some(&long)).await.problem(400, "bad-request");
}

#[tokio::test]
async fn bytes_that_are_no_text_are_base64_when_json_is_asked_for() {
    let (_server, here) = one().await;
    put(&here, "/kv/k", Some("image/png"), BINARY)
        .await
        .expect(201);
    let answer = get(&here, Some("application/json")).await.expect(200);
    let expected = json!({"key": "k", "value": BINARY_BASE64, "encoding": "base64"});
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn a_content_type_has_at_most_255_bytes() {
    let (_server, here) = one().await;
    let longest = format!("text/{}", "x".repeat(250));
    put(&here, "/kv/k", Some(&longest), b"v").await.expect(201);
    let answer = get(&here, None).await.expect(200);
    assert_eq!(answer.header("content-type"), Some(&*longest));
    let answer = put(&here, "/kv/k", Some(&format!("{longest}x")), b"v").await;
    answer.problem(413, "too-large");
}
