//! HTTP: the two planes of a host.
//!
//! The walk of a request: [`server`] accepts it, [`route`] says what it asks
//! for, [`data`] takes it through the slot's revision, [`respond`] writes the
//! answer. [`admin`] does the same for operators; some of its answers come line by
//! line ([`stream`]).

pub mod admin;
mod authority;
pub mod body;
pub(crate) mod cached;
mod connection;
pub mod data;
mod deploy_lines;
mod deploying;
pub mod documents;
mod drain;
pub mod envelope;
mod frames;
mod linger;
mod logs;
mod quarantine;
mod query;
pub mod region;
pub mod respond;
pub mod route;
pub mod server;
pub(crate) mod signed;
pub(crate) mod socket;
pub mod stream;
pub mod tls;
mod tokens;
mod upload;
