//! A region's cache in Redis 6.2 or newer. Why an entry never goes back is said at
//! the head of `versioned.rs`; the same rules hold here, and are kept by scripts
//! that Redis runs in one step.
//!
//! - `read.rs`: what readers ask; `follow.rs`: what a hydrator asks
//! - `entry.rs`: an entry as bytes
//! - `scripts.rs` and `scripts/`: what runs in Redis
//! - `address.rs`, `server.rs`, `connection.rs`: reaching it, and reaching it again
//! - `cluster.rs`: the node of a cluster that has it
//! - `flights.rs`: one reader of this process for each missing key
//! - `inspect.rs`, `info.rs`: whether a Redis is fit for it; `look.rs`: what people see
//!
//! # What is kept where
//!
//! | key | what |
//! |---|---|
//! | `<prefix>:e:<key>` | the entry of a key, or, while there is none, the lease of who fills it. Always with a time to live |
//! | `<prefix>:meta` | one hash: the position, the epoch, and the heights below. Never with a time to live |
//! | `<prefix>:lead` | the hydrator that leads |
//!
//! In a cluster the prefix is a hash tag, `{<prefix>}`, so that all of it is in one
//! slot, and so on one node: scripts need the hash and entries in one step.
//!
//! A hit is one `GET`. A miss takes the lease with one `SET NX` in the place of the
//! entry; a row for the key replaces or removes what stands there, and so revokes
//! it. A batch of rows is one round trip.
//!
//! # What leaves Redis by itself
//!
//! Redis evicts and expires without asking, so the floor of `versioned.rs` cannot
//! be raised at that moment. It is raised before it matters, at the next batch:
//!
//! - **evicted**: `high` is the highest version ever put in or seen. When the
//!   server's count of evicted keys is not what it was, the floor rises to `high`;
//! - **expired**: an entry lives at least as long as its class says. Two heights
//!   for each class, of this half of that time and of the half before, are enough
//!   to have the floor above everything before it can expire;
//! - **flushed**: the meta hash is gone, with the epoch, and rows are refused with
//!   [`CacheError::Moved`] until a hydrator begins a new one by saving a position;
//!   what entries are left then (the hash alone was lost) are removed first;
//! - **restarted or restored, or another server took over**: the server's run is
//!   not the one that the hydrator has seen: refused in the same way.

mod address;
mod cluster;
mod connection;
mod entry;
mod error;
mod flights;
mod follow;
mod info;
mod inspect;
mod look;
mod read;
mod scripts;
mod server;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::{Applied, Cache, CacheError, CacheStats, Decision, Holding, Lease, Lookup};
use crate::clock::{Clock, Entropy};
use crate::config::{Secret, Settings};
use crate::feed::Position;
use crate::model::{Key, Row, State, Version};
use connection::{LinkError, Links};
use flights::Flights;
use info::Info;
use server::Server;

pub use error::RedisCacheError;
pub use inspect::inspect;

/// What a user of Redis has to be allowed, as `ACL SETUSER` names it.
const COMMANDS: [&str; 21] = [
    "get", "set", "getrange", "del", "unlink", "exists", "hget", "hset", "hmget", "hsetnx", "hdel",
    "pexpire", "pttl", "time", "info", "scan", "dbsize", "eval", "evalsha", "select", "ping",
];

/// What a user of a cluster has to be allowed besides.
const CLUSTER_COMMAND: &str = "cluster|slots";

/// Most keys being filled at a time by this process.
const MAX_LEASES: usize = 8192;

/// Redis keeps an entry that much longer than the heights say, so that its clock
/// may step back a little.
const GRACE: Duration = Duration::from_secs(1);

/// How old the statistics may be.
const STATS_AGE: Duration = Duration::from_secs(1);

/// Where a region's cache is, and its bounds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisCacheSettings {
    /// See `redis.url`.
    pub url: Secret,
    /// A PEM file with the authorities to trust, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// What the names of all keys begin with; in a cluster as a hash tag. Hosts of
    /// one region share it; two regions on one Redis must not.
    pub key_prefix: String,
    /// Connections.
    pub connections: u32,
    /// Bound on making a connection.
    pub connect_timeout: Duration,
    /// Bound on a command.
    pub command_timeout: Duration,
    /// Bound on a batch of rows.
    pub batch_timeout: Duration,
    /// Longest wait before the next try to connect.
    pub reconnect_backoff_max: Duration,
    /// How long a value is kept that is not written again.
    pub entry_ttl: Duration,
    /// How long a tombstone is kept. Longer than any replay or slow fill takes.
    pub tombstone_ttl: Duration,
    /// How long "the log has nothing" is believed.
    pub negative_ttl: Duration,
    /// How long a lease can be used: longer than a read of the log takes.
    pub lease_ttl: Duration,
    /// How long a lookup waits for somebody else's fill.
    pub lease_wait: Duration,
}

impl RedisCacheSettings {
    /// Those of the configuration.
    ///
    /// # Errors
    ///
    /// There is no URL.
    pub fn new(settings: &Settings) -> Result<RedisCacheSettings, RedisCacheError> {
        let (redis, cache) = (&settings.redis, &settings.cache);
        let Some(url) = redis.url.clone() else {
            return Err(RedisCacheError::Url("it is not set".to_owned()));
        };
        Ok(RedisCacheSettings {
            url,
            ca_file: redis.ca_file.clone(),
            key_prefix: redis.key_prefix.clone(),
            connections: redis.connections,
            connect_timeout: redis.connect_timeout,
            command_timeout: redis.command_timeout,
            batch_timeout: redis.batch_timeout,
            reconnect_backoff_max: redis.reconnect_backoff_max,
            entry_ttl: redis.entry_ttl,
            tombstone_ttl: cache.tombstone_ttl,
            negative_ttl: cache.negative_ttl,
            lease_ttl: cache.lease_ttl,
            lease_wait: cache.lease_wait,
        })
    }

    /// Reads the URL and the file of certificates; connects to nobody.
    ///
    /// # Errors
    ///
    /// They cannot be read.
    pub fn check(&self) -> Result<(), RedisCacheError> {
        Server::new(self).map(drop)
    }
}

/// What was there when the position was read: rows are applied to that and to
/// nothing else.
#[derive(Clone, Debug)]
struct Session {
    epoch: String,
    run: String,
}

/// A region's cache in Redis.
pub struct RedisCache {
    settings: RedisCacheSettings,
    links: Arc<Links>,
    flights: Arc<Flights>,
    session: Mutex<Option<Session>>,
    meta: String,
    lead: String,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    runtime: Handle,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    damaged: AtomicU64,
    out_of_memory: AtomicU64,
    /// Whether it was out of memory the last time.
    full: AtomicBool,
    stats: Mutex<(Option<Instant>, CacheStats)>,
}

impl RedisCache {
    /// A cache that begins to connect, and goes on trying whatever happens. Must be
    /// called in a runtime.
    ///
    /// # Errors
    ///
    /// The URL or the file of certificates cannot be read.
    pub fn new(
        mut settings: RedisCacheSettings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<RedisCache, RedisCacheError> {
        let server = Server::new(&settings)?;
        settings.key_prefix = server.key_prefix().to_owned();
        Ok(RedisCache {
            links: Arc::new(Links::new(server, settings.connections, &entropy)),
            flights: Flights::new(MAX_LEASES, settings.lease_ttl),
            session: Mutex::new(None),
            meta: format!("{}:meta", settings.key_prefix),
            lead: format!("{}:lead", settings.key_prefix),
            settings,
            clock,
            entropy,
            runtime: Handle::current(),
            counts: Arc::default(),
        })
    }

    /// The outcome of the first try to connect; how it is now, when that was before.
    ///
    /// # Errors
    ///
    /// Why this Redis cannot be used. It is tried again all the same; see
    /// [`RedisCacheError::needs_a_change`].
    pub async fn first_connection(&self) -> Result<(), RedisCacheError> {
        self.links.first().await
    }

    /// The server, for messages.
    pub fn shown_server(&self) -> &str {
        self.links.server().shown()
    }

    /// Waits, without a bound, until it is connected.
    pub async fn connected(&self) {
        self.links.connected().await;
    }

    fn entry(&self, key: &str) -> String {
        format!("{}:e:{key}", self.settings.key_prefix)
    }

    /// How an entry is kept: its class, and its time to live in milliseconds.
    fn kept(&self, state: &State, now: i64) -> (&'static str, i64) {
        let settings = &self.settings;
        match state {
            State::Live { value, .. } => match value.expires_at {
                None => ("v", millis(settings.entry_ttl + GRACE)),
                Some(at) => {
                    let left = at.saturating_sub(now).max(0) / 1000;
                    (
                        "t",
                        left.saturating_add(millis(settings.tombstone_ttl + GRACE)),
                    )
                }
            },
            State::Deleted { .. } => ("t", millis(settings.tombstone_ttl + GRACE)),
            State::Absent => ("n", millis(settings.negative_ttl)),
        }
    }

    /// Remembers, and says once, that there is no memory (again).
    fn note_memory(&self, refused: u64) {
        let full = refused > 0;
        self.counts
            .out_of_memory
            .fetch_add(refused, Ordering::Relaxed);
        if self.counts.full.swap(full, Ordering::Relaxed) != full && full {
            tracing::warn!(
                server = self.links.server().shown(),
                "Redis is out of memory: changed keys are evicted, new ones are not kept; run: CONFIG SET maxmemory-policy volatile-lru, or give it more memory"
            );
        }
    }
}

#[async_trait]
impl Cache for RedisCache {
    fn lookup_now(&self, _key: &str, _at_least: Option<Version>) -> Option<State> {
        None
    }

    async fn peek(
        &self,
        key: &Key,
        at_least: Option<Version>,
    ) -> Result<Option<State>, CacheError> {
        self.seen(key, at_least).await
    }

    async fn lookup(&self, key: &Key, at_least: Option<Version>) -> Result<Lookup, CacheError> {
        self.find(key, at_least).await
    }

    async fn fill(&self, lease: Lease, state: &State) -> Result<bool, CacheError> {
        self.put(lease, state).await
    }

    fn release(&self, lease: Lease) {
        self.give_back(lease);
    }

    async fn apply(&self, rows: &[Row], decisions: &[Decision]) -> Result<Applied, CacheError> {
        self.apply_rows(rows, decisions).await
    }

    async fn position(&self) -> Result<Option<Position>, CacheError> {
        self.read_position().await
    }

    async fn save_position(
        &self,
        previous: Option<&Position>,
        position: &Position,
    ) -> Result<bool, CacheError> {
        self.save_or_begin(previous, position).await
    }

    async fn lead(&self, holder: u64, ttl: Duration) -> Result<bool, CacheError> {
        let arguments = [format!("{holder:016x}"), millis(ttl).max(1).to_string()];
        let bound = self.settings.command_timeout;
        let keys = [self.lead.as_str()];
        let leads: i64 = scripts::LEAD
            .run(&self.links, bound, &keys, &arguments)
            .await?;
        Ok(leads == 1)
    }

    async fn resign(&self, holder: u64) -> Result<(), CacheError> {
        let arguments = [format!("{holder:016x}")];
        let bound = self.settings.command_timeout;
        let keys = [self.lead.as_str()];
        let _: i64 = scripts::RELEASE
            .run(&self.links, bound, &keys, &arguments)
            .await?;
        Ok(())
    }

    async fn holdings(&self, most: usize) -> Result<Vec<Holding>, CacheError> {
        self.shown(most).await
    }

    fn stats(&self) -> CacheStats {
        let mut kept = self.counts.stats.lock();
        if kept.0.is_none_or(|at| at.elapsed() >= STATS_AGE) {
            kept.0 = Some(Instant::now());
            let (links, counts) = (Arc::clone(&self.links), Arc::clone(&self.counts));
            let bound = self.settings.command_timeout;
            self.runtime.spawn(async move {
                if let Ok(stats) = read_stats(&links, bound).await {
                    counts.stats.lock().1 = stats;
                }
            });
        }
        CacheStats {
            reachable: self.links.is_up(),
            damaged: self.counts.damaged.load(Ordering::Relaxed),
            out_of_memory: self.counts.out_of_memory.load(Ordering::Relaxed),
            ..kept.1
        }
    }
}

async fn read_stats(links: &Links, bound: Duration) -> Result<CacheStats, LinkError> {
    let entries = links.query(bound, &redis::cmd("DBSIZE")).await?;
    let text: String = links.query(bound, &redis::cmd("INFO")).await?;
    let number = |name| Info(&text).number(name).unwrap_or(0);
    Ok(CacheStats {
        entries,
        bytes: number("used_memory"),
        max_bytes: number("maxmemory"),
        evictions: number("evicted_keys"),
        ..CacheStats::default()
    })
}

impl From<LinkError> for CacheError {
    fn from(error: LinkError) -> CacheError {
        CacheError::Unavailable(match error {
            LinkError::Redis(error) => error.to_string(),
            LinkError::NoScript => "Redis forgets scripts at once".to_owned(),
            LinkError::NoMemory => "Redis is out of memory".to_owned(),
            LinkError::WrongType => "a key of the cache holds something else".to_owned(),
        })
    }
}

fn as_of(state: State, now: i64) -> State {
    match state {
        State::Live { version, value } => State::of(version, Some(value), now),
        other => other,
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
