//! Where a Redis is: the URL of the settings, read by pure code. What it shows of
//! itself has no password.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

use super::error::RedisCacheError;

/// The port of a Sentinel that names none.
const SENTINEL_PORT: u16 = 26379;

/// Most Sentinels in a URL.
const MAX_SENTINELS: usize = 16;

/// Where a Redis is.
#[derive(Clone, Debug)]
pub(super) enum Address {
    /// At an address.
    At(ConnectionInfo),
    /// Wherever the Sentinels say.
    Sentinel {
        /// Their addresses.
        sentinels: Vec<(String, u16)>,
        /// What they call the primary.
        service: String,
        /// User, password and number of the database: for Redis, not for the
        /// Sentinels.
        redis: RedisConnectionInfo,
        /// Whether both are spoken to with TLS.
        tls: bool,
    },
}

impl Address {
    /// Reads
    /// `redis[s]://[[user]:password@]host[:port][/database]` or
    /// `redis[s]-sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/database]`.
    pub fn parse(url: &str) -> Result<Address, RedisCacheError> {
        let bad = |why: &str| RedisCacheError::Url(why.to_owned());
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| bad("it has no `://`"))?;
        let tls = match scheme {
            "redis" | "rediss" => {
                if url.contains('#') {
                    return Err(bad("`#` has no meaning here, or is to be written as %23"));
                }
                // The client's own message may quote the URL.
                let info = url
                    .into_connection_info()
                    .map_err(|_| bad("host, port, user or database cannot be read"))?;
                return Ok(Address::At(info));
            }
            "redis-sentinel" => false,
            "rediss-sentinel" => true,
            _ => return Err(bad("it begins with something else")),
        };
        // The password may have an `@` only as %40.
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (format!("{login}@"), place),
            None => (String::new(), rest),
        };
        let (hosts, path) = place
            .split_once('/')
            .ok_or_else(|| bad("the name of the primary is missing: .../service"))?;
        let (service, database) = path.split_once('/').unwrap_or((path, ""));
        if service.is_empty() {
            return Err(bad("the name of the primary is missing: .../service"));
        }
        let sentinels: Vec<(String, u16)> = hosts
            .split(',')
            .map(|host| sentinel(host).ok_or_else(|| bad("a Sentinel is not host:port")))
            .collect::<Result<_, _>>()?;
        if sentinels.len() > MAX_SENTINELS {
            return Err(bad("it lists too many Sentinels"));
        }
        let info = format!("redis://{login}sentinel/{database}")
            .into_connection_info()
            .map_err(|_| bad("user, password or database cannot be read"))?;
        Ok(Address::Sentinel {
            sentinels,
            service: service.to_owned(),
            redis: info.redis_settings().clone(),
            tls,
        })
    }

    /// For messages.
    pub fn shown(&self) -> String {
        match self {
            Address::At(info) => format!("Redis at {}", info.addr()),
            Address::Sentinel {
                sentinels, service, ..
            } => {
                let hosts = sentinels
                    .iter()
                    .map(|(host, port)| format!("{host}:{port}"));
                let hosts = hosts.collect::<Vec<_>>().join(",");
                format!("Redis `{service}` of the Sentinels {hosts}")
            }
        }
    }

    /// The user that commands run as.
    pub fn user(&self) -> &str {
        let redis = match self {
            Address::At(info) => info.redis_settings(),
            Address::Sentinel { redis, .. } => redis,
        };
        redis.username().unwrap_or("default")
    }

    /// Whether it is spoken to with TLS.
    pub fn tls(&self) -> bool {
        match self {
            Address::At(info) => matches!(info.addr(), ConnectionAddr::TcpTls { .. }),
            Address::Sentinel { tls, .. } => *tls,
        }
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn sentinel(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, port.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None => SENTINEL_PORT,
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_makes_it_panic(scheme in "(redis|rediss|redis-sentinel)?", rest in ".*") {
            let _ = Address::parse(&format!("{scheme}://{rest}"));
            let _ = Address::parse(&rest);
        }
    }

    #[test]
    fn an_address_with_user_password_database_and_tls() {
        let address = Address::parse("rediss://me:p%40ss@example.org:6400/3").unwrap();
        let Address::At(info) = &address else {
            panic!("{address:?}")
        };
        assert_eq!(info.redis_settings().password(), Some("p@ss"));
        assert_eq!(info.redis_settings().db(), 3);
        assert!(address.tls());
        assert_eq!(address.user(), "me");
        assert_eq!(address.shown(), "Redis at example.org:6400");
        let plain = Address::parse("redis://localhost").unwrap();
        assert!(!plain.tls());
        assert_eq!(plain.user(), "default");
    }

    #[test]
    fn sentinels_with_what_they_are_asked_for() {
        let address = Address::parse("rediss-sentinel://me:secret@a,b:1,[::1]:2/main/4").unwrap();
        let Address::Sentinel {
            sentinels,
            service,
            redis,
            tls,
        } = &address
        else {
            panic!("{address:?}")
        };
        let expected = [("a", SENTINEL_PORT), ("b", 1), ("::1", 2)];
        assert_eq!(
            *sentinels,
            expected.map(|(host, port)| (host.to_owned(), port))
        );
        assert_eq!((service.as_str(), redis.db(), *tls), ("main", 4, true));
        assert_eq!(redis.password(), Some("secret"));
        assert!(!address.shown().contains("secret") && !format!("{address:?}").contains("secret"));
    }

    #[test]
    fn what_is_no_url_is_refused_without_its_password() {
        for url in [
            "",
            "localhost:6379",
            "http://me:secret@host",
            "redis://me:secret@host:port",
            "redis://me:secret@host/db",
            "rediss://me:secret@host#insecure",
            "redis-sentinel://me:secret@host",
            "redis-sentinel://me:secret@host/",
            "redis-sentinel://me:secret@host:0/main",
            "redis-sentinel://me:secret@/main",
            "redis-sentinel://me:secret@host/main/x",
        ] {
            let error = Address::parse(url).unwrap_err();
            assert!(matches!(error, RedisCacheError::Url(_)), "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
