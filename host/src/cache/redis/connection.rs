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
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, Pipeline,
    RedisError, ServerErrorKind, TlsCertificates, TlsMode,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::RedisCacheSettings;
use super::address::Address;
use super::error::{RedisCacheError, explain};
use super::info::Info;
use crate::clock::Entropy;

/// First wait before a connection is tried again; doubles with each try.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// Where Redis is and how it is spoken to.
#[derive(Debug)]
pub(super) struct Server {
    address: Address,
    shown: String,
    ca: Option<Vec<u8>>,
    key_prefix: String,
    connect_timeout: Duration,
    max_backoff: Duration,
}

impl Server {
    /// Reads the settings; connects to nobody.
    pub fn new(settings: &RedisCacheSettings) -> Result<Server, RedisCacheError> {
        let address = Address::parse(settings.url.expose())?;
        let ca = match &settings.ca_file {
            None => None,
            Some(_) if !address.tls() => {
                let why = "it does not ask for TLS, but redis.ca_file is set";
                return Err(RedisCacheError::Url(why.to_owned()));
            }
            Some(file) => {
                let bad =
                    |why: String| RedisCacheError::CaFile(format!("{}: {why}", file.display()));
                let pem = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
                let certificates = CertificateDer::pem_slice_iter(&pem);
                match certificates.collect::<Result<Vec<_>, _>>() {
                    Ok(certificates) if !certificates.is_empty() => Some(pem),
                    Ok(_) => return Err(bad("it has no certificate".to_owned())),
                    Err(error) => return Err(bad(error.to_string())),
                }
            }
        };
        if address.tls() {
            // The client takes the process' default; an error says that there is one.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        Ok(Server {
            shown: address.shown(),
            address,
            ca,
            key_prefix: settings.key_prefix.clone(),
            connect_timeout: settings.connect_timeout,
            max_backoff: settings.reconnect_backoff_max,
        })
    }

    /// A new connection to a server that can keep a cache.
    pub async fn connect(&self) -> Result<MultiplexedConnection, RedisCacheError> {
        let bound = self.connect_timeout;
        let connecting = async {
            let mut connection = self.open().await.map_err(|error| self.explain(&error))?;
            self.look(&mut connection).await?;
            Ok(connection)
        };
        match timeout(bound, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(RedisCacheError::Timeout {
                server: self.shown.clone(),
                bound,
            }),
        }
    }

    /// A new connection, to whatever is there.
    pub async fn open(&self) -> Result<MultiplexedConnection, RedisError> {
        let client = match &self.address {
            Address::At(info) => {
                let tcp = TcpSettings::default().set_nodelay(true);
                let info = info.clone().set_tcp_settings(tcp);
                match self.certificates() {
                    Some(certificates) => Client::build_with_tls(info, certificates)?,
                    None => Client::open(info)?,
                }
            }
            Address::Sentinel { .. } => self.sentinel()?.async_get_client().await?,
        };
        // Every command has a bound of its own.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(None);
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    fn sentinel(&self) -> Result<SentinelClient, RedisError> {
        let Address::Sentinel {
            sentinels,
            service,
            redis,
            tls,
        } = &self.address
        else {
            return Err((ErrorKind::InvalidClientConfig, "no Sentinel").into());
        };
        let addresses = sentinels.iter().map(|(host, port)| match tls {
            true => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
            false => ConnectionAddr::Tcp(host.clone(), *port),
        });
        let tcp = || TcpSettings::default().set_nodelay(true);
        let mut builder =
            SentinelClientBuilder::new(addresses, service, SentinelServerType::Master)?
                .set_client_to_redis_db(redis.db())
                .set_client_to_redis_tcp_settings(tcp())
                .set_client_to_sentinel_tcp_settings(tcp());
        if let Some(user) = redis.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = redis.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if *tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = self.certificates() {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
        builder.build()
    }

    fn certificates(&self) -> Option<TlsCertificates> {
        Some(TlsCertificates {
            client_tls: None,
            root_cert: Some(self.ca.clone()?),
        })
    }

    /// Whether a cache can be kept there.
    async fn look(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisCacheError> {
        match redis::cmd("INFO").query_async::<String>(connection).await {
            Ok(text) => Info(&text).usable(&self.shown),
            // Whoever may not ask is told by the first command that fails.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(()),
            Err(error) => Err(self.explain(&error)),
        }
    }

    /// What an error of the client means.
    pub fn explain(&self, error: &RedisError) -> RedisCacheError {
        explain(error, &self.shown, self.address.user(), &self.key_prefix)
    }

    /// For messages.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The user that commands run as.
    pub fn user(&self) -> &str {
        self.address.user()
    }
}

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
            server: self.server.shown.clone(),
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
                server: self.server.shown.clone(),
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

/// A server that has become a replica, or somebody else's, says so only to
/// commands; a new connection may find another.
fn ends_a_connection(error: &RedisCacheError) -> bool {
    match error {
        RedisCacheError::Unreachable { .. }
        | RedisCacheError::Certificate { .. }
        | RedisCacheError::Timeout { .. }
        | RedisCacheError::Login { .. }
        | RedisCacheError::Replica { .. }
        | RedisCacheError::Cluster { .. }
        | RedisCacheError::Loading { .. } => true,
        RedisCacheError::Url(_)
        | RedisCacheError::CaFile(_)
        | RedisCacheError::Permission { .. }
        | RedisCacheError::TooOld { .. }
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
    let mut said: Option<RedisCacheError> = None;
    loop {
        match server.connect().await {
            Ok(connection) => {
                number += 1;
                let since = Instant::now();
                link.state.send_replace(State::Up { connection, number });
                if said.take().is_some() && speaks {
                    tracing::info!(server = server.shown(), "connected again");
                }
                link.lost.notified().await;
                if since.elapsed() >= server.max_backoff {
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
            tracing::warn!(%error, "the cache cannot be used; reads go to the log");
            said = Some(error.clone());
        }
        // Half of it by chance, so that hosts do not come all at once.
        let half = backoff / 2;
        let part = (entropy.next_u64() >> 32) as f64 / f64::from(u32::MAX);
        sleep(half + half.mul_f64(part)).await;
        backoff = (backoff * 2).min(server.max_backoff);
    }
}
