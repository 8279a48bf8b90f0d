//! The open embedded database: one writer, some readers, and the number of the
//! last committed row for whoever follows. Log, feed and deployments share it; it
//! must not know what they keep in it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::{oneshot, watch};

use super::horizon::Horizon;
use super::open::{self, OpenError, Opened};
use super::readers::Readers;
use super::writer::{CLOSED, Job, Queue, Writer};
use crate::clock::Clock;
use crate::log::ReadError;

/// Bounds of an embedded database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SqliteSettings {
    /// Connections that only read.
    pub readers: usize,
    /// How long a read waits for one of them.
    pub read_wait: Duration,
    /// Most writes that wait for the writer.
    pub queue_jobs: usize,
    /// Most bytes of keys and values that wait for the writer. One write is let in
    /// whatever its size.
    pub queue_bytes: usize,
    /// Most appends in one commit.
    pub group_appends: usize,
    /// Bytes after which a commit takes no more appends.
    pub group_bytes: usize,
    /// Pages (4 KiB) of write-ahead log after which a commit also moves them to
    /// the main file: more makes the move rarer, and each one longer.
    pub checkpoint_pages: u32,
    /// Page cache of the writer, in KiB.
    pub page_cache_kib: u32,
    /// How long opening looks for damage; a file too big to be looked through in
    /// this time is opened, and damage met later is an error of that read.
    pub damage_check: Duration,
}

impl Default for SqliteSettings {
    fn default() -> Self {
        SqliteSettings {
            readers: 4,
            read_wait: Duration::from_secs(2),
            queue_jobs: 4096,
            queue_bytes: 64 * 1024 * 1024,
            group_appends: 1024,
            group_bytes: 8 * 1024 * 1024,
            checkpoint_pages: 4000,
            page_cache_kib: 32 * 1024,
            damage_check: Duration::from_secs(1),
        }
    }
}

/// Why work on the writer's connection has no result.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExecError {
    /// Nothing was changed.
    #[error("the database did not do it: {0}")]
    Failed(String),
    /// It may or may not be durable.
    #[error("the database did not say whether it is durable: {0}")]
    OutcomeUnknown(String),
}

/// An open embedded database. Dropping it finishes what is queued.
pub struct SqliteDatabase {
    queue: Mutex<Option<Arc<Queue>>>,
    readers: Readers,
    committed: watch::Receiver<i64>,
    writer: Mutex<Option<JoinHandle<()>>>,
    closed: watch::Receiver<bool>,
    clock: Arc<dyn Clock>,
    horizon: Arc<Horizon>,
}

impl SqliteDatabase {
    /// Opens the database of a data folder, or makes both. Only one process at a
    /// time can have it.
    pub fn open(
        data_dir: &Path,
        clock: Arc<dyn Clock>,
        settings: SqliteSettings,
    ) -> Result<Arc<SqliteDatabase>, OpenError> {
        let Opened {
            lock,
            writer,
            readers,
            last_seq,
        } = open::open(data_dir, &settings)?;
        let (publish, committed) = watch::channel(last_seq);
        let (say_closed, closed) = watch::channel(false);
        let readers = Readers::new(readers, settings.read_wait);
        let horizon = Arc::new(Horizon::new(clock.clone()));
        let (writer, queue) =
            Writer::new(writer, settings, clock.clone(), publish, horizon.clone());
        let work = move || {
            finish(writer.run());
            // Whoever waits for the end can open the folder again.
            drop(lock);
            say_closed.send_replace(true);
        };
        let thread = thread::Builder::new().name("log-writer".into()).spawn(work);
        let thread = thread.map_err(|source| OpenError::io(data_dir, source))?;
        Ok(Arc::new(SqliteDatabase {
            queue: Mutex::new(Some(Arc::new(queue))),
            readers,
            committed,
            writer: Mutex::new(Some(thread)),
            closed,
            clock,
            horizon,
        }))
    }

    /// Runs `work` in a transaction of its own, on the writer's thread: committed
    /// durably if it gives `Ok`, rolled back if not. Keep it short, writes wait.
    pub async fn exec<R, F>(&self, work: F) -> Result<R, ExecError>
    where
        R: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> rusqlite::Result<R> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = move |connection: &mut Connection| {
            // A panic in there is the caller's; the writer serves everybody.
            let done = catch_unwind(AssertUnwindSafe(|| transact(connection, work)));
            let _ = reply
                .send(done.unwrap_or_else(|_| Err(ExecError::Failed("it has panicked".into()))));
        };
        self.queue(Job::Exec(Box::new(job)))
            .map_err(ExecError::Failed)?;
        answer
            .await
            .unwrap_or_else(|_| Err(ExecError::OutcomeUnknown(CLOSED.into())))
    }

    /// Runs `work` on a connection that only reads, on a blocking thread.
    pub async fn read<R, F>(&self, work: F) -> Result<R, ReadError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<R> + Send + 'static,
    {
        self.readers.run(work).await
    }

    /// The position of the last committed row of the log, as it moves. It ends
    /// when the database is closed.
    pub fn committed(&self) -> watch::Receiver<i64> {
        self.committed.clone()
    }

    /// Every row with an earlier timestamp (microseconds since the Unix epoch) is
    /// seen by a read that begins now.
    pub fn complete_until(&self) -> i64 {
        self.horizon.micros()
    }

    /// The database's clock: microseconds since the Unix epoch.
    pub fn now_micros(&self) -> i64 {
        self.clock.now_micros()
    }

    /// Refuses new work, does what is queued, tidies the files up and gives the
    /// folder free. Calling it again waits for the same end.
    pub async fn close(&self) {
        let queue = self.queue.lock().take();
        self.readers.close().await;
        if let Some(queue) = queue {
            // Dropping the queue ends the writer too, should there be no room.
            let _ = queue.send(Job::Close);
        }
        let _ = self.closed.clone().wait_for(|closed| *closed).await;
    }

    pub(super) fn queue(&self, job: Job) -> Result<(), String> {
        let queue = self.queue.lock().clone();
        queue.ok_or(CLOSED)?.send(job)
    }
}

impl Drop for SqliteDatabase {
    fn drop(&mut self) {
        self.queue.get_mut().take();
        if let Some(writer) = self.writer.get_mut().take()
            && writer.thread().id() != thread::current().id()
        {
            let _ = writer.join();
        }
    }
}

impl fmt::Debug for SqliteDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteDatabase")
            .field("committed", &*self.committed.borrow())
            .finish_non_exhaustive()
    }
}

fn transact<R>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<R>,
) -> Result<R, ExecError> {
    let failed = |error: rusqlite::Error| ExecError::Failed(explain(&error));
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    let result = work(&transaction).map_err(failed)?;
    transaction
        .commit()
        .map_err(|error| ExecError::OutcomeUnknown(explain(&error)))?;
    Ok(result)
}

fn finish(connection: Connection) {
    // Not needed for durability: the next start has nothing to recover.
    if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())) {
        tracing::warn!(%error, "the write-ahead log stays for the next start");
    }
}

/// What a database error means for an operator.
pub(super) fn explain(error: &rusqlite::Error) -> String {
    use rusqlite::Error::{FromSqlConversionFailure, InvalidColumnType};
    const DAMAGED: &str =
        "the database file is damaged; stop tidepool and restore the data folder from a copy";
    match (error, error.sqlite_error_code()) {
        (FromSqlConversionFailure(..) | InvalidColumnType(..), _)
        | (_, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) => {
            format!("{DAMAGED} ({error})")
        }
        (_, Some(ErrorCode::DiskFull)) => "the disk is full; free some space".into(),
        (_, Some(ErrorCode::ReadOnly)) => {
            "the database file cannot be written; check its permissions".into()
        }
        (_, Some(ErrorCode::SystemIoFailure)) => format!("the disk has failed; check it ({error})"),
        _ => error.to_string(),
    }
}
