//! A Redis that cannot be used, or not well: what is said of it.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::sync::Arc;
use std::time::Duration;

use tidepool::cache::redis::{RedisCache, RedisCacheError, RedisCacheSettings, inspect};
use tidepool::cache::{Cache, Decision};
use tidepool::clock::{SystemClock, SystemEntropy};
use tidepool::config::Secret;
use tidepool::doctor::{Finding, Severity};
use tidepool_tests::conformance::cache as suite;
use tidepool_tests::servers::{Redis, RedisCluster};
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
    let redis = Redis::start_node(None).await;
    let error = refused(redis.cache_settings()).await;
    assert!(
        matches!(error, RedisCacheError::Cluster { .. }),
        "{error:?}"
    );
    assert!(error.needs_a_change());
    assert!(error.to_string().contains("redis-cluster://"), "{error}");
    let found = finding(&redis.cache_settings(), "connection").await;
    assert_eq!(
        (found.severity, found.what),
        (Severity::Problem, error.to_string())
    );
}

#[tokio::test]
async fn what_is_no_cluster_is_refused_for_a_url_of_one() {
    let redis = Redis::start().await;
    let settings = at(&redis, format!("redis-cluster://{}", redis.address()));
    let error = refused(settings.clone()).await;
    assert!(
        matches!(error, RedisCacheError::NotCluster { .. }),
        "{error:?}"
    );
    assert!(error.needs_a_change());
    assert!(error.to_string().contains("redis://"), "{error}");
    let found = finding(&settings, "connection").await;
    assert_eq!(found.severity, Severity::Problem);
}

#[tokio::test]
async fn a_cluster_without_the_slot_is_waited_for() {
    let redis = Redis::start_node(None).await;
    let settings = at(&redis, format!("redis-cluster://{}", redis.address()));
    let error = refused(settings.clone()).await;
    assert!(
        matches!(error, RedisCacheError::Unassigned { .. }),
        "{error:?}"
    );
    assert!(!error.needs_a_change());
    let says = format!("redis-cli --cluster fix {}", redis.address());
    assert!(error.to_string().ends_with(&says), "{error}");

    let cache = RedisCache::new(settings, Arc::new(SystemClock), Arc::new(SystemEntropy)).unwrap();
    let all = ["CLUSTER", "ADDSLOTSRANGE", "0", "16383"];
    let () = redis.command(&all).await;
    within("a connection", cache.connected()).await;
    suite::begin(&cache).await;
}

#[tokio::test]
async fn the_first_seed_that_answers_is_enough() {
    let cluster = RedisCluster::start().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap();
    let mut gone = Redis::start().await;
    gone.kill();
    let url = cluster.url(&[0]);
    let seeds = format!("://{},{silent},", gone.address());
    let settings = RedisCacheSettings {
        connect_timeout: Duration::from_secs(4),
        url: Secret::new(url.replace("://", &seeds)),
        ..cluster.cache_settings()
    };
    suite::begin(&cluster.nodes[0].cache_with(settings).await).await;
}

#[tokio::test]
async fn the_doctor_looks_at_a_cluster() {
    let cluster = RedisCluster::start().await;
    let settings = cluster.cache_settings();
    let found = finding(&settings, "server").await;
    assert_eq!(found.severity, Severity::Ok);
    assert!(found.what.contains("every node"), "{found:?}");
    assert_eq!(finding(&settings, "rights").await.severity, Severity::Ok);
    for node in &cluster.nodes {
        let rights = ["ACL", "SETUSER", "default", "-cluster"];
        let () = node.command(&rights).await;
    }
    let found = finding(&settings, "connection").await;
    assert!(found.fix.unwrap().ends_with(" +cluster|slots"));

    let url = cluster.url(&[0]).replace("://", "://me:secret-wrong@");
    let settings = at(&cluster.nodes[0], url);
    let error = refused(settings.clone()).await;
    assert!(matches!(error, RedisCacheError::Login { .. }), "{error:?}");
    let found = finding(&settings, "connection").await;
    assert_eq!(found.what, error.to_string());
    assert!(!found.what.contains("secret-wrong"), "{found:?}");
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
