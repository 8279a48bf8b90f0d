//! Real servers for tests and benchmarks: each is started on a free port with
//! its data in a temporary folder, and killed when it is dropped.
//!
//! A server whose program is missing is a failed test, never a skipped one:
//! `make init` installs it.

pub mod redis;

pub use redis::Redis;
