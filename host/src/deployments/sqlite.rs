//! The ledger in the embedded database. One process has it, so what is new is
//! known in memory.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::{ErrorCode, OptionalExtension as _, params};
use tokio::sync::Notify;

use super::digest::Digest;
use super::event::{self, Entry, NewEntry};
use super::ledger::{
    AppendError, HostReport, KEEP_UNUSED, LONGEST_WAIT, Ledger, LedgerError, PAGE, checked, micros,
    number,
};
use crate::log::sqlite::{ExecError, SqliteDatabase};

/// The ledger in the embedded database.
pub struct SqliteLedger {
    database: Arc<SqliteDatabase>,
    changed: Notify,
    /// Of the one host that there is.
    report: Mutex<Option<HostReport>>,
}

impl SqliteLedger {
    /// The ledger in `database`.
    pub fn new(database: Arc<SqliteDatabase>) -> SqliteLedger {
        SqliteLedger {
            database,
            changed: Notify::new(),
            report: Mutex::new(None),
        }
    }
}

fn refused(error: impl std::fmt::Display) -> LedgerError {
    LedgerError(error.to_string())
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn after(&self, seq: u64) -> Result<Vec<Entry>, LedgerError> {
        let seq = number(seq);
        let read = self.database.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT seq, at, id, actor, source, body FROM deployments
                 WHERE seq > ?1 ORDER BY seq LIMIT ?2",
            )?;
            let rows = statement.query_map(params![seq, PAGE], |row| {
                Ok(Entry {
                    seq: row.get(0)?,
                    at: row.get(1)?,
                    id: row.get(2)?,
                    actor: row.get(3)?,
                    source: row.get(4)?,
                    body: row.get(5)?,
                })
            })?;
            rows.collect()
        });
        read.await.map_err(refused)
    }

    async fn append(&self, seq: u64, entry: NewEntry) -> Result<(), AppendError> {
        let (seq, at) = (number(seq), self.database.now_micros());
        let written = self.database.exec(move |tx| {
            // The component that was put before it need not stay in memory.
            tx.execute_batch("PRAGMA shrink_memory")?;
            let body = event::encode(&entry.event);
            let inserted = tx
                .prepare_cached(
                    "INSERT INTO deployments (seq, at, id, actor, source, body)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![seq, at, entry.id, entry.actor, entry.source, body]);
            match inserted {
                Ok(_) => Ok(true),
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                    Ok(false)
                }
                Err(error) => Err(error),
            }
        });
        match written.await {
            Ok(true) => {
                self.changed.notify_one();
                Ok(())
            }
            Ok(false) => Err(AppendError::Taken),
            Err(ExecError::Failed(why)) => Err(LedgerError(why).into()),
            Err(ExecError::OutcomeUnknown(why)) => Err(AppendError::OutcomeUnknown(why)),
        }
    }

    async fn put_component(&self, digest: Digest, bytes: Bytes) -> Result<(), LedgerError> {
        let at = self.database.now_micros();
        let written = self.database.exec(move |tx| {
            tx.prepare_cached(
                "INSERT INTO deployed_components (digest, put_at, bytes) VALUES (?1, ?2, ?3)
                 ON CONFLICT (digest) DO UPDATE SET put_at = excluded.put_at, bytes = excluded.bytes",
            )?
            .execute(params![digest.as_bytes(), at, &bytes[..]])
        });
        written.await.map(drop).map_err(refused)
    }

    async fn component(&self, digest: Digest) -> Result<Bytes, LedgerError> {
        let read = self.database.read(move |connection| {
            connection
                .prepare_cached("SELECT bytes FROM deployed_components WHERE digest = ?1")?
                .query_row(params![digest.as_bytes()], |row| row.get::<_, Vec<u8>>(0))
                .optional()
        });
        let bytes = read.await.map_err(refused)?;
        checked(digest, bytes.map(Bytes::from))
    }

    async fn keep_components(&self, used: Vec<Digest>) -> Result<(), LedgerError> {
        let before = self.database.now_micros() - micros(KEEP_UNUSED);
        let written = self.database.exec(move |tx| {
            let old: Vec<Vec<u8>> = tx
                .prepare_cached("SELECT digest FROM deployed_components WHERE put_at < ?1")?
                .query_map(params![before], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            let mut delete =
                tx.prepare_cached("DELETE FROM deployed_components WHERE digest = ?1")?;
            for digest in old {
                if !used.iter().any(|used| used.as_bytes()[..] == digest) {
                    delete.execute(params![digest])?;
                }
            }
            Ok(())
        });
        written.await.map_err(refused)
    }

    async fn report(&self, report: HostReport) -> Result<(), LedgerError> {
        *self.report.lock() = Some(report);
        self.changed.notify_one();
        Ok(())
    }

    async fn now_micros(&self) -> Result<i64, LedgerError> {
        Ok(self.database.now_micros())
    }

    async fn hosts(&self) -> Result<Vec<HostReport>, LedgerError> {
        Ok(self.report.lock().iter().cloned().collect())
    }

    async fn changed(&self) {
        let _ = tokio::time::timeout(LONGEST_WAIT, self.changed.notified()).await;
    }
}
