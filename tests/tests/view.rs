//! `tidepool view`, and `viewDB` and `viewCache` over it: what is stored, as people
//! see it.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use tidepool_tests::servers::postgres::{PASSWORD, PASSWORD_ENCODED as ENCODED};
use tidepool_tests::{Cluster, Ran, Server, built, command};

const ROWS: &str = "SELECT key, deleted, value FROM kv_log ORDER BY version";

/// A script of the repository, away from whatever containers run on this machine.
async fn script(name: &str, arguments: &[&str], server: &Server) -> Ran {
    let mut script = command::command(&built::repository().join(name));
    script
        .args(arguments)
        .env("TIDEPOOL_DATA", server.setup().data());
    script.env(
        "TIDEPOOL_ADMIN_URL",
        format!("http://{}", server.admin().address()),
    );
    script.env("COMPOSE_PROJECT_NAME", "tidepool-nothing-runs");
    command::run_to_end(&mut script).await
}

/// The lines of a text, their columns one space apart.
fn lines(text: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines()
        .map(words)
        .filter(|line| !line.is_empty())
        .collect()
}

#[tokio::test]
async fn the_embedded_log_and_the_caches_of_all_regions_are_tables() {
    let server = Server::start().await;
    let plane = server.region("us-east-1");
    plane.write("hello", "world").await;
    let raw = plane.put("/kv/bytes").header("content-type", "image/png");
    raw.body(&b"\xff\0"[..]).send().await.expect(201);
    let version = plane.remove("hello").await;
    server.all_caught_up(version).await;

    let ran = script("viewDB", &[ROWS], &server).await;
    let shown = lines(ran.success());
    assert!(shown[0].starts_with("== the log in "), "{ran:#?}");
    assert_eq!(
        shown[1..],
        [
            "key deleted value",
            "hello 0 world",
            "bytes 0 \\xff00",
            "hello 1 NULL",
            "(3 rows)"
        ]
    );
    let ran = script("viewDB", &["DELETE FROM kv_log"], &server).await;
    assert!(ran.refused(1).contains("readonly"), "{ran:#?}");
    let ran = script("viewDB", &["SELECT nothing"], &server).await;
    assert!(ran.refused(1).contains("nothing"), "{ran:#?}");
    assert_eq!(script("viewDB", &[], &server).await.code, Some(2));

    let ran = script("viewCache", &[], &server).await;
    let shown = lines(ran.success());
    for (region, _) in server.regions() {
        let heading = format!("== {region}");
        let at = shown.iter().position(|line| *line == heading).unwrap();
        let [heads, bytes, hello, count] = &shown[at + 1..at + 5] else {
            panic!("{ran:#?}")
        };
        assert_eq!(heads, "KEY VERSION KIND TYPE VALUE LEFT");
        assert!(
            bytes.starts_with("bytes ") && bytes.contains(" value image/png "),
            "{bytes}"
        );
        assert!(
            hello.starts_with(&format!("hello {version} tombstone - - ")),
            "{hello}"
        );
        assert_eq!(count, "(2 keys)");
    }
    let ran = server
        .cli(&["view", "cache", "--limit", "1", "--json"])
        .await;
    let one: serde_json::Value = serde_json::Deserializer::from_str(ran.success())
        .into_iter()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(
        (&one["more"], one["entries"].as_array().unwrap().len()),
        (&true.into(), 1)
    );
    for limit in ["0", "10001"] {
        let path = format!("/v1/regions/us-east-1/cache?limit={limit}");
        server
            .admin()
            .get(&path)
            .send()
            .await
            .problem(400, "bad-request");
        assert_eq!(
            server.cli(&["view", "cache", "--limit", limit]).await.code,
            Some(2)
        );
    }
    let nowhere = server.admin().get("/v1/regions/nowhere/cache");
    nowhere.send().await.problem(404, "no-such-path");
}

#[tokio::test]
async fn sql_on_the_embedded_log_writes_no_file_and_comes_to_an_end() {
    let server = Server::start().await;
    server.region("us-east-1").write("hello", "world").await;
    let copy = server.setup().folder().join("copy.db");
    let name = copy.to_str().unwrap();
    for writes in [
        format!("VACUUM INTO '{name}'"),
        format!("ATTACH '{name}' AS copy; CREATE TABLE copy.mine (a)"),
        "CREATE TEMP TABLE mine (a)".to_owned(),
    ] {
        let ran = script("viewDB", &[&writes], &server).await;
        let line = ran.refused(1);
        assert!(line.contains("only SQL that reads"), "{line}");
        assert!(!copy.exists(), "{writes}");
    }
    // What reads is not taken for what writes.
    let reads = "SELECT count(*) AS n FROM json_each('[1,2]')";
    let ran = script("viewDB", &[reads], &server).await;
    assert_eq!(lines(ran.success())[1..], ["n", "2", "(1 row)"]);

    let endless =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let data = server.setup().data().to_str().unwrap().to_owned();
    let bound = "database.request_timeout=50ms";
    let ran = command::run(["view", "db", endless, "--data", &data, "--set", bound]).await;
    let line = ran.refused(1);
    assert!(
        line.contains("50ms") && line.contains("database.request_timeout"),
        "{line}"
    );
}

#[tokio::test]
async fn servers_are_looked_at_by_their_urls() {
    let cluster = Cluster::start().await;
    let version = cluster.region("us-east-1").write("hello", "world").await;
    cluster.all_caught_up(version).await;
    let (database, member) = (cluster.database().url(), cluster.member("eu-west-1"));
    let server = &member.host;

    let wrong = database.replacen(ENCODED, "wrong-secret", 1);
    let ran = script("viewDB", &[ROWS, database, &wrong], server).await;
    assert_eq!(ran.code, Some(1), "one of them cannot be seen: {ran:#?}");
    assert!(ran.stderr.contains("password"), "{ran:#?}");
    for secret in [PASSWORD, ENCODED, "wrong-secret"] {
        assert!(
            !ran.stdout.contains(secret) && !ran.stderr.contains(secret),
            "{ran:#?}"
        );
    }
    let shown = lines(&ran.stdout);
    assert_eq!(
        shown[1..],
        ["key deleted value", "hello f world", "(1 row)"]
    );
    let two = script(
        "viewDB",
        &["SELECT 1 AS a; SELECT 2 AS b", database],
        server,
    )
    .await;
    assert_eq!(
        lines(two.success())[1..],
        ["a", "1", "(1 row)", "b", "2", "(1 row)"]
    );
    let ran = script("viewDB", &["DELETE FROM kv_log", database], server).await;
    assert!(
        ran.code == Some(1) && ran.stderr.contains("read-only"),
        "{ran:#?}"
    );

    let ran = script("viewCache", &[&member.redis.url()], server).await;
    let shown = lines(ran.success());
    let row = format!("hello {version} value - world ");
    assert!(
        shown[2].starts_with(&row) && shown[2].ends_with(" s"),
        "{ran:#?}"
    );
    let ran = server.cli(&["view", "cache"]).await;
    assert_eq!(lines(ran.success())[0], "== eu-west-1");
}
