//! A stand-in for CockroachDB that plays recorded changefeed conversations, as they
//! were or with faults put in. It speaks just enough of the PostgreSQL protocol
//! (version 3, extended queries, binary results) for the feed, and keeps no data.
//!
//! It shows how our code reacts. It never stands for the database in any claim.
//!
//! Messages follow each other in the recorded order as fast as the client takes
//! them, and a conversation that has no end falls silent.

#![allow(clippy::unwrap_used)] // Part of the tests: a panic is the report.

mod connection;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use connection::Connection;

/// Something that happens in a changefeed.
#[derive(Clone, Debug)]
pub enum Step {
    /// A message: table and key, which a resolved position has not, and value.
    Row(Option<String>, Option<String>, String),
    /// A message of the server beside the rows.
    Notice(String),
    /// An error: SQLSTATE and message.
    Error(String, String),
    /// The server can take the next statement.
    Ready,
    /// The connection ends.
    End,
    /// The connection ends in the middle of a row.
    Torn,
    /// The server takes its time.
    Wait(Duration),
}

/// What a fixture has recorded.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The statement that started it.
    pub statement: String,
    /// What followed, in its order.
    pub steps: Vec<Step>,
}

impl Conversation {
    /// The fixture of this name, of those in `tests/fixtures/cockroach`.
    pub fn recorded(name: &str) -> Conversation {
        let path = crate::built::repository()
            .join("tests/fixtures/cockroach")
            .join(format!("{name}.jsonl"));
        let text = std::fs::read_to_string(&path).expect(name);
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let mut statement = String::new();
        let mut steps = Vec::new();
        for line in lines {
            let line: Value = line;
            let text = |name: &str| line[name].as_str().map(str::to_owned);
            match text("kind").unwrap().as_str() {
                "about" => statement = text("statement").unwrap(),
                "row" => steps.push(Step::Row(
                    text("table"),
                    text("key"),
                    text("value").unwrap(),
                )),
                "error" => steps.push(Step::Error(
                    text("sqlstate").unwrap(),
                    text("message").unwrap(),
                )),
                "ready_for_query" => steps.push(Step::Ready),
                "eof" => steps.push(Step::End),
                "row_description" | "meanwhile" => {}
                other => panic!("{name}: a {other}"),
            }
        }
        Conversation { statement, steps }
    }
}

/// A row of the snapshot, which a scan reads.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The key.
    pub key: String,
    /// The version.
    pub version: i64,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
}

/// What the server answers.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its answer to `SELECT version()`.
    pub version: String,
    /// Whether the key column is BYTES.
    pub binary_keys: bool,
    /// Its moment.
    pub moment: String,
    /// What a scan reads: in the order of keys, each key once.
    pub snapshot: Vec<Stored>,
    /// How many keys its statistics say there are, if it has any.
    pub keys: Option<i64>,
    /// Statements that are refused: part of the text, SQLSTATE, message.
    pub refusals: Vec<(String, String, String)>,
    /// Answers to simple queries: part of the text, and rows. Others have none.
    pub answers: Vec<(String, Vec<Vec<Option<String>>>)>,
    /// Whether it lets nobody in, as when it is about to stop.
    pub draining: bool,
    /// What changefeeds say: each statement that starts one takes the next.
    pub feeds: VecDeque<Vec<Step>>,
}

impl Default for Script {
    fn default() -> Script {
        Script {
            version:
                "CockroachDB CCL v22.1.0-alpha.1-1-g0 (x86_64-linux, built 2022/02/01, go1.17)"
                    .into(),
            binary_keys: false,
            moment: "1795431443000000000.0000000000".into(),
            snapshot: Vec::new(),
            keys: None,
            refusals: Vec::new(),
            answers: Vec::new(),
            draining: false,
            feeds: VecDeque::new(),
        }
    }
}

/// A running stand-in. Dropping it ends it and every connection.
#[derive(Debug)]
pub struct StandIn {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    script: Mutex<Script>,
    statements: Mutex<Vec<String>>,
    sent: AtomicUsize,
    open: watch::Sender<usize>,
}

impl StandIn {
    /// Starts one on a free port.
    pub async fn start(script: Script) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            script: Mutex::new(script),
            statements: Mutex::default(),
            sent: AtomicUsize::new(0),
            open: watch::Sender::new(0),
        });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = Connection::new(stream, Arc::clone(&shared));
                let state = Arc::clone(&shared);
                connections.spawn(async move {
                    state.open.send_modify(|open| *open += 1);
                    // A client that goes away is no error here.
                    drop(connection.serve().await);
                    state.open.send_modify(|open| *open -= 1);
                });
            }
        });
        StandIn {
            address,
            state,
            task,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has no client.
    pub async fn deserted(&self) {
        let mut open = self.state.open.subscribe();
        let wait = open.wait_for(|open| *open == 0);
        crate::within("the last client to go", wait).await.unwrap();
    }

    /// Changes what it answers from now on.
    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.state.script.lock().unwrap());
    }

    /// The statements that it was sent, each as often as it was prepared or run.
    pub fn statements(&self) -> Vec<String> {
        self.state.statements.lock().unwrap().clone()
    }

    /// Those that start a changefeed.
    pub fn changefeeds(&self) -> Vec<String> {
        let mut all = self.statements();
        all.retain(|text| text.contains("CHANGEFEED FOR"));
        all
    }

    /// Bytes of changefeeds that clients have taken from it so far.
    pub fn sent(&self) -> usize {
        self.state.sent.load(Ordering::SeqCst)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}
