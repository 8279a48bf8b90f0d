//! Handlers: from a component's bytes to an answer.
//!
//! The walk of a deployment: [`registry`] takes the bytes, [`load`] checks them
//! ([`verify`]), has them compiled in a process of their own ([`compile`],
//! [`engine`]) unless they have been ([`compiled`]), and calls them once
//! ([`selftest`]), [`store`] records the revision, the registry swaps the table. The walk of a request:
//! the registry gives the slot's [`revision`], that takes an [`instance`]
//! through the slot's door ([`slot`]), and the component's answer is checked
//! ([`answer`]).

pub mod answer;
pub mod compile;
pub mod compiled;
mod digest;
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
mod verify;
