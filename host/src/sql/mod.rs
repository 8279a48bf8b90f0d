//! Speaking to PostgreSQL and CockroachDB: what log, feed, deployments, quarantine
//! and checks share. It must not know what a table holds.
//!
//! - `url.rs`: from `DATABASE_URL` to what a connection needs (pure but for the
//!   certificate files)
//! - `tls.rs`: what libpq's `sslmode` means, in terms of rustls
//! - `server.rs`: what the server is, and whether it is new enough (pure)
//! - `error.rs`: what a failure means, and what to do about it (pure)
//! - `connect.rs`: one connection, to any of the hosts
//! - `pool.rs`: a few connections that many requests share

/// The clock of the database, as SQL: microseconds since the Unix epoch.
macro_rules! now {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::int8"
    };
}
pub(crate) use now;

mod connect;
mod error;
mod pool;
mod server;
mod tls;
mod url;

pub use connect::{Backoff, ConnectionTask, connect_dedicated, ready_to_write};
pub(crate) use error::PRIVILEGES;
pub use error::{Class, SqlError, classify, quote};
pub use pool::{Pool, TRIES};
pub use server::{NotSupported, ServerKind};
pub use url::{SqlConfig, UrlError};
