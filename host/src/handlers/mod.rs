//! Handlers: from a component's bytes to an answer.
//!
//! The walk of a deployment: [`registry`] takes the bytes, [`load`] checks and
//! compiles them ([`engine`]) and calls them once ([`selftest`]), [`store`]
//! records the revision, the registry swaps the table. The walk of a request:
//! the registry gives the slot's [`revision`], that takes an [`instance`]
//! through the slot's door ([`slot`]), and the component's answer is checked
//! ([`answer`]).

pub mod answer;
pub mod engine;
pub mod error;
pub mod instance;
pub mod load;
mod pool;
pub mod registry;
pub mod revision;
pub mod selftest;
pub mod slot;
pub mod store;
