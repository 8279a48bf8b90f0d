//! Deployments as data: what is deployed is a ledger of events in the log's
//! database, read by every host of every region. It must not run components:
//! `handlers` makes true in this process what the ledger says.
//!
//! - `digest.rs`: what names a component
//! - `event.rs`: what can happen
//! - `state.rs`: what all that has happened amounts to (pure)
//! - `command.rs`: what somebody wants, and the event that it becomes (pure)
//! - `ledger.rs`: the contract of keeping and distributing it; `sqlite.rs` and
//!   `sql/` are its backends

pub mod command;
pub mod digest;
pub mod event;
pub mod ledger;
pub mod sql;
pub mod sqlite;
pub mod state;

pub use command::{Command, Refusal};
pub use digest::Digest;
pub use event::{Entry, Event, NewEntry, Share};
pub use ledger::{AppendError, HostReport, Ledger, LedgerError};
pub use state::{Component, Recorded, SlotState, State};
