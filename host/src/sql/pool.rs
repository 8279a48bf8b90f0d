//! A few connections that many requests share: tokio-postgres sends what one of
//! them is asked at once, whatever is still to be answered. It must not repeat a
//! request unless it is told that this is harmless.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{BoxFuture, select_all};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::connect::{Backoff, connect_dedicated};
use super::error::{Class, SqlError};
use super::server::ServerKind;
use super::url::SqlConfig;

/// How often what others have got in the way of, or what can be repeated, is tried.
pub const TRIES: usize = 5;

/// What is done with a new connection before it is used, for example to prepare
/// statements.
pub type Prepare<P> = Arc<
    dyn Fn(Arc<Client>, ServerKind) -> BoxFuture<'static, Result<P, tokio_postgres::Error>>
        + Send
        + Sync,
>;

/// A connection and what was prepared on it.
#[derive(Debug)]
pub struct Session<P> {
    /// The connection.
    pub client: Arc<Client>,
    /// What was prepared.
    pub prepared: P,
}

/// What a place of the pool has at the moment.
enum Link<P> {
    Up(Arc<Session<P>>),
    /// With why, once it is known.
    Down(Option<SqlError>),
}

impl<P> Link<P> {
    fn session(&self) -> Option<Arc<Session<P>>> {
        match self {
            Link::Up(session) if !session.client.is_closed() => Some(Arc::clone(session)),
            _ => None,
        }
    }
}

/// Connections that are made again when they are lost. Dropping it cuts them.
pub struct Pool<P> {
    config: SqlConfig,
    links: Vec<watch::Receiver<Link<P>>>,
    turn: AtomicUsize,
    /// They end with the pool.
    _tasks: JoinSet<()>,
}

impl<P> fmt::Debug for Pool<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.config).finish()
    }
}

impl<P: Send + Sync + 'static> Pool<P> {
    /// Begins to connect, `config.connections` times; does not wait for it.
    pub fn new(config: SqlConfig, prepare: Prepare<P>) -> Pool<P> {
        let mut tasks = JoinSet::new();
        let links = (0..config.connections.max(1)).map(|_| {
            let (publish, link) = watch::channel(Link::Down(None));
            tasks.spawn(keep_connected(
                config.clone(),
                Arc::clone(&prepare),
                publish,
            ));
            link
        });
        Pool {
            links: links.collect(),
            config,
            turn: AtomicUsize::new(0),
            _tasks: tasks,
        }
    }

    /// A connection that is up, each in its turn.
    ///
    /// # Errors
    ///
    /// There is none for `request_timeout`: why the last try to connect failed.
    pub async fn session(&self) -> Result<Arc<Session<P>>, SqlError> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.links.len();
        let (before, from) = self.links.split_at(turn);
        let mut in_turn = from.iter().chain(before);
        if let Some(session) = in_turn.find_map(|link| link.borrow().session()) {
            return Ok(session);
        }
        let any = select_all(self.links.iter().cloned().map(|link| Box::pin(up(link))));
        match timeout(self.config.request_timeout, any).await {
            Ok((session, ..)) => Ok(session),
            Err(_) => Err(self.last_error()),
        }
    }

    /// Runs a statement that can be repeated, and repeats it when others got in its way
    /// or its answer was lost, up to [`TRIES`] times.
    ///
    /// # Errors
    ///
    /// Why the last try failed.
    pub async fn query(
        &self,
        statement: fn(&P) -> &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, SqlError> {
        let mut backoff = Backoff::new(self.config.request_timeout);
        let mut tries = 1;
        loop {
            match self.query_once(statement, parameters).await {
                Err(SqlError::Statement {
                    class: Class::Retry | Class::Ambiguous | Class::Lost,
                    ..
                }) if tries < TRIES => {
                    tries += 1;
                    backoff.wait().await;
                }
                done => return done,
            }
        }
    }

    async fn query_once(
        &self,
        statement: fn(&P) -> &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, SqlError> {
        let session = self.session().await?;
        let found = session
            .client
            .query(statement(&session.prepared), parameters);
        let found = timeout(self.config.request_timeout, found).await;
        let found = found.map_err(|_| self.config.silent())?;
        found.map_err(|error| self.config.statement_error(&error))
    }

    fn last_error(&self) -> SqlError {
        let mut errors = self.links.iter().filter_map(|link| match &*link.borrow() {
            Link::Down(error) => error.clone(),
            Link::Up(_) => None,
        });
        errors.next().unwrap_or_else(|| self.config.silent())
    }
}

/// Waits until there is a connection.
async fn up<P>(mut link: watch::Receiver<Link<P>>) -> Arc<Session<P>> {
    loop {
        if let Some(session) = link.borrow_and_update().session() {
            return session;
        }
        if link.changed().await.is_err() {
            // Only when the pool itself is going.
            return std::future::pending().await;
        }
    }
}

async fn keep_connected<P: Send + Sync + 'static>(
    config: SqlConfig,
    prepare: Prepare<P>,
    publish: watch::Sender<Link<P>>,
) {
    let mut backoff = Backoff::new(config.request_timeout);
    loop {
        match connected(&config, &prepare).await {
            Ok((session, task)) => {
                backoff.reset();
                publish.send_replace(Link::Up(Arc::new(session)));
                task.closed().await;
                publish.send_replace(Link::Down(None));
                let database = config.target();
                tracing::warn!(database, "a connection to the database was lost");
            }
            Err(error) => {
                tracing::warn!(%error, "no connection to the database; it is tried again");
                publish.send_replace(Link::Down(Some(error)));
            }
        }
        backoff.wait().await;
    }
}

async fn connected<P>(
    config: &SqlConfig,
    prepare: &Prepare<P>,
) -> Result<(Session<P>, super::ConnectionTask), SqlError> {
    let (client, task, kind) = connect_dedicated(config).await?;
    let client = Arc::new(client);
    let preparing = prepare(Arc::clone(&client), kind);
    match timeout(config.request_timeout, preparing).await {
        Ok(Ok(prepared)) => Ok((Session { client, prepared }, task)),
        Ok(Err(error)) => Err(config.statement_error(&error)),
        Err(_) => Err(config.silent()),
    }
}
