//! A Redis that evicts, runs out of memory, loses and forgets: nothing goes back and
//! nothing gets stuck.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::collections::HashMap;
use std::time::Duration;

use tidepool::cache::redis::{RedisCache, RedisCacheSettings};
use tidepool::cache::{Cache, CacheError, Decision, Lookup};
use tidepool::clock::{Entropy, SeededEntropy};
use tidepool::config::Secret;
use tidepool::feed::Position;
use tidepool::model::{Key, Row, Value, Version};
use tidepool_tests::conformance::cache as suite;
use tidepool_tests::servers::{Redis, RedisCluster};
use tidepool_tests::within;

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
async fn what_is_not_followed_is_not_kept() {
    let redis = Redis::start().await;
    let cache = redis.cache().await;
    let row = filler("k", 1, 10);
    let held = suite::lease(&cache, "k").await;
    assert!(!cache.fill(held, &suite::state(&row)).await.unwrap());
    assert_eq!(suite::find(&cache, "k").await, None);
    suite::begin(&cache).await;
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
        url: Secret::new(url),
        ..primary.cache_settings()
    };
    let cache = primary.cache_with(settings).await;
    let start = suite::begin(&cache).await;
    let row = suite::row("k", 10, Some("v"));
    suite::store(&cache, &row).await;
    has_the_row(&replica).await;
    primary.kill();
    let takes_over = async {
        while cache.lookup(&row.key, None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the replica to take over", takes_over).await;
    starts_again(&cache, &row, start).await;
}

/// Waits until a replica has the meta hash and one entry. `WAIT` would not do: it is
/// for what its own connection has written.
async fn has_the_row(replica: &Redis) {
    let has = async {
        while replica.command::<i64>(&["DBSIZE"]).await < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the row on the replica", has).await;
}

/// A cache that is somewhere else now: it has this row, and its hydrator learns that
/// it has to start again from the position that is there.
async fn starts_again(cache: &RedisCache, row: &Row, start: Position) {
    let settled = async {
        // All connections have to find out.
        let mut answered = 0;
        while answered < 4 {
            cache.connected().await;
            match cache.lookup(&row.key, None).await {
                Ok(_) => answered += 1,
                Err(_) => answered = 0,
            }
        }
    };
    within("connections", settled).await;
    let key = row.key.as_str();
    assert_eq!(suite::find(cache, key).await, Some(suite::state(row)));
    let rows = std::slice::from_ref(row);
    assert_eq!(
        cache.apply(rows, &[Decision::Store]).await,
        Err(CacheError::Moved)
    );
    assert_eq!(cache.position().await.unwrap(), Some(start));
    let (older, newer) = (row.version.0 - 1, row.version.0 + 1);
    assert_eq!(suite::store(cache, &suite::row(key, older, None)).await, 0);
    assert_eq!(suite::store(cache, &suite::row(key, newer, None)).await, 1);
}

#[tokio::test]
async fn a_slot_that_moves_to_another_node_of_a_cluster_is_followed() {
    let cluster = RedisCluster::start().await;
    let cache = cluster.cache().await;
    let start = suite::begin(&cache).await;
    let row = suite::row("k", 10, Some("v"));
    suite::store(&cache, &row).await;
    let from = cluster.owner("{test}:meta").await;
    let to = (from + 1) % 3;
    let slot = cluster.begin_move("{test}:meta", from, to).await;

    // On its way: what is there still answers, and the rest is tried again later.
    let other = suite::row("other", 11, Some("v"));
    for _ in 0..4 {
        let error = cache.lookup(&other.key, None).await.unwrap_err();
        assert!(error.to_string().contains("on its way"), "{error}");
        let rows = std::slice::from_ref(&other);
        let error = cache.apply(rows, &[Decision::Store]).await.unwrap_err();
        assert!(error.to_string().contains("on its way"), "{error}");
        assert_eq!(suite::find(&cache, "k").await, Some(suite::state(&row)));
    }
    let moved = suite::row("k", 12, Some("w"));
    assert_eq!(suite::store(&cache, &moved).await, 1);
    // Who comes now finds it where it still is.
    let newcomer = cluster.cache().await;
    assert_eq!(
        suite::find(&newcomer, "k").await,
        Some(suite::state(&moved))
    );

    cluster.end_move(&slot, from, to).await;
    starts_again(&cache, &moved, start).await;
    // The floor is above what the other node may have evicted.
    assert_eq!(suite::store(&cache, &other).await, 0);
    let newer = suite::row("other", 14, Some("v"));
    assert_eq!(suite::store(&cache, &newer).await, 1);
    assert_eq!(cluster.owner("{test}:meta").await, to);
}

#[tokio::test]
async fn when_a_replica_of_a_cluster_takes_over_it_is_followed() {
    let mut cluster = RedisCluster::start().await;
    let owner = cluster.owner("{test}:meta").await;
    cluster.add_replica(owner).await;
    let settings = RedisCacheSettings {
        // The one that will be gone is asked first.
        url: Secret::new(cluster.url(&[owner, (owner + 1) % 3])),
        ..cluster.cache_settings()
    };
    let cache = cluster.nodes[0].cache_with(settings).await;
    let start = suite::begin(&cache).await;
    let row = suite::row("k", 10, Some("v"));
    suite::store(&cache, &row).await;
    has_the_row(&cluster.nodes[3]).await;
    cluster.nodes[owner].kill();
    cache.lookup(&row.key, None).await.unwrap_err();
    let () = cluster.nodes[3]
        .command(&["CLUSTER", "FAILOVER", "TAKEOVER"])
        .await;
    starts_again(&cache, &row, start).await;
}

#[tokio::test]
async fn when_a_primary_of_a_cluster_steps_down_the_other_is_followed() {
    let mut cluster = RedisCluster::start().await;
    let owner = cluster.owner("{test}:meta").await;
    cluster.add_replica(owner).await;
    let cache = cluster.cache().await;
    let start = suite::begin(&cache).await;
    let row = suite::row("k", 10, Some("v"));
    suite::store(&cache, &row).await;
    let () = cluster.nodes[3].command(&["CLUSTER", "FAILOVER"]).await;
    let stepped_down = async {
        let is_replica = |info: String| info.contains("role:slave");
        while !is_replica(cluster.nodes[owner].command(&["INFO", "replication"]).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the primary to step down", stepped_down).await;
    starts_again(&cache, &row, start).await;
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
