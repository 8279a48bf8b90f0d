//! The harness of the end-to-end tests: it starts the real binary, speaks HTTP
//! to it, and reads what it logs.
//!
//! ```no_run
//! # async fn example() {
//! use tidepool_tests::Server;
//!
//! let server = Server::start().await;
//! let version = server.region("us-east-1").write("key", "value").await;
//! server.caught_up("eu-west-1", version).await;
//! let answer = server.region("eu-west-1").get("/kv/key").send().await.expect(200);
//! assert_eq!(answer.header("x-cache"), Some("HIT"));
//! # }
//! ```
//!
//! - [`server`]: a running `tidepool dev` or `tidepool serve` on ports and in a
//!   folder of its own; dropping it kills it, and when a test has failed prints
//!   what it logged
//! - [`cluster`]: a `tidepool serve` for each region, over real servers
//! - [`log`]: what it says, to wait for
//! - [`conformance`]: what every backend of a contract has to do
//! - [`client`]: requests to one address, and answers that can be asserted on
//! - [`servers`]: real databases and caches, started for one test, and a stand-in
//!   that plays recorded conversations
//! - [`wire`]: the same without an HTTP library, for what none would send
//! - [`lines`]: answers that come line by line
//! - [`command`]: one run of the command line
//! - [`built`]: where the binary and the components of the tests are
//!
//! Tests wait for events: an answer, a log line, the admin plane's
//! `caught-up`, the end of a process. Every wait has [`PATIENCE`] as its bound
//! and says what it has waited for. Nothing here sleeps.

pub mod built;
pub mod client;
pub mod cluster;
pub mod command;
pub mod conformance;
pub mod lines;
pub mod log;
pub mod server;
pub mod servers;
pub mod wire;

pub use client::{Answer, Plane};
pub use cluster::Cluster;
pub use command::{Ran, Running};
pub use lines::Lines;
pub use server::{Server, Setup};

use std::future::Future;
use std::time::Duration;

/// The regions of a server unless a test names others.
pub const REGIONS: [&str; 3] = ["us-east-1", "us-west-1", "eu-west-1"];

/// How long anything may take before a test fails: far longer than it takes on
/// a busy machine, since only a failure waits for it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for what should happen, for [`PATIENCE`].
///
/// # Panics
///
/// It did not happen; the message names `what`.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {PATIENCE:?} in vain for: {what}"),
    }
}
