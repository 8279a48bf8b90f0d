//! Handlers: from a component's bytes to an answer.
//!
//! The walk of a deployment: [`rollout`] takes the bytes, [`load`] checks them
//! ([`verify`]), has them compiled in a process of their own ([`compile`],
//! [`engine`]) unless they have been ([`compiled`]) and calls them once
//! ([`selftest`]), and the ledger keeps the event (`deployments`). `follow`
//! reads the ledger, on this host and on every other, and swaps the [`table`] of
//! the [`registry`]. Each step is told as it is done ([`progress`]). [`planned`]
//! lets a plan go on, and [`secrets`] has what a configuration refers to.
//! The walk of a request: the table gives the slot's [`revision`], that takes an
//! [`instance`] through the slot's door ([`slot`]; `quick` does without both for a
//! hit at hand), the component's answer is
//! checked ([`answer`]) and counted ([`health`]): a revision that does worse than
//! the one before is taken back (`take_back`). What it prints, and how it fails, can be read
//! ([`logs`]).

pub mod answer;
mod arrival;
mod brake;
pub mod compile;
pub mod compiled;
pub mod engine;
pub mod error;
mod follow;
pub mod health;
pub mod instance;
pub mod listing;
pub mod load;
pub mod load_error;
pub mod logs;
pub mod planned;
mod pool;
pub mod program;
pub mod progress;
mod quick;
pub mod registry;
pub mod revision;
pub mod rollout;
pub mod secrets;
pub mod selftest;
pub mod slot;
pub mod table;
mod take_back;
mod tokens;
mod verify;
