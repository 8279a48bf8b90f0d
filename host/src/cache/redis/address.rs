//! Where a Redis is: the URL of the settings, read by pure code. What it shows of
//! itself has no password.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

use super::error::RedisCacheError;

/// The port of a Sentinel that names none.
const SENTINEL_PORT: u16 = 26379;

/// The port of a node of a cluster that names none.
const REDIS_PORT: u16 = 6379;

/// Most hosts in a URL.
const MAX_HOSTS: usize = 16;

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
    /// On the node of a cluster that has the slot.
    Cluster {
        /// Nodes that are asked which one that is, in their order.
        seeds: Vec<(String, u16)>,
        /// User and password of all nodes.
        redis: RedisConnectionInfo,
        /// Whether they are spoken to with TLS.
        tls: bool,
    },
}

impl Address {
    /// Reads
    /// `redis[s]://[[user]:password@]host[:port][/database]`,
    /// `redis[s]-sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/database]` or
    /// `redis[s]-cluster://[[user]:password@]host[:port][,host[:port]...]`.
    pub fn parse(url: &str) -> Result<Address, RedisCacheError> {
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
            "redis-sentinel" | "redis-cluster" => false,
            "rediss-sentinel" | "rediss-cluster" => true,
            _ => return Err(bad("it begins with something else")),
        };
        // The password may have an `@` only as %40.
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (format!("{login}@"), place),
            None => (String::new(), rest),
        };
        if scheme.ends_with("-cluster") {
            let place = place.strip_suffix('/').unwrap_or(place);
            if place.contains('/') {
                return Err(bad(
                    "it names a database, and a cluster has only one; end it after the hosts",
                ));
            }
            return Ok(Address::Cluster {
                seeds: hosts(place, REDIS_PORT)?,
                redis: settings(&login, "")?,
                tls,
            });
        }
        let (sentinels, path) = place
            .split_once('/')
            .ok_or_else(|| bad("the name of the primary is missing: .../service"))?;
        let (service, database) = path.split_once('/').unwrap_or((path, ""));
        if service.is_empty() {
            return Err(bad("the name of the primary is missing: .../service"));
        }
        Ok(Address::Sentinel {
            sentinels: hosts(sentinels, SENTINEL_PORT)?,
            service: service.to_owned(),
            redis: settings(&login, database)?,
            tls,
        })
    }

    /// For messages.
    pub fn shown(&self) -> String {
        match self {
            Address::At(info) => format!("Redis at {}", info.addr()),
            Address::Sentinel {
                sentinels, service, ..
            } => format!("Redis `{service}` of the Sentinels {}", listed(sentinels)),
            Address::Cluster { seeds, .. } => format!("Redis Cluster at {}", listed(seeds)),
        }
    }

    /// The user that commands run as.
    pub fn user(&self) -> &str {
        let redis = match self {
            Address::At(info) => info.redis_settings(),
            Address::Sentinel { redis, .. } | Address::Cluster { redis, .. } => redis,
        };
        redis.username().unwrap_or("default")
    }

    /// Whether it is spoken to with TLS.
    pub fn tls(&self) -> bool {
        match self {
            Address::At(info) => matches!(info.addr(), ConnectionAddr::TcpTls { .. }),
            Address::Sentinel { tls, .. } | Address::Cluster { tls, .. } => *tls,
        }
    }

    /// Whether it is a cluster's.
    pub fn is_cluster(&self) -> bool {
        matches!(self, Address::Cluster { .. })
    }
}

fn bad(why: &str) -> RedisCacheError {
    RedisCacheError::Url(why.to_owned())
}

/// User, password and database; the login is empty or ends with `@`.
fn settings(login: &str, database: &str) -> Result<RedisConnectionInfo, RedisCacheError> {
    let info = format!("redis://{login}host/{database}")
        .into_connection_info()
        .map_err(|_| bad("user, password or database cannot be read"))?;
    Ok(info.redis_settings().clone())
}

/// Hosts with a comma between them.
fn hosts(text: &str, port: u16) -> Result<Vec<(String, u16)>, RedisCacheError> {
    let hosts: Vec<(String, u16)> = text
        .split(',')
        .map(|text| host(text, port).ok_or_else(|| bad("one of its hosts is not host:port")))
        .collect::<Result<_, _>>()?;
    if hosts.len() > MAX_HOSTS {
        return Err(bad("it lists too many hosts"));
    }
    Ok(hosts)
}

fn listed(hosts: &[(String, u16)]) -> String {
    let hosts = hosts.iter().map(|(host, port)| format!("{host}:{port}"));
    hosts.collect::<Vec<_>>().join(",")
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn host(text: &str, default: u16) -> Option<(String, u16)> {
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
        None => default,
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_makes_it_panic(scheme in "(redis|rediss|redis-sentinel|rediss-cluster)?", rest in ".*") {
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
    fn seeds_of_a_cluster() {
        let address = Address::parse("rediss-cluster://me:s%2Fcret@a,b:1,[::1]:2").unwrap();
        let Address::Cluster { seeds, redis, tls } = &address else {
            panic!("{address:?}")
        };
        let expected = [("a", REDIS_PORT), ("b", 1), ("::1", 2)];
        assert_eq!(*seeds, expected.map(|(host, port)| (host.to_owned(), port)));
        assert_eq!((redis.db(), *tls), (0, true));
        assert_eq!(redis.password(), Some("s/cret"));
        assert_eq!(address.user(), "me");
        assert!(address.tls() && address.is_cluster());
        assert_eq!(address.shown(), "Redis Cluster at a:6379,b:1,::1:2");
        assert!(!format!("{address:?}").contains("cret"));
        let plain = Address::parse("redis-cluster://localhost/").unwrap();
        assert!(!plain.tls() && plain.is_cluster());
        assert_eq!(plain.user(), "default");
        let most = vec!["h"; MAX_HOSTS].join(",");
        assert!(Address::parse(&format!("redis-cluster://{most}")).is_ok());
        assert!(Address::parse(&format!("redis-cluster://{most},h")).is_err());
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
            "redis-cluster://me:secret@",
            "redis-cluster://me:secret@host,",
            "redis-cluster://me:secret@host:0",
            "redis-cluster://me:secret@host:port",
            "redis-cluster://me:secret@host/0",
            "redis-cluster://me:secret@host/main/",
            "redis-clusters://me:secret@host",
        ] {
            let error = Address::parse(url).unwrap_err();
            assert!(matches!(error, RedisCacheError::Url(_)), "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
