//! Starts that cannot work: each is refused with one line that says what to do and
//! has no secret in it, before anything is announced.

use std::net::TcpListener;
use std::process::Stdio;

use tempfile::TempDir;
use tidepool_tests::cluster::Database;
use tidepool_tests::servers::postgres::{PASSWORD, Postgres, ROLE};
use tidepool_tests::servers::{Redis, free_port};
use tidepool_tests::{Ran, Setup, built, command, within};

/// What may never be shown: passwords, right and wrong, plain and encoded.
const SECRETS: [&str; 4] = [PASSWORD, "tide%2Fpool", "wrong-secret", "right-secret"];

/// Runs `tidepool serve` with these variables to its end.
async fn serve(variables: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let folder = TempDir::new().unwrap();
    let mut serve = command::command(&built::binary());
    serve
        .args(["serve", "--data"])
        .arg(folder.path().join("data"));
    serve
        .env("PORT", "0")
        .env("TIDEPOOL_ADMIN_LISTEN", "127.0.0.1:0");
    serve.envs(variables.iter().copied()).args(arguments);
    command::run_to_end(serve.current_dir(folder.path())).await
}

/// Asserts that it is refused, in a line with all of these texts.
async fn refused(variables: &[(&str, &str)], says: &[&str]) -> String {
    let ran = serve(variables, &[]).await;
    let line = ran.refused(1).to_owned();
    for text in says {
        assert!(line.contains(text), "no {text:?} in: {line}");
    }
    for secret in SECRETS {
        assert!(!line.contains(secret), "{line}");
    }
    assert_eq!(ran.stdout, "", "nothing runs, so nothing is announced");
    line
}

/// Both servers, by their variables.
async fn both(database: &str, redis: &str, says: &[&str]) -> String {
    let variables = [("DATABASE_URL", database), ("REDIS_URL", redis)];
    refused(&variables, says).await
}

/// The address of a Redis at a port where nobody listens.
fn nobody() -> String {
    format!("redis://:wrong-secret@127.0.0.1:{}", free_port())
}

#[tokio::test]
async fn servers_that_are_not_named() {
    let url = "postgresql://u:wrong-secret@127.0.0.1/kv";
    let without = ["database.url", "DATABASE_URL", "tidepool dev"];
    refused(&[], &without).await;
    refused(&[("REDIS_URL", &nobody())], &without).await;
    let without = ["redis.url", "REDIS_URL", "tidepool dev"];
    refused(&[("DATABASE_URL", url)], &without).await;
}

#[tokio::test]
async fn urls_that_are_none() {
    let right = "postgresql://u:wrong-secret@127.0.0.1/kv";
    for bad in [
        "",
        "wrong-secret",
        "mysql://u:wrong-secret@h/kv",
        "postgresql://u:wrong-secret@h:port/kv",
        "postgresql://u:wrong-secret@h:99999/kv",
        "postgresql://u:wrong-secret@h",
        "postgresql:///kv",
        "postgresql://u:wrong-secret@h/kv?sslmode=maybe",
        "postgresql://u:wrong-secret@h/kv?sslrootcert=/nowhere&sslmode=verify-full",
        "postgresql://u:wrong-secret@h/kv?nonsense=1",
    ] {
        both(bad, &nobody(), &["database.url"]).await;
    }
    for bad in [
        "",
        "wrong-secret",
        "http://u:wrong-secret@h",
        "redis://u:wrong-secret@h:port",
        "redis://u:wrong-secret@h:6379/database",
        "redis-cluster://u:wrong-secret@h:6379/0",
        "redis://",
    ] {
        both(right, bad, &["redis.url"]).await;
    }
    let variables = [
        ("DATABASE_URL", right),
        ("REDIS_URL", "rediss://u:wrong-secret@h"),
        ("TIDEPOOL_REDIS_CA_FILE", "/nowhere/ca.pem"),
    ];
    refused(&variables, &["redis.ca_file", "/nowhere/ca.pem"]).await;
}

#[tokio::test]
async fn settings_that_cannot_work() {
    let servers = [
        ("DATABASE_URL", "postgresql://u:wrong-secret@127.0.0.1/kv"),
        ("REDIS_URL", "redis://:wrong-secret@127.0.0.1"),
    ];
    for (name, value, says) in [
        ("PORT", "http", "a number from 0 to 65535"),
        ("PORT", "65536", "a number from 0 to 65535"),
        ("PORT", "", "a number from 0 to 65535"),
        ("TIDEPOOL_REGION", "US East", "a-z, 0-9 and -"),
        ("TIDEPOOL_ADMIN_LISTEN", "0.0.0.0:0", "TIDEPOOL_ADMIN_TOKEN"),
        ("TIDEPOOL_REDIS_URI", "redis://", "TIDEPOOL_REDIS_URL"),
        ("TIDEPOOL_LISTEN", "8080", "TIDEPOOL_LISTEN"),
        ("TIDEPOOL_FEED_MAX_LAG", "soon", "feed.max_lag"),
        ("TIDEPOOL_CONFIG", "/nowhere.toml", "/nowhere.toml"),
    ] {
        let mut variables = servers.to_vec();
        variables.push((name, value));
        refused(&variables, &[says]).await;
    }
    let ran = serve(&servers, &["--regoin", "x"]).await;
    assert!(ran.refused(2).contains("--region"), "{ran:#?}");
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut variables = servers.to_vec();
    variables.push(("PORT", &port));
    refused(&variables, &[&port, "choose another port"]).await;
}

#[tokio::test]
async fn a_database_that_does_not_let_us_in() {
    let database = Database::new().await;
    let redis = Redis::start().await.url();
    let (right, server) = (database.url(), database.postgres());
    let wrong = format!(
        "postgresql://{ROLE}:wrong-secret@127.0.0.1:{}/{}",
        server.port(),
        database.name()
    );
    both(&wrong, &redis, &["check user and password"]).await;
    let nowhere = server.url(ROLE, "nowhere");
    both(&nowhere, &redis, &["nowhere", "create the database"]).await;
    let closed = free_port();
    let away = format!("postgresql://{ROLE}:wrong-secret@127.0.0.1:{closed}/kv");
    let says = [&*closed.to_string(), "check that the server runs"];
    both(&away, &redis, &says).await;
    // Whether or not Redis is there.
    both(&away, &nobody(), &says).await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let hangs = format!("postgresql://{ROLE}:wrong-secret@127.0.0.1:{port}/kv?connect_timeout=1");
    both(&hangs, &redis, &["database.connect_timeout"]).await;
    let plain = format!("{right}?sslmode=require");
    both(&plain, &redis, &["switch TLS on"]).await;

    let role = format!("guest_{}", database.name());
    let make = format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'");
    server.admin("postgres", &make).await;
    let guest = server.url(&role, database.name());
    let grant = format!("GRANT USAGE, CREATE ON SCHEMA public TO \"{role}\"");
    both(&guest, &redis, &[&grant]).await;
}

#[tokio::test]
async fn a_start_that_waits_for_a_database_can_be_stopped() {
    let folder = TempDir::new().unwrap();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("postgresql://u:wrong-secret@127.0.0.1:{port}/kv?connect_timeout=3600");
    let mut serve = command::command(&built::binary());
    serve.args(["serve", "--admin-listen", "127.0.0.1:0", "--data"]);
    serve.arg(folder.path().join("data")).env("PORT", "0");
    serve.env("DATABASE_URL", url).env("REDIS_URL", nobody());
    serve.stdout(Stdio::piped()).stderr(Stdio::piped());
    let serve = serve.spawn().unwrap();
    let _connection = within("a connection", silent.accept()).await.unwrap();
    let id = serve.id().unwrap().to_string();
    let kill = std::process::Command::new("kill").arg(&id).status();
    assert!(kill.is_ok_and(|status| status.success()));
    let ended = within("its end", serve.wait_with_output()).await.unwrap();
    let line = Ran::from(ended).refused(1).to_owned();
    assert!(line.contains("stopped before it had started"), "{line}");
}

#[tokio::test]
async fn tables_of_a_newer_release_and_of_others() {
    let redis = Redis::start().await;
    let database = Database::new().await;
    let setup = Setup::new().over("here", database.url(), &redis.url());
    assert!(setup.start().await.stop().await.success());
    let newer = "INSERT INTO tidepool_schema (version) VALUES (1000)";
    database.postgres().admin(database.name(), newer).await;
    both(database.url(), &redis.url(), &["1000", "upgrade this host"]).await;

    let database = Database::new().await;
    let theirs = "CREATE TABLE public.kv_log (key text); GRANT ALL ON kv_log TO tidepool";
    database.postgres().admin(database.name(), theirs).await;
    both(database.url(), &redis.url(), &["kv_log"]).await;
}

#[tokio::test]
async fn a_redis_that_does_not_let_us_in() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let set = ["CONFIG", "SET", "requirepass", "right-secret"];
    let () = redis.command(&set).await;
    let at = redis.address();
    let says = [&*at, "user or password", "redis.url"];
    both(database.url(), &redis.url(), &says).await;
    for user in ["", "somebody"] {
        let url = format!("redis://{user}:wrong-secret@{at}");
        both(database.url(), &url, &says).await;
    }
    // And with the right one it starts.
    let url = format!("redis://:right-secret@{at}");
    let host = Setup::new()
        .over("here", database.url(), &url)
        .start()
        .await;
    let version = host.region("here").write("k", "v").await;
    host.caught_up("here", version).await;
    assert!(!host.log().text().contains("right-secret"));
    assert!(!host.log().text().contains(PASSWORD));
}

#[tokio::test]
async fn a_redis_that_cannot_keep_a_cache() {
    let database = Database::new().await;
    let primary = Redis::start().await;
    let port = primary.port().to_string();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]).await;
    both(
        database.url(),
        &replica.url(),
        &["read-only replica", "primary"],
    )
    .await;
    let set = [
        "ACL",
        "SETUSER",
        "weak",
        "on",
        ">right-secret",
        "~*",
        "+get",
        "+info",
    ];
    let () = primary.command(&set).await;
    let url = format!("redis://weak:right-secret@{}", primary.address());
    // It is let in: what it may not do is said when it is tried.
    let host = Setup::new()
        .over("here", database.url(), &url)
        .start()
        .await;
    host.log().line(&["WARN", "ACL SETUSER weak"]).await;
    host.region("here").write("k", "v").await;
    let get = host.region("here").get("/kv/k").send().await.expect(200);
    assert_eq!(get.header("x-cache"), Some("MISS"));
}

#[tokio::test]
async fn a_redis_that_evicts_or_is_small_is_used() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    for (name, value) in [("maxmemory", "16mb"), ("maxmemory-policy", "allkeys-lru")] {
        let () = redis.command(&["CONFIG", "SET", name, value]).await;
    }
    let setup = Setup::new().over("here", database.url(), &redis.url());
    let host = setup.start().await;
    host.log().line(&["WARN", "maxmemory-policy"]).await;
    let version = host.region("here").write("k", "v").await;
    host.caught_up("here", version).await;
    let get = host.region("here").get("/kv/k").send().await.expect(200);
    assert_eq!(get.header("x-cache"), Some("HIT"));
}

/// An authority and a certificate for a name, as PEM.
fn certificates(name: &str) -> (String, String, String) {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::from_params(&authority, &authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    (authority_certificate.pem(), leaf.pem(), key.serialize_pem())
}

#[tokio::test]
async fn certificates_that_are_not_trusted() {
    let (authority, certificate, key) = certificates("localhost");
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("authority.pem");
    std::fs::write(&file, authority).unwrap();
    let file = file.to_str().unwrap();
    let postgres = Postgres::start_with_tls(&certificate, &key).await;
    let redis = Redis::start_tls(&certificate, &key).await;
    let database = postgres.database("kv").await;
    let database = database.replace("127.0.0.1", "localhost");
    let untrusted = format!("{database}?sslmode=verify-full");
    let trusted = format!("{untrusted}&sslrootcert={}", file.replace('/', "%2F"));
    let cache = redis.url().replace("127.0.0.1", "localhost");
    both(&trusted, &cache, &["redis.ca_file"]).await;
    let variables = [
        ("DATABASE_URL", &*untrusted),
        ("REDIS_URL", &*cache),
        ("TIDEPOOL_REDIS_CA_FILE", file),
    ];
    refused(&variables, &["sslrootcert"]).await;
    let variables = [
        ("DATABASE_URL", &*trusted),
        ("REDIS_URL", &*cache),
        ("TIDEPOOL_REDIS_CA_FILE", "/dev/null"),
    ];
    refused(&variables, &["redis.ca_file", "no certificate"]).await;

    let setup = Setup::new().over("here", &trusted, &cache);
    let host = setup
        .environment("TIDEPOOL_REDIS_CA_FILE", file)
        .start()
        .await;
    let version = host.region("here").write("k", "v").await;
    host.caught_up("here", version).await;
    let get = host.region("here").get("/kv/k").send().await.expect(200);
    assert_eq!(get.header("x-cache"), Some("HIT"));
}
