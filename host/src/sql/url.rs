//! From `DATABASE_URL` to what a connection needs, with libpq's meanings. It must
//! not connect, and no error of it quotes a part of the URL that could hold a
//! secret.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{self, SqlError};
use super::tls::{Mode, Tls, TlsError, client_config};
use crate::config::Database;

/// How a URL looks.
const EXAMPLE: &str =
    "postgresql://user:password@host1:26257,host2:26257/database?sslmode=verify-full";

/// A connection without traffic is asked whether it lives: first after this long,
/// then as often as `KEEPALIVE_INTERVAL`, and given up after `KEEPALIVE_RETRIES`.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;

/// How long what was sent may stay unacknowledged before the connection is given
/// up.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// What tokio-postgres has when the URL does not say.
const KEEPALIVE_IDLE_UNSET: Duration = Duration::from_secs(2 * 60 * 60);

/// Why there is no configuration. No URL is in it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UrlError {
    /// Nothing is set.
    #[error("database.url is not set; write {EXAMPLE}")]
    Missing,
    /// It cannot be read.
    #[error(
        "database.url is not the URL of a database; write {EXAMPLE}, with every special character of the password percent-encoded"
    )]
    Syntax,
    /// A parameter that is not known.
    #[error("database.url: there is no parameter `{0}`")]
    UnknownParameter(String),
    /// A parameter with a value that it cannot have.
    #[error("database.url: {parameter}: {advice}")]
    BadParameter {
        /// The parameter.
        parameter: &'static str,
        /// What it can have.
        advice: &'static str,
    },
    /// No host.
    #[error("database.url names no host; write {EXAMPLE}")]
    NoHost,
    /// No database: the server would take one by the user's name.
    #[error("database.url names no database; write {EXAMPLE}")]
    NoDatabase,
    /// Hosts and ports do not go together.
    #[error("database.url: give one port, or one for each host")]
    Ports,
    /// TLS.
    #[error("database.url: {0}")]
    Tls(#[from] TlsError),
}

/// One place where the server may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    host: Option<Host>,
    address: Option<IpAddr>,
    port: u16,
}

impl Place {
    /// As an error names it.
    pub fn name(&self) -> String {
        match (&self.host, self.address) {
            (Some(Host::Tcp(name)), _) => format!("{name}:{}", self.port),
            #[cfg(unix)]
            (Some(Host::Unix(path)), _) => format!("{}:{}", path.display(), self.port),
            (None, Some(address)) => format!("{address}:{}", self.port),
            (None, None) => self.port.to_string(),
        }
    }
}

/// A checked configuration of connections. It shows no secret.
#[derive(Clone)]
pub struct SqlConfig {
    /// All but the places.
    base: Config,
    places: Vec<Place>,
    tls: MakeRustlsConnect,
    target: String,
    /// Connections that requests share.
    pub connections: usize,
    /// How long connecting to one host may take.
    pub connect_timeout: Duration,
    /// How long one request may take.
    pub request_timeout: Duration,
}

impl std::fmt::Debug for SqlConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SqlConfig").field(&self.target).finish()
    }
}

impl SqlConfig {
    /// Reads and checks the settings, and the certificate files that they name.
    ///
    /// # Errors
    ///
    /// See [`UrlError`].
    pub fn new(settings: &Database) -> Result<SqlConfig, UrlError> {
        let url = settings.url.as_ref().ok_or(UrlError::Missing)?;
        let (tls, plain) = take_tls(url.expose())?;
        let parsed: Config = plain.parse().map_err(|_| UrlError::Syntax)?;
        let places = places(&parsed)?;
        let database = parsed.get_dbname().filter(|name| !name.is_empty());
        let database = database.ok_or(UrlError::NoDatabase)?;
        let connector = MakeRustlsConnect::new(client_config(&tls)?);
        let names: Vec<String> = places.iter().map(Place::name).collect();
        let user = parsed.get_user().map(|user| format!("{user}@"));
        let target = format!("{}{}/{database}", user.unwrap_or_default(), names.join(","));
        Ok(SqlConfig {
            base: base(&parsed, &tls, places.len()),
            places,
            tls: connector,
            target,
            connections: settings.connections,
            connect_timeout: parsed
                .get_connect_timeout()
                .copied()
                .unwrap_or(settings.connect_timeout),
            request_timeout: settings.request_timeout,
        })
    }

    /// The database as messages name it: user, hosts and name, without secrets.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Who we are there.
    pub fn role(&self) -> &str {
        self.base.get_user().unwrap_or("the role of this process")
    }

    /// Name of the database.
    pub fn database(&self) -> &str {
        self.base.get_dbname().unwrap_or_default()
    }

    /// A failed statement as an error that says what to do.
    pub fn statement_error(&self, error: &tokio_postgres::Error) -> SqlError {
        SqlError::Statement {
            class: error::classify(error),
            why: error::explain(error, self.role()),
        }
    }

    /// No answer within [`SqlConfig::request_timeout`].
    pub fn silent(&self) -> SqlError {
        SqlError::Silent {
            target: self.target.clone(),
            limit: self.request_timeout,
        }
    }

    /// What makes the server give a statement up a little before we do, so that one
    /// that hangs is rather refused than unclear.
    pub fn statement_timeout(&self) -> String {
        let patience = self.request_timeout.mul_f64(0.8).as_millis().max(1);
        format!("SET statement_timeout = '{patience}ms'")
    }

    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }

    pub(super) fn tls(&self) -> MakeRustlsConnect {
        self.tls.clone()
    }

    /// What tokio-postgres needs to connect to one place.
    pub(super) fn at(&self, place: &Place) -> Config {
        let mut config = self.base.clone();
        config.connect_timeout(self.connect_timeout);
        match &place.host {
            Some(Host::Tcp(name)) => {
                config.host(name.clone());
            }
            #[cfg(unix)]
            Some(Host::Unix(path)) => {
                config.host_path(path);
            }
            None => {}
        }
        if let Some(address) = place.address {
            config.hostaddr(address);
        }
        config.port(place.port);
        config
    }
}

/// A configuration with everything but hosts.
fn base(parsed: &Config, tls: &Tls, hosts: usize) -> Config {
    let mut config = Config::new();
    if let Some(user) = parsed.get_user() {
        config.user(user);
    }
    if let Some(password) = parsed.get_password() {
        config.password(password);
    }
    if let Some(name) = parsed.get_dbname() {
        config.dbname(name);
    }
    if let Some(options) = parsed.get_options() {
        config.options(options);
    }
    config.application_name(parsed.get_application_name().unwrap_or("tidepool"));
    config.ssl_mode(match tls.mode {
        Mode::Disable => SslMode::Disable,
        Mode::Prefer => SslMode::Prefer,
        Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
    });
    config.ssl_negotiation(parsed.get_ssl_negotiation());
    config.channel_binding(parsed.get_channel_binding());
    config.target_session_attrs(match parsed.get_target_session_attrs() {
        // Of several servers, one that can be written.
        TargetSessionAttrs::Any if hosts > 1 => TargetSessionAttrs::ReadWrite,
        asked => asked,
    });
    let patience = parsed.get_tcp_user_timeout();
    config.tcp_user_timeout(patience.copied().unwrap_or(TCP_USER_TIMEOUT));
    config.keepalives(parsed.get_keepalives());
    let idle = parsed.get_keepalives_idle();
    config.keepalives_idle(match idle == KEEPALIVE_IDLE_UNSET {
        true => KEEPALIVE_IDLE,
        false => idle,
    });
    let interval = parsed.get_keepalives_interval();
    config.keepalives_interval(interval.unwrap_or(KEEPALIVE_INTERVAL));
    let retries = parsed.get_keepalives_retries();
    config.keepalives_retries(retries.unwrap_or(KEEPALIVE_RETRIES));
    config
}

fn places(parsed: &Config) -> Result<Vec<Place>, UrlError> {
    let hosts = parsed.get_hosts();
    let addresses = parsed.get_hostaddrs();
    let ports = parsed.get_ports();
    let count = hosts.len().max(addresses.len());
    let named = hosts
        .iter()
        .all(|host| !matches!(host, Host::Tcp(name) if name.is_empty()));
    if count == 0 || !named {
        return Err(UrlError::NoHost);
    }
    let paired = hosts.is_empty() || addresses.is_empty() || hosts.len() == addresses.len();
    if !paired || (ports.len() > 1 && ports.len() != count) {
        return Err(UrlError::Ports);
    }
    let place = |index: usize| Place {
        host: hosts.get(index).cloned(),
        address: addresses.get(index).copied(),
        port: ports
            .get(index)
            .or_else(|| ports.first())
            .copied()
            .unwrap_or(5432),
    };
    Ok((0..count).map(place).collect())
}

/// Takes what is said about TLS out of a URL: tokio-postgres knows less of it than
/// libpq. The rest is given back as a URL.
fn take_tls(url: &str) -> Result<(Tls, String), UrlError> {
    /// What tokio-postgres knows.
    const KNOWN: [&str; 18] = [
        "user",
        "password",
        "dbname",
        "options",
        "application_name",
        "host",
        "hostaddr",
        "port",
        "connect_timeout",
        "tcp_user_timeout",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_retries",
        "sslnegotiation",
        "target_session_attrs",
        "channel_binding",
        "load_balance_hosts",
    ];
    let url = url.trim();
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(UrlError::Syntax);
    }
    let (head, query) = url.split_once('?').unwrap_or((url, ""));
    // A question mark in a password that is not encoded: the rest would be taken
    // for parameters, and shown.
    if query.contains('@') {
        return Err(UrlError::Syntax);
    }
    let mut tls = Tls::default();
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or(UrlError::Syntax)?;
        let value = percent_decode_str(value).decode_utf8();
        let value = value.map_err(|_| UrlError::Syntax)?;
        let file = || Some(PathBuf::from(&*value)).filter(|path| !path.as_os_str().is_empty());
        match key {
            "sslmode" => {
                tls.mode = Mode::parse(&value).ok_or(UrlError::BadParameter {
                    parameter: "sslmode",
                    advice: "use disable, prefer, require, verify-ca or verify-full",
                })?;
            }
            "sslrootcert" => tls.root_cert = file(),
            "sslcert" => tls.cert = file(),
            "sslkey" => tls.key = file(),
            _ if KNOWN.contains(&key) => rest.push(pair),
            _ if key.len() <= 40 && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') => {
                return Err(UrlError::UnknownParameter(key.to_owned()));
            }
            _ => return Err(UrlError::Syntax),
        }
    }
    let rest = match rest.is_empty() {
        true => head.to_owned(),
        false => format!("{head}?{}", rest.join("&")),
    };
    Ok((tls, rest))
}

#[cfg(test)]
#[path = "url_tests.rs"]
mod tests;
