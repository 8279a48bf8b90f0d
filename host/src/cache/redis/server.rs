//! Making one connection to the Redis of the settings, and saying why there is none.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    RedisError, ServerErrorKind, TlsCertificates, TlsMode, Value,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::{Instant, timeout, timeout_at};

use super::RedisCacheSettings;
use super::address::Address;
use super::cluster::{self, Owner};
use super::error::{RedisCacheError, explain};
use super::info::Info;

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
            ca,
            key_prefix: match address.is_cluster() {
                true => cluster::tagged(&settings.key_prefix),
                false => settings.key_prefix.clone(),
            },
            address,
            connect_timeout: settings.connect_timeout,
            max_backoff: settings.reconnect_backoff_max,
        })
    }

    /// A new connection to a server that can keep a cache.
    pub async fn connect(&self) -> Result<MultiplexedConnection, RedisCacheError> {
        let bound = self.connect_timeout;
        let connecting = async {
            let mut connection = self.open().await?;
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
    pub async fn open(&self) -> Result<MultiplexedConnection, RedisCacheError> {
        let opened = match &self.address {
            Address::At(info) => self.open_at(info.clone()).await,
            Address::Sentinel { .. } => self.open_by_sentinel().await,
            Address::Cluster { seeds, .. } => return self.open_in_cluster(seeds).await,
        };
        opened.map_err(|error| self.explain(&error))
    }

    async fn open_at(&self, info: ConnectionInfo) -> Result<MultiplexedConnection, RedisError> {
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = info.set_tcp_settings(tcp);
        let client = match self.certificates() {
            Some(certificates) => Client::build_with_tls(info, certificates)?,
            None => Client::open(info)?,
        };
        self.open_client(client).await
    }

    async fn open_by_sentinel(&self) -> Result<MultiplexedConnection, RedisError> {
        let client = self.sentinel()?.async_get_client().await?;
        self.open_client(client).await
    }

    /// Asks the seeds in their order, until one leads to the node that has the slot:
    /// one that is cut off from the others may be of yesterday.
    async fn open_in_cluster(
        &self,
        seeds: &[(String, u16)],
    ) -> Result<MultiplexedConnection, RedisCacheError> {
        let end = Instant::now() + self.connect_timeout;
        let mut why = RedisCacheError::Url("it names no node".to_owned());
        // What somebody has to change is said, unless another seed leads there.
        let mut to_change = None;
        for (seed, left) in seeds.iter().zip((1..=seeds.len() as u32).rev()) {
            // Those that are left share the time that is left, with the look at who
            // has the slot.
            let bound = end.saturating_duration_since(Instant::now()) / (left + 1);
            why = match self.open_by_seed(seed, bound).await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            if why.needs_a_change() && to_change.is_none() {
                to_change = Some(why.clone());
            }
        }
        Err(to_change.unwrap_or(why))
    }

    /// The node that has the slot, as a seed says.
    async fn open_by_seed(
        &self,
        (seed, port): &(String, u16),
        bound: Duration,
    ) -> Result<MultiplexedConnection, RedisCacheError> {
        let end = Instant::now() + bound;
        let name = format!("Redis at {seed}:{port}");
        let late = |server: &str| RedisCacheError::Timeout {
            server: server.to_owned(),
            bound,
        };
        let answer = match timeout_at(end, self.ask_slots(seed, *port)).await {
            Ok(Ok(answer)) => answer,
            // One that is no cluster, or a proxy, does not know the question.
            Ok(Err(error)) if is(&error, ServerErrorKind::ResponseError) => {
                return Err(RedisCacheError::NotCluster { server: name });
            }
            Ok(Err(error)) => return Err(self.explain_at(&error, &name)),
            Err(_) => return Err(late(&name)),
        };
        let meta = format!("{}:meta", self.key_prefix);
        let slot = cluster::slot(&meta);
        let (host, port) = match cluster::owner(&answer, slot) {
            Owner::At { host, port } => (host.unwrap_or_else(|| seed.clone()), port),
            Owner::Nobody => {
                return Err(RedisCacheError::Unassigned {
                    server: name,
                    slot,
                    node: format!("{seed}:{port}"),
                });
            }
            Owner::Unclear => {
                let why = "CLUSTER SLOTS does not say the address of a node; set cluster-announce-ip or cluster-announce-hostname on every node";
                return Err(RedisCacheError::Refused {
                    server: name,
                    why: why.to_owned(),
                });
            }
        };
        let name = format!("Redis at {host}:{port}, which {name} says has the cache");
        match timeout_at(end, self.open_owner(&host, port, &meta)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.explain_at(&error, &name)),
            Err(_) => Err(late(&name)),
        }
    }

    async fn ask_slots(&self, host: &str, port: u16) -> Result<Value, RedisError> {
        let mut connection = self.open_at(self.node(host, port)?).await?;
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("SLOTS").query_async(&mut connection).await
    }

    /// A node that says itself that it has the slot of this key.
    async fn open_owner(
        &self,
        host: &str,
        port: u16,
        key: &str,
    ) -> Result<MultiplexedConnection, RedisError> {
        let mut connection = self.open_at(self.node(host, port)?).await?;
        let mut exists = redis::cmd("EXISTS");
        match exists.arg(key).query_async::<Value>(&mut connection).await {
            Ok(_) => Ok(connection),
            // Whoever may not ask is told by the first command that fails.
            Err(error) if is(&error, ServerErrorKind::NoPerm) => Ok(connection),
            // It has the slot, and is giving it away.
            Err(error) if is(&error, ServerErrorKind::Ask) => Ok(connection),
            Err(error) => Err(error),
        }
    }

    /// A node of the cluster, and how it is spoken to.
    fn node(&self, host: &str, port: u16) -> Result<ConnectionInfo, RedisError> {
        let Address::Cluster { redis, tls, .. } = &self.address else {
            return Err((ErrorKind::InvalidClientConfig, "no cluster").into());
        };
        let node = address(host, port, *tls).into_connection_info()?;
        Ok(node.set_redis_settings(redis.clone()))
    }

    async fn open_client(&self, client: Client) -> Result<MultiplexedConnection, RedisError> {
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
        let addresses = sentinels
            .iter()
            .map(|(host, port)| address(host, *port, *tls));
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
            Ok(text) => Info(&text).usable(&self.shown, self.is_cluster()),
            // Whoever may not ask is told by the first command that fails.
            Err(error) if is(&error, ServerErrorKind::NoPerm) => Ok(()),
            Err(error) => Err(self.explain(&error)),
        }
    }

    /// What an error of the client means.
    pub fn explain(&self, error: &RedisError) -> RedisCacheError {
        self.explain_at(error, &self.shown)
    }

    fn explain_at(&self, error: &RedisError, server: &str) -> RedisCacheError {
        let (user, cluster) = (self.address.user(), self.is_cluster());
        explain(error, server, user, &self.key_prefix, cluster)
    }

    /// For messages.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The user that commands run as.
    pub fn user(&self) -> &str {
        self.address.user()
    }

    /// What the names of all keys begin with.
    pub fn key_prefix(&self) -> &str {
        &self.key_prefix
    }

    /// Whether it is a cluster.
    pub fn is_cluster(&self) -> bool {
        self.address.is_cluster()
    }

    /// Longest wait before the next try to connect.
    pub fn max_backoff(&self) -> Duration {
        self.max_backoff
    }
}

fn address(host: &str, port: u16, tls: bool) -> ConnectionAddr {
    let host = host.to_owned();
    match tls {
        true => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        },
        false => ConnectionAddr::Tcp(host, port),
    }
}

fn is(error: &RedisError, kind: ServerErrorKind) -> bool {
    error.kind() == ErrorKind::Server(kind)
}
