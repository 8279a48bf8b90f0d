//! Calls that wait for the host: for a log that does not come to an end, and
//! for their turn.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use tidepool_tests::{Plane, Server, Setup};

/// A write lock on the log, as another program could hold it: until it goes,
/// no write gets any further.
struct Held(Connection);

impl Held {
    fn hold(server: &Server) -> Held {
        let database = server.setup().data().join("tidepool.db");
        let connection = Connection::open(database).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        Held(connection)
    }

    fn release(self) {
        self.0.execute_batch("ROLLBACK").unwrap();
    }
}

/// Reads a key from the log.
async fn value(here: &Plane, key: &str) -> Option<String> {
    let get = here.get(&format!("/kv/{key}"));
    let answer = get.header("tidepool-consistency", "log").send().await;
    match answer.status {
        404 => None,
        _ => Some(answer.expect(200).json()["value"].as_str()?.to_owned()),
    }
}

#[tokio::test]
async fn a_wait_for_the_log_ends_at_the_deadline_and_its_outcome_is_unknown() {
    let setup = Setup::new().set("limits.wall=300ms");
    let server = setup.regions(&["here"]).start().await;
    let here = server.region("here").clone();
    here.write("before", "v").await;
    let held = Held::hold(&server);
    let start = Instant::now();
    for method in ["PUT", "DELETE"] {
        let write = here.call(method, "/kv/k").value("late").send().await;
        let document = write.problem(504, "outcome-unknown");
        assert_eq!(document["operation"], method.to_lowercase());
        assert_eq!(document["revision"], 1);
        let detail = document["detail"].as_str().unwrap();
        assert!(detail.contains("limits.wall"), "{detail}");
        assert!(detail.contains("read the key"), "{detail}");
        // Reads wait for no write.
        assert_eq!(value(&here, "before").await.as_deref(), Some("v"));
        assert_eq!(value(&here, "k").await, None);
    }
    assert!(start.elapsed() >= Duration::from_millis(600));
    held.release();
    // This one is behind the two, which the log then does in their order.
    here.write("after", "v").await;
    let get = here.get("/kv/k").header("tidepool-consistency", "log");
    let answer = get.send().await;
    answer.problem(404, "not-found");
    assert!(answer.version() > 0);
}

#[tokio::test]
async fn a_write_with_an_id_is_sent_again_until_its_outcome_is_known() {
    let setup = Setup::new().set("limits.wall=300ms");
    let server = setup.regions(&["here", "there"]).start().await;
    let send = |region: &str| {
        let put = server.region(region).put("/kv/k").value("v");
        let put = put.header("if-none-match", "*");
        put.header("idempotency-key", "one-write").send()
    };
    let held = Held::hold(&server);
    for region in ["here", "there", "here"] {
        send(region).await.problem(504, "outcome-unknown");
    }
    held.release();
    let first = send("there").await.expect(201);
    let again = send("here").await.expect(201);
    assert_eq!(first.text(), again.text());
    assert_eq!(first.version(), again.version());
    let database = server.setup().data().join("tidepool.db");
    let rows = Connection::open(database).unwrap();
    let count = "SELECT count(*) FROM kv_log WHERE key = 'k'";
    let count: i64 = rows.query_row(count, (), |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn more_calls_than_may_wait_are_refused_at_once() {
    let setup = Setup::new()
        .set("handlers.concurrency=1")
        .set("handlers.queue=2")
        .set("handlers.queue_wait=1min")
        .set("limits.wall=1min");
    let server = setup.regions(&["here"]).start().await;
    let here = server.region("here").clone();
    let held = Held::hold(&server);
    let mut puts = tokio::task::JoinSet::new();
    for n in 0..10 {
        puts.spawn(here.put(&format!("/kv/k{n}")).value("v").send());
    }
    // One is in, two wait, and the others know it already.
    for _ in 0..7 {
        let refused = puts.join_next().await.unwrap().unwrap();
        let document = refused.problem(503, "overloaded");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(document["operation"], "put");
    }
    // Other operations have slots of their own.
    assert_eq!(value(&here, "k0").await, None);
    held.release();
    for answer in puts.join_all().await {
        answer.expect(201);
    }
}

#[tokio::test]
async fn a_call_does_not_wait_for_its_turn_for_ever() {
    let setup = Setup::new()
        .set("handlers.concurrency=1")
        .set("handlers.queue_wait=100ms")
        .set("limits.wall=1min");
    let server = setup.regions(&["here"]).start().await;
    let here = server.region("here").clone();
    let held = Held::hold(&server);
    let mut puts = tokio::task::JoinSet::new();
    for n in 0..5 {
        puts.spawn(here.put(&format!("/kv/k{n}")).value("v").send());
    }
    for _ in 0..4 {
        let refused = puts.join_next().await.unwrap().unwrap();
        refused.problem(503, "overloaded");
    }
    held.release();
    puts.join_next().await.unwrap().unwrap().expect(201);
}
