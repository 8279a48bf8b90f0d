//! The settings of a host: every key with its meaning, its default and its
//! bounds. `load` reads them from file, environment and flags; `check` refuses
//! a whole configuration that cannot work, before any port is bound.
//!
//! Nothing here reads the process environment.

mod check;
mod load;
mod print;
mod units;

pub use check::{
    InvalidSetting, MAX_COMPONENT_BYTES_CEILING, MAX_REGIONS, MIN_TOKEN_BYTES, is_region_name,
};
pub use load::{ConfigError, Origin, SECRET_PREFIX, Sources, env_name, load};
pub use units::{RegionSetting, Secret};

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use units::{duration, size};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Declares a group of settings once: fields, defaults, and the same doc
/// comments as text for `print`, so that the reference cannot fall behind.
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $(#[serde($($serde:tt)*)])?
                $key:ident: $type:ty = $default:expr,
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $(
                $(#[doc = $doc])+
                $(#[serde($($serde)*)])?
                pub $key: $type,
            )+
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($key: $default,)+ }
            }
        }

        impl $name {
            /// Each key with the lines of its documentation.
            const DOCS: &[(&str, &[&str])] = &[
                $((stringify!($key), &[$($doc),+]),)+
            ];
        }
    };
}

settings! {
    /// All settings of a host.
    Settings {
        /// The folder of the deployed handlers and what they were compiled to, and of
        /// the log when it is embedded. Made when missing.
        data: PathBuf = PathBuf::from("tidepool-data"),
        /// The regions of `tidepool dev`, each `name=address`; 1 to 16. A name is 1 to 63 of
        /// `a`-`z`, `0`-`9` and `-`; port 0 takes any free port.
        regions: Vec<RegionSetting> = default_regions(),
        /// The region that `tidepool serve` is: 1 to 63 of `a`-`z`, `0`-`9` and `-`.
        region: String = "local".to_owned(),
        /// Where the data plane of `tidepool serve` listens.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
        /// A folder to watch: a component `get.wasm`, `put.wasm`, `delete.wasm`
        /// or `hydrate.wasm` that changes there is deployed to all regions.
        /// Nothing is watched when it is not set.
        watch: Option<PathBuf> = None,
        /// The admin plane.
        admin: Admin = Admin::default(),
        /// Whose components are taken.
        trust: Trust = Trust::default(),
        /// The data plane.
        http: Http = Http::default(),
        /// The database of the log.
        database: Database = Database::default(),
        /// The cache of each region.
        cache: Cache = Cache::default(),
        /// Keeping the caches in Redis.
        redis: Redis = Redis::default(),
        /// Appending to the log.
        log: Log = Log::default(),
        /// Following the log.
        feed: Feed = Feed::default(),
        /// Deploying and running components.
        handlers: Handlers = Handlers::default(),
        /// What one call of a component may use.
        limits: Limits = Limits::default(),
    }
}

settings! {
    /// `[admin]`: the admin plane.
    Admin {
        /// Where it listens.
        listen: SocketAddr = local(8090),
        /// The bearer token it asks for, at least 16 bytes. Must be set when it
        /// listens anywhere but on loopback. Never printed.
        token: Option<Secret> = None,
        /// A PEM file with its certificate, followed by those of the authorities
        /// between it and the root. With it the admin plane is `https://`, and
        /// should be wherever its token goes through a network. It is read again
        /// when it changes; needs `admin.tls_key`.
        tls_cert: Option<PathBuf> = None,
        /// A PEM file with the private key of `admin.tls_cert`, without a
        /// passphrase. Read again like it.
        tls_key: Option<PathBuf> = None,
    }
}

settings! {
    /// `[trust]`: whose components are taken.
    Trust {
        /// Keys whose signatures are trusted, each a line `ssh-ed25519 AAAA... comment`
        /// as in the `.pub` file. A component is signed with
        /// `ssh-keygen -Y sign -f KEY -n tidepool component.wasm`.
        keys: Vec<String> = Vec::new(),
        /// A file of more such lines, at most 256 KiB; blank lines and those that
        /// begin with `#` are passed over. Read again for every signature.
        keys_file: Option<PathBuf> = None,
        /// Whether a component without a signature by one of these keys is
        /// refused. One with a signature must be right in any case, once a key
        /// is trusted.
        require_signature: bool = false,
    }
}

settings! {
    /// `[http]`: the data plane, for each region.
    Http {
        /// Largest value that a PUT may write; 1 B to 25 MiB.
        #[serde(with = "size")]
        max_value_bytes: usize = MIB,
        /// Connections served at once; more wait to be accepted. 1 to 1000000.
        max_connections: u32 = 4096,
        /// How long a client may take to send the head of a request.
        #[serde(with = "duration")]
        header_timeout: Duration = Duration::from_secs(10),
        /// How long a client may take to send the body of a request.
        #[serde(with = "duration")]
        body_timeout: Duration = Duration::from_secs(30),
        /// How long a connection may stay open without a request.
        #[serde(with = "duration")]
        idle_timeout: Duration = Duration::from_secs(60),
        /// How long requests in flight may take to finish when the host stops.
        #[serde(with = "duration")]
        drain_timeout: Duration = Duration::from_secs(10),
    }
}

settings! {
    /// `[database]`: the database of the log.
    Database {
        /// PostgreSQL 15 or CockroachDB v22.1, or newer, as
        /// `postgresql://user:password@host1:26257,host2:26257/name?sslmode=verify-full`
        /// with libpq's parameters `sslmode`, `sslrootcert`, `sslcert`, `sslkey`
        /// and others; the hosts are tried in their order. `tidepool serve`
        /// needs it, `tidepool dev` has a log of its own. Never printed.
        url: Option<Secret> = None,
        /// Connections that reads share; 1 to 64. Writes and feeds have their
        /// own.
        connections: usize = 4,
        /// How long connecting to one host may take, unless the URL says it
        /// (`connect_timeout`).
        #[serde(with = "duration")]
        connect_timeout: Duration = Duration::from_secs(5),
        /// How long one request to the database may take. A write may wait this
        /// long to be sent, this long to be answered, and once more when the
        /// connection is lost meanwhile and its outcome has to be looked up.
        #[serde(with = "duration")]
        request_timeout: Duration = Duration::from_secs(5),
    }
}

settings! {
    /// `[cache]`: the cache of each region.
    Cache {
        /// Memory for entries; at least 64 KiB.
        #[serde(with = "size")]
        max_bytes: usize = 256 * MIB,
        /// How long a deletion is remembered. Longer than `cache.lease_ttl`.
        #[serde(with = "duration")]
        tombstone_ttl: Duration = Duration::from_secs(600),
        /// How long it is remembered that a key does not exist.
        #[serde(with = "duration")]
        negative_ttl: Duration = Duration::from_secs(5),
        /// How long the reader that missed may take to fill the entry.
        #[serde(with = "duration")]
        lease_ttl: Duration = Duration::from_secs(2),
        /// How long other readers of that key wait for the fill before they
        /// read the log themselves.
        #[serde(with = "duration")]
        lease_wait: Duration = Duration::from_millis(100),
    }
}

settings! {
    /// `[redis]`: keeping the caches in Redis.
    Redis {
        /// Where it is: `redis://user:password@host:6379/0`, `rediss://...` for
        /// TLS, `redis-sentinel://user:password@host:26379,host:26379/name`
        /// (`rediss-sentinel://...`), or
        /// `redis-cluster://user:password@host:6379,host:6379`
        /// (`rediss-cluster://...`), which keeps a region's cache on one shard of
        /// the cluster; characters with a meaning of their own are
        /// percent-encoded. `tidepool serve` needs it, `tidepool dev` keeps its
        /// caches in memory. Never printed.
        url: Option<Secret> = None,
        /// A PEM file with the authorities to trust, in place of the system's.
        ca_file: Option<PathBuf> = None,
        /// What the names of all keys begin with: 1 to 64 of letters, digits, `:`,
        /// `.`, `_` and `-`. Hosts of one region share it; two regions on one
        /// Redis, or on one cluster, must not. In a cluster it becomes a hash
        /// tag, `{tidepool}`, unless it has one.
        key_prefix: String = "tidepool".to_owned(),
        /// Connections of a region; 1 to 64.
        connections: u32 = 2,
        /// How long making a connection may take.
        #[serde(with = "duration")]
        connect_timeout: Duration = Duration::from_secs(2),
        /// How long a command may take; then the log is read.
        #[serde(with = "duration")]
        command_timeout: Duration = Duration::from_millis(500),
        /// How long applying a batch of rows may take.
        #[serde(with = "duration")]
        batch_timeout: Duration = Duration::from_secs(10),
        /// Longest wait before the next try to connect.
        #[serde(with = "duration")]
        reconnect_backoff_max: Duration = Duration::from_secs(2),
        /// How long a value is kept that is not written again; at least
        /// `cache.tombstone_ttl`, at most 366 days. Everything in Redis has an
        /// end, so that a `volatile-*` policy can evict it.
        #[serde(with = "duration")]
        entry_ttl: Duration = Duration::from_secs(30 * 24 * 60 * 60),
    }
}

settings! {
    /// `[log]`: appending to the log.
    Log {
        /// Writes that may wait for a commit; more are refused with 503.
        max_queue: usize = 4096,
        /// Writes in one commit.
        max_batch: usize = 512,
        /// Bytes of values in one commit.
        #[serde(with = "size")]
        max_batch_bytes: usize = 16 * MIB,
    }
}

settings! {
    /// `[feed]`: following the log.
    Feed {
        /// Rows that a hydrator takes at once.
        batch_rows: usize = 1024,
        /// Bytes of values that a hydrator takes at once.
        #[serde(with = "size")]
        batch_bytes: usize = 4 * MIB,
        /// How often the feed declares a position resolved.
        #[serde(with = "duration")]
        resolved_interval: Duration = Duration::from_secs(1),
        /// How far a region may be behind the log and still be ready.
        #[serde(with = "duration")]
        max_lag: Duration = Duration::from_secs(5),
    }
}

settings! {
    /// `[handlers]`: deploying and running components.
    Handlers {
        /// Largest component that may be deployed; 64 KiB, which every built-in
        /// handler is within, to 256 MiB.
        #[serde(with = "size")]
        max_component_bytes: usize = 64 * MIB,
        /// Memory (address space) that the process which compiles a component may
        /// use; a component that takes more is refused. At least 256 MiB.
        #[serde(with = "size")]
        compile_memory: usize = 1024 * MIB,
        /// How long compiling a component may take; one that takes longer is
        /// refused. At least 1 s.
        #[serde(with = "duration")]
        compile_timeout: Duration = Duration::from_secs(30),
        /// Disk space for compiled components, in `compiled` in the `data` folder:
        /// what is found there is not compiled again. The longest unused go first;
        /// 0 keeps none.
        #[serde(with = "size")]
        compiled_cache_bytes: usize = 1024 * MIB,
        /// Calls that run at once, for each region and operation.
        concurrency: usize = 128,
        /// Calls that may wait for their turn, for each region and operation;
        /// more are refused with 503.
        queue: usize = 1024,
        /// How long a call may wait for its turn before it is refused with 503.
        #[serde(with = "duration")]
        queue_wait: Duration = Duration::from_secs(1),
        /// Calls that one instance serves, give or take a random part; 1 makes
        /// a fresh instance for every request.
        instance_uses: u32 = 10_000,
        /// Idle instances kept, for each region and operation: as many as commonly
        /// wait at once, or they are made anew with each burst. Each holds on to
        /// the memory that it has grown to.
        idle_instances: usize = 64,
        /// Revisions kept, for each region and operation; at least 2, so that
        /// there is one to roll back to. The same on all hosts of a database.
        keep_revisions: usize = 100,
        /// The folder whose files may be secrets of handlers (`--secret NAME=file:FILE`).
        /// Without it, secrets come from variables `TIDEPOOL_SECRET_*` only.
        secrets_dir: Option<PathBuf> = None,
        /// How long a new revision is compared with the one that it replaces, and
        /// taken back when it does worse; 0 s: never.
        #[serde(with = "duration")]
        trial: Duration = Duration::from_secs(600),
        /// Calls within 10 s before a revision on trial is judged; 1 to 1000000.
        take_back_calls: u32 = 20,
        /// It is taken back when its share of failed calls (traps, passed limits,
        /// answers with 500) is this many percent larger; 1 to 100.
        take_back_percent: u32 = 10,
        /// Or when nine of ten calls are not within this many times what they were
        /// within before, and not within 16 ms; 0: however slow it is.
        take_back_latency: u32 = 8,
    }
}

settings! {
    /// `[limits]`: what one call of a component may use.
    Limits {
        /// Time on the processor. Left out, it is at least 100 ms for each MiB of
        /// `http.max_value_bytes`.
        #[serde(with = "duration")]
        cpu: Duration = Duration::from_millis(250),
        /// Time by the clock, waiting included; at least `limits.cpu`.
        #[serde(with = "duration")]
        wall: Duration = Duration::from_secs(10),
        /// Memory of an instance; at least 8 times `http.max_value_bytes` and
        /// 8 MiB more, because a component holds copies of a value, and forms of it in
        /// JSON. Left out, it is at least that.
        #[serde(with = "size")]
        memory_bytes: usize = 128 * MIB,
        /// Elements in the tables of an instance.
        table_elements: usize = 100_000,
        /// Stack; 64 KiB to 16 MiB.
        #[serde(with = "size")]
        stack_bytes: usize = 512 * KIB,
        /// Calls of the host's functions.
        host_calls: u64 = 10_000,
        /// Bytes passed between component and host; at least
        /// `http.max_value_bytes`.
        #[serde(with = "size")]
        host_bytes: usize = 256 * MIB,
        /// Bytes of the answer; at least twice `http.max_value_bytes` and 64 KiB more.
        /// Left out, it is at least that.
        #[serde(with = "size")]
        response_bytes: usize = 32 * MIB,
    }
}

/// The longest body of a PUT, and of its answer: a value in its JSON envelope, where
/// every byte may need an escape of two. Longer escapes are better sent as base64 or raw.
pub fn max_envelope_bytes(max_value_bytes: usize) -> usize {
    max_value_bytes.saturating_mul(2).saturating_add(64 * KIB)
}

/// An address on loopback.
fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn default_regions() -> Vec<RegionSetting> {
    [
        ("us-east-1", 8080),
        ("us-west-1", 8081),
        ("eu-west-1", 8082),
    ]
    .into_iter()
    .map(|(name, port)| RegionSetting {
        name: name.to_owned(),
        listen: local(port),
    })
    .collect()
}
