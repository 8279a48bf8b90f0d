//! `tidepool serve` over real servers: everything that the data plane and the
//! regions promise over the embedded log, and what only real servers can do to
//! it. PostgreSQL and Redis are started by the tests.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

#[path = "../http/bodies.rs"]
mod bodies;
mod commands;
#[path = "../http/conditions.rs"]
mod conditions;
#[path = "../http/connections.rs"]
mod connections;
mod database;
mod deployments;
mod everything;
#[path = "../http/freshness.rs"]
mod freshness;
mod hosts;
#[path = "../http/keys.rs"]
mod keys;
mod kills;
#[path = "../scenarios/promise.rs"]
mod promise;
mod redis;
mod refusals;
mod regions;
#[path = "../http/repeats.rs"]
mod repeats;
#[path = "../http/requests.rs"]
mod requests;
mod swaps;
#[path = "../http/values.rs"]
mod values;

use std::time::{Duration, Instant};

use serde_json::Value;
use tidepool_tests::cluster::Database;
use tidepool_tests::servers::Redis;
use tidepool_tests::{Answer, Cluster, PATIENCE, Plane, Server, Setup};

/// Three regions.
type Three = Cluster;

/// Three regions, each a host with its Redis, on one database.
async fn three() -> Three {
    Cluster::start().await
}

/// A host with one region, and that region's data plane.
async fn one() -> (Server, Plane) {
    with(Setup::new()).await
}

/// The same, with settings.
async fn with(setup: Setup) -> (Server, Plane) {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let setup = setup.over("here", database.url(), &redis.url());
    let server = setup.keep((database, redis)).start().await;
    let plane = server.region("here").clone();
    (server, plane)
}

/// Asks again and again until the answer is as wanted; how long that took. Nothing
/// else tells of what happens inside a server.
async fn until(plane: &Plane, path: &str, wanted: impl Fn(&Answer) -> bool) -> (Answer, Duration) {
    let start = Instant::now();
    loop {
        let answer = plane.get(path).send().await;
        if wanted(&answer) {
            return (answer, start.elapsed());
        }
        assert!(start.elapsed() < PATIENCE, "{answer:#?}");
    }
}

/// Waits until a region says that it is ready.
async fn ready(plane: &Plane) {
    until(plane, "/readyz", |answer| answer.status == 200).await;
}

/// Asserts that an answer has this value, from there.
#[track_caller]
fn says(answer: Answer, value: &str, from: &str) -> Answer {
    let answer = answer.expect(200);
    assert_eq!(answer.json()["value"], value, "{answer:#?}");
    assert_eq!(answer.header("x-cache"), Some(from), "{answer:#?}");
    answer
}

/// The report of the only region of a host.
async fn report(host: &Server) -> Value {
    let reports = host.admin().get("/v1/regions").send().await.expect(200);
    reports.json()[0].clone()
}
