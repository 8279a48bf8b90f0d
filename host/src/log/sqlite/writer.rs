//! The writer: one thread that owns the only connection that writes, and commits
//! in groups. Whatever was queued while the last commit waited for the disk goes
//! into the next one, so a slow disk makes bigger groups and not longer queues.
//!
//! It must not answer before the commit: also a failed condition was decided
//! against rows that the same commit makes true.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::{oneshot, watch};

use super::database::{SqliteSettings, explain};
use super::horizon::Horizon;
use crate::clock::Clock;
use crate::log::write_id::REMEMBERED;
use crate::log::{AppendError, Change, Receipt, WriteId};
use crate::model::{Condition, Key, Version};

/// Statements of one append, kept prepared.
const LATEST: &str = "SELECT version FROM kv_log WHERE key = ?1 ORDER BY version DESC LIMIT 1";
const LATEST_WITH_STATE: &str =
    "SELECT version, deleted, expires_at FROM kv_log WHERE key = ?1 ORDER BY version DESC LIMIT 1";
pub(super) const KNOWN: &str =
    "SELECT version, timestamp, deleted, content_type, expires_at, value FROM kv_log
     WHERE key = ?1 AND write_id = ?2 AND timestamp > ?3 ORDER BY version DESC LIMIT 1";
const INSERT: &str = "INSERT INTO kv_log
     (key, version, timestamp, deleted, content_type, expires_at, value, write_id)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

type Reply = oneshot::Sender<Result<Receipt, AppendError>>;

/// An append on its way.
pub(super) struct Append {
    pub key: Key,
    pub change: Change,
    pub condition: Condition,
    pub id: Option<WriteId>,
    pub reply: Reply,
}

impl Append {
    fn bytes(&self) -> usize {
        let value = match &self.change {
            Change::Put { value, .. } => value.len(),
            Change::Delete => 0,
        };
        std::mem::size_of::<Append>() + self.key.as_str().len() + value
    }
}

/// What the writer can be asked for.
pub(super) enum Job {
    Append(Append),
    /// Runs between two groups; it does its own transaction and its own answer.
    Exec(Box<dyn FnOnce(&mut Connection) + Send>),
    /// Everything queued before is done first.
    Close,
}

/// The way to the writer: a queue bounded in jobs and in bytes.
pub(super) struct Queue {
    jobs: SyncSender<Job>,
    bytes: Arc<AtomicUsize>,
    max_bytes: usize,
}

impl Queue {
    /// Queues a job, or says why not.
    pub fn send(&self, job: Job) -> Result<(), String> {
        let bytes = match &job {
            Job::Append(append) => append.bytes(),
            Job::Exec(_) | Job::Close => 0,
        };
        // What is alone in the queue is let in, whatever its size.
        let queued = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let refusal = if queued > 0 && queued + bytes > self.max_bytes && bytes > 0 {
            OVERLOADED
        } else {
            match self.jobs.try_send(job) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(_)) => OVERLOADED,
                Err(TrySendError::Disconnected(_)) => CLOSED,
            }
        };
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        Err(refusal.into())
    }
}

/// What an overloaded writer says.
const OVERLOADED: &str = "too many writes are waiting for the disk; try again later";
/// What a closed writer says.
pub(super) const CLOSED: &str = "the log is closed; this process is stopping";

/// The thread's own.
pub(super) struct Writer {
    connection: Connection,
    jobs: Receiver<Job>,
    queued_bytes: Arc<AtomicUsize>,
    settings: SqliteSettings,
    clock: Arc<dyn Clock>,
    committed: watch::Sender<i64>,
    horizon: Arc<Horizon>,
}

impl Writer {
    /// A writer on its connection, and the way to it.
    pub fn new(
        connection: Connection,
        settings: SqliteSettings,
        clock: Arc<dyn Clock>,
        committed: watch::Sender<i64>,
        horizon: Arc<Horizon>,
    ) -> (Writer, Queue) {
        let (sender, jobs) = sync_channel(settings.queue_jobs);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let queue = Queue {
            jobs: sender,
            bytes: queued_bytes.clone(),
            max_bytes: settings.queue_bytes,
        };
        (
            Writer {
                connection,
                jobs,
                queued_bytes,
                settings,
                clock,
                committed,
                horizon,
            },
            queue,
        )
    }

    /// Works until it is closed, or until nobody can ask any more; then hands the
    /// connection back.
    pub fn run(mut self) -> Connection {
        let mut group = Vec::new();
        while let Ok(job) = self.jobs.recv() {
            if self.step(job, &mut group).is_break() {
                break;
            }
        }
        self.connection
    }

    /// Does a job, with as much of what waits behind it as fits into a commit.
    fn step(&mut self, first: Job, group: &mut Vec<Append>) -> ControlFlow<()> {
        let mut bytes = 0;
        let mut next = Some(first);
        let after = loop {
            match next.take().map_or_else(|| self.jobs.try_recv(), Ok) {
                Ok(Job::Append(append)) => {
                    bytes += append.bytes();
                    group.push(append);
                    if group.len() >= self.settings.group_appends
                        || bytes >= self.settings.group_bytes
                    {
                        break None;
                    }
                }
                Ok(other) => break Some(other),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break None,
            }
        };
        // The group has a bound of its own; who is answered can write again.
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.commit(group);
        match after {
            Some(Job::Exec(work)) => work(&mut self.connection),
            Some(Job::Close) => return ControlFlow::Break(()),
            Some(Job::Append(_)) | None => {}
        }
        ControlFlow::Continue(())
    }

    fn commit(&mut self, group: &mut Vec<Append>) {
        if group.is_empty() {
            return;
        }
        self.horizon.begin();
        let (answers, last_seq) = match self.write_group(group) {
            Ok(done) => done,
            Err(error) => {
                let why = explain(&error);
                self.roll_back(&why);
                self.horizon.end();
                return answer_all(group, &AppendError::Unavailable(why));
            }
        };
        if let Err(error) = self
            .connection
            .prepare_cached("COMMIT")
            .and_then(|mut commit| commit.execute(()))
        {
            // The frames may be in the file without being known to be durable: after
            // a crash they may or may not be found.
            let why = explain(&error);
            self.roll_back(&why);
            self.horizon.end();
            return answer_all(group, &AppendError::OutcomeUnknown(why));
        }
        // Before the feeds are woken: they are to see the whole commit in the time.
        self.horizon.end();
        if let Some(seq) = last_seq {
            self.committed.send_replace(seq);
        }
        for (append, answer) in group.drain(..).zip(answers) {
            // Nobody may be waiting any more; the row stays.
            let _ = append.reply.send(answer);
        }
    }

    #[expect(clippy::type_complexity, reason = "said once, read once")]
    fn write_group(
        &self,
        group: &[Append],
    ) -> rusqlite::Result<(Vec<Result<Receipt, AppendError>>, Option<i64>)> {
        self.connection
            .prepare_cached("BEGIN IMMEDIATE")?
            .execute(())?;
        let mut latest = self.connection.prepare_cached(LATEST)?;
        let mut latest_with_state = self.connection.prepare_cached(LATEST_WITH_STATE)?;
        let mut known = self.connection.prepare_cached(KNOWN)?;
        let mut insert = self.connection.prepare_cached(INSERT)?;
        let mut answers = Vec::with_capacity(group.len());
        let mut last_seq = None;
        for Append {
            key,
            change,
            condition,
            id,
            ..
        } in group
        {
            let key = key.as_str();
            let now = self.clock.now_micros();
            if let Some(id) = id {
                let since = now.saturating_sub(micros(REMEMBERED));
                let first = known
                    .query_row(params![key, id.number(), since], |row| first(row, change))
                    .optional()?;
                if let Some(answer) = first {
                    answers.push(answer);
                    continue;
                }
            }
            let newest = if *condition == Condition::None {
                latest
                    .query_row([key], |row| row.get(0).map(Version))
                    .optional()?
            } else {
                let found = latest_with_state
                    .query_row([key], |row| {
                        Ok((Version(row.get(0)?), row.get(1)?, row.get(2)?))
                    })
                    .optional()?;
                let live =
                    found.and_then(|(version, deleted, expires_at): (_, bool, Option<i64>)| {
                        (!deleted && expires_at.is_none_or(|at| at > now)).then_some(version)
                    });
                if !condition.holds(live) {
                    answers.push(Err(AppendError::PreconditionFailed { current: live }));
                    continue;
                }
                found.map(|(version, ..)| version)
            };
            let version = Version::next(newest, now);
            let (value, content_type, expires_at) = columns(change, now);
            let row = params![
                key,
                version.0,
                now,
                value.is_none(),
                content_type,
                expires_at,
                value,
                id.map(WriteId::number)
            ];
            last_seq = Some(insert.insert(row)?);
            answers.push(Ok(Receipt {
                version,
                timestamp_micros: now,
            }));
        }
        Ok((answers, last_seq))
    }

    fn roll_back(&self, why: &str) {
        tracing::error!(why, "a group of writes has failed");
        // Some failures have rolled back already.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "and could not be rolled back");
        }
    }
}

/// What a change is in a row that is written at `now`: value, content type, and
/// when it stops existing. A row without a value is a tombstone.
fn columns(change: &Change, now: i64) -> (Option<&[u8]>, Option<&str>, Option<i64>) {
    match change {
        Change::Put {
            value,
            content_type,
            ttl,
        } => (
            Some(&value[..]),
            content_type.as_deref(),
            ttl.map(|ttl| now.saturating_add(micros(ttl))),
        ),
        Change::Delete => (None, None, None),
    }
}

/// The answer to a change whose id is that of a row of [`KNOWN`].
fn first(row: &Row<'_>, change: &Change) -> rusqlite::Result<Result<Receipt, AppendError>> {
    let receipt = Receipt {
        version: Version(row.get(0)?),
        timestamp_micros: row.get(1)?,
    };
    let (value, content_type, expires_at) = columns(change, receipt.timestamp_micros);
    let same = row.get::<_, bool>(2)? == value.is_none()
        && row.get_ref(3)?.as_str_or_null()? == content_type
        && row.get::<_, Option<i64>>(4)? == expires_at
        && row.get_ref(5)?.as_blob_or_null()? == value;
    Ok(match same {
        true => Ok(receipt),
        false => Err(AppendError::IdReused),
    })
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn answer_all(group: &mut Vec<Append>, error: &AppendError) {
    for append in group.drain(..) {
        let _ = append.reply.send(Err(error.clone()));
    }
}
