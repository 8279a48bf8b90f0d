//! Making one connection to the Redis of the settings, and saying why there is none.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, RedisError, ServerErrorKind,
    TlsCertificates, TlsMode,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::timeout;

use super::RedisCacheSettings;
use super::address::Address;
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

    /// Longest wait before the next try to connect.
    pub fn max_backoff(&self) -> Duration {
        self.max_backoff
    }
}
