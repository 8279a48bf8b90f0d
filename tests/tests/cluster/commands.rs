//! `tidepool config check` and `tidepool doctor`, as an operator runs them.

use serde_json::Value;
use tempfile::TempDir;
use tidepool_tests::cluster::Database;
use tidepool_tests::servers::postgres::PASSWORD;
use tidepool_tests::servers::{Redis, free_port};
use tidepool_tests::{Ran, Setup, built, command};

/// Runs a command with these variables.
async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut tidepool = command::command(&built::binary());
    tidepool.args(arguments).envs(variables.iter().copied());
    let ran = command::run_to_end(&mut tidepool).await;
    for secret in [PASSWORD, "tide%2Fpool", "wrong-secret", "0123456789abcdef"] {
        let shown = ran.stdout.contains(secret) || ran.stderr.contains(secret);
        assert!(!shown, "{secret}: {ran:#?}");
    }
    ran
}

/// A setting as it was printed, under its variable's name.
#[track_caller]
fn printed<'a>(ran: &'a Ran, variable: &str) -> &'a str {
    let mut lines = ran.success().lines();
    let name = format!("# {variable}");
    assert!(lines.any(|line| line == name), "no {variable}: {ran:#?}");
    let line = lines.next().unwrap_or_default();
    line.split_once(" = ").unwrap_or_else(|| panic!("{line}")).1
}

const DATABASE: (&str, &str) = ("DATABASE_URL", "postgresql://u:wrong-secret@h/kv");
const REDIS: (&str, &str) = ("REDIS_URL", "redis://u:wrong-secret@h");

#[tokio::test]
async fn config_check_prints_what_the_settings_come_to() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tidepool.toml");
    let text = "region = 'file'\nlisten = '127.0.0.1:1'\n[redis]\nkey_prefix = 'file'\n[feed]\nmax_lag = '7s'\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let check = ["config", "check", "--config", file, "--region", "flag"];
    let variables = [
        DATABASE,
        REDIS,
        ("TIDEPOOL_REDIS_KEY_PREFIX", "variable"),
        ("TIDEPOOL_REGION", "variable"),
        ("TIDEPOOL_ADMIN_TOKEN", "0123456789abcdef"),
        ("PORT", "81"),
    ];
    let ran = run(&check, &variables).await;
    // The file, then the environment, then flags; then what nobody has set.
    assert_eq!(printed(&ran, "TIDEPOOL_FEED_MAX_LAG"), "\"7s\"");
    assert_eq!(printed(&ran, "TIDEPOOL_REDIS_KEY_PREFIX"), "\"variable\"");
    assert_eq!(printed(&ran, "TIDEPOOL_LISTEN"), "\"0.0.0.0:81\"");
    assert_eq!(printed(&ran, "TIDEPOOL_REGION"), "\"flag\"");
    assert_eq!(printed(&ran, "TIDEPOOL_LIMITS_CPU"), "\"250ms\"");
    for secret in ["DATABASE_URL", "REDIS_URL", "ADMIN_TOKEN"] {
        let name = format!("TIDEPOOL_{secret}");
        assert_eq!(printed(&ran, &name), "\"********\"", "{secret}");
    }
    assert_eq!(ran.stderr, "");

    let set = ["--set", "redis.key_prefix=set", "--listen", "127.0.0.1:82"];
    let ran = run(&[&check[..], &set].concat(), &variables).await;
    assert_eq!(printed(&ran, "TIDEPOOL_REDIS_KEY_PREFIX"), "\"set\"");
    assert_eq!(printed(&ran, "TIDEPOOL_LISTEN"), "\"127.0.0.1:82\"");
    let own = [&variables[..], &[("TIDEPOOL_LISTEN", "127.0.0.1:83")]].concat();
    let ran = run(&check, &own).await;
    assert_eq!(printed(&ran, "TIDEPOOL_LISTEN"), "\"127.0.0.1:83\"");
}

#[tokio::test]
async fn config_check_refuses_what_serve_would() {
    let check = ["config", "check"];
    for (variables, says) in [
        (vec![], "DATABASE_URL"),
        (vec![DATABASE], "REDIS_URL"),
        (
            vec![("DATABASE_URL", "wrong-secret"), REDIS],
            "database.url",
        ),
        (vec![DATABASE, ("REDIS_URL", "wrong-secret")], "redis.url"),
        // Our own name wins, for better or worse.
        (
            vec![DATABASE, REDIS, ("TIDEPOOL_DATABASE_URL", "wrong-secret")],
            "database.url",
        ),
        (
            vec![DATABASE, REDIS, ("TIDEPOOL_REDIS_URL", "wrong-secret")],
            "redis.url",
        ),
        (vec![DATABASE, REDIS, ("PORT", "-1")], "PORT"),
        (
            vec![DATABASE, REDIS, ("TIDEPOOL_REDIS_CA_FILE", "/nowhere")],
            "redis.ca_file",
        ),
    ] {
        let ran = run(&check, &variables).await;
        assert!(ran.refused(1).contains(says), "{says}: {ran:#?}");
        assert_eq!(ran.stdout, "");
    }
    let own = [
        ("DATABASE_URL", "wrong-secret"),
        ("REDIS_URL", "wrong-secret"),
        ("TIDEPOOL_DATABASE_URL", DATABASE.1),
        ("TIDEPOOL_REDIS_URL", REDIS.1),
    ];
    run(&check, &own).await.success();
}

#[tokio::test]
async fn a_doctor_finds_a_healthy_pair_healthy() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let servers = [
        ("DATABASE_URL", database.url()),
        ("REDIS_URL", &redis.url()),
    ];
    let before = run(&["doctor"], &servers).await;
    assert!(before.success().contains("PostgreSQL"), "{before:#?}");
    assert!(before.stdout.contains("Redis"), "{before:#?}");
    assert!(!before.stdout.contains("PROBLEM"), "{before:#?}");
    assert_eq!(before.stderr, "");
    // It has changed nothing.
    assert_eq!(redis.command::<u64>(&["DBSIZE"]).await, 0);

    let setup = Setup::new().over("here", database.url(), &redis.url());
    let host = setup.start().await;
    host.region("here").write("k", "v").await;
    let ran = run(&["doctor", "--json"], &servers).await;
    let findings: Value = serde_json::from_str(ran.success()).unwrap();
    let findings = findings.as_array().unwrap();
    assert!(findings.len() > 5, "{findings:#?}");
    for finding in findings {
        let severity = finding["severity"].as_str().unwrap();
        assert!(matches!(severity, "ok" | "advice"), "{finding:#}");
        assert!(finding["subject"].is_string() && finding["what"].is_string());
    }
}

#[tokio::test]
async fn a_doctor_says_what_is_wrong_and_what_to_run() {
    let database = Database::new().await;
    let wrong = database.url().replace("secret", "wrong-secret");
    let redis = format!("redis://:wrong-secret@127.0.0.1:{}", free_port());
    let servers = [("DATABASE_URL", &*wrong), ("REDIS_URL", &*redis)];
    let ran = run(&["doctor"], &servers).await;
    ran.refused(1);
    let problems = ran.stdout.lines();
    let problems = problems.filter(|line| line.starts_with("PROBLEM"));
    assert_eq!(problems.count(), 2, "{ran:#?}");
    assert!(ran.stdout.contains("check user and password"), "{ran:#?}");
    let ran = run(&["doctor", "--json"], &servers).await;
    ran.refused(1);
    let findings: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(findings[0]["severity"], "problem");

    let small = Redis::start().await;
    for (name, value) in [("maxmemory", "4mb"), ("maxmemory-policy", "allkeys-lru")] {
        let () = small.command(&["CONFIG", "SET", name, value]).await;
    }
    let ran = run(&["doctor"], &[("REDIS_URL", &small.url())]).await;
    // Advice, with what to run.
    assert!(ran.success().contains("advice"), "{ran:#?}");
    assert!(ran.stdout.contains("maxmemory-policy"), "{ran:#?}");
    run(&["doctor"], &[]).await.refused(1);
}
