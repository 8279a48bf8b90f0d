//! The conformance suite of caches over every backend: memory, and a real Redis in
//! each way that one is reached.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::sync::Arc;
use std::time::Duration;

use tidepool::cache::memory::{MemoryCache, MemoryCacheSettings};
use tidepool::cache::redis::{RedisCache, RedisCacheSettings};
use tidepool::cache::{Cache, CacheError, Decision};
use tidepool::clock::{ManualClock, SeededEntropy};
use tidepool::config::Secret;
use tidepool::doctor::Severity;
use tidepool::feed::Position;
use tidepool_tests::conformance::cache as suite;
use tidepool_tests::servers::{Redis, RedisCluster};
use tidepool_tests::within;

fn memory(settings: MemoryCacheSettings) -> (Arc<MemoryCache>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(1));
    let entropy = Arc::new(SeededEntropy::new(3));
    (
        Arc::new(MemoryCache::new(settings, clock.clone(), entropy)),
        clock,
    )
}

#[tokio::test]
async fn memory_conforms() {
    suite::run(memory(MemoryCacheSettings::default()).0).await;
}

#[tokio::test]
async fn memory_conforms_in_one_shard() {
    let settings = MemoryCacheSettings {
        max_bytes: 128 * 1024,
        ..Default::default()
    };
    suite::run(memory(settings).0).await;
}

#[tokio::test]
async fn what_expired_in_memory_stays_gone() {
    let settings = MemoryCacheSettings {
        tombstone_ttl: Duration::from_secs(1),
        lease_ttl: Duration::from_secs(60),
        ..Default::default()
    };
    let (cache, clock) = memory(settings);
    suite::what_expired_stays_gone(&*cache, async { clock.advance(2_000_000) }).await;
}

#[tokio::test]
async fn a_flush_of_memory_is_noticed() {
    let (cache, _) = memory(MemoryCacheSettings::default());
    suite::a_flush_is_noticed(&*cache, async { cache.clear() }).await;
}

#[tokio::test]
async fn redis_conforms() {
    let redis = Redis::start().await;
    suite::run(Arc::new(redis.cache().await)).await;
}

#[tokio::test]
async fn redis_conforms_over_tls() {
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = signed.signing_key.serialize_pem();
    let redis = Redis::start_tls(&signed.cert.pem(), &key).await;
    let settings = RedisCacheSettings {
        ca_file: Some(redis.folder().join("tls.crt")),
        ..redis.cache_settings()
    };
    suite::run(Arc::new(redis.cache_with(settings).await)).await;
}

#[tokio::test]
async fn redis_conforms_for_a_user_with_no_right_too_many() {
    let redis = Redis::start().await;
    // What the doctor says is enough is enough; it says it for one without rights.
    let () = redis
        .command(&["ACL", "SETUSER", "tide", "on", ">p@ss/w:rd"])
        .await;
    let settings = RedisCacheSettings {
        url: Secret::new(format!("redis://tide:p%40ss%2Fw%3Ard@{}", redis.address())),
        ..redis.cache_settings()
    };
    let findings = tidepool::cache::redis::inspect(&settings).await;
    let fix = findings.iter().find(|found| found.subject == "rights");
    let fix = fix.and_then(|found| found.fix.clone()).unwrap();
    let words: Vec<&str> = fix.split(' ').collect();
    let () = redis.command(&words).await;
    suite::run(Arc::new(redis.cache_with(settings).await)).await;
}

#[tokio::test]
async fn redis_conforms_without_the_right_to_ask_what_it_has_evicted() {
    let redis = Redis::start().await;
    let rights = ["ACL", "SETUSER", "default", "-info"];
    let cache = redis.cache().await;
    let () = redis.command(&rights).await;
    // Less is kept, so only what never goes back is asked for.
    suite::begin(&cache).await;
    let (old, new) = (suite::row("k", 10, Some("old")), suite::row("k", 11, None));
    assert_eq!(suite::store(&cache, &new).await, 1);
    assert_eq!(suite::store(&cache, &old).await, 0);
    assert_eq!(suite::store(&cache, &suite::row("l", 9, None)).await, 0);
    assert_eq!(suite::store(&cache, &suite::row("l", 12, None)).await, 1);
}

#[tokio::test]
async fn redis_conforms_where_sentinels_say_it_is() {
    let primary = Redis::start().await;
    let sentinel = Redis::sentinel(&primary, "main").await;
    let settings = RedisCacheSettings {
        url: Secret::new(format!("redis-sentinel://{}/main", sentinel.address())),
        ..primary.cache_settings()
    };
    suite::run(Arc::new(primary.cache_with(settings).await)).await;
}

#[tokio::test]
async fn a_redis_cluster_conforms() {
    let cluster = RedisCluster::start().await;
    suite::run(Arc::new(cluster.cache().await)).await;
}

#[tokio::test]
async fn a_redis_cluster_conforms_over_tls() {
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = signed.signing_key.serialize_pem();
    let cluster = RedisCluster::start_tls(&signed.cert.pem(), &key).await;
    suite::run(Arc::new(cluster.cache().await)).await;
}

#[tokio::test]
async fn a_redis_cluster_conforms_for_a_user_with_no_right_too_many() {
    let cluster = RedisCluster::start().await;
    for node in &cluster.nodes {
        let () = node
            .command(&["ACL", "SETUSER", "tide", "on", ">secret"])
            .await;
    }
    let url = cluster.url(&[0, 1, 2]);
    let settings = RedisCacheSettings {
        url: Secret::new(url.replace("://", "://tide:secret@")),
        ..cluster.cache_settings()
    };
    let findings = tidepool::cache::redis::inspect(&settings).await;
    let fix = findings.iter().find_map(|found| found.fix.clone()).unwrap();
    let words: Vec<&str> = fix.split(' ').collect();
    for node in &cluster.nodes {
        let () = node.command(&words).await;
    }
    let findings = tidepool::cache::redis::inspect(&settings).await;
    let rights = findings.iter().find(|found| found.subject == "rights");
    assert_eq!(rights.unwrap().severity, Severity::Ok, "{findings:?}");
    suite::run(Arc::new(cluster.nodes[0].cache_with(settings).await)).await;
}

#[tokio::test]
async fn two_regions_share_one_redis_cluster() {
    let cluster = RedisCluster::start().await;
    let region = |key_prefix: &str| RedisCacheSettings {
        key_prefix: key_prefix.to_owned(),
        ..cluster.cache_settings()
    };
    let a = cluster.nodes[0].cache_with(region("a")).await;
    let b = cluster.nodes[0].cache_with(region("x:{b}")).await;
    let row = suite::row("k", 10, Some("v"));
    suite::begin(&a).await;
    suite::begin(&b).await;
    assert_eq!(suite::store(&a, &row).await, 1);
    assert_eq!(suite::find(&a, "k").await, Some(suite::state(&row)));
    assert_eq!(suite::find(&b, "k").await, None);
    for key in ["{a}:e:k", "{a}:meta", "x:{b}:meta"] {
        let node = &cluster.nodes[cluster.owner(key).await];
        assert_eq!(node.command::<i64>(&["EXISTS", key]).await, 1, "{key}");
    }
    // What looks like a hash tag does not move a key away from the others.
    for key in ["{other}", "}{a}", "{}"] {
        let row = suite::row(key, 11, Some("v"));
        assert_eq!(suite::store(&a, &row).await, 1);
        assert_eq!(suite::find(&a, key).await, Some(suite::state(&row)));
    }
}

#[tokio::test]
async fn what_expired_in_redis_stays_gone() {
    let redis = Redis::start().await;
    let settings = RedisCacheSettings {
        tombstone_ttl: Duration::from_millis(100),
        ..redis.cache_settings()
    };
    let cache = redis.cache_with(settings).await;
    let gone = async {
        while redis.command::<i64>(&["EXISTS", "test:e:expires"]).await == 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let gone = within("the end of a tombstone", gone);
    suite::what_expired_stays_gone(&cache, gone).await;
}

#[tokio::test]
async fn two_hosts_share_one_redis() {
    let redis = Redis::start().await;
    let (a, b) = (redis.cache().await, redis.cache().await);
    suite::two_clients(Arc::new(a), Arc::new(b)).await;
}

#[tokio::test]
async fn a_flush_of_redis_is_noticed() {
    let redis = Redis::start().await;
    let cache = redis.cache().await;
    suite::a_flush_is_noticed(&cache, redis.command(&["FLUSHALL"])).await;
}

#[tokio::test]
async fn a_position_survives_a_restart_with_its_rows() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let cache = redis.cache().await;
    let start = suite::begin(&cache).await;
    let kept = suite::row("kept", 10, Some("kept"));
    suite::store(&cache, &kept).await;
    redis.start_again().await;
    works_again(&cache).await;
    // The hydrator of before the restart learns of it.
    let applied = cache
        .apply(std::slice::from_ref(&kept), &[Decision::Store])
        .await;
    assert_eq!(applied, Err(CacheError::Moved));
    assert_eq!(cache.position().await.unwrap(), Some(start.clone()));
    assert_eq!(suite::find(&cache, "kept").await, Some(suite::state(&kept)));
    assert_eq!(suite::store(&cache, &suite::row("kept", 9, None)).await, 0);
    assert_eq!(suite::store(&cache, &suite::row("kept", 11, None)).await, 1);
    let next = Position("next".into());
    assert!(cache.save_position(Some(&start), &next).await.unwrap());
}

#[tokio::test]
async fn a_redis_that_is_killed_is_unavailable_and_then_works_again() {
    let mut redis = Redis::start().await;
    let cache = redis.cache().await;
    suite::begin(&cache).await;
    let row = suite::row("k", 10, Some("v"));
    suite::store(&cache, &row).await;
    let held = suite::lease(&cache, "held").await;
    for _ in 0..2 {
        redis.kill();
        let unavailable =
            |error: CacheError| assert!(matches!(error, CacheError::Unavailable(_)), "{error}");
        unavailable(cache.lookup(&row.key, None).await.unwrap_err());
        unavailable(cache.position().await.unwrap_err());
        unavailable(cache.lead(1, Duration::from_secs(1)).await.unwrap_err());
        let rows = std::slice::from_ref(&row);
        unavailable(cache.apply(rows, &[Decision::Store]).await.unwrap_err());
        redis.start_again().await;
        works_again(&cache).await;
        // It had nothing on disk.
        suite::begin(&cache).await;
        assert_eq!(suite::store(&cache, &row).await, 1);
        assert_eq!(suite::find(&cache, "k").await, Some(suite::state(&row)));
    }
    assert!(!cache.fill(held, &suite::state(&row)).await.unwrap());
}

/// Waits until a client that has lost its connections has new ones: it may not have
/// found out about all of them yet.
async fn works_again(cache: &RedisCache) {
    let works = async {
        let mut answered = 0;
        while answered < 4 {
            cache.connected().await;
            match cache.resign(0).await {
                Ok(()) => answered += 1,
                Err(_) => answered = 0,
            }
        }
    };
    within("a connection", works).await;
}
