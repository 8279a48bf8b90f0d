//! The feed: the log's stream of committed rows. This file is the contract;
//! each backend is a file beside it.
//!
//! A backend MUST:
//! - deliver every committed row at least once; rows of one key may come in
//!   any order;
//! - from no position, scan: deliver the newest row of every key first, without a
//!   gap before what follows;
//! - say after each page of a scan how far it is, with a position from which it
//!   goes on where it was: what was scanned before it is not sent again, and what
//!   was written since the scan began follows, however often it is interrupted;
//! - send [`Event::Resolved`] only when every row committed up to that
//!   position has been delivered before it, and go on sending it while the
//!   log is idle, so that a reader can tell silence from a lost connection;
//! - keep [`Feed::next`] cancel-safe: a dropped call loses no row;
//! - bound what it buffers, and wait when its reader does;
//! - leave a row out that it cannot read, say so and count it
//!   ([`FeedSource::counts`]): a feed that stops would help nobody.

pub mod cockroach;
mod counters;
mod mark;
pub mod postgres;
pub mod sqlite;

use std::fmt;

use async_trait::async_trait;

use crate::model::Row;

pub use counters::FeedCounts;

/// Where a feed can be resumed: opaque text, made and read by the backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position(pub String);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a feed delivers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Committed rows; never empty.
    Rows(Vec<Row>),
    /// How far a scan is.
    Scanned {
        /// Where to resume: what was scanned is not sent again.
        position: Position,
        /// Rows of the scan until here, one for each key, those before an
        /// interruption included.
        rows: u64,
        /// How many there are, about; never less than `rows`. `None`: nobody knows.
        total: Option<u64>,
    },
    /// Everything committed up to here has been delivered. The first one
    /// after a start without a position, or with that of a scan, ends the scan.
    Resolved {
        /// Where to resume.
        position: Position,
        /// Every row with an earlier timestamp (microseconds since the Unix
        /// epoch, the database's clock) has been delivered. A timestamp is
        /// older than its commit: those under way hold this back.
        as_of_micros: i64,
    },
}

/// Why a feed has stopped.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FeedError {
    /// Open it again from the saved position.
    #[error("the feed was interrupted: {0}")]
    Interrupted(String),
    /// The position can no longer be resumed; start without one.
    #[error("the feed cannot be resumed from the saved position: {0}")]
    PositionLost(String),
    /// An operator has to repair something first. What was applied stays right:
    /// open it again from the saved position, now and then.
    #[error("the feed cannot run before this is repaired: {0}")]
    Repair(String),
}

/// An open feed.
#[async_trait]
pub trait Feed: Send {
    /// The next event. After an error the feed is finished.
    async fn next(&mut self) -> Result<Event, FeedError>;
}

/// What opens feeds.
#[async_trait]
pub trait FeedSource: Send + Sync {
    /// Opens a feed after a position; without one, with a scan of everything.
    async fn open(&self, after: Option<Position>) -> Result<Box<dyn Feed>, FeedError>;

    /// What its feeds have met that should not be, since the start.
    fn counts(&self) -> FeedCounts;
}
