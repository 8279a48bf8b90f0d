//! The log in PostgreSQL or CockroachDB: what [`Log`](super::Log) asks for, in terms
//! of batches and shared connections.
//!
//! - `migrate.rs`: the tables, and bringing a server to them
//! - `statements.rs`: the SQL, for both dialects (pure)
//! - `queue.rs`: which appends go together (pure)
//! - `arrays.rs`: a batch as the parameters of its statement (pure)
//! - `link.rs`: one connection that writes: a batch, its errors, its lost answers
//! - `lane.rs`: a loop from the queue to a link, some of them beside each other
//! - `rows.rs`: rows of `kv_log`, decoded (pure)
//! - `look.rs`: statements of people who look

mod arrays;
mod lane;
mod link;
mod look;
pub(crate) mod migrate;
mod queue;
pub(crate) mod rows;
pub mod statements;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryFutureExt;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, Statement};

use super::{AppendError, Change, Log, ReadError, Receipt, WriteId};
use crate::clock::Entropy;
use crate::config;
use crate::model::{Condition, Key, State};
use crate::sql::{Class, Pool, ServerKind, SqlConfig, SqlError, connect_dedicated};
use lane::Shared;
use queue::{Append, Bounds};

pub use look::look;
pub use migrate::MigrateError;

/// Most bytes of keys and values that wait to be sent.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// Batches under way at once. PostgreSQL takes a whole queue in one batch; one more
/// goes beside it when that takes long. CockroachDB takes a key in each, and works on
/// each connection at one statement.
const LANES_POSTGRES: usize = 2;
const LANES_COCKROACH: usize = 16;

/// How long an append waits for the batch that is under way before it goes beside it.
/// A batch costs PostgreSQL much the same however many rows it has, so where it is
/// quick, fewer and larger ones are quicker; where the server is far away or its disk
/// is slow, waiting for it would cost more.
const BESIDE_POSTGRES: Duration = Duration::from_millis(5);

/// How often a read is tried again on another connection.
const READ_TRIES: usize = 3;

/// The log on a server.
#[derive(Debug)]
pub struct SqlLog {
    config: SqlConfig,
    kind: ServerKind,
    shared: Arc<Shared>,
    readers: Pool<Statement>,
    entropy: Arc<dyn Entropy>,
    /// They end with the log.
    _lanes: JoinSet<()>,
}

impl SqlLog {
    /// Brings the tables up to date and begins to connect. Call it inside a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// The server cannot be reached or used now: see [`MigrateError`].
    pub async fn open(
        config: SqlConfig,
        settings: &config::Log,
        entropy: Arc<dyn Entropy>,
    ) -> Result<SqlLog, MigrateError> {
        let (client, task, kind) = connect_dedicated(&config).await?;
        migrate::migrate(&client, kind, &config).await?;
        drop((client, task));
        tracing::info!(database = config.target(), server = %kind, "the log is open");

        let (lanes, batch_keys) = match kind {
            ServerKind::Postgres { .. } => (LANES_POSTGRES, usize::MAX),
            ServerKind::Cockroach { .. } => (LANES_COCKROACH, 1),
        };
        let beside = match kind {
            ServerKind::Postgres { .. } => BESIDE_POSTGRES,
            ServerKind::Cockroach { .. } => Duration::ZERO,
        };
        let shared = Arc::new(Shared::new(Bounds {
            queue: settings.max_queue,
            queue_bytes: QUEUE_BYTES,
            batch: settings.max_batch,
            batch_bytes: settings.max_batch_bytes,
            batch_keys,
            beside,
        }));
        let mut tasks = JoinSet::new();
        for _ in 0..lanes {
            tasks.spawn(lane::run(Arc::clone(&shared), config.clone()));
        }
        let patience = config.statement_timeout();
        let readers = Pool::new(
            config.clone(),
            Arc::new(move |client, _| {
                let patience = patience.clone();
                Box::pin(async move {
                    client.batch_execute(&patience).await?;
                    client.prepare(statements::READ).await
                })
            }),
        );
        Ok(SqlLog {
            config,
            kind,
            shared,
            readers,
            entropy,
            _lanes: tasks,
        })
    }

    /// What the server is.
    pub fn server(&self) -> ServerKind {
        self.kind
    }

    async fn read_once(&self, key: &Key) -> Result<State, SqlError> {
        let session = self.readers.session().await?;
        let key = key.as_str().as_bytes();
        let parameters: [&(dyn ToSql + Sync); 1] = [&key];
        let found = session.client.query_opt(&session.prepared, &parameters);
        self.found(found).await
    }

    async fn read_stale_once(&self, key: &Key) -> Result<State, SqlError> {
        let session = self.readers.session().await?;
        let key = key.as_str().as_bytes();
        // Not prepared: that would fail for good on a table that is younger.
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&key, Type::BYTEA)];
        let found = session
            .client
            .query_typed(statements::READ_STALE, &parameters);
        let first = found.map_ok(|rows| rows.into_iter().next());
        self.found(first).await
    }

    /// The state that a statement finds.
    async fn found(
        &self,
        found: impl Future<Output = Result<Option<Row>, tokio_postgres::Error>>,
    ) -> Result<State, SqlError> {
        let found = timeout(self.config.request_timeout, found).await;
        let found = found.map_err(|_| self.config.silent())?;
        let Some(row) = found.map_err(|error| self.config.statement_error(&error))? else {
            return Ok(State::Absent);
        };
        let now = row.try_get(rows::COLUMN_COUNT);
        let now: i64 = now.map_err(|error| self.config.statement_error(&error))?;
        let row = rows::decode(&row).map_err(|why| SqlError::Statement {
            class: Class::Other,
            why,
        })?;
        Ok(State::of(row.version, row.value, now))
    }
}

#[async_trait]
impl Log for SqlLog {
    /// Waits at most three times `database.request_timeout`: to be sent, to be
    /// answered, and for the outcome to be looked up. What was certainly not written
    /// is sent again as long as it could still have waited.
    async fn append(
        &self,
        key: Key,
        change: Change,
        condition: Condition,
        id: Option<WriteId>,
    ) -> Result<Receipt, AppendError> {
        let (reply, mut receipt) = oneshot::channel();
        let write_id = match id {
            Some(id) => id.number(),
            // Not below 0: that is what clients give.
            None => (self.entropy.next_u64() >> 1).cast_signed(),
        };
        let since = Instant::now();
        let deadline = since + self.config.request_timeout;
        let append = Append {
            key: key.clone(),
            change,
            condition,
            write_id,
            since,
            deadline,
            unclear: None,
            reply,
        };
        let ticket = self.shared.push(append);
        let ticket = ticket.map_err(AppendError::Unavailable)?;
        let answer = match timeout_at(deadline, &mut receipt).await {
            Ok(answer) => answer,
            // It will not be sent any more, unless it has been.
            Err(_) if self.shared.take_back(&key, ticket) => {
                return Err(AppendError::Unavailable(self.shared.why_late()));
            }
            Err(_) => receipt.await,
        };
        answer.unwrap_or_else(|_| {
            Err(AppendError::OutcomeUnknown(
                "the log was closed before the database answered".into(),
            ))
        })
    }

    async fn read(&self, key: &Key) -> Result<State, ReadError> {
        let mut tries = 1;
        loop {
            match self.read_once(key).await {
                Ok(state) => return Ok(state),
                Err(SqlError::Statement {
                    class: Class::Retry | Class::Ambiguous | Class::Lost,
                    ..
                }) if tries < READ_TRIES => tries += 1,
                Err(error) => return Err(ReadError::Unavailable(error.to_string())),
            }
        }
    }

    /// On CockroachDB the nearest replica answers, if `age` is 6 seconds or more.
    async fn read_stale(&self, key: &Key, age: Duration) -> Result<State, ReadError> {
        let replicas = matches!(self.kind, ServerKind::Cockroach { .. });
        if replicas && age >= statements::REPLICA_AGE + statements::CLOCKS_APART {
            match self.read_stale_once(key).await {
                Ok(state) => return Ok(state),
                // Perhaps there was no table then, or no replica near.
                Err(error) => tracing::debug!(%error, "a stale read failed; reading the latest"),
            }
        }
        self.read(key).await
    }
}

/// How long a request may take, as a point in time.
fn deadline(patience: Duration) -> Instant {
    Instant::now() + patience
}
