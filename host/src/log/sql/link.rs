//! One connection that writes: how a batch is sent, what its errors mean, and what
//! became of a batch whose answer was lost. It must not say that something has not
//! been written while it still could be.

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join4;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use super::arrays::Arrays;
use super::deadline;
use super::queue::Append;
use super::statements;
use crate::log::{AppendError, Receipt};
use crate::model::Version;
use crate::sql::{
    Backoff, Class, ConnectionTask, ServerKind, SqlConfig, SqlError, classify, connect_dedicated,
    ready_to_write,
};

/// How long the end of a lost connection's backend is waited for at a time.
const END_BACKEND: Duration = Duration::from_secs(1);

/// What became of a batch.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Each append has its answer.
    Decided(Vec<Result<Receipt, AppendError>>),
    /// Nothing was written: others got in the way. Try the whole again.
    Busy(String),
    /// Nothing was written, and trying again would not help.
    Refused(String),
    /// Nothing was written, perhaps for one of the appends alone.
    Spoilt(String),
    /// It may or may not have been written.
    Unclear(String),
}

/// What became of an append whose answer was lost.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// It is there.
    Written(Receipt),
    /// It is not there and never will be.
    Nothing(String),
    /// It cannot be told.
    Unknown(String),
}

/// A connection of one lane.
#[derive(Debug)]
pub(super) struct Link {
    client: Client,
    task: ConnectionTask,
    append: Statement,
    /// The same, for batches with ids.
    append_once: Statement,
    look_up: Statement,
    dialect: Dialect,
    config: SqlConfig,
}

#[derive(Debug)]
enum Dialect {
    Postgres {
        lock: Statement,
        notify: Statement,
        end_backend: Statement,
        backend: Backend,
    },
    Cockroach,
}

/// Who serves a connection of PostgreSQL: process ids are used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Backend {
    process: i32,
    began: i64,
}

impl Link {
    pub async fn connect(config: &SqlConfig) -> Result<Link, SqlError> {
        let (client, task, kind) = connect_dedicated(config).await?;
        let setup = Self::set_up(client, task, kind, config);
        match timeout_at(deadline(config.request_timeout), setup).await {
            Ok(link) => link.map_err(|error| config.statement_error(&error)),
            Err(_) => Err(config.silent()),
        }
    }

    async fn set_up(
        client: Client,
        task: ConnectionTask,
        kind: ServerKind,
        config: &SqlConfig,
    ) -> Result<Link, Error> {
        ready_to_write(&client, kind, config).await?;
        let dialect = match kind {
            ServerKind::Cockroach { .. } => Dialect::Cockroach,
            ServerKind::Postgres { .. } => {
                let backend = client.query_one(statements::OWN_BACKEND, &[]).await?;
                Dialect::Postgres {
                    lock: client.prepare(statements::LOCK).await?,
                    notify: client.prepare(statements::NOTIFY).await?,
                    end_backend: client.prepare(statements::END_BACKEND).await?,
                    backend: Backend {
                        process: backend.try_get(0)?,
                        began: backend.try_get(1)?,
                    },
                }
            }
        };
        Ok(Link {
            append: client.prepare(&statements::append(kind, false)).await?,
            append_once: client.prepare(&statements::append(kind, true)).await?,
            look_up: client.prepare(statements::LOOK_UP).await?,
            client,
            task,
            dialect,
            config: config.clone(),
        })
    }

    pub fn is_up(&self) -> bool {
        !self.client.is_closed()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.task.closed().await;
    }

    /// Sends a batch and waits for its outcome.
    pub async fn append(&self, batch: &[Append], deadline: Instant) -> Outcome {
        let arrays = Arrays::of(batch);
        let sent = async {
            match &self.dialect {
                Dialect::Postgres { lock, notify, .. } => {
                    self.append_postgres(&arrays, batch, lock, notify).await
                }
                Dialect::Cockroach => self.append_cockroach(&arrays, batch).await,
            }
        };
        match timeout_at(deadline, sent).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Unclear(self.config.silent().to_string()),
        }
    }

    /// One transaction in one round trip: everything is sent before anything is
    /// answered.
    async fn append_postgres(
        &self,
        arrays: &Arrays<'_>,
        batch: &[Append],
        lock: &Statement,
        notify: &Statement,
    ) -> Outcome {
        let mut locks: Vec<i64> = batch
            .iter()
            .map(|append| statements::lock_of(&append.key))
            .collect();
        locks.sort_unstable();
        locks.dedup();
        let parameters = arrays.parameters();
        let lock_parameters: [&(dyn ToSql + Sync); 1] = [&locks];
        // Nobody else speaks on this connection, so nothing gets between these.
        let mut transaction = pin!(join4(
            self.client.batch_execute(statements::BEGIN),
            self.client.execute(lock, &lock_parameters),
            self.client.query(self.statement(batch), &parameters),
            self.client.batch_execute("COMMIT"),
        ));
        let sent = futures_util::poll!(&mut transaction);
        // Its answer is of no use: a feed that is not woken looks by itself.
        let _ = self.client.execute(notify, &[]).now_or_never();
        let (begun, locked, appended, committed) = match sent {
            std::task::Poll::Ready(done) => done,
            std::task::Poll::Pending => transaction.await,
        };
        let failure = begun.err().or(locked.err());
        match (failure, appended, committed) {
            (None, Ok(rows), Ok(())) => self.decided(&rows, batch),
            // A transaction that the server has refused a part of is rolled back by
            // its end, and by the end of its connection.
            (Some(error), ..) | (None, Err(error), _) if error.as_db_error().is_some() => {
                match classify(&error) {
                    Class::Lost | Class::Ambiguous => self.unclear(&error),
                    _ => self.failed(&error),
                }
            }
            (Some(error), ..) | (None, Err(error), _) | (None, _, Err(error)) => {
                self.unclear(&error)
            }
        }
    }

    /// One statement, which is its own transaction.
    async fn append_cockroach(&self, arrays: &Arrays<'_>, batch: &[Append]) -> Outcome {
        let key = arrays.keys.first().copied().unwrap_or_default();
        let id = arrays.write_ids.first().copied().unwrap_or_default();
        let mut parameters = arrays.parameters().to_vec();
        parameters.push(&key);
        if batch.iter().any(Append::has_id) {
            parameters.push(&id);
        }
        match self.client.query(self.statement(batch), &parameters).await {
            Ok(rows) => self.decided(&rows, batch),
            Err(error) => match classify(&error) {
                Class::Lost | Class::Ambiguous | Class::Cancelled => self.unclear(&error),
                _ if error.as_db_error().is_none() => self.unclear(&error),
                _ => self.failed(&error),
            },
        }
    }

    fn statement(&self, batch: &[Append]) -> &Statement {
        match batch.iter().any(Append::has_id) {
            true => &self.append_once,
            false => &self.append,
        }
    }

    fn decided(&self, rows: &[Row], batch: &[Append]) -> Outcome {
        let answers: Result<Vec<_>, Error> = rows.iter().map(decode).collect();
        match answers {
            Ok(answers) if answers.len() == batch.len() => Outcome::Decided(answers),
            Ok(answers) => Outcome::Unclear(format!(
                "{} answers for {} writes",
                answers.len(),
                batch.len()
            )),
            Err(error) => self.unclear(&error),
        }
    }

    fn failed(&self, error: &Error) -> Outcome {
        let why = self.config.statement_error(error).to_string();
        match classify(error) {
            Class::Retry => Outcome::Busy(why),
            Class::Other => Outcome::Spoilt(why),
            Class::ReadOnly => {
                // Another host may have taken over.
                self.task.abort();
                Outcome::Refused(why)
            }
            _ => Outcome::Refused(why),
        }
    }

    fn unclear(&self, error: &Error) -> Outcome {
        Outcome::Unclear(self.config.statement_error(error).to_string())
    }

    /// Finds out what became of a batch whose answer was lost, on another
    /// connection. Gives back a link for the next batch, which may be down.
    pub async fn resolve(
        self,
        config: &SqlConfig,
        batch: &[Append],
        why: &str,
    ) -> (Link, Vec<Found>) {
        let appends = batch.len();
        tracing::warn!(why, appends, "the outcome of writes is looked up");
        self.task.abort();
        let deadline = deadline(config.request_timeout);
        let mut last = why.to_owned();
        let looked_up = timeout_at(deadline, self.look_up(config, batch, &mut last)).await;
        match looked_up {
            Ok(found) => found,
            Err(_) => (self, vec![Found::Unknown(last); appends]),
        }
    }

    async fn look_up(
        &self,
        config: &SqlConfig,
        batch: &[Append],
        last: &mut String,
    ) -> (Link, Vec<Found>) {
        let why = last.clone();
        let mut backoff = Backoff::new(config.request_timeout);
        loop {
            let error = match Link::connect(config).await {
                Ok(next) => match next.look_up_after(self, batch, &why).await {
                    Ok(Some(found)) => return (next, found),
                    Ok(None) => "the connection that was lost has not ended".to_owned(),
                    Err(error) => config.statement_error(&error).to_string(),
                },
                Err(error) => error.to_string(),
            };
            *last = format!("{why}; looking it up: {error}");
            backoff.wait().await;
        }
    }

    /// What became of a batch that was sent on `before`; `None` while it can still
    /// be written.
    async fn look_up_after(
        &self,
        before: &Link,
        batch: &[Append],
        why: &str,
    ) -> Result<Option<Vec<Found>>, Error> {
        let missing = match (&self.dialect, &before.dialect) {
            (Dialect::Postgres { end_backend, .. }, Dialect::Postgres { backend, .. }) => {
                let patience = i64::try_from(END_BACKEND.as_millis()).unwrap_or(i64::MAX);
                let parameters: [&(dyn ToSql + Sync); 3] =
                    [&backend.process, &backend.began, &patience];
                let ended = self.client.query_opt(end_backend, &parameters).await?;
                if let Some(row) = ended
                    && !row.try_get(0)?
                {
                    return Ok(None);
                }
                Found::Nothing(why.to_owned())
            }
            // A statement of a lost session may still be under way somewhere.
            _ => Found::Unknown(why.to_owned()),
        };
        let found = batch.iter().map(|append| match append.has_id() {
            // A row with its id may be of another time or host, or of another change.
            true => Found::Unknown(why.to_owned()),
            false => missing.clone(),
        });
        let mut found: Vec<Found> = found.collect();
        let arrays = Arrays::of(batch);
        let parameters: [&(dyn ToSql + Sync); 2] = [&arrays.keys, &arrays.write_ids];
        for row in self.client.query(&self.look_up, &parameters).await? {
            let place = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or_default();
            if let Some(found) = place.checked_sub(1).and_then(|at| found.get_mut(at)) {
                *found = Found::Written(Receipt {
                    version: Version(row.try_get(1)?),
                    timestamp_micros: row.try_get(2)?,
                });
            }
        }
        Ok(Some(found))
    }
}

/// An answer of the append statement.
fn decode(row: &Row) -> Result<Result<Receipt, AppendError>, Error> {
    let same: Option<bool> = row.try_get(4)?;
    let holds: bool = row.try_get(0)?;
    if same == Some(false) {
        return Ok(Err(AppendError::IdReused));
    }
    if same.is_none() && !holds {
        let current: Option<i64> = row.try_get(1)?;
        let current = current.map(Version);
        return Ok(Err(AppendError::PreconditionFailed { current }));
    }
    Ok(Ok(Receipt {
        version: Version(row.try_get(2)?),
        timestamp_micros: row.try_get(3)?,
    }))
}
