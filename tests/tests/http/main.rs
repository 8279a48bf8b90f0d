//! The data plane over HTTP, one noun in each file: what README.md promises of
//! requests, answers and errors. `cluster` has the same over real servers.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

mod bodies;
mod conditions;
mod connections;
mod freshness;
mod keys;
mod repeats;
mod requests;
mod values;

use tidepool_tests::{Plane, Server, Setup};

/// A server with one region, and that region's data plane.
async fn one() -> (Server, Plane) {
    with(Setup::new()).await
}

/// The same, with settings.
async fn with(setup: Setup) -> (Server, Plane) {
    let server = setup.regions(&["here"]).start().await;
    let plane = server.region("here").clone();
    (server, plane)
}

/// A server with three regions.
async fn three() -> Server {
    Server::start().await
}
