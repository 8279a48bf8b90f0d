//! Connections to one Redis that repair themselves. It must not know what is
//! asked.
//!
//! Each is multiplexed: many commands are under way on it at once. One that fails,
//! or leaves a command without an answer, is given up and made anew in the
//! background; meanwhile commands fail at once, so that reads go to the log
//! without a wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::error::RedisCacheError;
use super::server::Server;
use crate::clock::Entropy;

/// First wait before a connection is tried again; doubles with each try.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// How a connection is.
#[derive(Clone)]
enum State {
    Connecting,
    Up {
        connection: MultiplexedConnection,
        /// Which of the connections made so far.
        number: u64,
    },
    Down(RedisCacheError),
}

struct Link {
    state: watch::Sender<State>,
    /// The connection has been given up.
    lost: Notify,
}

/// Some connections, used in turn. Dropping them ends their repair.
pub(super) struct Links {
    server: Arc<Server>,
    links: Vec<Arc<Link>>,
    next: AtomicUsize,
    repairs: Vec<JoinHandle<()>>,
}

impl Links {
    /// Begins to connect; must be called in a runtime.
    pub fn new(server: Server, count: u32, entropy: &Arc<dyn Entropy>) -> Links {
        let server = Arc::new(server);
        let links: Vec<Arc<Link>> = (0..count.max(1))
            .map(|_| {
                Arc::new(Link {
                    state: watch::Sender::new(State::Connecting),
                    lost: Notify::new(),
                })
            })
            .collect();
        let repairs = links.iter().enumerate().map(|(index, link)| {
            tokio::spawn(keep_connected(
                Arc::clone(&server),
                Arc::clone(link),
                // One of them speaks for all in the log.
                index == 0,
                Arc::clone(entropy),
            ))
        });
        Links {
            repairs: repairs.collect(),
            server,
            links,
            next: AtomicUsize::new(0),
        }
    }

    /// For messages.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The outcome of the first try to connect, or how it is now.
    pub async fn first(&self) -> Result<(), RedisCacheError> {
        let Some(link) = self.links.first() else {
            return Ok(());
        };
        let mut state = link.state.subscribe();
        let tried = state
            .wait_for(|state| !matches!(state, State::Connecting))
            .await;
        match tried.as_deref() {
            Ok(State::Down(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Waits until all connections are there.
    pub async fn connected(&self) {
        for link in &self.links {
            let mut state = link.state.subscribe();
            let _ = state
                .wait_for(|state| matches!(state, State::Up { .. }))
                .await;
        }
    }

    /// Whether there is a connection now.
    pub fn is_up(&self) -> bool {
        self.links
            .iter()
            .any(|link| matches!(&*link.state.borrow(), State::Up { .. }))
    }

    /// One command with its answer.
    pub async fn query<T: FromRedisValue>(
        &self,
        bound: Duration,
        command: &Cmd,
    ) -> Result<T, LinkError> {
        let (link, mut connection, number) = self.pick()?;
        let answer = timeout(bound, command.query_async(&mut connection)).await;
        self.judge(link, number, bound, answer)
    }

    /// Several commands, sent together, with their answers.
    pub async fn pipeline<T: FromRedisValue>(
        &self,
        bound: Duration,
        commands: &Pipeline,
    ) -> Result<T, LinkError> {
        let (link, mut connection, number) = self.pick()?;
        let answer = timeout(bound, commands.query_async(&mut connection)).await;
        self.judge(link, number, bound, answer)
    }

    /// The next connection that is there.
    fn pick(&self) -> Result<(&Link, MultiplexedConnection, u64), RedisCacheError> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut why = None;
        for turn in 0..self.links.len() {
            let link = &self.links[first.wrapping_add(turn) % self.links.len()];
            match &*link.state.borrow() {
                State::Up { connection, number } => {
                    return Ok((link, connection.clone(), *number));
                }
                State::Down(error) => why = Some(error.clone()),
                State::Connecting => {}
            }
        }
        Err(why.unwrap_or_else(|| RedisCacheError::Unreachable {
            server: self.server.shown().to_owned(),
            why: "the connection is being made".to_owned(),
        }))
    }

    fn judge<T>(
        &self,
        link: &Link,
        number: u64,
        bound: Duration,
        answer: Result<Result<T, RedisError>, tokio::time::error::Elapsed>,
    ) -> Result<T, LinkError> {
        let error = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                return Err(LinkError::NoScript);
            }
            Ok(Err(error)) if error.code() == Some("OOM") => return Err(LinkError::NoMemory),
            Ok(Err(error)) if error.code() == Some("WRONGTYPE") => {
                return Err(LinkError::WrongType);
            }
            Ok(Err(error)) => self.server.explain(&error),
            Err(_) => RedisCacheError::Timeout {
                server: self.server.shown().to_owned(),
                bound,
            },
        };
        if ends_a_connection(&error) {
            link.give_up(number, &error);
        }
        Err(LinkError::Redis(error))
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.repairs.iter().for_each(JoinHandle::abort);
    }
}

/// Why a command was not done.
#[derive(Debug)]
pub(super) enum LinkError {
    /// The script is not there (any more).
    NoScript,
    /// The server has no memory left.
    NoMemory,
    /// The key holds something else than a string.
    WrongType,
    /// See there.
    Redis(RedisCacheError),
}

impl From<RedisCacheError> for LinkError {
    fn from(error: RedisCacheError) -> LinkError {
        LinkError::Redis(error)
    }
}

impl Link {
    /// Once for each connection.
    fn give_up(&self, given: u64, why: &RedisCacheError) {
        let changed = self.state.send_if_modified(|state| match state {
            State::Up { number, .. } if *number == given => {
                *state = State::Down(why.clone());
                true
            }
            _ => false,
        });
        if changed {
            self.lost.notify_one();
        }
    }
}

/// A server that has become a replica, or somebody else's, or has given its slot
/// away, says so only to commands; a new connection may find another. While a slot
/// is on its way, its node still answers for what it has.
fn ends_a_connection(error: &RedisCacheError) -> bool {
    match error {
        RedisCacheError::Unreachable { .. }
        | RedisCacheError::Certificate { .. }
        | RedisCacheError::Timeout { .. }
        | RedisCacheError::Login { .. }
        | RedisCacheError::Replica { .. }
        | RedisCacheError::Cluster { .. }
        | RedisCacheError::NotCluster { .. }
        | RedisCacheError::Unassigned { .. }
        | RedisCacheError::Moved { .. }
        | RedisCacheError::Loading { .. } => true,
        RedisCacheError::Url(_)
        | RedisCacheError::CaFile(_)
        | RedisCacheError::Permission { .. }
        | RedisCacheError::TooOld { .. }
        | RedisCacheError::Moving { .. }
        | RedisCacheError::Refused { .. } => false,
    }
}

async fn keep_connected(
    server: Arc<Server>,
    link: Arc<Link>,
    speaks: bool,
    entropy: Arc<dyn Entropy>,
) {
    let mut backoff = FIRST_BACKOFF;
    let mut number = 0;
    let mut tried = false;
    let mut said: Option<RedisCacheError> = None;
    loop {
        match server.connect().await {
            Ok(connection) => {
                number += 1;
                tried = true;
                let since = Instant::now();
                link.state.send_replace(State::Up { connection, number });
                if said.take().is_some() && speaks {
                    tracing::info!(server = server.shown(), "connected again");
                }
                link.lost.notified().await;
                if since.elapsed() >= server.max_backoff() {
                    backoff = FIRST_BACKOFF;
                    continue;
                }
            }
            Err(error) => {
                link.state.send_replace(State::Down(error));
            }
        }
        if let State::Down(error) = &*link.state.borrow()
            && speaks
            && said.as_ref() != Some(error)
        {
            // The first outcome is told to who asks for it.
            if tried {
                tracing::warn!(%error, "the cache cannot be used; reads go to the log");
            }
            said = Some(error.clone());
        }
        tried = true;
        // Half of it by chance, so that hosts do not come all at once.
        let half = backoff / 2;
        let part = (entropy.next_u64() >> 32) as f64 / f64::from(u32::MAX);
        sleep(half + half.mul_f64(part)).await;
        backoff = (backoff * 2).min(server.max_backoff());
    }
}
