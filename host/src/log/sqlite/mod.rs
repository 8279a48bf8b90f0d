//! The log in an embedded SQLite database: what [`Log`](super::Log) asks for, in terms of
//! the writer and the readers.
//!
//! - `open.rs`: from a data folder to connections, or a reason why not
//! - `database.rs`: the open database, shared by log, feed and deployments
//! - `writer.rs`: one thread, group commit
//! - `readers.rs`: a fixed set of connections that only read
//! - `horizon.rs`: up to which time the log is complete
//! - `rows.rs`: rows of `kv_log`, decoded
//! - `look.rs`: statements of people who look

mod database;
mod horizon;
mod look;
mod open;
mod readers;
pub(crate) mod rows;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::OptionalExtension;
use tokio::sync::oneshot;

use super::{AppendError, Change, Log, ReadError, Receipt, WriteId};
use crate::model::{Condition, Key, State};
use writer::{Append, Job};

pub use database::{ExecError, SqliteDatabase, SqliteSettings};
pub use look::{LookError, look};
pub use open::OpenError;

/// The log of an embedded database.
#[derive(Clone, Debug)]
pub struct SqliteLog(Arc<SqliteDatabase>);

impl SqliteLog {
    /// The log of this database.
    pub fn new(database: Arc<SqliteDatabase>) -> SqliteLog {
        SqliteLog(database)
    }
}

#[async_trait]
impl Log for SqliteLog {
    async fn append(
        &self,
        key: Key,
        change: Change,
        condition: Condition,
        id: Option<WriteId>,
    ) -> Result<Receipt, AppendError> {
        let (reply, receipt) = oneshot::channel();
        let append = Append {
            key,
            change,
            condition,
            id,
            reply,
        };
        self.0
            .queue(Job::Append(append))
            .map_err(AppendError::Unavailable)?;
        receipt.await.unwrap_or_else(|_| {
            Err(AppendError::OutcomeUnknown(
                "the writer has stopped before it answered".into(),
            ))
        })
    }

    async fn read(&self, key: &Key) -> Result<State, ReadError> {
        let key = key.clone();
        let newest = self.0.read(move |connection| {
            let newest = format!(
                "SELECT {} FROM kv_log WHERE key = ?1 ORDER BY version DESC LIMIT 1",
                rows::COLUMNS
            );
            connection
                .prepare_cached(&newest)?
                .query_row([key.as_str()], rows::decode)
                .optional()
        });
        Ok(match newest.await? {
            Some(stored) => State::of(stored.row.version, stored.row.value, self.0.now_micros()),
            None => State::Absent,
        })
    }
}
