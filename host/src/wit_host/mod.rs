//! The interfaces of `wit/`, as the host serves them: the bindings, then one
//! file per WIT file, each a thin step from a component's call to the cache,
//! the log or the request in progress.
//!
//! Nothing here knows a backend, a slot or a revision.

pub mod bindings;
pub mod cache;
pub mod config;
pub mod context;
pub mod feed;
pub mod http;
pub mod limiter;
pub mod log;
pub mod types;
pub mod wasi;
pub mod worlds;
