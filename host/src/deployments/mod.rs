//! Deployments as data: what is deployed is a ledger of events in the log's
//! database, read by every host of every region. It must not run components:
//! `handlers` makes true in this process what the ledger says.
//!
//! - `digest.rs`: what names a component
//! - `config.rs`: the configuration that it runs with
//! - `event.rs`: what can happen
//! - `slot.rs`: what one slot runs, and has run (pure)
//! - `state.rs`: what all that has happened amounts to (pure)
//! - `plan.rs`: a deployment that goes on by itself, step by step (pure)
//! - `command.rs`: what somebody wants, and the event that it becomes (pure);
//!   `refusal.rs`: why it does not
//! - `ledger.rs`: the contract of keeping and distributing it; `sqlite.rs` and
//!   `sql/` are its backends

pub mod command;
pub mod config;
pub mod digest;
pub mod event;
pub mod ledger;
pub mod plan;
pub mod refusal;
pub mod slot;
pub mod sql;
pub mod sqlite;
pub mod state;

pub use command::{Candidate, Command};
pub use config::{Config, ConfigChange};
pub use digest::Digest;
pub use event::{Entry, Event, NewEntry, QuarantineChange, Share};
pub use ledger::{AppendError, HostProblem, HostReport, Ledger, LedgerError};
pub use plan::{Outline, Plan};
pub use refusal::Refusal;
pub use slot::{Component, Recorded, SlotState};
pub use state::State;
