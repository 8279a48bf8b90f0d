//! Why a Redis does not do what it is asked, as a person can act on it. No error
//! has a password in it.

use redis::{ErrorKind, ServerErrorKind};

/// Oldest release that is supported.
pub(super) const OLDEST: (u32, u32) = (6, 2);

/// Why a Redis cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RedisCacheError {
    /// The URL.
    #[error(
        "redis.url: {0}; write redis://, rediss:// (TLS), redis-sentinel:// or redis-cluster://, as in redis://user:password@host:6379/0"
    )]
    Url(String),
    /// The file of certificates.
    #[error("redis.ca_file: {0}; name a PEM file with the certificates to trust")]
    CaFile(String),
    /// Nobody there, or not for long.
    #[error("{server}: {why}; check that Redis runs there and can be reached")]
    Unreachable {
        /// Host and port.
        server: String,
        /// What went wrong.
        why: String,
    },
    /// The certificate.
    #[error(
        "{server}: {why}; set redis.ca_file to the authority that signed the server's certificate, and use the name that is in it"
    )]
    Certificate {
        /// Host and port.
        server: String,
        /// What went wrong.
        why: String,
    },
    /// No answer in time.
    #[error("{server}: no answer within {bound:?}; it is overloaded, or the network is")]
    Timeout {
        /// Host and port.
        server: String,
        /// How long was waited.
        bound: std::time::Duration,
    },
    /// User or password.
    #[error(
        "{server} does not accept the user or password ({why}); correct them in redis.url, percent-encoded"
    )]
    Login {
        /// Host and port.
        server: String,
        /// As the server says it.
        why: String,
    },
    /// A right is missing.
    #[error(
        "{server}: the user `{user}` may not do what a cache needs ({why}); run: ACL SETUSER {user} {rights}"
    )]
    Permission {
        /// Host and port.
        server: String,
        /// The user.
        user: String,
        /// As the server says it.
        why: String,
        /// What to grant.
        rights: String,
    },
    /// A replica.
    #[error(
        "{server} is a read-only replica; name its primary in redis.url, or let Sentinel find it (redis-sentinel://)"
    )]
    Replica {
        /// Host and port.
        server: String,
    },
    /// A cluster node, and the URL is none of a cluster.
    #[error(
        "{server} is a node of a Redis Cluster; write redis-cluster:// (with TLS rediss-cluster://) in redis.url"
    )]
    Cluster {
        /// Host and port.
        server: String,
    },
    /// No cluster node, and the URL is one of a cluster.
    #[error(
        "{server} is not in cluster mode; write redis:// (with TLS rediss://) or redis-sentinel:// in redis.url, or start it with cluster-enabled yes"
    )]
    NotCluster {
        /// Host and port.
        server: String,
    },
    /// A slot that no node has.
    #[error(
        "{server}: no node has slot {slot}, where redis.key_prefix puts the cache; run: redis-cli --cluster fix {node}"
    )]
    Unassigned {
        /// Host and port.
        server: String,
        /// The slot.
        slot: u16,
        /// Who was asked.
        node: String,
    },
    /// A node that does not have the slot, any more or now.
    #[error(
        "{server}: {why}; the cluster is asked again which node has the cache; should this last, see CLUSTER INFO"
    )]
    Moved {
        /// Host and port.
        server: String,
        /// As the server says it.
        why: String,
    },
    /// A slot on its way to another node.
    #[error(
        "{server}: {why}; the cache is on its way to another node, until then it is tried again"
    )]
    Moving {
        /// Host and port.
        server: String,
        /// As the server says it.
        why: String,
    },
    /// Still starting.
    #[error("{server} is loading its data; it will be used once that is done")]
    Loading {
        /// Host and port.
        server: String,
    },
    /// An old release.
    #[error("{server} is Redis {version}; use {}.{} or newer", OLDEST.0, OLDEST.1)]
    TooOld {
        /// Host and port.
        server: String,
        /// Its release.
        version: String,
    },
    /// Anything else that it said.
    #[error("{server}: {why}")]
    Refused {
        /// Host and port.
        server: String,
        /// As the server says it.
        why: String,
    },
}

impl RedisCacheError {
    /// Whether waiting does not help: somebody has to change a setting.
    pub fn needs_a_change(&self) -> bool {
        match self {
            RedisCacheError::Url(_)
            | RedisCacheError::CaFile(_)
            | RedisCacheError::Certificate { .. }
            | RedisCacheError::Login { .. }
            | RedisCacheError::Permission { .. }
            | RedisCacheError::Replica { .. }
            | RedisCacheError::Cluster { .. }
            | RedisCacheError::NotCluster { .. }
            | RedisCacheError::TooOld { .. } => true,
            RedisCacheError::Unreachable { .. }
            | RedisCacheError::Timeout { .. }
            | RedisCacheError::Loading { .. }
            | RedisCacheError::Unassigned { .. }
            | RedisCacheError::Moved { .. }
            | RedisCacheError::Moving { .. }
            | RedisCacheError::Refused { .. } => false,
        }
    }
}

/// What an error of the client means here.
pub(super) fn explain(
    error: &redis::RedisError,
    server: &str,
    user: &str,
    key_prefix: &str,
    cluster: bool,
) -> RedisCacheError {
    let server = server.to_owned();
    let why = error.to_string();
    match (error.kind(), error.code()) {
        (_, Some("NOAUTH" | "WRONGPASS")) | (ErrorKind::AuthenticationFailed, _) => {
            RedisCacheError::Login { server, why }
        }
        (ErrorKind::Server(ServerErrorKind::NoPerm), _) => RedisCacheError::Permission {
            server,
            user: user.to_owned(),
            why,
            rights: rights(key_prefix, cluster),
        },
        (
            ErrorKind::Server(
                ServerErrorKind::Moved | ServerErrorKind::ClusterDown | ServerErrorKind::ReadOnly,
            ),
            _,
        ) if cluster => RedisCacheError::Moved { server, why },
        (ErrorKind::Server(ServerErrorKind::Ask | ServerErrorKind::TryAgain), _) if cluster => {
            RedisCacheError::Moving { server, why }
        }
        (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => RedisCacheError::Replica { server },
        (
            ErrorKind::Server(
                ServerErrorKind::Moved | ServerErrorKind::CrossSlot | ServerErrorKind::ClusterDown,
            ),
            _,
        ) if !cluster => RedisCacheError::Cluster { server },
        (ErrorKind::Server(ServerErrorKind::BusyLoading), _) => RedisCacheError::Loading { server },
        (ErrorKind::Io, _) if why.contains("certificate") => {
            RedisCacheError::Certificate { server, why }
        }
        (ErrorKind::Io, _)
        | (ErrorKind::MasterNameNotFoundBySentinel, _)
        | (ErrorKind::Server(ServerErrorKind::MasterDown), _) => {
            RedisCacheError::Unreachable { server, why }
        }
        _ => RedisCacheError::Refused { server, why },
    }
}

/// The rights of a user that serves a cache, as `ACL SETUSER` takes them.
pub(super) fn rights(key_prefix: &str, cluster: bool) -> String {
    let commands = super::COMMANDS.iter();
    let commands = commands.chain(cluster.then_some(&super::CLUSTER_COMMAND));
    let commands: String = commands.map(|command| format!(" +{command}")).collect();
    format!("~{key_prefix}:*{commands}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_command_that_grants_it() {
        let plain = rights("tidepool", false);
        assert!(
            plain.starts_with("~tidepool:* +") && plain.contains(" +info"),
            "{plain}"
        );
        assert!(!plain.contains("cluster"), "{plain}");
        let cluster = rights("{tidepool}", true);
        assert!(
            cluster.starts_with("~{tidepool}:* +") && cluster.ends_with(" +cluster|slots"),
            "{cluster}"
        );
    }
}
