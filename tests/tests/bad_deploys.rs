//! Components and requests that must not be deployed: each is refused in one
//! line, over HTTP and by the command, and what ran before goes on.

// What helps a test may fail as a test does.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde_json::Value;
use tidepool_tests::wire::Wire;
use tidepool_tests::{Answer, Server, Setup, built};

/// Regions of these tests.
const BOTH: [&str; 2] = ["here", "there"];

/// The eight bytes that every core module begins with: the smallest one.
const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// A server whose regions run a `get` that says so, as revision 2.
struct Running(Server);

impl Running {
    async fn start() -> Running {
        Running::with(Setup::new()).await
    }

    async fn with(setup: Setup) -> Running {
        let server = setup.regions(&BOTH).start().await;
        server
            .deploy("get", &built::fixture("tagged-a"), None)
            .await;
        Running(server)
    }

    /// Sends bytes as a component.
    async fn send(&self, target: &str, component: &[u8]) -> Answer {
        let path = format!("/v1/handlers/{target}");
        let call = self.0.admin().post(&path);
        call.body(component.to_vec()).send().await
    }

    /// Asserts that bytes are refused over HTTP and by the command, for the
    /// same reason, and that nothing has changed; the reason.
    async fn refuses(&self, operation: &str, component: &[u8], status: u16, kind: &str) -> String {
        let answer = self.send(operation, component).await;
        let document = answer.problem(status, kind);
        let detail = document["detail"].as_str().unwrap();
        let file = self.0.setup().folder().join("component.wasm");
        std::fs::write(&file, component).unwrap();
        let ran = self
            .0
            .cli(&["deploy", operation, file.to_str().unwrap()])
            .await;
        let title = document["title"].as_str().unwrap();
        assert_eq!(ran.refused(1), format!("{title}: {detail}"));
        self.unchanged().await;
        detail.to_owned()
    }

    /// As [`Running::refuses`], for a component that cannot be one of `get`.
    async fn unfit(&self, component: &[u8], says: &[&str]) {
        let detail = self.refuses("get", component, 422, "unprocessable").await;
        for text in says {
            assert!(detail.contains(text), "{text:?}: {detail}");
        }
    }

    /// Asserts that what ran still runs and answers, everywhere, and that
    /// nothing was recorded.
    async fn unchanged(&self) {
        for region in BOTH {
            let revisions = self.0.revisions(region, "get").await;
            let states: Vec<(u64, &str)> = revisions
                .iter()
                .filter_map(|r| Some((r["revision"].as_u64()?, r["state"].as_str()?)))
                .collect();
            assert_eq!(states, [(2, "active"), (1, "retired")], "{region}");
            for operation in ["put", "delete", "hydrate"] {
                let others = self.0.revisions(region, operation).await;
                assert_eq!(others.len(), 1, "{others:?}");
                assert_eq!(others[0]["state"], "active", "{others:?}");
            }
            let answer = self.0.region(region).get("/kv/k").send().await;
            assert_eq!(answer.expect(200).text(), "a:k", "{region}");
        }
    }

    /// The digest of what runs, as `Content-Digest` says it.
    async fn digest(&self) -> String {
        let running = self.0.revisions("here", "get").await.remove(0);
        let hex = running["digest"].as_str().unwrap();
        let hex = hex.strip_prefix("sha256:").unwrap().as_bytes();
        let bytes: Vec<u8> = hex
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect();
        format!("sha-256=:{}:", base64(&bytes))
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| {
            bits << 8 | usize::from(*three.get(i).unwrap_or(&0))
        });
        for place in 0..4 {
            let letter = LETTERS[bits >> (18 - 6 * place) & 63];
            text.push(if place > three.len() {
                '='
            } else {
                char::from(letter)
            });
        }
    }
    text
}

/// A component made longer without changing what it does: a custom section
/// brings it to a length.
fn padded(component: &Path, length: usize) -> Vec<u8> {
    let mut bytes = built::bytes(component);
    // Its kind, its size in five bytes, and the length of its empty name.
    let size = length - bytes.len() - 6;
    bytes.push(0);
    for place in 0..5 {
        let more = if place < 4 { 0x80 } else { 0 };
        bytes.push((size >> (7 * place) & 0x7f) as u8 | more);
    }
    bytes.resize(length, 0);
    bytes
}

#[tokio::test]
async fn what_is_not_wasm_is_refused() {
    let running = Running::start().await;
    for bytes in [&b""[..], b"\0asm", b"<!doctype html>", b"#!/bin/sh\n"] {
        running
            .unfit(bytes, &["not WebAssembly", "cargo component build"])
            .await;
    }
}

#[tokio::test]
async fn a_core_module_is_refused() {
    let running = Running::start().await;
    let says = ["core module", "wasm-tools component new"];
    running.unfit(CORE_MODULE, &says).await;
    // What cargo leaves of a guest before it is made a component.
    let raw = built::repository().join("target/wasm/wasm32-unknown-unknown/release/get.wasm");
    running.unfit(&built::bytes(&raw), &says).await;
}

#[tokio::test]
async fn a_component_of_another_world_is_refused() {
    let running = Running::start().await;
    let other = built::bytes(&built::fixture("wrong-world"));
    running
        .unfit(&other, &["`handle`", "it exports answer"])
        .await;
    // Good ones, but not for GET.
    let put = built::bytes(&built::guest("put"));
    running.unfit(&put, &["tidepool:kv/log-put@0.1.0"]).await;
    let hydrate = built::bytes(&built::guest("hydrate"));
    running.unfit(&hydrate, &["tidepool:kv/feed@0.1.0"]).await;
    let get = built::bytes(&built::guest("get"));
    for operation in ["put", "delete", "hydrate"] {
        let detail = running.refuses(operation, &get, 422, "unprocessable").await;
        assert!(detail.contains("tidepool:kv/cache@0.1.0"), "{detail}");
    }
}

#[tokio::test]
async fn a_component_that_asks_for_more_than_it_may_have_is_refused() {
    let running = Running::start().await;
    let forbidden = built::bytes(&built::fixture("forbidden"));
    let says = [
        "`get` component may not import",
        "tidepool:kv/log-put@0.1.0; it may import tidepool:kv/",
    ];
    running.unfit(&forbidden, &says).await;
}

#[tokio::test]
async fn a_component_that_is_cut_short_is_refused() {
    let running = Running::start().await;
    let whole = built::bytes(&built::fixture("tagged-b"));
    for length in [9, 100, whole.len() / 2, whole.len() - 1] {
        running.unfit(&whole[..length], &["cut short"]).await;
    }
    // These eight bytes are a component, with nothing in it.
    running.unfit(&whole[..8], &["exports nothing"]).await;
    let mut damaged = whole.clone();
    damaged[whole.len() / 2..].fill(0xff);
    running.unfit(&damaged, &["damaged"]).await;
}

#[tokio::test]
async fn a_component_over_the_size_limit_is_refused() {
    const LIMIT: usize = 100_000;
    let setup = Setup::new().set(&format!("handlers.max_component_bytes={LIMIT}"));
    let running = Running::with(setup).await;
    let over = padded(&built::fixture("tagged-b"), LIMIT + 1);
    let detail = running.refuses("get", &over, 413, "too-large").await;
    assert!(detail.contains("100000 bytes"), "{detail}");
    // More than the buffers of both sides hold: it is refused before it is sent.
    let large = vec![0; 20 << 20];
    let again = running.refuses("get", &large, 413, "too-large").await;
    assert_eq!(again, detail);
    let length = over.len() - 1;
    let exact = padded(&built::fixture("tagged-b"), length);
    running.send("get", &exact).await.expect(200);
    assert_eq!(running.0.active("here", "get").await, 3);
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_sends_its_whole_component_first() {
    let running = Running::start().await;
    let admin = running.0.admin().address();
    // More than the buffers of both sides hold.
    let component = vec![b'x'; 30 << 20];
    for (operation, origin, status, kind) in [
        ("get", "Origin: http://page\r\n", 403, "forbidden"),
        ("no", "", 404, "no-such-path"),
    ] {
        let length = component.len();
        let head = format!(
            "POST /v1/handlers/{operation} HTTP/1.1\r\nHost: localhost\r\n{origin}Content-Length: {length}\r\n\r\n"
        );
        let answer = Wire::sends_all(admin, &head, &component).await;
        answer.problem(status, kind);
    }
}

#[tokio::test]
async fn a_component_that_traps_in_its_self_test_is_refused() {
    let running = Running::start().await;
    let trapping = built::bytes(&built::fixture("trap-always"));
    running
        .unfit(&trapping, &["self-test", "`get`", "trapped"])
        .await;
    // The backtrace is for the log.
    let log = running.0.log();
    log.line(&["WARN", "failed its self-test", "unreachable"])
        .await;
    log.line(&["wasm", "trap_always"]).await;
}

#[tokio::test]
async fn bytes_that_are_not_those_announced_are_refused() {
    let running = Running::start().await;
    let component = built::bytes(&built::fixture("tagged-b"));
    let deploy = |digest: &str| {
        let call = running.0.admin().post("/v1/handlers/get");
        let call = call.header("content-digest", digest);
        call.body(component.clone()).send()
    };
    let other = running.digest().await;
    let document = deploy(&other).await.problem(400, "bad-request");
    let detail = document["detail"].as_str().unwrap();
    assert_eq!(detail.matches("sha256:").count(), 2, "{detail}");
    running.unchanged().await;
    for malformed in ["sha-256=:AAAA:", "sha-256=AAAA", "md5=:AAAA:", ""] {
        let document = deploy(malformed).await.problem(400, "bad-request");
        let detail = document["detail"].as_str().unwrap();
        assert!(detail.contains("Content-Digest"), "{detail}");
    }
    running.unchanged().await;
    // With the digest that they have, they are taken.
    running
        .0
        .deploy("get", &built::fixture("tagged-b"), None)
        .await;
    let own = running.digest().await;
    assert_ne!(own, other);
    let unchanged: Value = deploy(&own).await.expect(200).json();
    assert_eq!(unchanged["slots"][0]["unchanged"], true);
}

#[tokio::test]
async fn an_upload_that_breaks_off_changes_nothing() {
    let running = Running::start().await;
    let component = built::bytes(&built::fixture("tagged-b"));
    let mut wire = Wire::connect(running.0.admin().address()).await;
    let head = format!(
        "POST /v1/handlers/get HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        component.len()
    );
    wire.send(head).await;
    wire.send(&component[..component.len() / 2]).await;
    wire.finish().await;
    let answer = String::from_utf8_lossy(&wire.closed().await).into_owned();
    assert!(!answer.contains(" 200 "), "{answer}");
    running.unchanged().await;
}

#[tokio::test]
async fn a_region_that_is_not_there_is_refused() {
    let running = Running::start().await;
    let component = built::fixture("tagged-b");
    let bytes = built::bytes(&component);
    for region in ["nowhere", "", "HERE", "here%2Cnowhere", "here,"] {
        let answer = running.send(&format!("get?region={region}"), &bytes).await;
        let document = answer.problem(404, "no-such-path");
        let detail = document["detail"].as_str().unwrap();
        assert!(detail.contains("there are here, there"), "{detail}");
        // It is not the path that is wrong.
        let title = document["title"].as_str().unwrap();
        assert!(!title.contains("path"), "{title}");
    }
    let component = component.to_str().unwrap();
    let ran = running
        .0
        .cli(&["deploy", "get", component, "--region", "nowhere"])
        .await;
    let line = ran.refused(1);
    assert!(
        line.contains("\"nowhere\"") && line.contains("here, there"),
        "{line}"
    );
    running.unchanged().await;
}

#[tokio::test]
async fn an_operation_that_is_not_there_is_refused() {
    let running = Running::start().await;
    let component = built::fixture("tagged-b");
    let bytes = built::bytes(&component);
    for operation in ["gte", "GET", "get%20", "handle"] {
        let answer = running.send(operation, &bytes).await;
        let document = answer.problem(404, "no-such-path");
        let detail = document["detail"].as_str().unwrap();
        assert!(detail.contains("get, put, delete and hydrate"), "{detail}");
    }
    let answer = running.send("get/now", &bytes).await;
    answer.problem(404, "no-such-path");
    let ran = running
        .0
        .cli(&["deploy", "gte", component.to_str().unwrap()])
        .await;
    let line = ran.refused(2);
    assert!(line.contains("get, put, delete, hydrate"), "{line}");
    running.unchanged().await;
}

#[tokio::test]
async fn a_misspelt_parameter_does_not_deploy_everywhere() {
    let running = Running::start().await;
    let component = built::bytes(&built::fixture("tagged-b"));
    for (query, says) in [
        ("regoin=here", "\"regoin\""),
        ("Region=here", "\"Region\""),
        ("region=here&to=3", "\"to\""),
        (
            "region=here&region=there",
            "region, canary, plan, pause once",
        ),
    ] {
        let answer = running.send(&format!("get?{query}"), &component).await;
        let document = answer.problem(400, "bad-request");
        let detail = document["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{detail}");
    }
    running.unchanged().await;
}

#[tokio::test]
async fn a_file_that_is_not_there_is_refused() {
    let running = Running::start().await;
    let folder = running.0.setup().folder();
    for path in [folder.join("nothing.wasm"), folder.to_owned()] {
        let path = path.to_str().unwrap();
        let ran = running.0.cli(&["deploy", "get", path]).await;
        let line = ran.refused(1);
        assert!(line.contains(path) && line.contains(".wasm"), "{line}");
    }
    running.unchanged().await;
}
