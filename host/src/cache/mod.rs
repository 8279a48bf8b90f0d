//! The cache: a region's copy of the newest version of keys. This file is the
//! contract; each backend is a file or folder beside it, and the conformance suite
//! of the tests package runs over all of them.
//!
//! A backend MUST:
//! - never let an entry go back to an older version, also not by way of an
//!   entry that was evicted or a tombstone that has expired in between;
//! - keep a delete as a tombstone for longer than any replay or stale fill
//!   can take, and only then forget it;
//! - hand out at most one lease per key at a time, revoke it when a change to
//!   the key is applied, whatever the decision, and refuse a fill without it;
//! - keep the feed position with the data, so that both are lost together, and
//!   replace it only by compare-and-set: a hydrator that follows a feed from
//!   before the cache was flushed or restored must not stamp its own, later,
//!   position on a cache that has lost what led up to it;
//! - refuse rows, with [`CacheError::Moved`], when it can have lost something since
//!   its position was last read or saved here;
//! - let at most one of the hydrators that share it lead at a time;
//! - stay within its memory bound.

pub mod memory;
pub mod redis;
pub mod versioned;

use std::time::Duration;

use async_trait::async_trait;

use crate::feed::Position;
use crate::model::{Key, Row, State, Version};

/// The right to fill one key once.
#[derive(PartialEq, Eq, Debug)]
pub struct Lease {
    /// The key.
    pub key: Key,
    /// Which lease of that key.
    pub token: u64,
}

/// What a lookup finds.
#[derive(PartialEq, Eq, Debug)]
pub enum Lookup {
    /// The state of the key as the cache has it. [`State::Absent`] is a
    /// negative entry: the log was asked lately and had nothing.
    Found(State),
    /// Not in the cache, or older than asked for. Without a lease somebody
    /// else is filling the key, or there are too many leases: read the log
    /// and leave the cache alone.
    Miss(Option<Lease>),
}

/// What to do with a row. Whatever is chosen, the cache keeps nothing older
/// than the row afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Keep it.
    Store,
    /// Keep it if the cache has an entry for the key.
    Refresh,
    /// Do not keep it.
    Evict,
}

/// Bytes of a value that [`Cache::holdings`] gives at least.
pub const SHOWN_BYTES: usize = 256;

/// What an applied batch did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Rows that the cache now holds.
    pub stored: u64,
    /// Rows that were older than what it had, or not to be kept.
    pub skipped: u64,
}

/// What stands in the place of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// What the key is, as of when it was stored.
    State(State),
    /// The lease of whoever fills it.
    Lease,
}

/// What a cache holds of a key, for people who look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holding {
    /// The key.
    pub key: String,
    /// What is there; `None`: nothing that is an entry of ours.
    pub held: Option<Held>,
    /// How long it will be there, unless it is evicted.
    pub left: Option<Duration>,
}

/// Counters and sizes, for operators.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct CacheStats {
    /// Whether it answers. While it does not, the log does.
    pub reachable: bool,
    /// Entries, tombstones and negative entries included.
    pub entries: u64,
    /// Bytes accounted for.
    pub bytes: u64,
    /// The bound on `bytes`.
    pub max_bytes: u64,
    /// Entries given up to stay within the bound, since the start.
    pub evictions: u64,
    /// Lookups that met something that is no entry.
    pub damaged: u64,
    /// Rows and fills that were not kept because there was no memory for them.
    pub out_of_memory: u64,
}

/// Why a cache did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be reached. Go to the log.
    #[error("the cache cannot be reached: {0}")]
    Unavailable(String),
    /// It may have lost something since its position was read. Nothing was applied
    /// that is not in the log; start again from [`Cache::position`].
    #[error("the cache was flushed, restored or restarted")]
    Moved,
}

/// See the head of this file.
#[async_trait]
pub trait Cache: Send + Sync {
    /// A look that needs no waiting: `None` when only [`Cache::peek`] or
    /// [`Cache::lookup`] can tell. It spares a hit in process memory the cost of
    /// a future.
    fn lookup_now(&self, key: &str, at_least: Option<Version>) -> Option<State>;

    /// A look that changes nothing: what there is, if that is as fresh as asked.
    async fn peek(&self, key: &Key, at_least: Option<Version>)
    -> Result<Option<State>, CacheError>;

    /// Looks a key up that was not to be seen before, and takes its lease. While
    /// somebody else holds that it waits for the fill, for a bounded time.
    async fn lookup(&self, key: &Key, at_least: Option<Version>) -> Result<Lookup, CacheError>;

    /// Fills a key with what the log said after the lease was given; that read
    /// must reflect every row applied before the lease. `false`: the lease was
    /// revoked or has expired, the cache has a newer version, or the value is
    /// too big to be kept.
    async fn fill(&self, lease: Lease, state: &State) -> Result<bool, CacheError>;

    /// Gives a lease back unused.
    fn release(&self, lease: Lease);

    /// Applies rows, each with its decision, in one step. A position must have
    /// been read or saved before.
    ///
    /// `rows` and `decisions` have the same length; a row without a decision is
    /// evicted.
    async fn apply(&self, rows: &[Row], decisions: &[Decision]) -> Result<Applied, CacheError>;

    /// The saved feed position.
    async fn position(&self) -> Result<Option<Position>, CacheError>;

    /// Saves the feed position if the saved one is still `previous`. `false`:
    /// it is not, because the cache was flushed, restored, or follows another
    /// hydrator; start again from [`Cache::position`].
    async fn save_position(
        &self,
        previous: Option<&Position>,
        position: &Position,
    ) -> Result<bool, CacheError>;

    /// Takes the lead among the hydrators of this cache for `ttl`, or renews it.
    /// `false`: somebody else has it. `holder` is random, and the same for every
    /// call of one hydrator.
    async fn lead(&self, holder: u64, ttl: Duration) -> Result<bool, CacheError>;

    /// Gives the lead up, if `holder` has it, so that another can take it at once.
    async fn resign(&self, holder: u64) -> Result<(), CacheError>;

    /// What it holds, at most `most` keys, in no order. Values may be cut to their
    /// first [`SHOWN_BYTES`]. It is for people: what comes and goes meanwhile may be
    /// there or not.
    async fn holdings(&self, most: usize) -> Result<Vec<Holding>, CacheError>;

    /// Counters and sizes. Never waits; they may be a second old.
    fn stats(&self) -> CacheStats;
}
