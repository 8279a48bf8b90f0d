//! The feed itself: one connection, a walk over all keys when there is no position,
//! and then ranges of transactions, each streamed in batches. State changes only
//! after the last `await` of a call: a dropped call goes on where it was.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use futures_util::future::join;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, RowStream, Statement};

use super::PostgresFeedSettings;
use super::horizon::Horizon;
use super::snapshot::Snapshot;
use super::statements::{IDENTITY, KEYS, NEWEST, SCAN_KEYS, Statements};
use crate::feed::counters::FeedCounters;
use crate::feed::mark::Mark;
use crate::feed::{Event, Feed, FeedError, Position};
use crate::log::sql::rows::{COLUMN_COUNT, decode};
use crate::log::sql::statements::CHANNEL;
use crate::model::Row;
use crate::sql::{ConnectionTask, ServerKind, SqlConfig, connect_dedicated};

/// Transactions that one statement looks at, at first: where a feed that has been
/// away for long can be resumed in between. It doubles while nothing is found.
const STRIDE: i64 = 4096;

/// Larger than every key: no UTF-8 has this byte.
const ABOVE_ALL_KEYS: &[u8] = &[0xff];

/// An open feed.
pub(super) struct PostgresFeed {
    client: Client,
    notified: watch::Receiver<u64>,
    /// It cuts the connection when the feed is dropped.
    _task: ConnectionTask,
    config: SqlConfig,
    settings: PostgresFeedSettings,
    counters: Arc<FeedCounters>,
    statements: Statements,
    identity: String,
    table: u32,
    stage: Stage,
    /// What was delivered.
    seen: Snapshot,
    /// The newest transaction of which something was.
    newest: i64,
    horizon: Horizon,
    /// What the next `Resolved` says; never goes back.
    as_of: i64,
    /// When an idle feed says `Resolved` again.
    heartbeat: Instant,
    /// What the statement under way gives.
    stream: Option<Pin<Box<RowStream>>>,
    /// Rows of the next batch.
    batch: Vec<Row>,
    batch_bytes: usize,
    /// How many keys a scan will meet, about.
    total: Option<u64>,
    /// What comes after the batch that was given last.
    scanned: Option<Event>,
    /// Whether there were rows since the last `Resolved`.
    unresolved: bool,
}

#[derive(Clone, Debug)]
enum Stage {
    /// The newest rows of the keys, downwards; `page` of this page were taken.
    Scan { mark: Mark, page: i64 },
    /// What is new by a snapshot, some transactions at a time.
    Range(Range),
    /// Something was delivered: say so.
    Resolve { then: Box<Stage> },
    /// Take a snapshot.
    Look,
    /// Nothing is new.
    Wait,
}

#[derive(Clone, Debug)]
struct Range {
    target: Snapshot,
    /// What is complete when all of it was delivered.
    as_of: i64,
    stride: i64,
    /// Whether this part had rows.
    found: bool,
}

impl PostgresFeed {
    pub async fn open(
        config: &SqlConfig,
        settings: PostgresFeedSettings,
        counters: Arc<FeedCounters>,
        after: Option<Position>,
    ) -> Result<PostgresFeed, FeedError> {
        let interrupted = |error: crate::sql::SqlError| FeedError::Interrupted(error.to_string());
        let (client, task, kind) = connect_dedicated(config).await.map_err(interrupted)?;
        if !matches!(kind, ServerKind::Postgres { .. }) {
            return Err(FeedError::Interrupted(format!(
                "the server is now {kind}, and was PostgreSQL; start this host anew"
            )));
        }
        let opening = Self::start(client, task, config, settings, counters, after);
        match timeout(config.request_timeout, opening).await {
            Ok(feed) => feed,
            Err(_) => Err(interrupted(config.silent())),
        }
    }

    async fn start(
        client: Client,
        task: ConnectionTask,
        config: &SqlConfig,
        settings: PostgresFeedSettings,
        counters: Arc<FeedCounters>,
        after: Option<Position>,
    ) -> Result<PostgresFeed, FeedError> {
        let failed = |error| FeedError::Interrupted(config.statement_error(&error).to_string());
        // Before the first look: nothing can be committed unheard between the two.
        // Its statements run for as long as the reader takes, and are many and cheap.
        let listen = format!("SET statement_timeout = 0; SET jit = off; LISTEN {CHANNEL}");
        client.batch_execute(&listen).await.map_err(failed)?;
        let identity = client.query_one(IDENTITY, &[]).await.map_err(failed)?;
        let table: u32 = identity.try_get(1).map_err(failed)?;
        let identity: String = identity.try_get(0).map_err(failed)?;
        let statements = Statements::prepare(&client).await.map_err(failed)?;
        let mut feed = PostgresFeed {
            notified: task.notifications(),
            client,
            _task: task,
            config: config.clone(),
            settings,
            counters,
            statements,
            identity,
            table,
            stage: Stage::Look,
            seen: Snapshot {
                end: 0,
                open: Vec::new(),
            },
            newest: 0,
            horizon: Horizon::default(),
            as_of: 0,
            heartbeat: Instant::now(),
            stream: None,
            batch: Vec::new(),
            batch_bytes: 0,
            total: None,
            scanned: None,
            unresolved: true,
        };
        let (as_of, now) = feed.look().await?;
        let mark = match after {
            None => {
                let newest = feed.client.query_one(NEWEST, &[&now.end]).await;
                let newest = newest.and_then(|row| row.try_get::<_, Option<i64>>(0));
                feed.newest = newest.map_err(failed)?.unwrap_or(0);
                feed.seen = now;
                feed.as_of = as_of;
                Some(Mark::new(feed.position(), as_of))
            }
            Some(position) => {
                let mark = Mark::decode(&position);
                let start = mark.as_ref().map_or(&position.0, |mark| &mark.start);
                let lost = |why: String| FeedError::PositionLost(format!("{start}: {why}"));
                let seen = Snapshot::decode(start, &feed.identity).map_err(lost)?;
                if seen.end > now.end {
                    return Err(lost(format!(
                        "the log is only at {}; it was restored from an older copy",
                        now.end
                    )));
                }
                feed.newest = seen.end - 1;
                feed.seen = seen;
                feed.as_of = mark.as_ref().map_or(0, |mark| mark.as_of_micros);
                mark
            }
        };
        if let Some(mark) = mark {
            feed.total = feed.estimate().await;
            feed.stage = Stage::Scan { mark, page: 0 };
        }
        Ok(feed)
    }

    /// How many keys there are, if that is to be had for nothing.
    async fn estimate(&self) -> Option<u64> {
        // Progress is told without it, so it is no reason to stop.
        let found = self.client.query_opt(KEYS, &[&self.table]).await;
        let keys: Option<i64> = found.ok()??.try_get(0).ok()?;
        u64::try_from(keys?).ok()
    }

    /// Up to when everything is seen by a snapshot, and that snapshot.
    async fn look(&mut self) -> Result<(i64, Snapshot), FeedError> {
        let parameters: [&(dyn ToSql + Sync); 1] = [&self.table];
        // Two statements: the snapshot is taken after the holders are known.
        let both = join(
            self.client.query_one(&self.statements.holders, &parameters),
            self.client.query_one(&self.statements.snapshot, &[]),
        );
        let (holders, snapshot) = self.in_time(both).await?;
        let (holders, snapshot) = (self.done(holders)?, self.done(snapshot)?);
        let now: i64 = self.done(holders.try_get(0))?;
        let holders: Vec<String> = self.done(holders.try_get(1))?;
        let text: &str = self.done(snapshot.try_get(0))?;
        let snapshot = Snapshot::parse(text).ok_or_else(|| {
            FeedError::Interrupted(format!("the server's snapshot cannot be read: {text}"))
        })?;
        Ok((self.horizon.look(now, holders), snapshot))
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, FeedError> {
        let done = timeout(self.config.request_timeout, work).await;
        done.map_err(|_| FeedError::Interrupted(self.config.silent().to_string()))
    }

    fn done<T>(&self, done: Result<T, tokio_postgres::Error>) -> Result<T, FeedError> {
        done.map_err(|error| {
            FeedError::Interrupted(self.config.statement_error(&error).to_string())
        })
    }

    /// Starts a statement whose rows come one by one.
    async fn stream(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Pin<Box<RowStream>>, FeedError> {
        let started = self.client.query_raw(statement, parameters.iter().copied());
        let started = self.in_time(started).await?;
        Ok(Box::pin(self.done(started)?))
    }

    /// Takes the next row of the statement under way into the batch.
    async fn take(&mut self) -> Result<(), FeedError> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        let next = timeout(self.config.request_timeout, stream.try_next()).await;
        let next = next.map_err(|_| FeedError::Interrupted(self.config.silent().to_string()))?;
        let Some(row) = self.done(next)? else {
            self.stream = None;
            self.ended();
            return Ok(());
        };
        match &mut self.stage {
            Stage::Scan { mark, page } => {
                let key: Result<&[u8], _> = row.try_get(0);
                let key = key.map_err(|error| FeedError::Interrupted(error.to_string()))?;
                mark.pass(1, key);
                *page += 1;
            }
            Stage::Range(range) => {
                range.found = true;
                let transaction: i64 = self.done(row.try_get(COLUMN_COUNT))?;
                self.newest = self.newest.max(transaction);
            }
            _ => {}
        }
        match decode(&row) {
            Ok(row) => {
                let value = row.value.as_ref().map_or(0, |value| value.bytes.len());
                self.batch_bytes += std::mem::size_of::<Row>() + row.key.as_str().len() + value;
                self.batch.push(row);
                self.unresolved = true;
            }
            // Somebody else has written it.
            Err(why) => {
                if let Some(skipped) = self.counters.skipped.count() {
                    tracing::error!(
                        why,
                        skipped,
                        "a row of the log is left out; the key that it was for may be stale in \
                         this region's cache"
                    );
                }
            }
        }
        Ok(())
    }

    /// The statement of this stage has given all its rows.
    fn ended(&mut self) {
        let then = match &mut self.stage {
            Stage::Scan { page, .. } if *page >= SCAN_KEYS => {
                *page = 0;
                return;
            }
            Stage::Scan { .. } => Stage::Look,
            Stage::Range(range) => {
                let until = range.until(&self.seen);
                self.seen = range.target.before(until);
                if until == range.target.end {
                    self.as_of = self.as_of.max(range.as_of);
                    Stage::Wait
                } else {
                    range.stride = match range.found {
                        true => STRIDE,
                        false => range.stride.saturating_mul(2),
                    };
                    range.found = false;
                    Stage::Range(range.clone())
                }
            }
            _ => return,
        };
        self.stage = self.say_so(then);
    }

    /// Says `Resolved` first, if there is something to say or it is time to.
    fn say_so(&self, then: Stage) -> Stage {
        match self.unresolved || Instant::now() >= self.heartbeat {
            true => Stage::Resolve {
                then: Box::new(then),
            },
            false => then,
        }
    }

    /// The rows of the batch, unless it is empty.
    fn flush(&mut self) -> Option<Event> {
        self.batch_bytes = 0;
        let rows = std::mem::take(&mut self.batch);
        if let Stage::Scan { mark, .. } = &self.stage {
            self.scanned = Some(mark.scanned(self.total));
        }
        (!rows.is_empty()).then_some(Event::Rows(rows))
    }

    /// See `snapshot.rs`: nothing above what is known to be on disk.
    fn position(&self) -> String {
        let position = self.seen.before(self.newest.saturating_add(1));
        position.encode(&self.identity)
    }

    fn resolved(&mut self) -> Event {
        self.heartbeat = Instant::now() + self.settings.resolved_every;
        self.unresolved = false;
        Event::Resolved {
            position: Position(self.position()),
            as_of_micros: self.as_of,
        }
    }

    /// Goes on with no statement under way; gives an event when one is due.
    async fn step(&mut self) -> Result<Option<Event>, FeedError> {
        match &self.stage {
            Stage::Scan { mark, .. } => {
                let below = match mark.last.is_empty() {
                    true => ABOVE_ALL_KEYS,
                    false => &mark.last,
                };
                let parameters: [&(dyn ToSql + Sync); 2] = [&below, &SCAN_KEYS];
                self.stream = Some(self.stream(&self.statements.scan, &parameters).await?);
            }
            Stage::Range(range) => {
                let ended = self.seen.ended_by(&range.target);
                let until = range.until(&self.seen);
                let open = &range.target.open;
                let parameters: [&(dyn ToSql + Sync); 4] = [&ended, &self.seen.end, &until, open];
                self.stream = Some(self.stream(&self.statements.range, &parameters).await?);
            }
            Stage::Resolve { then } => {
                if self.batch.is_empty() {
                    self.stage = (**then).clone();
                    return Ok(Some(self.resolved()));
                }
                return Ok(self.flush());
            }
            Stage::Look => {
                self.notified.borrow_and_update();
                let (as_of, target) = self.look().await?;
                self.stage = if target == self.seen {
                    self.as_of = self.as_of.max(as_of);
                    self.say_so(Stage::Wait)
                } else {
                    Stage::Range(Range {
                        target,
                        as_of,
                        stride: STRIDE,
                        found: false,
                    })
                };
            }
            Stage::Wait => {
                if let Ok(Err(_)) = timeout_at(self.heartbeat, self.notified.changed()).await {
                    let lost = "the connection to the database was lost";
                    return Err(FeedError::Interrupted(lost.into()));
                }
                self.stage = Stage::Look;
            }
        }
        Ok(None)
    }
}

impl Range {
    /// The end of the next part.
    fn until(&self, seen: &Snapshot) -> i64 {
        let until = seen.end.saturating_add(self.stride);
        until.min(self.target.end)
    }
}

#[async_trait]
impl Feed for PostgresFeed {
    async fn next(&mut self) -> Result<Event, FeedError> {
        loop {
            let full = self.batch.len() >= self.settings.batch_rows
                || self.batch_bytes >= self.settings.batch_bytes;
            if full && let Some(rows) = self.flush() {
                return Ok(rows);
            }
            if self.batch.is_empty()
                && let Some(scanned) = self.scanned.take()
            {
                return Ok(scanned);
            }
            if self.stream.is_some() {
                self.take().await?;
            } else if let Some(event) = self.step().await? {
                return Ok(event);
            }
        }
    }
}
