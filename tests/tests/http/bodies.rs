//! Bodies: their limits, and bodies that are not what they should be. A PUT
//! that is refused has written nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::json;
use tidepool_tests::wire::Wire;
use tidepool_tests::{Plane, Setup};

use crate::{one, with};

const MIB: usize = 1 << 20;

/// Asserts that a key has never been written.
async fn never_written(here: &Plane, key: &str) {
    let get = here.get(&format!("/kv/{key}"));
    let get = get.header("tidepool-consistency", "log");
    let document = get.send().await.problem(404, "not-found");
    assert_eq!(document.get("version"), None, "{key}: {document:#}");
}

/// The head of a PUT as bytes.
fn head(key: &str, headers: &str) -> String {
    format!("PUT /kv/{key} HTTP/1.1\r\nHost: t\r\n{headers}\r\n\r\n")
}

#[tokio::test]
async fn a_body_that_is_no_envelope_is_400() {
    let (_server, here) = one().await;
    for body in [
        "",
        "hello",
        "[]",
        "{}",
        "null",
        r#"{"value"}"#,
        r#"{"value": 1}"#,
        r#"{"value": null}"#,
        r#"{"value": ["a"]}"#,
        r#"{"Value": "a"}"#,
        r#"{"value": "a""#,
        r#"{"value": "a"} {}"#,
        r#"{"value": "\ud800"}"#,
        r#"{"value": "a", "encoding": "rot13"}"#,
        r#"{"value": "a!", "encoding": "base64"}"#,
    ] {
        let put = here.put("/kv/k").header("content-type", "application/json");
        let document = put.body(body).send().await.problem(400, "bad-request");
        let detail = document["detail"].as_str().unwrap();
        assert!(detail.contains(r#"{"value": "..."}"#), "{body}: {detail}");
    }
    let not_text = Bytes::from_static(b"{\"value\": \"\xff\"}");
    let put = here.put("/kv/k").body(not_text).send().await;
    put.problem(400, "bad-request");
    // Nesting costs a parser its stack: here it costs an answer.
    let deep = "[".repeat(200_000);
    let put = here.put("/kv/k").body(deep).send().await;
    put.problem(400, "bad-request");
    never_written(&here, "k").await;
}

#[tokio::test]
async fn a_header_that_is_no_text_is_400_and_named() {
    let (_server, here) = one().await;
    for (name, header) in [
        ("tidepool-ttl", &b"Tidepool-TTL: \xe9"[..]),
        ("content-type", b"Content-Type: text/plain; x=\xe9"),
        ("x-any", b"X-Any: \xff"),
    ] {
        let mut wire = Wire::connect(here.address()).await;
        let put = [
            b"PUT /kv/k HTTP/1.1\r\nHost: t\r\nContent-Length: 13\r\n",
            header,
            b"\r\n\r\n{\"value\":\"v\"}",
        ];
        wire.send(put.concat()).await;
        let document = wire.answer().await.problem(400, "bad-request");
        let detail = document["detail"].as_str().unwrap();
        assert!(detail.contains(name), "{detail}");
    }
    never_written(&here, "k").await;
}

#[tokio::test]
async fn a_part_of_a_value_and_a_body_with_a_coding_are_refused() {
    let (_server, here) = one().await;
    let put = here.put("/kv/k").value("v");
    let put = put.header("content-range", "bytes 0-3/8");
    let document = put.send().await.problem(400, "bad-request");
    let detail = document["detail"].as_str().unwrap();
    assert!(detail.contains("Content-Range"), "{detail}");
    for coding in ["gzip", "identity, br", "zstd"] {
        let put = here.put("/kv/k").value("v");
        let answer = put.header("content-encoding", coding).send().await;
        let document = answer.problem(415, "unsupported-media-type");
        let detail = document["detail"].as_str().unwrap();
        assert!(detail.contains("Content-Encoding"), "{detail}");
        assert_eq!(answer.header("accept-encoding"), Some("identity"));
    }
    never_written(&here, "k").await;
    let put = here.put("/kv/k").value("v");
    let put = put.header("content-encoding", "identity").send().await;
    put.expect(201);
}

#[tokio::test]
async fn a_value_may_have_1_mib_and_not_a_byte_more() {
    let (_server, here) = one().await;
    let raw = |key: &str, length: usize| {
        let put = here.put(&format!("/kv/{key}")).body(vec![b'r'; length]);
        put.header("content-type", "application/octet-stream")
    };
    raw("raw", MIB).send().await.expect(201);
    raw("raw-over", MIB + 1)
        .send()
        .await
        .problem(413, "too-large");
    let envelope = |key: &str, value: &str| here.put(&format!("/kv/{key}")).value(value);
    // Twice as long in its envelope.
    let quotes = "\"".repeat(MIB);
    envelope("envelope", &quotes).send().await.expect(201);
    let over = "x".repeat(MIB + 1);
    let answer = envelope("envelope-over", &over).send().await;
    answer.problem(413, "too-large");
    for key in ["raw-over", "envelope-over"] {
        never_written(&here, key).await;
    }
    let get = |key: &str| {
        let get = here.get(&format!("/kv/{key}"));
        get.header("tidepool-consistency", "log").send()
    };
    assert_eq!(get("raw").await.expect(200).body, vec![b'r'; MIB]);
    assert_eq!(get("envelope").await.expect(200).json()["value"], quotes);
}

#[tokio::test]
async fn the_limit_of_values_can_be_raised_to_25_mib() {
    let setup = Setup::new().set("http.max_value_bytes=25MiB");
    // What takes long on a busy machine is not what is tested.
    let setup = setup.set("limits.cpu=20s").set("limits.wall=1min");
    let (server, here) = with(setup).await;
    let bytes: Bytes = (0..25 * MIB).map(|n| (n % 251) as u8).collect();
    let put = here.put("/kv/big").body(bytes.clone());
    let put = put.header("content-type", "application/x-big");
    let version = put.send().await.expect(201).version();
    server.all_caught_up(version).await;
    for consistency in ["cached", "log"] {
        let get = here.get("/kv/big");
        let answer = get
            .header("tidepool-consistency", consistency)
            .send()
            .await
            .expect(200);
        assert!(answer.body == bytes, "another value, {consistency}");
        assert_eq!(answer.version(), version);
        assert_eq!(answer.header("content-type"), Some("application/x-big"));
    }
    // In the forms that need most room, and the answer to each has it as it was sent.
    let text = "\n".repeat(25 * MIB);
    let coded = BASE64.encode(&bytes);
    let plain = json!({ "value": text });
    let coded = json!({ "value": coded, "encoding": "base64" });
    for envelope in [plain, coded] {
        let put = here.put("/kv/envelope").body(envelope.to_string());
        let answer = put.send().await.expect(201);
        assert!(answer.json()["value"] == envelope["value"], "another value");
        let get = here
            .get("/kv/envelope")
            .header("accept", "application/json");
        let get = get.header("tidepool-consistency", "log");
        let answer = get.send().await.expect(200);
        assert!(answer.json()["value"] == envelope["value"], "another value");
    }
    let put = here.put("/kv/over").body(vec![0; 25 * MIB + 1]);
    let put = put.header("content-type", "application/x-big");
    put.send().await.problem(413, "too-large");
    never_written(&here, "over").await;
}

#[tokio::test]
async fn the_limit_of_values_can_be_lowered() {
    let (_server, here) = with(Setup::new().set("http.max_value_bytes=10")).await;
    here.put("/kv/k")
        .value("0123456789")
        .send()
        .await
        .expect(201);
    let put = here.put("/kv/over").value("0123456789a").send().await;
    put.problem(413, "too-large");
    never_written(&here, "over").await;
}

#[tokio::test]
async fn a_body_that_says_it_is_too_long_is_not_waited_for() {
    let (_server, here) = one().await;
    let mut wire = Wire::connect(here.address()).await;
    wire.send(head("k", "Content-Length: 99999999999")).await;
    wire.answer().await.problem(413, "too-large");
    never_written(&here, "k").await;
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_sends_its_whole_body_first() {
    let (_server, here) = one().await;
    // More than the buffers of both sides hold.
    let body = vec![b'x'; 30 * MIB];
    let length = format!("Content-Length: {}", body.len());
    for (address, head, status, kind) in [
        (here.address(), head("k", &length), 413, "too-large"),
        (
            here.address(),
            format!("PUT /nothing HTTP/1.1\r\nHost: t\r\n{length}\r\n\r\n"),
            404,
            "no-such-path",
        ),
    ] {
        let answer = Wire::sends_all(address, &head, &body).await;
        answer.problem(status, kind);
    }
    never_written(&here, "k").await;
}

#[tokio::test]
async fn a_body_without_a_length_is_cut_at_the_limit() {
    let (_server, here) = with(Setup::new().set("http.max_value_bytes=10")).await;
    // Its limit as a body: twice the value, and 64 KiB.
    let mut wire = Wire::connect(here.address()).await;
    wire.send(head("k", "Transfer-Encoding: chunked")).await;
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
    for _ in 0..3 {
        wire.send(&chunk).await;
    }
    wire.answer().await.problem(413, "too-large");
    never_written(&here, "k").await;
    // One within it is taken, also in pieces.
    let mut wire = Wire::connect(here.address()).await;
    let chunked = "Transfer-Encoding: chunked\r\nContent-Type: text/plain";
    wire.send(head("k", chunked)).await;
    wire.send("3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(wire.answer().await.expect(201).json()["size"], 6);
}

#[tokio::test]
async fn a_body_that_ends_too_early_is_not_written() {
    let (_server, here) = one().await;
    // Broken in the middle, where somebody is there to be told.
    let mut wire = Wire::connect(here.address()).await;
    wire.send(head("broken-chunk", "Transfer-Encoding: chunked"))
        .await;
    wire.send("5\r\nwhole\r\nno length\r\n").await;
    let document = wire.answer().await.problem(400, "bad-request");
    let detail = document["detail"].as_str().unwrap();
    assert!(detail.contains("chunks up to the empty one"), "{detail}");
    never_written(&here, "broken-chunk").await;
    for (key, head, body) in [
        (
            "cut",
            head("cut", "Content-Length: 100\r\nContent-Type: text/plain"),
            "only this",
        ),
        (
            "cut-chunk",
            head(
                "cut-chunk",
                "Transfer-Encoding: chunked\r\nContent-Type: text/plain",
            ),
            "10\r\nonly this",
        ),
        (
            "no-last-chunk",
            head(
                "no-last-chunk",
                "Transfer-Encoding: chunked\r\nContent-Type: text/plain",
            ),
            "9\r\nonly this\r\n",
        ),
    ] {
        let mut wire = Wire::connect(here.address()).await;
        wire.send(format!("{head}{body}")).await;
        wire.finish().await;
        // There may be nobody left to answer; if there is, it is a refusal.
        let said = wire.closed().await;
        let said = String::from_utf8_lossy(&said);
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 400 "),
            "{key}: {said}"
        );
        never_written(&here, key).await;
    }
}

#[tokio::test]
async fn a_body_that_is_longer_than_it_says_is_cut_there() {
    let (_server, here) = one().await;
    let body = json!({"value": "whole"}).to_string();
    let mut wire = Wire::connect(here.address()).await;
    let length = format!("Content-Length: {}", body.len() - 3);
    wire.send(format!("{}{body}", head("short", &length))).await;
    wire.answer().await.problem(400, "bad-request");
    // What follows is no request, and ends the connection.
    assert!(wire.closed().await.starts_with(b"HTTP/1.1 400 "));
    never_written(&here, "short").await;
    let mut wire = Wire::connect(here.address()).await;
    let two = "Content-Length: 5\r\nContent-Length: 6";
    wire.send(format!("{}{body}", head("two", two))).await;
    assert_eq!(wire.answer().await.status, 400);
    never_written(&here, "two").await;
}

#[tokio::test]
async fn a_body_that_stalls_is_408() {
    let setup = Setup::new().set("http.body_timeout=100ms");
    let (_server, here) = with(setup).await;
    let mut wire = Wire::connect(here.address()).await;
    let length = "Content-Length: 10\r\nContent-Type: text/plain";
    wire.send(format!("{}half", head("k", length))).await;
    let answer = wire.answer().await;
    answer.problem(408, "body-timeout");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(wire.closed().await.is_empty());
    never_written(&here, "k").await;
}
