//! Whether a whole configuration can work. Pure: it looks at the settings and
//! at nothing else.

use std::fmt::Display;
use std::time::Duration;

use super::max_envelope_bytes;
use super::units::size;
use super::{
    Admin, Cache, Database, Feed, Handlers, Http, KIB, Limits, Log, MIB, Redis, RegionSetting,
    Settings, Trust,
};
use crate::model::MAX_VALUE_BYTES_CEILING;

/// Most regions in one process.
pub const MAX_REGIONS: usize = 16;

/// Longest name of a region (as of a DNS label, RFC 1035).
pub const MAX_REGION_NAME_BYTES: usize = 63;

/// Shortest admin token, in bytes: 128 bits, when it is random.
pub const MIN_TOKEN_BYTES: usize = 16;

/// Largest component that a configuration may allow, in bytes.
pub const MAX_COMPONENT_BYTES_CEILING: usize = 256 * MIB;

/// Least memory to compile in: far more than a built-in handler takes.
const LEAST_COMPILE_MEMORY: usize = 256 * MIB;

/// Shortest time to compile in: far longer than a built-in handler takes.
const SHORTEST_COMPILE: Duration = Duration::from_secs(1);

/// Most connections that reads share: one carries many requests at once.
const MAX_DATABASE_CONNECTIONS: usize = 64;

/// Longest prefix of keys in Redis, in bytes.
pub const MAX_KEY_PREFIX_BYTES: usize = 64;

/// Most connections of a region to Redis.
const MAX_REDIS_CONNECTIONS: u32 = 64;

/// Longest time that a value may be kept in Redis without being written.
const LONGEST_ENTRY: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Longest duration that a setting may have: a day.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Most of anything that is counted: connections, rows, instances, calls.
const MOST: usize = 1_000_000;

/// Largest of anything that is measured in bytes: 1 TiB.
const LARGEST: usize = 1024 * 1024 * MIB;

/// A setting that cannot work.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("setting {key} = {value}: {advice}")]
pub struct InvalidSetting {
    /// The key, as in the file.
    pub key: &'static str,
    /// Its value as text; never a secret.
    pub value: String,
    /// What to do.
    pub advice: String,
}

type Checked = Result<(), InvalidSetting>;

fn invalid(key: &'static str, value: impl Display, advice: impl Into<String>) -> InvalidSetting {
    InvalidSetting {
        key,
        value: value.to_string(),
        advice: advice.into(),
    }
}

impl Settings {
    /// Refuses a configuration that cannot work: the first setting that is out
    /// of its bounds or does not fit the others.
    pub fn check(&self) -> Checked {
        if self.data.as_os_str().is_empty() {
            return Err(invalid("data", "\"\"", "name a folder"));
        }
        if self
            .watch
            .as_ref()
            .is_some_and(|folder| folder.as_os_str().is_empty())
        {
            return Err(invalid(
                "watch",
                "\"\"",
                "name a folder, or leave it out to watch none",
            ));
        }
        check_region_name("region", &self.region, &self.region)?;
        check_regions(&self.regions)?;
        check_admin(&self.admin)?;
        check_trust(&self.trust, self.watch.is_some())?;
        check_http(&self.http)?;
        check_database(&self.database)?;
        check_cache(&self.cache)?;
        check_redis(&self.redis, self.cache.tombstone_ttl)?;
        check_log(&self.log)?;
        check_feed(&self.feed)?;
        check_handlers(&self.handlers)?;
        check_limits(&self.limits, self.http.max_value_bytes)
    }
}

impl Settings {
    /// Refuses settings that `tidepool serve` cannot run with, beside what
    /// [`Settings::check`] refuses.
    pub fn check_serve(&self) -> Checked {
        let missing = [
            (
                "database.url",
                &self.database.url,
                "set it, or DATABASE_URL, to postgresql://user:password@host:26257/database",
            ),
            (
                "redis.url",
                &self.redis.url,
                "set it, or REDIS_URL, to redis://host:6379",
            ),
        ];
        for (key, url, advice) in missing {
            if url.is_none() {
                let advice = format!("{advice}; without servers run `tidepool dev`");
                return Err(invalid(key, "(not set)", advice));
            }
        }
        Ok(())
    }
}

/// Whether a region may have this name.
pub fn is_region_name(name: &str) -> bool {
    (1..=MAX_REGION_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn check_region_name(key: &'static str, name: &str, shown: impl Display) -> Checked {
    if is_region_name(name) {
        return Ok(());
    }
    let advice = format!("name it with 1 to {MAX_REGION_NAME_BYTES} of a-z, 0-9 and -");
    Err(invalid(key, shown, advice))
}

fn check_regions(regions: &[RegionSetting]) -> Checked {
    let all = || {
        regions
            .iter()
            .map(RegionSetting::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    if regions.is_empty() || regions.len() > MAX_REGIONS {
        return Err(invalid(
            "regions",
            all(),
            format!("list 1 to {MAX_REGIONS} regions"),
        ));
    }
    for (place, region) in regions.iter().enumerate() {
        check_region_name("regions", &region.name, region)?;
        let before = &regions[..place];
        if before.iter().any(|other| other.name == region.name) {
            return Err(invalid(
                "regions",
                region,
                "give every region a name of its own",
            ));
        }
        let taken =
            |other: &RegionSetting| other.listen.port() != 0 && other.listen == region.listen;
        if before.iter().any(taken) {
            return Err(invalid(
                "regions",
                region,
                "give every region an address of its own",
            ));
        }
    }
    Ok(())
}

fn check_admin(admin: &Admin) -> Checked {
    match (&admin.tls_cert, &admin.tls_key) {
        (Some(cert), None) => {
            let advice = "set admin.tls_key too, to the file of the private key";
            return Err(invalid("admin.tls_cert", cert.display(), advice));
        }
        (None, Some(key)) => {
            let advice = "set admin.tls_cert too, to the file of the certificate";
            return Err(invalid("admin.tls_key", key.display(), advice));
        }
        _ => {}
    }
    match &admin.token {
        Some(token) if token.expose().len() < MIN_TOKEN_BYTES => {
            let advice = format!(
                "use at least {MIN_TOKEN_BYTES} bytes, for example from `openssl rand -hex 16`"
            );
            Err(invalid("admin.token", "(hidden)", advice))
        }
        Some(token) if !token.expose().bytes().all(|b| b.is_ascii_graphic()) => Err(invalid(
            "admin.token",
            "(hidden)",
            "use visible ASCII characters without spaces",
        )),
        None if !admin.listen.ip().is_loopback() => {
            let advice = "set admin.token (TIDEPOOL_ADMIN_TOKEN), or listen on 127.0.0.1: whoever reaches the admin plane can replace handlers";
            Err(invalid("admin.listen", admin.listen, advice))
        }
        _ => Ok(()),
    }
}

fn check_trust(trust: &Trust, watches: bool) -> Checked {
    let required = |advice| Err(invalid("trust.require_signature", true, advice));
    match trust.require_signature {
        true if trust.keys.is_empty() && trust.keys_file.is_none() => {
            required("say whose: set trust.keys or trust.keys_file, or nothing can be deployed")
        }
        true if watches => required(
            "leave watch out: what is built into a watched folder is not signed; deploy it with `tidepool deploy --signature`",
        ),
        _ => Ok(()),
    }
}

fn check_http(http: &Http) -> Checked {
    bytes(
        "http.max_value_bytes",
        http.max_value_bytes,
        1,
        MAX_VALUE_BYTES_CEILING,
    )?;
    count("http.max_connections", http.max_connections as usize, 1)?;
    time("http.header_timeout", http.header_timeout)?;
    time("http.body_timeout", http.body_timeout)?;
    time("http.idle_timeout", http.idle_timeout)?;
    time("http.drain_timeout", http.drain_timeout)
}

fn check_database(database: &Database) -> Checked {
    if !(1..=MAX_DATABASE_CONNECTIONS).contains(&database.connections) {
        return Err(invalid(
            "database.connections",
            database.connections,
            format!("use 1 to {MAX_DATABASE_CONNECTIONS}"),
        ));
    }
    time("database.connect_timeout", database.connect_timeout)?;
    time("database.request_timeout", database.request_timeout)
}

fn check_cache(cache: &Cache) -> Checked {
    bytes("cache.max_bytes", cache.max_bytes, 64 * KIB, LARGEST)?;
    time("cache.negative_ttl", cache.negative_ttl)?;
    time("cache.lease_ttl", cache.lease_ttl)?;
    time("cache.lease_wait", cache.lease_wait)?;
    time("cache.tombstone_ttl", cache.tombstone_ttl)?;
    if cache.tombstone_ttl <= cache.lease_ttl {
        let advice =
            "make it longer than cache.lease_ttl, or a late fill could bring a deleted key back";
        return Err(invalid(
            "cache.tombstone_ttl",
            humantime::format_duration(cache.tombstone_ttl),
            advice,
        ));
    }
    Ok(())
}

fn check_redis(redis: &Redis, tombstone_ttl: Duration) -> Checked {
    if redis
        .url
        .as_ref()
        .is_some_and(|url| url.expose().is_empty())
    {
        let advice = "write a URL such as redis://host:6379";
        return Err(invalid("redis.url", "(hidden)", advice));
    }
    let prefix = &redis.key_prefix;
    // A hash tag may be in it, for a cluster, and no other braces: they might be none.
    let untagged = match prefix.split_once('{') {
        Some((before, rest)) => rest
            .split_once('}')
            .filter(|(tag, _)| !tag.is_empty())
            .map(|(tag, after)| [before, tag, after].concat()),
        None => Some(prefix.clone()),
    };
    let well_named = (1..=MAX_KEY_PREFIX_BYTES).contains(&prefix.len())
        && untagged.is_some_and(|text| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'.' | b'_' | b'-'))
        });
    if !well_named {
        let advice = format!(
            "use 1 to {MAX_KEY_PREFIX_BYTES} of letters, digits, `:`, `.`, `_` and `-`; braces only as one hash tag, as in {{name}}"
        );
        return Err(invalid("redis.key_prefix", prefix, advice));
    }
    if !(1..=MAX_REDIS_CONNECTIONS).contains(&redis.connections) {
        let advice = format!("use 1 to {MAX_REDIS_CONNECTIONS}");
        return Err(invalid("redis.connections", redis.connections, advice));
    }
    time("redis.connect_timeout", redis.connect_timeout)?;
    time("redis.command_timeout", redis.command_timeout)?;
    time("redis.batch_timeout", redis.batch_timeout)?;
    time("redis.reconnect_backoff_max", redis.reconnect_backoff_max)?;
    if !(tombstone_ttl..=LONGEST_ENTRY).contains(&redis.entry_ttl) {
        return Err(invalid(
            "redis.entry_ttl",
            humantime::format_duration(redis.entry_ttl),
            "make it at least cache.tombstone_ttl, and at most 366days",
        ));
    }
    Ok(())
}

fn check_log(log: &Log) -> Checked {
    count("log.max_queue", log.max_queue, 1)?;
    count("log.max_batch", log.max_batch, 1)?;
    bytes("log.max_batch_bytes", log.max_batch_bytes, 1, LARGEST)
}

fn check_feed(feed: &Feed) -> Checked {
    count("feed.batch_rows", feed.batch_rows, 1)?;
    bytes("feed.batch_bytes", feed.batch_bytes, 1, LARGEST)?;
    time("feed.resolved_interval", feed.resolved_interval)?;
    time("feed.max_lag", feed.max_lag)
}

fn check_handlers(handlers: &Handlers) -> Checked {
    bytes(
        "handlers.max_component_bytes",
        handlers.max_component_bytes,
        64 * KIB,
        MAX_COMPONENT_BYTES_CEILING,
    )?;
    bytes(
        "handlers.compile_memory",
        handlers.compile_memory,
        LEAST_COMPILE_MEMORY,
        LARGEST,
    )?;
    if !(SHORTEST_COMPILE..=LONGEST).contains(&handlers.compile_timeout) {
        return Err(invalid(
            "handlers.compile_timeout",
            humantime::format_duration(handlers.compile_timeout),
            "use 1s to 1day",
        ));
    }
    bytes(
        "handlers.compiled_cache_bytes",
        handlers.compiled_cache_bytes,
        0,
        LARGEST,
    )?;
    count("handlers.concurrency", handlers.concurrency, 1)?;
    count("handlers.queue", handlers.queue, 0)?;
    time("handlers.queue_wait", handlers.queue_wait)?;
    if handlers.instance_uses == 0 {
        return Err(invalid(
            "handlers.instance_uses",
            0,
            "use 1 for a fresh instance for every request, or more",
        ));
    }
    count("handlers.idle_instances", handlers.idle_instances, 0)?;
    count("handlers.keep_revisions", handlers.keep_revisions, 2)?;
    // 0: off.
    if !handlers.trial.is_zero() {
        time("handlers.trial", handlers.trial)?;
    }
    count(
        "handlers.take_back_calls",
        handlers.take_back_calls as usize,
        1,
    )?;
    if !(1..=100).contains(&handlers.take_back_percent) {
        let percent = handlers.take_back_percent;
        return Err(invalid(
            "handlers.take_back_percent",
            percent,
            "use 1 to 100",
        ));
    }
    Ok(())
}

/// What a call needs at least for the longest value: its text in JSON may be twice as
/// long as it is, and the `put` that comes with the host answers with it.
pub(super) struct LeastLimits {
    /// Measured 39 ms for a MiB of line ends, on one slow processor.
    pub cpu: Duration,
    /// Measured 7 times such a value.
    pub memory_bytes: usize,
    pub response_bytes: usize,
}

impl LeastLimits {
    pub fn of(max_value: usize) -> LeastLimits {
        let mib = max_value.div_ceil(MIB) as u64;
        LeastLimits {
            cpu: Duration::from_millis(mib.saturating_mul(100)),
            memory_bytes: max_value.saturating_mul(8).saturating_add(8 * MIB),
            response_bytes: max_envelope_bytes(max_value),
        }
    }
}

fn check_limits(limits: &Limits, max_value: usize) -> Checked {
    time("limits.cpu", limits.cpu)?;
    time("limits.wall", limits.wall)?;
    if limits.wall < limits.cpu {
        let advice = format!(
            "make it at least limits.cpu ({})",
            humantime::format_duration(limits.cpu)
        );
        return Err(invalid(
            "limits.wall",
            humantime::format_duration(limits.wall),
            advice,
        ));
    }
    let least = LeastLimits::of(max_value);
    bytes("limits.memory_bytes", limits.memory_bytes, 1, 4096 * MIB)?;
    if limits.memory_bytes < least.memory_bytes {
        let advice = format!(
            "make it at least {}: 8 times http.max_value_bytes and 8 MiB more",
            size::text(least.memory_bytes)
        );
        return Err(invalid(
            "limits.memory_bytes",
            size::text(limits.memory_bytes),
            advice,
        ));
    }
    count("limits.table_elements", limits.table_elements, 1)?;
    bytes("limits.stack_bytes", limits.stack_bytes, 64 * KIB, 16 * MIB)?;
    if limits.host_calls == 0 {
        return Err(invalid(
            "limits.host_calls",
            0,
            "make it at least 1; a handler cannot answer without a call",
        ));
    }
    bytes("limits.host_bytes", limits.host_bytes, max_value, LARGEST)?;
    bytes(
        "limits.response_bytes",
        limits.response_bytes,
        least.response_bytes,
        LARGEST,
    )
}

fn bytes(key: &'static str, value: usize, least: usize, most: usize) -> Checked {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let advice = format!("use {} to {}", size::text(least), size::text(most));
    Err(invalid(key, size::text(value), advice))
}

fn count(key: &'static str, value: usize, least: usize) -> Checked {
    if (least..=MOST).contains(&value) {
        return Ok(());
    }
    Err(invalid(key, value, format!("use {least} to {MOST}")))
}

/// A wait of nothing would fail everything, and one without end is no bound.
fn time(key: &'static str, value: Duration) -> Checked {
    if (Duration::from_millis(1)..=LONGEST).contains(&value) {
        return Ok(());
    }
    Err(invalid(
        key,
        humantime::format_duration(value),
        "use 1ms to 1day",
    ))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
