//! The default handlers as components: their size, what they import, and that
//! both ways of building them give handlers that behave alike.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::path::PathBuf;

use serde_json::Value;
use tidepool::model::Operation;
use tidepool::wit_host::worlds;
use tidepool_tests::{Plane, Server, built};
use wit_parser::decoding::{DecodedWasm, decode};

/// Largest default handler, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// Where each way leaves its components.
fn component(folder: &str, operation: Operation) -> PathBuf {
    let path = built::repository().join(format!("target/{folder}/{operation}.wasm"));
    assert!(
        path.is_file(),
        "{} is missing: run `scripts/guests` and `scripts/guests --cargo-component`",
        path.display()
    );
    path
}

#[test]
fn default_handlers_are_small_and_import_nothing_but_their_world() {
    for folder in ["guests", "guests-cargo-component"] {
        for operation in Operation::ALL {
            let bytes = built::bytes(&component(folder, operation));
            assert!(
                bytes.len() <= MAX_BYTES,
                "{folder}/{operation}: {} bytes",
                bytes.len()
            );
            let Ok(DecodedWasm::Component(resolve, world)) = decode(&bytes) else {
                panic!("{folder}/{operation} is not a component");
            };
            for key in resolve.worlds[world].imports.keys() {
                let name = resolve.name_world_key(key);
                // A type that the world takes from an interface has no package.
                let Some((package, interface)) = name.split_once('/') else {
                    continue;
                };
                assert_eq!(package, worlds::PACKAGE, "{folder}/{operation}: {name}");
                let interface = interface.split('@').next().unwrap_or_default();
                assert!(
                    worlds::imports(operation).contains(&interface),
                    "{folder}/{operation}: {name}"
                );
            }
        }
    }
}

/// Everything that a client can tell two regions apart by, for a story of
/// requests about one key.
async fn story(region: &Plane, key: &str) -> Vec<(u16, Value)> {
    let path = format!("/kv/{key}");
    let calls = [
        region.get(&path),
        region.put(&path).body("not json"),
        region.put(&path).value("first"),
        region
            .put(&path)
            .header("if-none-match", "*")
            .value("again"),
        region.get(&path).header("tidepool-consistency", "log"),
        region
            .put(&path)
            .header("content-type", "image/png")
            .body(vec![0u8, 255, 10]),
        region
            .get(&path)
            .header("tidepool-consistency", "log")
            .header("accept", "application/json"),
        region
            .get(&path)
            .header("tidepool-consistency", "log")
            .header("accept", "text/html"),
        region.put(&path).header("tidepool-ttl", "0").value("x"),
        region.delete(&path).header("if-match", "\"1\""),
        region.delete(&path),
        region.get(&path).header("tidepool-consistency", "log"),
    ];
    let mut seen = Vec::new();
    for call in calls {
        let answer = call.send().await;
        let mut body = answer.json();
        // These two are of the moment.
        if let Some(body) = body.as_object_mut() {
            for moment in ["timestamp", "version", "detail"] {
                body.remove(moment);
            }
        }
        seen.push((answer.status, body));
    }
    seen
}

#[tokio::test]
async fn handlers_built_by_cargo_component_behave_like_the_built_in_ones() {
    let server = Server::start().await;
    for operation in Operation::ALL {
        let path = component("guests-cargo-component", operation);
        server
            .deploy(operation.name(), &path, Some("us-west-1"))
            .await;
    }
    let built_in = story(server.region("us-east-1"), "alike").await;
    let theirs = story(server.region("us-west-1"), "alike").await;
    assert_eq!(built_in, theirs);
    let statuses: Vec<u16> = built_in.iter().map(|(status, _)| *status).collect();
    assert_eq!(
        statuses,
        [404, 400, 201, 412, 200, 201, 200, 406, 400, 412, 200, 404]
    );
    // And the one hydrator does what the other does.
    let version = server.region("us-west-1").write("hydrated", "yes").await;
    server.all_caught_up(version).await;
    for region in ["us-east-1", "us-west-1"] {
        let answer = server.region(region).get("/kv/hydrated").send().await;
        assert_eq!(answer.header("x-cache"), Some("HIT"), "{region}");
    }
}
