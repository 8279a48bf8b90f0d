//! The feed of an embedded database: the log's own rows in the order of `seq`,
//! which is the order of their commits because there is one writer. It must not
//! write.
//!
//! Without a position it notes the last `seq`, walks over all keys page by page,
//! taking the newest row of each, and follows from the noted `seq`. Rows that are
//! committed meanwhile come twice; none is left out.
//!
//! Every page is a read of its own, so no snapshot stays open while the reader is
//! busy, and nothing is buffered but the page that is being handed over. State
//! changes only after the last `await` of a call: a dropped call reads again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::{Event, Feed, FeedError, FeedSource, Position};
use crate::log::ReadError;
use crate::log::sqlite::SqliteDatabase;
use crate::log::sqlite::rows::{COLUMNS, Stored, decode};
use crate::model::{Key, Row};

/// Bounds of a feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SqliteFeedSettings {
    /// Most rows in a batch.
    pub batch_rows: usize,
    /// Bytes after which a batch takes no more rows.
    pub batch_bytes: usize,
    /// How often an idle feed says that it is alive.
    pub resolved_every: Duration,
}

impl Default for SqliteFeedSettings {
    fn default() -> Self {
        SqliteFeedSettings {
            batch_rows: 512,
            batch_bytes: 4 * 1024 * 1024,
            resolved_every: Duration::from_secs(1),
        }
    }
}

/// Opens feeds of a database.
#[derive(Clone, Debug)]
pub struct SqliteFeedSource {
    database: Arc<SqliteDatabase>,
    settings: SqliteFeedSettings,
}

impl SqliteFeedSource {
    /// Feeds of this database.
    pub fn new(database: Arc<SqliteDatabase>, settings: SqliteFeedSettings) -> SqliteFeedSource {
        SqliteFeedSource { database, settings }
    }
}

#[async_trait]
impl FeedSource for SqliteFeedSource {
    async fn open(&self, after: Option<Position>) -> Result<Box<dyn Feed>, FeedError> {
        let committed = self.database.committed();
        // Before the read: every row with an earlier timestamp is in it.
        let as_of = self.database.complete_until();
        let last = self.database.read(last_seq).await.map_err(interrupted)?;
        let (stage, seq, as_of) = match after {
            None => (Stage::Scan { after: None }, last, as_of),
            // Nothing after the position was delivered yet, however old it is.
            Some(position) => (Stage::Follow, resume(&position, last)?, 0),
        };
        Ok(Box::new(SqliteFeed {
            database: self.database.clone(),
            settings: self.settings,
            committed,
            stage,
            seq,
            as_of,
            heartbeat: Instant::now(),
        }))
    }
}

struct SqliteFeed {
    database: Arc<SqliteDatabase>,
    settings: SqliteFeedSettings,
    committed: watch::Receiver<i64>,
    stage: Stage,
    /// Every row up to here was delivered, or will have been when the scan ends.
    seq: i64,
    /// What the next `Resolved` says; never goes back.
    as_of: i64,
    /// When an idle feed says `Resolved` again.
    heartbeat: Instant,
}

enum Stage {
    /// Newest rows of the keys after this one.
    Scan { after: Option<Key> },
    /// A range was delivered: say so.
    Resolve,
    /// Rows after `seq`.
    Follow,
}

/// Rows of one read, and whether it stopped at a bound.
struct Page {
    rows: Vec<Stored>,
    cut: bool,
}

#[async_trait]
impl Feed for SqliteFeed {
    async fn next(&mut self) -> Result<Event, FeedError> {
        loop {
            match &self.stage {
                Stage::Scan { after } => {
                    let page = self.read_scan(after.clone()).await?;
                    match page.rows.last() {
                        Some(last) => {
                            self.stage = Stage::Scan {
                                after: Some(last.row.key.clone()),
                            }
                        }
                        None => {
                            self.stage = Stage::Resolve;
                            continue;
                        }
                    }
                    return Ok(Event::Rows(rows(page)));
                }
                Stage::Resolve => {
                    self.stage = Stage::Follow;
                    return Ok(self.resolved());
                }
                Stage::Follow => {
                    self.committed.borrow_and_update();
                    let as_of = self.database.complete_until();
                    let page = self.read_after(self.seq).await?;
                    // Rows that a bound has cut off may be older than the read, but
                    // none is older than the last row before them.
                    let as_of = page
                        .rows
                        .last()
                        .filter(|_| page.cut)
                        .map_or(as_of, |last| last.timestamp);
                    if let Some(last) = page.rows.last() {
                        self.as_of = self.as_of.max(as_of);
                        self.seq = last.seq;
                        self.stage = Stage::Resolve;
                        return Ok(Event::Rows(rows(page)));
                    }
                    if Instant::now() >= self.heartbeat {
                        self.as_of = self.as_of.max(as_of);
                        return Ok(self.resolved());
                    }
                    if let Ok(Err(_)) = timeout_at(self.heartbeat, self.committed.changed()).await {
                        return Err(FeedError::Interrupted("the log is closed".into()));
                    }
                }
            }
        }
    }
}

impl SqliteFeed {
    fn resolved(&mut self) -> Event {
        self.heartbeat = Instant::now() + self.settings.resolved_every;
        Event::Resolved {
            position: Position(self.seq.to_string()),
            as_of_micros: self.as_of,
        }
    }

    async fn read_scan(&self, after: Option<Key>) -> Result<Page, FeedError> {
        let settings = self.settings;
        let scan = move |connection: &Connection| {
            // A seek per key, past all its older versions. No key is empty, so all
            // are after the empty one.
            let next_key = format!(
                "SELECT {COLUMNS} FROM kv_log WHERE key > ?1 ORDER BY key, version DESC LIMIT 1"
            );
            let mut next_key = connection.prepare_cached(&next_key)?;
            let mut after = after;
            collect(settings, || {
                let from = after.as_ref().map_or("", Key::as_str);
                let found = next_key.query_row([from], decode).optional()?;
                after = found.as_ref().map(|stored| stored.row.key.clone());
                Ok(found)
            })
        };
        self.database.read(scan).await.map_err(interrupted)
    }

    async fn read_after(&self, seq: i64) -> Result<Page, FeedError> {
        let settings = self.settings;
        let follow = move |connection: &Connection| {
            let rows = format!("SELECT {COLUMNS} FROM kv_log WHERE seq > ?1 ORDER BY seq");
            let mut rows = connection.prepare_cached(&rows)?;
            let mut rows = rows.query_map([seq], decode)?;
            collect(settings, || rows.next().transpose())
        };
        self.database.read(follow).await.map_err(interrupted)
    }
}

fn collect(
    settings: SqliteFeedSettings,
    mut next: impl FnMut() -> rusqlite::Result<Option<Stored>>,
) -> rusqlite::Result<Page> {
    let mut page = Page {
        rows: Vec::new(),
        cut: false,
    };
    let mut bytes = 0;
    while let Some(stored) = next()? {
        bytes += stored.bytes();
        page.rows.push(stored);
        page.cut = page.rows.len() >= settings.batch_rows || bytes >= settings.batch_bytes;
        if page.cut {
            break;
        }
    }
    Ok(page)
}

fn rows(page: Page) -> Vec<Row> {
    page.rows.into_iter().map(|stored| stored.row).collect()
}

/// The highest `seq` that was ever given, also when its row was purged.
fn last_seq(connection: &Connection) -> rusqlite::Result<i64> {
    let last = connection.query_row(
        "SELECT seq FROM sqlite_sequence WHERE name = 'kv_log'",
        (),
        |row| row.get(0),
    );
    Ok(last.optional()?.unwrap_or(0))
}

fn resume(position: &Position, last: i64) -> Result<i64, FeedError> {
    match position.0.parse::<i64>() {
        Ok(seq) if (0..=last).contains(&seq) => Ok(seq),
        Ok(seq) => Err(FeedError::PositionLost(format!(
            "position {seq} is past the last row, {last}; the log was restored from an older copy"
        ))),
        Err(_) => Err(FeedError::PositionLost(format!(
            "{position} is not a position of this log"
        ))),
    }
}

fn interrupted(error: ReadError) -> FeedError {
    FeedError::Interrupted(error.to_string())
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
