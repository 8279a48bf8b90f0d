//! Keeping and distributing what is deployed: the contract. Each backend is a
//! file beside it.
//!
//! A backend MUST:
//! - give entries numbers without a gap, so that whoever has read to some number
//!   misses nothing by asking for what comes after it: an append names its number,
//!   one more than the last, and of two for one number one wins;
//! - answer an append only after it is durable, and
//!   [`AppendError::OutcomeUnknown`] when it cannot tell;
//! - end [`Ledger::changed`] soon after an append or a report by any host, and
//!   anyway now and then: what it tells is a hint, and can be lost;
//! - give the bytes of a component back only when they have its digest.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::event::{Entry, NewEntry};
use crate::model::Operation;

/// Entries that one read gives at most.
pub const PAGE: usize = 1000;

/// How long [`Ledger::changed`] takes at most.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How long a component is kept though nothing refers to it: longer than what lies
/// between sending its bytes and appending the event that names them.
pub const KEEP_UNUSED: Duration = Duration::from_secs(60 * 60);

/// How long a host is taken for alive after its last report.
pub const ALIVE: Duration = Duration::from_secs(30);

/// Why the ledger does not answer. Nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the record of deployments cannot be used: {0}; try again")]
pub struct LedgerError(pub String);

/// Why an entry was not appended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AppendError {
    /// The number has another entry: read it, and decide again.
    #[error("somebody else was first")]
    Taken,
    /// Nothing was written.
    #[error(transparent)]
    Unavailable(#[from] LedgerError),
    /// It may have been written: read the number to find out.
    #[error("the record of deployments did not say whether it was written: {0}")]
    OutcomeUnknown(String),
}

/// What a host says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostReport {
    /// Random, made at its start.
    pub host: String,
    /// The regions that it serves.
    pub regions: Vec<String>,
    /// The last entry that it has made true.
    pub applied: u64,
    /// Why some slots do not run what the ledger says, if any.
    pub problems: Vec<HostProblem>,
}

impl HostReport {
    /// What keeps it from doing what the ledger says of a slot, if anything does.
    pub fn problem_with(&self, region: &str, operation: Operation) -> Option<&str> {
        let about = |problem: &&HostProblem| match &problem.slot {
            Some((there, what)) => there == region && *what == operation,
            None => true,
        };
        let problem = self.problems.iter().find(about);
        problem.map(|problem| problem.text.as_str())
    }
}

/// Why a host does not do what the ledger says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostProblem {
    /// Of which slot; without, of all.
    pub slot: Option<(String, Operation)>,
    /// Why.
    pub text: String,
}

/// See the head of this file.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// The entries after a number, in order; at most [`PAGE`].
    async fn after(&self, seq: u64) -> Result<Vec<Entry>, LedgerError>;

    /// Appends the entry with this number.
    async fn append(&self, seq: u64, entry: NewEntry) -> Result<(), AppendError>;

    /// Keeps a component, at least for [`KEEP_UNUSED`] from now.
    async fn put_component(&self, digest: Digest, bytes: Bytes) -> Result<(), LedgerError>;

    /// The bytes of a component.
    async fn component(&self, digest: Digest) -> Result<Bytes, LedgerError>;

    /// Forgets the components that are not among these and were not put within
    /// [`KEEP_UNUSED`].
    async fn keep_components(&self, used: Vec<Digest>) -> Result<(), LedgerError>;

    /// Says what a host is doing, in place of what it said before.
    async fn report(&self, report: HostReport) -> Result<(), LedgerError>;

    /// The database's clock, by which entries are dated: microseconds since the Unix
    /// epoch.
    async fn now_micros(&self) -> Result<i64, LedgerError>;

    /// The hosts that reported within [`ALIVE`].
    async fn hosts(&self) -> Result<Vec<HostReport>, LedgerError>;

    /// Ends when there may be something new, at the latest after
    /// [`LONGEST_WAIT`]. What happened since the last call ends it at once.
    async fn changed(&self);
}

/// As the databases have numbers; there are no larger ones in them.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A time in microseconds.
pub(super) fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// The bytes, if they are there and have the digest.
pub(super) fn checked(digest: Digest, bytes: Option<Bytes>) -> Result<Bytes, LedgerError> {
    let bytes = bytes.ok_or_else(|| {
        LedgerError(format!(
            "it does not have the component {digest}; deploy it again"
        ))
    })?;
    if Digest::of(&bytes) != digest {
        return Err(LedgerError(format!(
            "the component {digest} is damaged there; deploy it again"
        )));
    }
    Ok(bytes)
}
