//! The log: the append-only table `kv_log`, the only truth. This file is the
//! contract; each backend is a file beside it.
//!
//! A backend MUST:
//! - answer an append only after the row is durable;
//! - compute the version inside the transaction that inserts the row, by
//!   [`Version::next`](crate::model::Version::next) on the latest version of
//!   the key and the database's clock;
//! - decide a condition in that same transaction, against the key's live
//!   value, exactly, however many writers there are;
//! - append nothing for an id by which it knows a row of the key: one that was
//!   appended with it less than [`REMEMBERED`](write_id::REMEMBERED) ago, by the
//!   database's clock. It answers the receipt of that row, or
//!   [`AppendError::IdReused`] when the change is another one. That comes before
//!   the condition, in the same transaction, and is as exact;
//! - answer [`AppendError::OutcomeUnknown`] when it cannot tell whether the
//!   row is durable, and never take that for success or failure;
//! - answer a read with every append acknowledged before the read began, and a
//!   stale read with every append acknowledged so long before.
//!
//! It MUST NOT touch a cache.

pub mod look;
pub mod schema;
pub mod sql;
pub mod sqlite;
pub mod write_id;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::model::{Condition, Key, State, Version};

pub use write_id::WriteId;

/// What an append makes of the key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A value.
    Put {
        /// The bytes.
        value: Bytes,
        /// Media type to keep with it.
        content_type: Option<Arc<str>>,
        /// How long it exists, counted from the database's clock.
        ttl: Option<Duration>,
    },
    /// A tombstone.
    Delete,
}

/// A durable append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The version that the key has now.
    pub version: Version,
    /// The database's clock when it was written, microseconds since the Unix
    /// epoch.
    pub timestamp_micros: i64,
}

/// Why an append has no receipt.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AppendError {
    /// The condition does not hold. Nothing was written.
    #[error("the precondition does not hold")]
    PreconditionFailed {
        /// Version of the key's live value.
        current: Option<Version>,
    },
    /// The id belongs to another change of the key. Nothing was written.
    #[error("the id was given to another change of the key; give each change an id of its own")]
    IdReused,
    /// Nothing was written; a later try may succeed.
    #[error("the log cannot be written: {0}")]
    Unavailable(String),
    /// It may or may not have been written.
    #[error("the log did not say whether the write is durable: {0}")]
    OutcomeUnknown(String),
}

/// Why a read has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// A later try may succeed.
    #[error("the log cannot be read: {0}")]
    Unavailable(String),
}

/// See the head of this file.
#[async_trait]
pub trait Log: Send + Sync {
    /// Appends a row. Dropping the future does not undo it. After
    /// [`AppendError::OutcomeUnknown`] the same append with the same `id` finds out.
    async fn append(
        &self,
        key: Key,
        change: Change,
        condition: Condition,
        id: Option<WriteId>,
    ) -> Result<Receipt, AppendError>;

    /// The latest state of a key.
    async fn read(&self, key: &Key) -> Result<State, ReadError>;

    /// A state of a key that was the latest at most `age` ago, from wherever that is
    /// quick to have. Where nothing is quicker it is [`Log::read`].
    async fn read_stale(&self, key: &Key, _age: Duration) -> Result<State, ReadError> {
        self.read(key).await
    }
}
