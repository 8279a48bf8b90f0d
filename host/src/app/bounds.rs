//! The settings of a host as each of its parts wants them.

use crate::cache::memory::MemoryCacheSettings;
use crate::config::Settings;
use crate::feed::cockroach::CockroachFeedSettings;
use crate::feed::postgres::PostgresFeedSettings;
use crate::feed::sqlite::SqliteFeedSettings;
use crate::http::server::ConnectionLimits;
use crate::log::sqlite::SqliteSettings;

pub(super) fn log_settings(settings: &Settings) -> SqliteSettings {
    SqliteSettings {
        queue_jobs: settings.log.max_queue,
        group_appends: settings.log.max_batch,
        group_bytes: settings.log.max_batch_bytes,
        ..SqliteSettings::default()
    }
}

pub(super) fn feed_settings(settings: &Settings) -> SqliteFeedSettings {
    SqliteFeedSettings {
        batch_rows: settings.feed.batch_rows,
        batch_bytes: settings.feed.batch_bytes,
        resolved_every: settings.feed.resolved_interval,
    }
}

pub(super) fn postgres_feed_settings(settings: &Settings) -> PostgresFeedSettings {
    PostgresFeedSettings {
        batch_rows: settings.feed.batch_rows,
        batch_bytes: settings.feed.batch_bytes,
        resolved_every: settings.feed.resolved_interval,
    }
}

pub(super) fn cockroach_feed_settings(settings: &Settings) -> CockroachFeedSettings {
    CockroachFeedSettings {
        batch_rows: settings.feed.batch_rows,
        batch_bytes: settings.feed.batch_bytes,
        resolved_every: settings.feed.resolved_interval,
        ..CockroachFeedSettings::default()
    }
}

pub(super) fn cache_settings(settings: &Settings) -> MemoryCacheSettings {
    MemoryCacheSettings {
        max_bytes: settings.cache.max_bytes,
        largest_value_bytes: settings.http.max_value_bytes,
        tombstone_ttl: settings.cache.tombstone_ttl,
        negative_ttl: settings.cache.negative_ttl,
        lease_ttl: settings.cache.lease_ttl,
        lease_wait: settings.cache.lease_wait,
        ..MemoryCacheSettings::default()
    }
}

pub(super) fn server_limits(settings: &Settings) -> ConnectionLimits {
    let http = &settings.http;
    ConnectionLimits {
        max_connections: http.max_connections,
        header_timeout: http.header_timeout,
        idle_timeout: http.idle_timeout,
        drain_timeout: http.drain_timeout,
    }
}
