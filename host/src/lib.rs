//! Tidepool's host: it owns every connection, and runs the GET, PUT, DELETE
//! and hydrate logic as WebAssembly components that are swapped while it
//! serves.
//!
//! # The walks
//!
//! Each can be followed through the modules in the order given.
//!
//! - GET: [`http::server`] accepts, [`http::route`] routes, [`http::data`]
//!   takes the slot's revision from [`handlers::registry`],
//!   [`handlers::revision`] an instance, and the `get` component calls
//!   [`wit_host::cache`] and, on a miss, [`wit_host::log`]; the miss is filled
//!   under a lease ([`cache`]), and [`http::respond`] answers.
//! - PUT and DELETE: the same way to the `put` or `delete` component, which
//!   appends through [`wit_host::log`] to the [`log`]; the answer is sent once
//!   the row is durable. Nothing touches a cache.
//! - Hydrate: the [`feed`] delivers rows to the [`hydrate`] worker, the
//!   `hydrate` component decides about the batch, the worker applies it to the
//!   region's [`cache`] in one step and then saves the position. A row that it
//!   cannot decide about is set aside ([`quarantine`]).
//! - Deploy: [`cli`] or [`watch`] sends a component to [`http::admin`],
//!   [`handlers::rollout`] has it checked, compiled in a process of its own
//!   ([`handlers::compile`]) and called once ([`handlers::load`]) and appends it
//!   to the ledger ([`deployments`]), which every host follows
//!   (`handlers/follow.rs`) and swaps it in ([`handlers::table`]); the old
//!   revision drops itself after its last request. Its steps are told as they are
//!   done ([`handlers::progress`], [`http::stream`]).
//! - Logs: what a component prints ([`wit_host::wasi`]), and how it fails, is kept
//!   for a while ([`handlers::logs`]) for whoever follows it.
//!
//! # Layout
//!
//! [`background`] is the thread of everything that is not a request.
//! [`trust`] says whose tokens and whose components are taken. [`sql`] is how log,
//! feed, [`deployments`] and [`quarantine`] speak to PostgreSQL and CockroachDB.
//! [`config`] is what can be set, [`app`] turns it into running regions and is
//! the only place that names backends. [`model`] and [`clock`] are the words,
//! time and chance that all share, [`hex`] a way to write bytes, [`component_file`] one
//! to read a component's. Imports point one way: `http` and `hydrate`
//! to `handlers`, to `wit_host` and `deployments`, to `cache` and `log`.

pub mod app;
pub mod background;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod component_file;
pub mod config;
pub mod defaults;
pub mod deployments;
pub mod doctor;
pub mod feed;
pub mod handlers;
pub mod hex;
pub mod http;
pub mod hydrate;
pub mod log;
pub mod model;
pub mod quarantine;
pub mod sql;
pub mod trust;
pub mod watch;
pub mod wit_host;
