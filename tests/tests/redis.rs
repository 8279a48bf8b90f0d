//! A Redis that is not as it should be: what is said of it, and that nothing goes
//! back and nothing gets stuck.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tidepool::cache::redis::{RedisCache, RedisCacheError, RedisCacheSettings, inspect};
use tidepool::cache::{Cache, CacheError, Decision, Lookup};
use tidepool::clock::{Entropy, SeededEntropy, SystemClock, SystemEntropy};
use tidepool::config::Secret;
use tidepool::doctor::{Finding, Severity};
use tidepool::feed::Position;
use tidepool::model::{Key, Row, Value, Version};
use tidepool_tests::conformance::cache as suite;
use tidepool_tests::servers::Redis;
use tidepool_tests::within;

async fn refused(settings: RedisCacheSettings) -> RedisCacheError {
    let made = RedisCache::new(settings, Arc::new(SystemClock), Arc::new(SystemEntropy));
    match made {
        Ok(cache) => cache.first_connection().await.unwrap_err(),
        Err(error) => error,
    }
}

fn at(redis: &Redis, url: String) -> RedisCacheSettings {
    RedisCacheSettings {
        url: Secret::new(url),
        ..redis.cache_settings()
    }
}

async fn finding(settings: &RedisCacheSettings, subject: &str) -> Finding {
    let findings = inspect(settings).await;
    let found = findings.iter().find(|found| found.subject == subject);
    found.unwrap_or_else(|| panic!("{findings:?}")).clone()
}

fn filler(key: &str, version: i64, bytes: usize) -> Row {
    Row {
        key: Key::new(key).unwrap(),
        version: Version(version),
        value: Some(Value {
            bytes: vec![b'x'; bytes].into(),
            content_type: None,
            expires_at: None,
        }),
    }
}

#[tokio::test]
async fn a_wrong_password_is_named_and_never_shown() {
    let redis = Redis::start().await;
    let () = redis
        .command(&["ACL", "SETUSER", "me", "on", ">right"])
        .await;
    for login in ["me:secret-wrong", "nobody:secret-wrong"] {
        let settings = at(&redis, format!("redis://{login}@{}", redis.address()));
        assert!(!format!("{settings:?}").contains("secret-wrong"));
        let error = refused(settings.clone()).await;
        assert!(matches!(error, RedisCacheError::Login { .. }), "{error:?}");
        assert!(error.needs_a_change());
        let text = error.to_string();
        assert!(
            text.contains(&redis.address()) && text.contains("redis.url"),
            "{text}"
        );
        assert!(!text.contains("secret-wrong"), "{text}");
        let found = finding(&settings, "connection").await;
        assert_eq!((found.severity, found.what), (Severity::Problem, text));
    }
}

#[tokio::test]
async fn a_password_that_is_missing_is_a_wrong_one() {
    let redis = Redis::start().await;
    let settings = redis.cache_settings();
    let () = redis
        .command(&["CONFIG", "SET", "requirepass", "right"])
        .await;
    let error = refused(settings).await;
    assert!(matches!(error, RedisCacheError::Login { .. }), "{error:?}");
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_found_when_it_comes() {
    let mut redis = Redis::start().await;
    redis.kill();
    let settings = redis.cache_settings();
    let error = refused(settings.clone()).await;
    assert!(
        matches!(error, RedisCacheError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(!error.needs_a_change());
    let found = finding(&settings, "connection").await;
    assert_eq!(found.severity, Severity::Problem);

    let cache = RedisCache::new(settings, Arc::new(SystemClock), Arc::new(SystemEntropy)).unwrap();
    cache.first_connection().await.unwrap_err();
    redis.start_again().await;
    within("a connection", cache.connected()).await;
    suite::begin(&cache).await;
}

#[tokio::test]
async fn a_server_that_does_not_speak_is_given_up_in_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let redis = Redis::start().await;
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let settings = RedisCacheSettings {
        connect_timeout: Duration::from_millis(50),
        ..at(&redis, url)
    };
    let error = within("an error", refused(settings)).await;
    let expected = matches!(
        error,
        RedisCacheError::Timeout { .. } | RedisCacheError::Unreachable { .. }
    );
    assert!(expected, "{error:?}");
}

#[tokio::test]
async fn a_certificate_that_nobody_signed_is_refused() {
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = signed.signing_key.serialize_pem();
    let redis = Redis::start_tls(&signed.cert.pem(), &key).await;
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let ca = redis.folder().join("other.crt");
    std::fs::write(&ca, other.cert.pem()).unwrap();
    let settings = RedisCacheSettings {
        ca_file: Some(ca.clone()),
        ..redis.cache_settings()
    };
    let error = refused(settings.clone()).await;
    assert!(
        matches!(error, RedisCacheError::Certificate { .. }),
        "{error:?}"
    );

    std::fs::write(&ca, "nothing").unwrap();
    let error = refused(settings.clone()).await;
    assert!(matches!(error, RedisCacheError::CaFile(_)), "{error:?}");
    let plain = RedisCacheSettings {
        url: Secret::new(format!("redis://{}", redis.address())),
        ..settings
    };
    assert!(matches!(refused(plain).await, RedisCacheError::Url(_)));
}

#[tokio::test]
async fn a_replica_is_refused_also_when_it_becomes_one() {
    let (primary, redis) = (Redis::start().await, Redis::start().await);
    let cache = redis.cache().await;
    suite::begin(&cache).await;
    let port = primary.port().to_string();
    let () = redis.command(&["REPLICAOF", "127.0.0.1", &port]).await;
    let error = refused(redis.cache_settings()).await;
    assert!(
        matches!(error, RedisCacheError::Replica { .. }),
        "{error:?}"
    );
    let found = finding(&redis.cache_settings(), "connection").await;
    assert_eq!(found.severity, Severity::Problem);

    let row = suite::row("k", 10, Some("v"));
    let error = cache.apply(&[row], &[Decision::Store]).await.unwrap_err();
    assert!(error.to_string().contains("replica"), "{error}");
    let () = redis.command(&["REPLICAOF", "NO", "ONE"]).await;
    within("a connection", cache.connected()).await;
    cache.position().await.unwrap();
}

#[tokio::test]
async fn a_node_of_a_cluster_is_refused() {
    let redis = Redis::start_with(&["--cluster-enabled", "yes"]).await;
    let error = refused(redis.cache_settings()).await;
    assert!(
        matches!(error, RedisCacheError::Cluster { .. }),
        "{error:?}"
    );
    assert!(error.needs_a_change());
}

#[tokio::test]
async fn the_doctor_says_what_is_missing_and_the_command_for_it() {
    let redis = Redis::start().await;
    let settings = redis.cache_settings();
    assert_eq!(finding(&settings, "server").await.severity, Severity::Ok);
    for subject in ["maxmemory", "maxmemory-policy", "persistence"] {
        let found = finding(&settings, subject).await;
        assert_eq!(found.severity, Severity::Advice, "{found:?}");
        let fix = found.fix.unwrap();
        let words: Vec<&str> = fix.split(' ').collect();
        let () = redis.command(&words).await;
        assert_eq!(
            finding(&settings, subject).await.severity,
            Severity::Ok,
            "{fix}"
        );
    }
    let () = redis
        .command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])
        .await;
    let found = finding(&settings, "maxmemory-policy").await;
    assert!(found.what.contains("position"), "{found:?}");
    assert_eq!(finding(&settings, "rights").await.severity, Severity::Ok);
    let () = redis.command(&["ACL", "SETUSER", "default", "-info"]).await;
    assert_eq!(
        finding(&settings, "rights").await.severity,
        Severity::Advice
    );
    assert_eq!(redis.command::<i64>(&["DBSIZE"]).await, 0);
}

/// Rows in a disorder, with old ones again, into a Redis that has room for a part
/// of them.
#[tokio::test]
async fn eviction_in_the_middle_never_brings_an_older_version_back() {
    for policy in [
        "volatile-lru",
        "allkeys-lru",
        "allkeys-random",
        "volatile-ttl",
    ] {
        let redis = Redis::start_with(&["--maxmemory", "3mb", "--maxmemory-policy", policy]).await;
        let cache = redis.cache().await;
        suite::begin(&cache).await;
        let entropy = SeededEntropy::new(5);
        let mut newest: HashMap<Key, Version> = HashMap::new();
        for round in 1..30 {
            let rows: Vec<Row> = (0..100)
                .map(|_| {
                    let key = format!("k{}", entropy.next_u64() % 600);
                    // Up to eight rounds late.
                    let late = (entropy.next_u64() % 8) as i64;
                    let version =
                        (round - late).max(1) * 1_000 + (entropy.next_u64() % 1_000) as i64;
                    filler(&key, version, 4_000)
                })
                .collect();
            match cache.apply(&rows, &vec![Decision::Store; rows.len()]).await {
                Ok(_) => {}
                // The meta hash was evicted: what a hydrator does then.
                Err(error) => {
                    assert!(policy.starts_with("allkeys"), "{policy}: {error}");
                    suite::begin(&cache).await;
                    newest.clear();
                    continue;
                }
            }
            for row in &rows {
                let held = newest.entry(row.key.clone()).or_insert(row.version);
                *held = (*held).max(row.version);
            }
            for (key, version) in &newest {
                match cache.lookup(key, None).await.unwrap() {
                    Lookup::Found(found) => {
                        assert_eq!(found.version(), Some(*version), "{policy}: {key}");
                    }
                    Lookup::Miss(lease) => lease.into_iter().for_each(|lease| cache.release(lease)),
                }
            }
        }
        let evicted: String = redis.command(&["INFO", "stats"]).await;
        assert!(
            !evicted.contains("evicted_keys:0\r"),
            "{policy}: nothing was evicted"
        );
    }
}

#[tokio::test]
async fn without_memory_changed_keys_are_evicted_and_nothing_gets_stuck() {
    let redis = Redis::start().await;
    let cache = redis.cache().await;
    let start = suite::begin(&cache).await;
    let old = filler("changes", 10, 100);
    let same = filler("stays", 11, 100);
    assert_eq!(suite::store(&cache, &old).await, 1);
    assert_eq!(suite::store(&cache, &same).await, 1);
    let held = suite::lease(&cache, "held").await;
    let () = redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;

    let rows = [filler("changes", 20, 100), filler("new", 21, 100)];
    let applied = cache.apply(&rows, &[Decision::Store; 2]).await.unwrap();
    assert_eq!((applied.stored, applied.skipped), (0, 2));
    assert_eq!(suite::find(&cache, "changes").await, None);
    assert_eq!(
        suite::find(&cache, "stays").await,
        Some(suite::state(&same))
    );
    assert!(
        !cache
            .fill(held, &suite::state(&filler("held", 22, 100)))
            .await
            .unwrap()
    );
    let next = Position("next".into());
    assert!(cache.save_position(Some(&start), &next).await.unwrap());
    // Also when there is nothing to remove.
    assert_eq!(suite::store(&cache, &filler("newer", 23, 100)).await, 0);
    assert_eq!(cache.stats().out_of_memory, 4);
    assert!(cache.lead(1, Duration::from_secs(1)).await.unwrap());

    let () = redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(suite::store(&cache, &filler("changes", 19, 100)).await, 0);
    assert_eq!(suite::find(&cache, "changes").await, None);
    assert_eq!(suite::store(&cache, &filler("newer", 23, 100)).await, 0);
    assert_eq!(suite::store(&cache, &filler("new", 24, 100)).await, 1);
}

#[tokio::test]
async fn what_is_no_entry_is_a_miss_and_is_replaced_by_the_next_row() {
    let redis = Redis::start().await;
    let cache = redis.cache().await;
    suite::begin(&cache).await;
    let () = redis.command(&["SET", "test:e:text", "hello"]).await;
    let _: i64 = redis.command(&["RPUSH", "test:e:list", "hello"]).await;
    for (count, name) in [(1, "text"), (2, "list")] {
        let key = Key::new(name).unwrap();
        assert_eq!(cache.lookup(&key, None).await.unwrap(), Lookup::Miss(None));
        assert_eq!(cache.stats().damaged, count);
        let row = suite::row(name, 10, Some("good"));
        assert_eq!(suite::store(&cache, &row).await, 1);
        assert_eq!(suite::find(&cache, name).await, Some(suite::state(&row)));
    }
}

#[tokio::test]
async fn when_only_the_position_is_lost_the_entries_go_with_it() {
    let redis = Redis::start().await;
    let cache = redis.cache().await;
    suite::begin(&cache).await;
    let rows: Vec<Row> = (1..2_500)
        .map(|n| filler(&format!("k{n}"), n, 10))
        .collect();
    cache
        .apply(&rows, &vec![Decision::Store; rows.len()])
        .await
        .unwrap();
    let () = redis.command(&["SET", "others", "stay"]).await;
    let _: i64 = redis.command(&["DEL", "test:meta"]).await;
    suite::begin(&cache).await;
    assert_eq!(suite::find(&cache, "k1").await, None);
    let left: Vec<String> = redis.command(&["KEYS", "test:e:*"]).await;
    assert!(left.len() <= 1, "{left:?}");
    assert_eq!(redis.command::<String>(&["GET", "others"]).await, "stay");
}

#[tokio::test]
async fn scripts_that_are_forgotten_are_sent_again() {
    let redis = Redis::start().await;
    let cache = redis.cache().await;
    let start = suite::begin(&cache).await;
    for version in 1..4 {
        let () = redis.command(&["SCRIPT", "FLUSH"]).await;
        let rows: Vec<Row> = (0..600)
            .map(|n| filler(&format!("k{n}"), version, 10))
            .collect();
        let applied = cache
            .apply(&rows, &vec![Decision::Store; 600])
            .await
            .unwrap();
        assert_eq!(applied.stored, 600);
    }
    let () = redis.command(&["SCRIPT", "FLUSH"]).await;
    let held = suite::lease(&cache, "x").await;
    assert!(
        cache
            .fill(held, &suite::state(&filler("x", 5, 10)))
            .await
            .unwrap()
    );
    let next = Position("next".into());
    assert!(cache.save_position(Some(&start), &next).await.unwrap());
}

#[tokio::test]
async fn fills_before_the_first_rows_do_not_keep_them_out() {
    let redis = Redis::start().await;
    let cache = redis.cache().await;
    suite::begin(&cache).await;
    for row in [filler("filled", 100, 10), suite::row("deleted", 101, None)] {
        let held = suite::lease(&cache, row.key.as_str()).await;
        assert!(cache.fill(held, &suite::state(&row)).await.unwrap());
    }
    // A scan brings keys in an order of its own.
    assert_eq!(suite::store(&cache, &filler("older", 1, 10)).await, 1);
}

#[tokio::test]
async fn a_bad_entry_with_the_head_of_a_good_one_is_replaced() {
    let redis = Redis::start().await;
    let cache = redis.cache().await;
    suite::begin(&cache).await;
    let () = redis
        .command(&["SET", "test:e:k", "1Vzzzzzzzzzzzzzzzzzzz..."])
        .await;
    let row = suite::row("k", 10, Some("good"));
    assert_eq!(suite::store(&cache, &row).await, 1);
    assert_eq!(suite::find(&cache, "k").await, Some(suite::state(&row)));
}

#[tokio::test]
async fn when_a_replica_takes_over_the_hydrator_starts_again_from_what_it_has() {
    let mut primary = Redis::start().await;
    let port = primary.port().to_string();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]).await;
    let in_step = async {
        let synced = |info: String| info.contains("master_link_status:up");
        while !synced(replica.command(&["INFO", "replication"]).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("a replica", in_step).await;
    let sentinel = Redis::sentinel(&primary, "main").await;
    let url = format!("redis-sentinel://{}/main", sentinel.address());
    let settings = RedisCacheSettings {
        // The Sentinel answers with the old address for a while.
        connect_timeout: Duration::from_secs(2),
        ..at(&primary, url)
    };
    let cache = primary.cache_with(settings).await;
    let start = suite::begin(&cache).await;
    let row = suite::row("k", 10, Some("v"));
    suite::store(&cache, &row).await;
    let _: i64 = primary.command(&["WAIT", "1", "10000"]).await;
    primary.kill();
    let takes_over = async {
        while cache.lookup(&row.key, None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the replica to take over", takes_over).await;
    within("connections", cache.connected()).await;
    assert_eq!(suite::find(&cache, "k").await, Some(suite::state(&row)));
    let rows = std::slice::from_ref(&row);
    assert_eq!(
        cache.apply(rows, &[Decision::Store]).await,
        Err(CacheError::Moved)
    );
    assert_eq!(cache.position().await.unwrap(), Some(start));
    assert_eq!(suite::store(&cache, &suite::row("k", 11, None)).await, 1);
}

#[tokio::test]
async fn statistics_are_of_the_server() {
    let redis = Redis::start_with(&["--maxmemory", "64mb"]).await;
    let cache = redis.cache().await;
    suite::begin(&cache).await;
    suite::store(&cache, &filler("k", 1, 10)).await;
    let told = async {
        loop {
            let stats = cache.stats();
            if stats.entries == 2 {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let stats = within("statistics", told).await;
    assert_eq!(stats.max_bytes, 64 << 20);
    assert!(stats.bytes > 0);
}

/// How many rows a second one Redis takes, against one SET and a round trip each.
#[tokio::test]
#[ignore = "it measures; run it alone, with --ignored --nocapture"]
async fn rows_a_second() {
    const BATCH: usize = 1024;
    const BATCHES: i64 = 100;
    let redis = Redis::start().await;
    let cache = redis.cache().await;
    suite::begin(&cache).await;
    let decisions = vec![Decision::Store; BATCH];
    let batches: Vec<Vec<Row>> = (0..BATCHES)
        .map(|batch| {
            let row = |n| {
                filler(
                    &format!("key-{:06}", (batch * 7919 + n) % 50_000),
                    batch * 10_000 + n + 1,
                    100,
                )
            };
            (0..BATCH as i64).map(row).collect()
        })
        .collect();
    let begun = std::time::Instant::now();
    for rows in &batches {
        cache.apply(rows, &decisions).await.unwrap();
    }
    let rows = BATCHES as f64 * BATCH as f64 / begun.elapsed().as_secs_f64();
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let begun = std::time::Instant::now();
    for row in &batches[0] {
        let value = &row.value.as_ref().unwrap().bytes[..];
        let mut set = redis::cmd("SET");
        set.arg(row.key.as_str()).arg(value);
        let () = set.query_async(&mut connection).await.unwrap();
    }
    let single = BATCH as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{rows:.0} rows/s applied, {single:.0} SETs/s one by one: {:.1}x",
        rows / single
    );
}
