//! A region's cache in Redis 6.2 or newer. Why an entry never goes back is said at
//! the head of `versioned.rs`; the same rules hold here, and are kept by scripts
//! that Redis runs in one step.
//!
//! - `entry.rs`: an entry as bytes
//! - `scripts.rs` and `scripts/`: what runs in Redis
//! - `connection.rs`, `address.rs`: reaching it, and reaching it again
//! - `flights.rs`: one reader of this process for each missing key
//! - `inspect.rs`, `info.rs`: whether a Redis is fit for it
//!
//! # What is kept where
//!
//! | key | what |
//! |---|---|
//! | `<prefix>:e:<key>` | the entry of a key, or, while there is none, the lease of who fills it. Always with a time to live |
//! | `<prefix>:meta` | one hash: the position, the epoch, and the heights below. Never with a time to live |
//! | `<prefix>:lead` | the hydrator that leads |
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
mod connection;
mod entry;
mod error;
mod flights;
mod info;
mod inspect;
mod scripts;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use redis::{Cmd, Value as Reply};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Applied, Cache, CacheError, CacheStats, Decision, Lease, Lookup};
use crate::clock::{Clock, Entropy};
use crate::config::{Secret, Settings};
use crate::feed::Position;
use crate::model::{Key, Row, State, Version};
use connection::{LinkError, Links, Server};
use entry::Held;
use flights::{Flights, Ticket, Turn};
use info::Info;

pub use error::RedisCacheError;
pub use inspect::inspect;

/// What a user of Redis has to be allowed, as `ACL SETUSER` names it.
const COMMANDS: [&str; 20] = [
    "get", "set", "getrange", "del", "unlink", "exists", "hget", "hset", "hmget", "hsetnx", "hdel",
    "pexpire", "time", "info", "scan", "dbsize", "eval", "evalsha", "select", "ping",
];

/// Rows in one run of the script: others have to wait for its end.
const ROWS_IN_A_SCRIPT: usize = 128;

/// Keys looked at in one step of removing what an earlier epoch has left.
const KEYS_IN_A_SCAN: usize = 1000;

/// Most keys being filled at a time by this process.
const MAX_LEASES: usize = 8192;

/// First and longest wait between two looks at what another process fills.
const POLL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

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
    /// What the names of all keys begin with. Hosts of one region share it; two
    /// regions on one Redis must not.
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

/// What a look at an entry says.
enum Seen {
    Found(State),
    /// Something that does not answer; it is not to be filled either.
    Other,
    Leased,
    Nothing,
}

impl RedisCache {
    /// A cache that begins to connect, and goes on trying whatever happens. Must be
    /// called in a runtime.
    ///
    /// # Errors
    ///
    /// The URL or the file of certificates cannot be read.
    pub fn new(
        settings: RedisCacheSettings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<RedisCache, RedisCacheError> {
        let server = Server::new(&settings)?;
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

    /// The commands that apply rows, to be sent together.
    fn batch(
        &self,
        session: &Session,
        rows: &[Row],
        decisions: &[Decision],
        whole: bool,
    ) -> redis::Pipeline {
        let now = self.clock.now_micros();
        let mut pipeline = redis::pipe();
        for (index, chunk) in rows.chunks(ROWS_IN_A_SCRIPT).enumerate() {
            let decisions = decisions.iter().skip(index * ROWS_IN_A_SCRIPT).copied();
            let decisions = decisions.chain(std::iter::repeat(Decision::Evict));
            let mut command = scripts::APPLY.call(whole, chunk.len() + 1);
            command.arg(&self.meta);
            for row in chunk {
                command.arg(self.entry(row.key.as_str()));
            }
            command.arg(&session.epoch).arg(&session.run);
            command.arg(millis(self.settings.tombstone_ttl));
            command.arg(millis(self.settings.entry_ttl));
            for (row, decision) in chunk.iter().zip(decisions) {
                let op = match decision {
                    Decision::Store => "s",
                    Decision::Refresh => "r",
                    Decision::Evict => "e",
                };
                let state = match decision {
                    Decision::Evict => State::Deleted {
                        version: row.version,
                    },
                    Decision::Store | Decision::Refresh => {
                        State::of(row.version, row.value.clone(), now)
                    }
                };
                let (class, ttl) = self.kept(&state, now);
                command.arg(op).arg(class).arg(entry::digits(row.version.0));
                command.arg(ttl).arg(entry::encode(&state));
            }
            pipeline.add_command(command);
        }
        pipeline
    }

    /// A look at the entry.
    async fn look(&self, get: &Cmd, at_least: Option<Version>) -> Result<Seen, CacheError> {
        let bound = self.settings.command_timeout;
        let bytes: Option<Bytes> = match self.links.query(bound, get).await {
            Ok(bytes) => bytes,
            Err(LinkError::WrongType) => Some(Bytes::new()),
            Err(error) => return Err(error.into()),
        };
        let Some(bytes) = bytes else {
            return Ok(Seen::Nothing);
        };
        let state = match entry::decode(&bytes) {
            Some(Held::State(state)) => state,
            Some(Held::Lease) => return Ok(Seen::Leased),
            None => {
                self.counts.damaged.fetch_add(1, Ordering::Relaxed);
                return Ok(Seen::Other);
            }
        };
        if at_least.is_some_and(|wanted| state.version().is_none_or(|version| version < wanted)) {
            return Ok(Seen::Other);
        }
        Ok(Seen::Found(as_of(state, self.clock.now_micros())))
    }

    /// Takes the lease, or waits for who has it in another process.
    async fn take_turn(
        &self,
        ticket: Ticket,
        key: &Key,
        get: &Cmd,
        at_least: Option<Version>,
        deadline: Instant,
    ) -> Result<Lookup, CacheError> {
        let mut set = redis::cmd("SET");
        set.arg(self.entry(key.as_str()))
            .arg(entry::lease(ticket.id()));
        set.arg("NX").arg("PX").arg(millis(self.settings.lease_ttl));
        let (mut wait, longest) = POLL;
        loop {
            let bound = self.settings.command_timeout;
            match self.links.query::<Option<String>>(bound, &set).await {
                Ok(Some(_)) => {
                    let key = key.clone();
                    let token = ticket.keep();
                    return Ok(Lookup::Miss(Some(Lease { key, token })));
                }
                Ok(None) => {}
                Err(LinkError::NoMemory) => return Ok(Lookup::Miss(None)),
                Err(error) => return Err(error.into()),
            }
            loop {
                match self.look(get, at_least).await? {
                    Seen::Found(state) => return Ok(Lookup::Found(state)),
                    Seen::Other => return Ok(Lookup::Miss(None)),
                    Seen::Nothing => break,
                    Seen::Leased if Instant::now() >= deadline => return Ok(Lookup::Miss(None)),
                    Seen::Leased => {
                        sleep_until(deadline.min(Instant::now() + wait)).await;
                        wait = (wait * 2).min(longest);
                    }
                }
            }
        }
    }

    /// The run of the server; nothing when it may not be asked.
    async fn run(&self) -> Result<String, CacheError> {
        let bound = self.settings.command_timeout;
        match self
            .links
            .query::<String>(bound, redis::cmd("INFO").arg("server"))
            .await
        {
            Ok(text) => Ok(Info(&text).get("run_id").unwrap_or_default().to_owned()),
            Err(LinkError::Redis(RedisCacheError::Permission { .. })) => Ok(String::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what an earlier epoch has left, unless a new one has begun.
    async fn clear(&self) -> Result<(), CacheError> {
        let bound = self.settings.batch_timeout;
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(self.entry("*"));
            scan.arg("COUNT").arg(KEYS_IN_A_SCAN);
            let (next, found): (String, Vec<Vec<u8>>) = self.links.query(bound, &scan).await?;
            // Names may be any bytes, so the keys go as arguments of a plain call.
            for chunk in found.chunks(KEYS_IN_A_SCAN) {
                for whole in [false, true] {
                    let mut command = scripts::CLEAR.call(whole, chunk.len() + 1);
                    command.arg(&self.meta).arg(chunk);
                    match self.links.query::<i64>(bound, &command).await {
                        Err(LinkError::NoScript) if !whole => {}
                        Ok(-1) => return Ok(()),
                        Ok(_) => break,
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    async fn save(
        &self,
        previous: Option<&Position>,
        position: &Position,
        epoch: &str,
    ) -> Result<(i64, String), CacheError> {
        let ttls = [self.settings.tombstone_ttl, self.settings.entry_ttl];
        let [tombstones, values] = ttls.map(|ttl| millis(ttl).to_string());
        let arguments = [
            if previous.is_some() { "1" } else { "0" },
            previous.map_or("", |previous| &previous.0),
            &position.0,
            epoch,
            &tombstones,
            &values,
        ];
        let bound = self.settings.command_timeout;
        let keys = [self.meta.as_str()];
        let answer: Vec<Reply> = scripts::SAVE
            .run(&self.links, bound, &keys, &arguments)
            .await?;
        let status = answer.first().and_then(integer).unwrap_or(0);
        let run = match answer.get(1) {
            Some(Reply::BulkString(run)) => String::from_utf8_lossy(run).into_owned(),
            _ => String::new(),
        };
        Ok((status, run))
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

    async fn lookup(&self, key: &Key, at_least: Option<Version>) -> Result<Lookup, CacheError> {
        let mut get = redis::cmd("GET");
        get.arg(self.entry(key.as_str()));
        let deadline = Instant::now() + self.settings.lease_wait;
        loop {
            match self.look(&get, at_least).await? {
                Seen::Found(state) => return Ok(Lookup::Found(state)),
                Seen::Other => return Ok(Lookup::Miss(None)),
                Seen::Leased | Seen::Nothing => {}
            }
            match self.flights.enter(key, self.entropy.next_u64()) {
                Turn::Yours(ticket) => {
                    return self.take_turn(ticket, key, &get, at_least, deadline).await;
                }
                Turn::Wait(ended) => {
                    if timeout_at(deadline, ended).await.is_err() {
                        return Ok(Lookup::Miss(None));
                    }
                }
                Turn::Crowded => return Ok(Lookup::Miss(None)),
            }
        }
    }

    async fn fill(&self, lease: Lease, state: &State) -> Result<bool, CacheError> {
        let now = self.clock.now_micros();
        let state = as_of(state.clone(), now);
        let (class, ttl) = self.kept(&state, now);
        let version = entry::digits(state.version().map_or(0, |version| version.0));
        let (token, ttl) = (entry::lease(lease.token), ttl.to_string());
        let bytes = entry::encode(&state);
        let arguments = [
            token.as_bytes(),
            class.as_bytes(),
            version.as_bytes(),
            ttl.as_bytes(),
            &bytes,
        ];
        let name = self.entry(lease.key.as_str());
        let keys = [self.meta.as_str(), &name];
        let bound = self.settings.command_timeout;
        let filled = scripts::FILL
            .run::<i64>(&self.links, bound, &keys, &arguments)
            .await;
        self.flights.end(&lease.key, lease.token);
        let filled = filled?;
        if filled == 2 {
            self.note_memory(1);
        }
        Ok(filled == 1)
    }

    fn release(&self, lease: Lease) {
        let name = self.entry(lease.key.as_str());
        let (links, flights) = (Arc::clone(&self.links), Arc::clone(&self.flights));
        let bound = self.settings.command_timeout;
        self.runtime.spawn(async move {
            let token = entry::lease(lease.token);
            // What cannot be given back expires.
            let _ = scripts::RELEASE
                .run::<i64>(&links, bound, &[&name], &[token])
                .await;
            flights.end(&lease.key, lease.token);
        });
    }

    async fn apply(&self, rows: &[Row], decisions: &[Decision]) -> Result<Applied, CacheError> {
        if rows.is_empty() {
            return Ok(Applied::default());
        }
        let session = self.session.lock().clone().ok_or(CacheError::Moved)?;
        let bound = self.settings.batch_timeout;
        let batch = self.batch(&session, rows, decisions, false);
        let outcome = match self.links.pipeline(bound, &batch).await {
            Err(LinkError::NoScript) => {
                let batch = self.batch(&session, rows, decisions, true);
                self.links.pipeline(bound, &batch).await
            }
            outcome => outcome,
        };
        let outcome: Vec<(i64, i64)> = outcome?;
        if outcome.iter().any(|(stored, _)| *stored < 0) {
            *self.session.lock() = None;
            return Err(CacheError::Moved);
        }
        self.flights.end_all(rows.iter().map(|row| &row.key));
        let stored = outcome
            .iter()
            .map(|(stored, _)| stored.unsigned_abs())
            .sum();
        let skipped = (rows.len() as u64).saturating_sub(stored);
        let full = outcome.iter().any(|(_, full)| *full != 0);
        self.note_memory(if full { skipped } else { 0 });
        Ok(Applied { stored, skipped })
    }

    async fn position(&self) -> Result<Option<Position>, CacheError> {
        // The run first: what restarts in between is then noticed.
        let run = self.run().await?;
        let mut hmget = redis::cmd("HMGET");
        hmget.arg(&self.meta).arg("epoch").arg("position");
        let bound = self.settings.command_timeout;
        let kept: (Option<String>, Option<String>) = self.links.query(bound, &hmget).await?;
        let (session, position) = match kept {
            (Some(epoch), Some(position)) => (Some(Session { epoch, run }), Some(position)),
            _ => (None, None),
        };
        *self.session.lock() = session;
        Ok(position.map(|position| Position(position.into())))
    }

    async fn save_position(
        &self,
        previous: Option<&Position>,
        position: &Position,
    ) -> Result<bool, CacheError> {
        let (status, _) = self.save(previous, position, "").await?;
        if status != 2 {
            return Ok(status == 1);
        }
        self.clear().await?;
        let epoch = format!("{:016x}", self.entropy.next_u64());
        let (status, run) = self.save(previous, position, &epoch).await?;
        let begun = status == 3;
        if begun {
            *self.session.lock() = Some(Session { epoch, run });
        }
        Ok(begun)
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

fn integer(reply: &Reply) -> Option<i64> {
    match reply {
        Reply::Int(number) => Some(*number),
        _ => None,
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
