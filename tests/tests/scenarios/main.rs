//! The original's promise, kept by one process: `cluster` has the same over real
//! servers.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

mod promise;

use tidepool_tests::Server;

/// Three regions.
type Three = Server;

/// Three regions in one process.
async fn three() -> Three {
    Server::start().await
}
