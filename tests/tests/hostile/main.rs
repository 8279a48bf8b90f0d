//! Components that misbehave, each in one region while another region of the
//! same process keeps answering as it should.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

mod endless;
mod hydrate;
mod instances;
mod limits;
mod quarantine;
mod traps;
mod waits;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tidepool_tests::{Answer, Plane, Server, Setup, built};
use tokio::task::JoinHandle;

/// A server whose region `bad` runs a misbehaving `get`, and whose region
/// `good` is used all the while.
struct Hostile {
    server: Server,
    bad: Plane,
    good: Good,
    /// The revision that misbehaves.
    revision: u64,
}

impl Hostile {
    /// Starts it with small limits, which `setup` may change.
    async fn start(fixture: &str, setup: Setup) -> Hostile {
        // It is to stay, however it behaves.
        let setup = setup.regions(&["bad", "good"]).set("handlers.trial=0s");
        let server = setup.start().await;
        let component = built::fixture(fixture);
        server.deploy("get", &component, Some("bad")).await;
        let good = Good::start(&server).await;
        let bad = server.region("bad").clone();
        let revision = server.active("bad", "get").await;
        Hostile {
            server,
            bad,
            good,
            revision,
        }
    }

    async fn get(&self, key: &str) -> Answer {
        self.bad.get(&format!("/kv/{key}")).send().await
    }

    /// Asserts that an answer names the handler and what it did; the document.
    fn names_it(&self, answer: &Answer, status: u16, kind: &str, says: &str) -> Value {
        let document = answer.problem(status, kind);
        assert_eq!(document["region"], "bad");
        assert_eq!(document["operation"], "get");
        assert_eq!(document["revision"], self.revision);
        let detail = document["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{detail}");
        document
    }

    /// Waits until the log names the handler and says all of this in a line.
    async fn logged(&self, says: &[&str]) {
        let revision = format!("revision={} ", self.revision);
        let mut texts = vec!["ERROR", "region=\"bad\"", "operation=get", &revision];
        texts.extend(says);
        self.server.log().line(&texts).await;
    }

    /// Asserts that the good region has been right all the while, and that the
    /// bad one is mended by a rollback.
    async fn survived(self) {
        self.good.stop().await;
        let handler = self.server.revisions("bad", "get").await.remove(0);
        assert_eq!(handler["revision"], self.revision);
        let rollback = self.server.cli(&["rollback", "get", "--region", "bad"]);
        rollback.await.success();
        let version = self.bad.write("mended", "yes").await;
        self.server.caught_up("bad", version).await;
        let answer = self.bad.get("/kv/mended").send().await.expect(200);
        assert_eq!(answer.json()["value"], "yes");
    }
}

/// One client of the good region, who writes and reads without a pause.
struct Good {
    stop: Arc<AtomicBool>,
    client: JoinHandle<u64>,
}

impl Good {
    async fn start(server: &Server) -> Good {
        let stop = Arc::new(AtomicBool::new(false));
        let client = use_it(server.region("good").clone(), Arc::clone(&stop));
        let client = tokio::spawn(client);
        Good { stop, client }
    }

    /// Ends it; a request of its own that failed fails here.
    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let rounds = self.client.await.unwrap();
        assert!(rounds > 0);
    }
}

/// Reads what it wrote until it is stopped, and once after that; how often.
async fn use_it(good: Plane, stop: Arc<AtomicBool>) -> u64 {
    let mut round = 0;
    loop {
        let last = stop.load(Ordering::Relaxed);
        round += 1;
        let value = round.to_string();
        let version = good.write("good", &value).await;
        let get = good.get("/kv/good");
        let get = get.header("tidepool-consistency", format!("at-least={version}"));
        let answer = get.send().await.expect(200);
        assert_eq!(answer.json()["value"], value);
        if last {
            return round;
        }
    }
}

/// Asserts that what a client is told shows nothing of the inside.
fn tells_nothing(document: &Value) {
    let text = document.to_string();
    for inside in ["backtrace", ".rs", "wasm!", "0x", "/root", "/home"] {
        assert!(!text.contains(inside), "{inside}: {text}");
    }
}
