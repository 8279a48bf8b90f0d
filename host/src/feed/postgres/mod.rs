//! The feed of PostgreSQL: the log's own rows, by the transaction that wrote each.
//! It must not write, and leaves nothing on the server: a region that is away costs
//! it nothing.
//!
//! A position is a snapshot: which transactions had ended. What is new is what a
//! later snapshot sees and that one did not, which are the transactions since, and
//! those that were under way then. So a transaction that is open for long delays
//! nobody's rows but its own, and none of them is sent twice for it.
//!
//! Without a position it takes a snapshot, walks over all keys page by page, taking
//! the newest row of each, and follows from that snapshot. Rows that are committed
//! meanwhile come twice; none is left out.
//!
//! Each page of the walk sees more than that snapshot, and so does one that goes on
//! after an interruption. That is enough: a row that the snapshot saw is seen by every
//! page, so its key is given in this version or a newer one, and a row that it did not
//! see follows. No snapshot has to be kept open for it, and none could outlive the
//! connection.
//!
//! - `snapshot.rs`: snapshots and positions (pure)
//! - `horizon.rs`: up to which time the log is complete (pure)
//! - `statements.rs`: what is asked
//! - `follow.rs`: the feed itself

mod follow;
mod horizon;
mod snapshot;
mod statements;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::counters::FeedCounters;
use super::{Feed, FeedCounts, FeedError, FeedSource, Position};
use crate::sql::SqlConfig;
use follow::PostgresFeed;

/// Bounds of a feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PostgresFeedSettings {
    /// Most rows in a batch.
    pub batch_rows: usize,
    /// Bytes after which a batch takes no more rows.
    pub batch_bytes: usize,
    /// How often an idle feed says that it is alive, and looks for rows that nobody
    /// has woken it for.
    pub resolved_every: Duration,
}

/// Opens feeds of a database; each has a connection of its own.
#[derive(Clone, Debug)]
pub struct PostgresFeedSource {
    config: SqlConfig,
    settings: PostgresFeedSettings,
    counters: Arc<FeedCounters>,
}

impl PostgresFeedSource {
    /// Feeds of this database, whose tables the log has made.
    pub fn new(config: SqlConfig, settings: PostgresFeedSettings) -> PostgresFeedSource {
        PostgresFeedSource {
            config,
            settings,
            counters: Arc::default(),
        }
    }
}

#[async_trait]
impl FeedSource for PostgresFeedSource {
    async fn open(&self, after: Option<Position>) -> Result<Box<dyn Feed>, FeedError> {
        let counters = Arc::clone(&self.counters);
        let feed = PostgresFeed::open(&self.config, self.settings, counters, after).await?;
        Ok(Box::new(feed))
    }

    fn counts(&self) -> FeedCounts {
        self.counters.counts()
    }
}
