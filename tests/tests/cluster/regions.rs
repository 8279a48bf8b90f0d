//! What is written in one region is in the Redis of every region, whatever it is.

use bytes::Bytes;
use tidepool_tests::{Answer, Cluster, REGIONS};

use crate::{says, three};

/// Whether a region's Redis has an entry for a key.
async fn in_redis(cluster: &Cluster, region: &str, key: &str) -> bool {
    let name = format!("tidepool:e:{key}");
    let redis = &cluster.member(region).redis;
    redis.command::<u64>(&["EXISTS", &name]).await == 1
}

/// Asserts that every region's Redis has what was written, and answers from it.
async fn from_all(cluster: &Cluster, key: &str, path: &str, version: i64) -> Vec<Answer> {
    cluster.all_caught_up(version).await;
    let mut answers = Vec::new();
    for region in REGIONS {
        assert!(in_redis(cluster, region, key).await, "{key:?} in {region}");
        let answer = cluster.region(region).get(path).send().await;
        assert_eq!(answer.version(), version, "{key:?} in {region}");
        answers.push(answer);
    }
    answers
}

#[tokio::test]
async fn written_updated_and_deleted_in_three_regions_and_seen_in_every_redis() {
    let cluster = three().await;
    for region in REGIONS {
        assert!(!in_redis(&cluster, region, "user").await);
    }
    let first = cluster.region("us-east-1").write("user", "Ada").await;
    for answer in from_all(&cluster, "user", "/kv/user", first).await {
        says(answer, "Ada", "HIT");
    }
    let second = cluster.region("us-west-1").write("user", "Grace").await;
    assert!(second > first);
    for answer in from_all(&cluster, "user", "/kv/user", second).await {
        says(answer, "Grace", "HIT");
    }
    let third = cluster.region("eu-west-1").remove("user").await;
    assert!(third > second);
    for answer in from_all(&cluster, "user", "/kv/user", third).await {
        answer.problem(404, "not-found");
        assert_eq!(answer.json()["version"], third);
    }
}

#[tokio::test]
async fn any_key_and_any_bytes_come_through_database_and_redis() {
    let cluster = three().await;
    let every: Bytes = (0..=255).collect();
    let mebibyte: Bytes = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    let keys = [
        ("nul", "\0", "%00"),
        ("nul within", "a\0b", "a%00b"),
        ("slashes", "a/../b", "a%2F..%2Fb"),
        ("wave", "🌊", "%F0%9F%8C%8A"),
        ("last", "\u{10ffff}", "%F4%8F%BF%BF"),
        ("quotes", "'\"\\", "%27%22%5C"),
        ("like names in Redis", "{x}:*?[a]", "%7Bx%7D:*%3F%5Ba%5D"),
        ("lines", "\r\n", "%0D%0A"),
    ];
    for (n, (what, key, encoded)) in keys.into_iter().enumerate() {
        let path = format!("/kv/{encoded}");
        let value = match n % 2 {
            0 => &every,
            _ => &mebibyte,
        };
        let put = cluster.region(REGIONS[n % 3]).put(&path);
        let put = put.header("content-type", "application/x-bytes");
        let put = put.body(value.clone()).send().await.expect(201);
        for answer in from_all(&cluster, key, &path, put.version()).await {
            assert_eq!(answer.header("x-cache"), Some("HIT"), "{what}");
            assert_eq!(answer.header("content-type"), Some("application/x-bytes"));
            assert!(answer.body == *value, "{what}: another value");
        }
    }
    let longest = "k".repeat(1024);
    let version = cluster.region("us-east-1").write(&longest, "").await;
    let path = format!("/kv/{longest}");
    for answer in from_all(&cluster, &longest, &path, version).await {
        says(answer, "", "HIT");
    }
}
