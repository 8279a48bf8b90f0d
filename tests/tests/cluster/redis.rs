//! Redis goes away, comes back with nothing, and is emptied: the log answers
//! meanwhile, and the cache is filled again without a restart.

use std::time::{Duration, Instant};

use tidepool_tests::cluster::Database;
use tidepool_tests::servers::Redis;
use tidepool_tests::{Plane, Server, Setup};

use crate::{ready, report, says, until};

const KEYS: usize = 40;

/// How long an answer may take without Redis: what the settings allow a command,
/// and what a busy machine needs.
const BOUND: Duration = Duration::from_secs(3);

struct Region {
    host: Server,
    here: Plane,
    redis: Redis,
    database: Database,
    versions: Vec<i64>,
}

/// A region whose Redis has keys.
async fn filled() -> Region {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let setup = Setup::new().over("here", database.url(), &redis.url());
    let host = setup.start().await;
    let here = host.region("here").clone();
    let mut versions = Vec::new();
    for n in 0..KEYS {
        versions.push(here.write(&format!("k{n}"), &format!("v{n}")).await);
    }
    host.caught_up("here", versions[KEYS - 1]).await;
    ready(&here).await;
    says(here.get("/kv/k0").send().await, "v0", "HIT");
    Region {
        host,
        here,
        redis,
        database,
        versions,
    }
}

/// Waits until Redis has all keys again, without a read that would fill one.
async fn refilled(region: &Region) {
    let start = Instant::now();
    let names: Vec<String> = (0..KEYS).map(|n| format!("tidepool:e:k{n}")).collect();
    let mut exists = vec!["EXISTS"];
    exists.extend(names.iter().map(String::as_str));
    while region.redis.command::<usize>(&exists).await < KEYS {
        assert!(start.elapsed() < tidepool_tests::PATIENCE, "not refilled");
    }
    for n in 0..KEYS {
        let answer = region.here.get(&format!("/kv/k{n}")).send().await;
        assert_eq!(answer.version(), region.versions[n]);
        says(answer, &format!("v{n}"), "HIT");
    }
}

/// Everything that can be asked is answered by the log, in time.
async fn answered_by_the_log(here: &Plane, round: usize) {
    let start = Instant::now();
    says(here.get("/kv/k1").send().await, "v1", "MISS");
    let log = here.get("/kv/k1").header("tidepool-consistency", "log");
    says(log.send().await, "v1", "BYPASS");
    let never = here.get("/kv/never").send().await;
    never.problem(404, "not-found");
    let key = format!("away-{round}");
    let version = here.write(&key, "written").await;
    let at_least = here.get(&format!("/kv/{key}"));
    let at_least = at_least.header("tidepool-consistency", format!("at-least={version}"));
    says(at_least.send().await, "written", "MISS");
    here.head(&format!("/kv/{key}")).send().await.expect(200);
    let same = here.get(&format!("/kv/{key}"));
    let same = same.header("if-none-match", format!("\"{version}\""));
    same.send().await.expect(304);
    here.remove(&key).await;
    let gone = here.get(&format!("/kv/{key}")).send().await;
    gone.problem(404, "not-found");
    assert!(start.elapsed() < 8 * BOUND, "{:?}", start.elapsed());
}

#[tokio::test]
async fn without_redis_the_log_answers_and_redis_is_filled_when_it_is_back() {
    let mut region = filled().await;
    region.redis.kill();
    let away = Instant::now();
    for round in 0..5 {
        answered_by_the_log(&region.here, round).await;
    }
    let (unready, _) = until(&region.here, "/readyz", |answer| answer.status == 503).await;
    // feed.max_lag, and what a busy machine needs.
    assert!(away.elapsed() < Duration::from_secs(15), "{away:?}");
    let document = unready.json();
    let why = document["last_error"].as_str().unwrap_or_default();
    assert!(why.contains(&region.redis.address()), "{document}");
    region.here.get("/healthz").send().await.expect(200);
    answered_by_the_log(&region.here, 5).await;

    region.redis.start_again().await;
    ready(&region.here).await;
    refilled(&region).await;
    // What was written meanwhile is there, too.
    let version = region.here.write("after", "it").await;
    region.host.caught_up("here", version).await;
    says(region.here.get("/kv/after").send().await, "it", "HIT");
    let gone = region.here.get("/kv/away-0").send().await;
    gone.problem(404, "not-found");
    assert!(region.host.stop().await.success());
}

#[tokio::test]
async fn a_redis_that_is_emptied_is_filled_again() {
    let region = filled().await;
    for _ in 0..3 {
        let () = region.redis.command(&["FLUSHALL"]).await;
        refilled(&region).await;
    }
    ready(&region.here).await;
    let version = region.here.write("k0", "new").await;
    region.host.caught_up("here", version).await;
    says(region.here.get("/kv/k0").send().await, "new", "HIT");
}

#[tokio::test]
async fn a_redis_that_hangs_costs_a_bounded_wait() {
    let region = filled().await;
    let id = region.redis.command::<String>(&["INFO", "server"]).await;
    let id = id.lines().find_map(|line| line.strip_prefix("process_id:"));
    let id = id.unwrap().trim().to_owned();
    let signal = |name: &'static str| {
        let status = std::process::Command::new("kill")
            .args([name, &id])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "kill {name}");
    };
    // It keeps its connections and answers nothing.
    signal("-STOP");
    for _ in 0..20 {
        let start = Instant::now();
        let answer = region.here.get("/kv/k1").send().await;
        says(answer, "v1", "MISS");
        assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    }
    let (unready, _) = until(&region.here, "/readyz", |answer| answer.status == 503).await;
    assert!(unready.json()["last_error"].is_string());
    signal("-CONT");
    ready(&region.here).await;
    let hit = |answer: &tidepool_tests::Answer| answer.header("x-cache") == Some("HIT");
    until(&region.here, "/kv/k1", hit).await;
    let version = region.here.write("k1", "again").await;
    region.host.caught_up("here", version).await;
    says(region.here.get("/kv/k1").send().await, "again", "HIT");
}

#[tokio::test]
async fn a_host_that_starts_without_redis_serves_and_takes_it_when_it_comes() {
    let mut region = filled().await;
    let (setup, database) = (region.host.setup().clone(), region.database.clone());
    assert!(region.host.stop().await.success());
    region.redis.kill();
    let host = setup.start().await;
    host.log().line(&["WARN", "Redis cannot be reached"]).await;
    let here = host.region("here").clone();
    answered_by_the_log(&here, 0).await;
    let unready = here.get("/readyz").send().await.expect(503).json();
    assert_eq!(unready["ready"], false);
    region.redis.start_again().await;
    ready(&here).await;
    assert!(report(&host).await["rows_applied"].as_u64().unwrap() >= KEYS as u64);
    let region = Region {
        host,
        here,
        database,
        ..region
    };
    refilled(&region).await;
}
