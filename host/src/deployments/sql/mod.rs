//! The ledger in PostgreSQL or CockroachDB, in tables beside the log's, which the log
//! has made. It must not decide what may be appended.
//!
//! - `statements.rs`: the SQL (pure text)
//! - `hints.rs`: hearing of what other hosts do
//!
//! A component is kept in chunks, each written by itself: what names it is the digest
//! of its bytes, so that it does not matter who has written which of them, and one
//! that is half written is never taken for it.

mod hints;
mod statements;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Error, Row, Statement};

use super::digest::Digest;
use super::event::{self, Entry, NewEntry};
use super::ledger::{
    ALIVE, AppendError, HostReport, KEEP_UNUSED, LONGEST_WAIT, Ledger, LedgerError, PAGE, checked,
    micros, number,
};
use crate::sql::{Backoff, Class, Pool, SqlConfig, TRIES, classify, ready_to_write};
use statements::Statements;

/// Connections for requests; there is one more that listens.
const CONNECTIONS: usize = 2;

/// Bytes of a component in one row. CockroachDB wants rows to be small.
const CHUNK: usize = 512 * 1024;

/// Chunks that one statement writes or reads: 4 MiB.
const CHUNKS_AT_ONCE: usize = 8;

/// After how long a host that says nothing is forgotten.
const FORGET_HOST: Duration = Duration::from_secs(24 * 60 * 60);

/// The ledger on a server.
#[derive(Debug)]
pub struct SqlLedger {
    config: SqlConfig,
    pool: Pool<Statements>,
    changed: Arc<Notify>,
    /// It ends with the ledger.
    _hints: JoinSet<()>,
}

impl SqlLedger {
    /// The ledger of a database whose tables the log has made. Begins to connect and
    /// does not wait for it. Call it inside a tokio runtime.
    pub fn new(mut config: SqlConfig) -> SqlLedger {
        config.connections = CONNECTIONS;
        let settings = config.clone();
        let pool = Pool::new(
            config.clone(),
            Arc::new(move |client, server| {
                let settings = settings.clone();
                Box::pin(async move {
                    ready_to_write(&client, server, &settings).await?;
                    Statements::prepare(&client, server).await
                })
            }),
        );
        let changed = Arc::new(Notify::new());
        let mut hints = JoinSet::new();
        hints.spawn(hints::run(config.clone(), Arc::clone(&changed)));
        SqlLedger {
            config,
            pool,
            changed,
            _hints: hints,
        }
    }

    /// Runs a statement that can be repeated.
    async fn run(
        &self,
        statement: fn(&Statements) -> &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, LedgerError> {
        let rows = self.pool.query(statement, parameters).await;
        rows.map_err(refused)
    }

    /// Wakes the hosts, this one too. Who does not hear of it looks by himself.
    fn wake(&self) {
        self.changed.notify_one();
        // Only if there is a connection now.
        if let Some(Ok(session)) = self.pool.session().now_or_never()
            && let Some(notify) = &session.prepared.notify
        {
            // It is sent at once, and nobody waits for its answer.
            let _ = session.client.execute(notify, &[]).now_or_never();
        }
    }
}

#[async_trait]
impl Ledger for SqlLedger {
    async fn after(&self, seq: u64) -> Result<Vec<Entry>, LedgerError> {
        let (seq, most) = (number(seq), number(PAGE as u64));
        let rows = self.run(|it| &it.after, &[&seq, &most]).await?;
        rows.iter().map(entry).collect()
    }

    /// Waits at most twice `database.request_timeout`: for a connection, and for the
    /// answer.
    async fn append(&self, seq: u64, entry: NewEntry) -> Result<(), AppendError> {
        let seq = number(seq);
        let body = event::encode(&entry.event);
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&seq, &entry.id, &entry.actor, &entry.source, &body];
        let mut backoff = Backoff::new(self.config.request_timeout);
        let mut tries = 1;
        loop {
            let session = self.pool.session().await.map_err(refused)?;
            let sent = session
                .client
                .execute(&session.prepared.append, &parameters);
            let error = match timeout(self.config.request_timeout, sent).await {
                Ok(Ok(_)) => {
                    self.wake();
                    return Ok(());
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    return Err(AppendError::OutcomeUnknown(
                        self.config.silent().to_string(),
                    ));
                }
            };
            match fate(&error) {
                Fate::Taken => return Err(AppendError::Taken),
                Fate::Nothing if classify(&error) == Class::Retry && tries < TRIES => {
                    tries += 1;
                    backoff.wait().await;
                }
                Fate::Nothing => return Err(refused(self.config.statement_error(&error)).into()),
                Fate::Unknown => {
                    let why = self.config.statement_error(&error).to_string();
                    return Err(AppendError::OutcomeUnknown(why));
                }
            }
        }
    }

    async fn put_component(&self, digest: Digest, bytes: Bytes) -> Result<(), LedgerError> {
        let digest = &digest.as_bytes()[..];
        let mut chunks: Vec<&[u8]> = bytes.chunks(CHUNK).collect();
        if chunks.is_empty() {
            // A component without bytes is there nevertheless.
            chunks.push(&[]);
        }
        let mut first: i32 = 0;
        for chunks in chunks.chunks(CHUNKS_AT_ONCE) {
            let places: Vec<i32> = (first..).take(chunks.len()).collect();
            self.run(|it| &it.put, &[&digest, &places, &chunks]).await?;
            first = first.saturating_add(i32::try_from(chunks.len()).unwrap_or(i32::MAX));
        }
        self.run(|it| &it.trim, &[&digest, &first]).await?;
        Ok(())
    }

    async fn component(&self, digest: Digest) -> Result<Bytes, LedgerError> {
        let key = &digest.as_bytes()[..];
        let most = number(CHUNKS_AT_ONCE as u64);
        let mut bytes = BytesMut::new();
        let mut first: i32 = 0;
        loop {
            let rows = self.run(|it| &it.chunks, &[&key, &first, &most]).await?;
            for row in &rows {
                bytes.extend_from_slice(column(row, 0)?);
            }
            first = first.saturating_add(i32::try_from(rows.len()).unwrap_or(i32::MAX));
            if rows.len() < CHUNKS_AT_ONCE {
                break;
            }
        }
        checked(digest, (first > 0).then(|| bytes.freeze()))
    }

    async fn keep_components(&self, used: Vec<Digest>) -> Result<(), LedgerError> {
        let used: Vec<&[u8]> = used.iter().map(|used| &used.as_bytes()[..]).collect();
        let fresh = micros(KEEP_UNUSED);
        self.run(|it| &it.keep, &[&used, &fresh]).await?;
        Ok(())
    }

    async fn report(&self, report: HostReport) -> Result<(), LedgerError> {
        let body = serde_json::to_string(&report).map_err(refused)?;
        self.run(|it| &it.report, &[&report.host, &body]).await?;
        self.wake();
        self.run(|it| &it.forget, &[&micros(FORGET_HOST)]).await?;
        Ok(())
    }

    async fn now_micros(&self) -> Result<i64, LedgerError> {
        let rows = self.run(|it| &it.now, &[]).await?;
        let row = rows.first();
        let row = row.ok_or_else(|| LedgerError("the database told no time".to_owned()))?;
        column(row, 0)
    }

    /// At most [`PAGE`] of them. What a host of another release says and this one
    /// does not understand is left out.
    async fn hosts(&self) -> Result<Vec<HostReport>, LedgerError> {
        let (alive, most) = (micros(ALIVE), number(PAGE as u64));
        let rows = self.run(|it| &it.hosts, &[&alive, &most]).await?;
        let bodies: Result<Vec<&str>, _> = rows.iter().map(|row| column(row, 0)).collect();
        let reports = bodies?.into_iter();
        Ok(reports
            .filter_map(|body| serde_json::from_str(body).ok())
            .collect())
    }

    async fn changed(&self) {
        let _ = timeout(LONGEST_WAIT, self.changed.notified()).await;
    }
}

/// What an error means for an append.
enum Fate {
    /// The number has an entry.
    Taken,
    /// Nothing was written.
    Nothing,
    /// It cannot be told.
    Unknown,
}

fn fate(error: &Error) -> Fate {
    match classify(error) {
        _ if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => Fate::Taken,
        Class::Lost | Class::Ambiguous | Class::Cancelled => Fate::Unknown,
        _ if error.as_db_error().is_none() => Fate::Unknown,
        _ => Fate::Nothing,
    }
}

fn entry(row: &Row) -> Result<Entry, LedgerError> {
    let seq: i64 = column(row, 0)?;
    Ok(Entry {
        seq: u64::try_from(seq).map_err(refused)?,
        at: column(row, 1)?,
        id: column(row, 2)?,
        actor: column(row, 3)?,
        source: column(row, 4)?,
        body: column(row, 5)?,
    })
}

fn column<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, LedgerError> {
    row.try_get(at).map_err(refused)
}

fn refused(error: impl std::fmt::Display) -> LedgerError {
    LedgerError(error.to_string())
}
