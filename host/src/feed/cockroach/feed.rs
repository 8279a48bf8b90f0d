//! A changefeed as events: first the scan, if there is no position, then what was
//! committed after it. What an error means stands in `failure.rs`.
//!
//! Rows wait in `batch` and whatever ends a batch in `held`, both of which outlive a
//! dropped call; nothing is awaited while a batch has rows.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_postgres::{Client, Row as SqlRow};

use super::CockroachFeedSettings;
use super::answer::{Answer, Broken};
use super::decode::{KeyColumn, Message, decode, size};
use super::failure::{Failure, Told, Who, classify, error};
use super::hlc::Hlc;
use super::scan::Scan;
use super::statement::Statement;
use crate::feed::counters::FeedCounters;
use crate::feed::mark::Mark;
use crate::feed::{Event, Feed, FeedError, Position};
use crate::model::Row;
use crate::sql::ConnectionTask;

/// How far the timestamp of a row may be before its commit. What is resolved is told
/// by commits, and `as_of_micros` by timestamps, so it is this much less.
///
/// The timestamp is the clock of the node that wrote the row, and a commit is at the
/// time of the transaction's start unless something has moved it. What holds is: the
/// difference is no more than that of the clocks of two nodes, which the cluster keeps
/// below 0.5 s, and the time from reading the clock to the end of the statement, which
/// is milliseconds, or tens of them on a key that many write. A statement that takes
/// longer than the other 0.5 s, as while a range has no leader, can be told to be
/// delivered a moment before it is.
const BEFORE_COMMIT_MICROS: i64 = 1_000_000;

/// The same at the end of a scan. It shows this very moment, where a changefeed is
/// always behind by `kv.closed_timestamp.target_duration` and has sent most of what
/// came later: there is nothing else that makes up for a slow statement.
const BEFORE_SCAN_MICROS: i64 = 3_000_000;

/// Where a feed starts.
pub(super) enum Start {
    /// With a scan at this moment, which goes on at a mark or begins.
    Scan {
        at: Hlc,
        mark: Option<Mark>,
        /// How many keys there are, about.
        total: Option<u64>,
    },
    /// After this one.
    After(Hlc),
}

/// What was learnt of the server before the feed began.
pub(super) struct Server {
    pub client: Arc<Client>,
    /// Ends the connection with the feed: a changefeed never ends by itself, and a
    /// client that is dropped would wait for that.
    pub _connection: ConnectionTask,
    pub who: Who,
    pub keys: KeyColumn,
}

pub(super) struct CockroachFeed {
    server: Server,
    settings: CockroachFeedSettings,
    counters: Arc<FeedCounters>,
    stage: Stage,
    /// Whether the position, or the moment of the scan, is from an earlier feed.
    resumed: bool,
    answer: Answer,
    batch: Vec<Row>,
    batch_bytes: usize,
    /// What comes after the batch.
    held: Option<Result<Event, FeedError>>,
    /// The last position; never goes back.
    resolved: Option<Hlc>,
    /// When there last was a row, or a later position than before.
    progress: Instant,
}

enum Stage {
    Scan(Scan),
    Follow(Statement),
}

impl CockroachFeed {
    pub fn new(
        server: Server,
        start: Start,
        settings: CockroachFeedSettings,
        counters: Arc<FeedCounters>,
    ) -> CockroachFeed {
        let (stage, resumed, answer, resolved) = match start {
            Start::Scan { at, mark, total } => {
                let resumed = mark.is_some();
                let as_of = at.micros() - BEFORE_SCAN_MICROS;
                let mark = mark.unwrap_or_else(|| Mark::new(at.to_string(), as_of));
                let mut scan = Scan::new(at, mark, total, server.keys, settings.batch_rows);
                let answer = ask_page(&server, &settings, &mut scan);
                (Stage::Scan(scan), resumed, answer, None)
            }
            Start::After(position) => {
                let statement = Statement::new(position, settings.resolved_every);
                let answer = ask_feed(&server, &settings, &statement);
                (Stage::Follow(statement), true, answer, Some(position))
            }
        };
        CockroachFeed {
            server,
            settings,
            counters,
            stage,
            resumed,
            answer,
            batch: Vec::new(),
            batch_bytes: 0,
            held: None,
            resolved,
            progress: Instant::now(),
        }
    }
}

#[async_trait]
impl Feed for CockroachFeed {
    async fn next(&mut self) -> Result<Event, FeedError> {
        loop {
            let found = if self.batch.is_empty() {
                if let Some(held) = self.held.take() {
                    return held;
                }
                self.answer.next().await
            } else {
                let full = self.batch.len() >= self.settings.batch_rows
                    || self.batch_bytes >= self.settings.batch_bytes;
                if full || self.held.is_some() {
                    return Ok(self.rows());
                }
                match self.answer.now() {
                    Some(found) => found,
                    None => return Ok(self.rows()),
                }
            };
            match found {
                Ok(Some(row)) => self.take(&row),
                Ok(None) => self.ended(),
                Err(broken) => self.broken(&broken),
            }
        }
    }
}

impl CockroachFeed {
    fn rows(&mut self) -> Event {
        self.batch_bytes = 0;
        Event::Rows(std::mem::take(&mut self.batch))
    }

    fn push(&mut self, row: Row) {
        self.batch_bytes += size(&row);
        self.batch.push(row);
    }

    fn take(&mut self, found: &SqlRow) {
        let message = match &mut self.stage {
            Stage::Scan(scan) => match scan.take(found) {
                Ok(Ok(row)) => Message::Row { row, updated: None },
                Ok(Err(why)) => Message::Unknown(why),
                Err(wrong) => {
                    let why = format!("the table is not as Tidepool makes it: {wrong}");
                    self.held = Some(Err(FeedError::Repair(why)));
                    return;
                }
            },
            Stage::Follow(_) => match found.try_get(2) {
                Ok(value) => decode(value, self.server.keys),
                Err(wrong) => Message::Unknown(wrong.to_string()),
            },
        };
        match message {
            Message::Row { row, updated } => {
                if updated.is_some() && updated <= self.resolved {
                    self.late(&row, updated);
                }
                self.progress = Instant::now();
                self.push(row);
            }
            Message::Removed => {
                self.progress = Instant::now();
                self.counters.removed.count();
            }
            Message::Resolved(position) => self.resolve(position),
            Message::Unknown(why) => self.skip(&why),
        }
    }

    fn resolve(&mut self, position: Hlc) {
        let before = self.resolved.replace(position);
        if before >= Some(position) {
            // It stands still. That is said, and may not last.
            self.resolved = before;
            if self.progress.elapsed() > self.settings.silence {
                let why = format!(
                    "no row, and no later position than {position}, for {:?}",
                    self.settings.silence
                );
                self.held = Some(Err(FeedError::Interrupted(why)));
                return;
            }
        } else {
            self.progress = Instant::now();
        }
        let position = self.resolved.unwrap_or(position);
        self.held = Some(Ok(Event::Resolved {
            position: Position(position.to_string()),
            as_of_micros: position.micros() - BEFORE_COMMIT_MICROS,
        }));
    }

    fn skip(&self, why: &str) {
        if let Some(skipped) = self.counters.skipped.count() {
            tracing::error!(
                why,
                skipped,
                "a message of the changefeed was not understood and is left out; \
                 the key that it was for may be stale in this region's cache"
            );
        }
    }

    fn late(&self, row: &Row, updated: Option<Hlc>) {
        if let Some(late) = self.counters.late.count() {
            tracing::error!(
                key = row.key.as_str(),
                ?updated,
                late,
                "a row came after a position that should have covered it; \
                 flush this region's cache to be sure of it"
            );
        }
    }

    /// The server has no more rows.
    fn ended(&mut self) {
        let Stage::Scan(scan) = &mut self.stage else {
            let why = "the server has ended the changefeed".into();
            self.held = Some(Err(FeedError::Interrupted(why)));
            return;
        };
        if !scan.is_done() {
            self.held = Some(Ok(scan.mark.scanned(scan.total)));
            self.answer = ask_page(&self.server, &self.settings, scan);
            return;
        }
        let (at, as_of_micros) = (scan.at, scan.mark.as_of_micros);
        let statement = Statement::new(at, self.settings.resolved_every);
        self.answer = ask_feed(&self.server, &self.settings, &statement);
        self.stage = Stage::Follow(statement);
        self.resolved = Some(at);
        self.progress = Instant::now();
        self.held = Some(Ok(Event::Resolved {
            position: Position(at.to_string()),
            as_of_micros,
        }));
    }

    fn broken(&mut self, broken: &Broken) {
        let told = match broken {
            Broken::Silent(bound) => {
                let why = format!("the server was silent for {bound:?}");
                self.held = Some(Err(FeedError::Interrupted(why)));
                return;
            }
            Broken::Failed(error) => Told::of(error),
        };
        match (classify(&told, &self.server.who), &mut self.stage) {
            (Failure::Spelling, Stage::Follow(statement)) => {
                if let Some(other) = statement.otherwise(&told.message) {
                    tracing::info!(refused = told.message, "the changefeed is asked otherwise");
                    self.answer = ask_feed(&self.server, &self.settings, &other);
                    *statement = other;
                    return;
                }
            }
            // It is there now: the connection began with reading it.
            (Failure::NoTable, _) if self.resumed => {
                let why = format!("{}: it was not there then", told.message);
                self.held = Some(Err(FeedError::PositionLost(why)));
                return;
            }
            _ => {}
        }
        self.held = Some(Err(error(&told, &self.server.who)));
    }
}

fn ask_page(server: &Server, settings: &CockroachFeedSettings, scan: &mut Scan) -> Answer {
    let (text, after) = scan.page();
    let wait = settings.answer_wait;
    Answer::ask(&server.client, text, Some(after), wait, wait)
}

fn ask_feed(server: &Server, settings: &CockroachFeedSettings, statement: &Statement) -> Answer {
    Answer::ask(
        &server.client,
        statement.to_string(),
        None,
        settings.answer_wait,
        settings.silence,
    )
}
