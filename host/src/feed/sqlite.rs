//! The feed of an embedded database: the log's own rows in the order of `seq`,
//! which is the order of their commits because there is one writer. It must not
//! write.
//!
//! Without a position it notes the last `seq`, walks over all keys page by page,
//! taking the newest row of each, and follows from the noted `seq`. Rows that are
//! committed meanwhile come twice; none is left out. A scan that goes on after an
//! interruption is the same with a longer meanwhile.
//!
//! Every page is a read of its own, so no snapshot stays open while the reader is
//! busy, and nothing is buffered but the page that is being handed over. State
//! changes only after the last `await` of a call: a dropped call reads again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row as SqlRow};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::counters::FeedCounters;
use super::mark::Mark;
use super::{Event, Feed, FeedCounts, FeedError, FeedSource, Position};
use crate::log::ReadError;
use crate::log::sqlite::SqliteDatabase;
use crate::log::sqlite::rows::{COLUMNS, Stored, decode};
use crate::model::Row;

/// Keys that are counted before a scan, at most: as many as take about a second.
const COUNTED_KEYS: u64 = 10_000_000;

/// What it means that a row cannot be read.
const DAMAGED: &str = "the file is damaged, and the key that it was for may be stale in the caches";

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
    counters: Arc<FeedCounters>,
}

impl SqliteFeedSource {
    /// Feeds of this database.
    pub fn new(database: Arc<SqliteDatabase>, settings: SqliteFeedSettings) -> SqliteFeedSource {
        SqliteFeedSource {
            database,
            settings,
            counters: Arc::default(),
        }
    }
}

#[async_trait]
impl FeedSource for SqliteFeedSource {
    async fn open(&self, after: Option<Position>) -> Result<Box<dyn Feed>, FeedError> {
        let committed = self.database.committed();
        // Before the read: every row with an earlier timestamp is in it.
        let as_of = self.database.complete_until();
        let last = self.database.read(last_seq).await.map_err(interrupted)?;
        let (mark, seq, as_of) = match after {
            None => (Some(Mark::new(last.to_string(), as_of)), last, as_of),
            Some(position) => match Mark::decode(&position) {
                Some(mark) => {
                    let (seq, as_of) = (resume(&mark.start, last)?, mark.as_of_micros);
                    (Some(mark), seq, as_of)
                }
                // Nothing after the position was delivered yet, however old it is.
                None => (None, resume(&position.0, last)?, 0),
            },
        };
        let stage = match mark {
            None => Stage::Follow,
            Some(mark) => Stage::Scan {
                mark,
                total: self.database.read(count_keys).await.map_err(interrupted)?,
                tell: false,
            },
        };
        Ok(Box::new(SqliteFeed {
            database: self.database.clone(),
            settings: self.settings,
            counters: Arc::clone(&self.counters),
            committed,
            stage,
            seq,
            as_of,
            heartbeat: Instant::now(),
        }))
    }

    fn counts(&self) -> FeedCounts {
        self.counters.counts()
    }
}

struct SqliteFeed {
    database: Arc<SqliteDatabase>,
    settings: SqliteFeedSettings,
    counters: Arc<FeedCounters>,
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
    /// Newest rows of the keys after the mark.
    Scan {
        mark: Mark,
        /// Keys that there are.
        total: Option<u64>,
        /// Whether to say how far it is.
        tell: bool,
    },
    /// A range was delivered: say so.
    Resolve,
    /// Rows after `seq`.
    Follow,
}

/// What one read has found.
#[derive(Default)]
struct Page {
    rows: Vec<Stored>,
    /// Why rows were left out.
    skipped: Vec<String>,
    /// Where the last row was, left out or not.
    last: Option<Place>,
    /// Whether it stopped at a bound; the last row is one of `rows` then.
    cut: bool,
}

struct Place {
    seq: i64,
    key: Vec<u8>,
}

#[async_trait]
impl Feed for SqliteFeed {
    async fn next(&mut self) -> Result<Event, FeedError> {
        loop {
            match &self.stage {
                Stage::Scan { mark, total, tell } => {
                    let mut mark = mark.clone();
                    let total = *total;
                    if *tell {
                        let scanned = mark.scanned(total);
                        let tell = false;
                        self.stage = Stage::Scan { mark, total, tell };
                        return Ok(scanned);
                    }
                    let page = self.read_scan(mark.last.clone()).await?;
                    let Some(last) = &page.last else {
                        self.stage = Stage::Resolve;
                        continue;
                    };
                    mark.pass(page.rows.len() + page.skipped.len(), &last.key);
                    let tell = true;
                    self.stage = Stage::Scan { mark, total, tell };
                    if let Some(rows) = self.rows(page) {
                        return Ok(rows);
                    }
                }
                Stage::Resolve => {
                    self.stage = Stage::Follow;
                    return Ok(self.resolved());
                }
                Stage::Follow => {
                    self.committed.borrow_and_update();
                    let as_of = self.database.complete_until();
                    let page = self.read_after(self.seq).await?;
                    if let Some(last) = &page.last {
                        // Rows that a bound has cut off may be older than the read,
                        // but none is older than the last row before them.
                        let newest = page.rows.last().filter(|_| page.cut);
                        let as_of = newest.map_or(as_of, |row| row.timestamp);
                        self.as_of = self.as_of.max(as_of);
                        self.seq = last.seq;
                        self.stage = Stage::Resolve;
                        match self.rows(page) {
                            Some(rows) => return Ok(rows),
                            None => continue,
                        }
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

    /// The rows of a page, unless there are none; says what was left out.
    fn rows(&self, page: Page) -> Option<Event> {
        for why in page.skipped {
            if let Some(skipped) = self.counters.skipped.count() {
                tracing::error!(why, skipped, "a row of the log is left out: {DAMAGED}");
            }
        }
        let rows: Vec<Row> = page.rows.into_iter().map(|stored| stored.row).collect();
        (!rows.is_empty()).then_some(Event::Rows(rows))
    }

    async fn read_scan(&self, after: Vec<u8>) -> Result<Page, FeedError> {
        let settings = self.settings;
        let scan = move |connection: &Connection| {
            // A seek per key, past all its older versions. No key is empty, so all
            // are after the empty one. What is not text is no key, and is after all.
            let next_key = format!(
                "SELECT {COLUMNS} FROM kv_log WHERE key > ?1 AND typeof(key) = 'text'
                 ORDER BY key, version DESC LIMIT 1"
            );
            let mut next_key = connection.prepare_cached(&next_key)?;
            let mut after = after;
            collect(settings, || {
                let from = ToSqlOutput::Borrowed(ValueRef::Text(&after));
                let found = next_key.query_row([from], read).optional()?;
                if let Some((place, _)) = &found {
                    after.clone_from(&place.key);
                }
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
            let mut rows = rows.query_map([seq], read)?;
            collect(settings, || rows.next().transpose())
        };
        self.database.read(follow).await.map_err(interrupted)
    }
}

/// A row, or why it cannot be read, and its place.
fn read(row: &SqlRow<'_>) -> rusqlite::Result<(Place, Result<Stored, String>)> {
    let place = Place {
        seq: row.get(0)?,
        key: row.get_ref(2)?.as_bytes().unwrap_or_default().to_vec(),
    };
    let stored = decode(row).map_err(|error| error.to_string());
    Ok((place, stored))
}

fn collect(
    settings: SqliteFeedSettings,
    mut next: impl FnMut() -> rusqlite::Result<Option<(Place, Result<Stored, String>)>>,
) -> rusqlite::Result<Page> {
    let mut page = Page::default();
    let mut bytes = 0;
    while let Some((place, found)) = next()? {
        page.last = Some(place);
        match found {
            Ok(stored) => {
                bytes += stored.bytes();
                page.rows.push(stored);
                page.cut = page.rows.len() >= settings.batch_rows || bytes >= settings.batch_bytes;
            }
            Err(why) => page.skipped.push(why),
        }
        if page.cut {
            break;
        }
    }
    Ok(page)
}

/// How many keys there are, up to a bound.
fn count_keys(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    let count =
        format!("SELECT count(*) FROM (SELECT DISTINCT key FROM kv_log LIMIT {COUNTED_KEYS})");
    let keys: u64 = connection.query_row(&count, (), |row| row.get(0))?;
    Ok(Some(keys).filter(|keys| *keys < COUNTED_KEYS))
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

fn resume(position: &str, last: i64) -> Result<i64, FeedError> {
    match position.parse::<i64>() {
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
