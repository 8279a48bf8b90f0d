//! The feed of PostgreSQL: transactions that stay open, positions of other logs,
//! how soon a commit is delivered.

use std::time::Instant;

use tidepool::feed::{Event, Feed, FeedError, FeedSource, Position};
use tidepool_tests::servers::postgres::Postgres;
use tidepool_tests::within;

use super::*;

/// A row, as somebody writes it who has a transaction open.
fn insert(name: &str) -> String {
    format!(
        "INSERT INTO kv_log (key, version, \"timestamp\", deleted, write_id, value)
         SELECT '{name}', now, now, false, 0, 'x' FROM
         (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 AS now) AS clock"
    )
}

/// Reads until this key has come and was resolved: its position and time.
async fn until(feed: &mut dyn Feed, name: &str) -> (Position, i64) {
    let mut seen = false;
    within(name, async {
        loop {
            match feed.next().await.unwrap() {
                Event::Rows(rows) => seen |= rows.iter().any(|row| row.key == key(name)),
                Event::Resolved {
                    position,
                    as_of_micros,
                } if seen => {
                    return (position, as_of_micros);
                }
                Event::Scanned { .. } | Event::Resolved { .. } => {}
            }
        }
    })
    .await
}

/// Reads until the feed is complete up to a time.
async fn complete(feed: &mut dyn Feed, micros: i64) {
    within("the feed to be complete", async {
        loop {
            if let Event::Resolved { as_of_micros, .. } = feed.next().await.unwrap()
                && as_of_micros > micros
            {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_open_transaction_hides_nothing_and_delays_nobody() {
    let server = Postgres::start().await;
    let url = server.database("open").await;
    let log = open(&url).await.unwrap();
    let mut first = feed(&url).open(None).await.unwrap();
    let before = write(&log, "before").await;
    until(&mut *first, "before").await;

    let slow = server.admin_client("open").await;
    slow.batch_execute("BEGIN").await.unwrap();
    slow.batch_execute(&insert("slow")).await.unwrap();
    let slow_at = slow
        .query_one("SELECT version FROM kv_log WHERE key = 'slow'", &[])
        .await;
    let slow_at: i64 = slow_at.unwrap().get(0);

    // Others commit: their rows come, and the time stays before the open one's.
    let mut positions = Vec::new();
    for round in 0..5 {
        let name = format!("quick{round}");
        write(&log, &name).await;
        let (position, as_of) = until(&mut *first, &name).await;
        assert!(as_of <= slow_at, "{as_of} has passed {slow_at}");
        positions.push(position);
    }
    assert!(before.0 < slow_at);
    // Somebody who starts now is not complete either.
    let mut second = feed(&url).open(None).await.unwrap();
    let (position, as_of) = until(&mut *second, "quick4").await;
    assert!(as_of <= slow_at);
    positions.push(position);

    slow.batch_execute("COMMIT").await.unwrap();
    until(&mut *first, "slow").await;
    complete(&mut *first, slow_at).await;
    until(&mut *second, "slow").await;
    // And whoever resumes from a position of that time gets it too.
    for position in positions {
        let mut resumed = feed(&url).open(Some(position)).await.unwrap();
        until(&mut *resumed, "slow").await;
        complete(&mut *resumed, slow_at).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_open_transaction_that_does_not_write_here_does_not_matter() {
    let server = Postgres::start().await;
    let url = server.database("elsewhere").await;
    let log = open(&url).await.unwrap();
    let other = server.admin_client("elsewhere").await;
    other
        .batch_execute("CREATE TABLE other (x int); BEGIN; INSERT INTO other VALUES (1)")
        .await
        .unwrap();
    let mut feed = feed(&url).open(None).await.unwrap();
    let version = write(&log, "k").await;
    until(&mut *feed, "k").await;
    complete(&mut *feed, version.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_out_of_order_all_come() {
    let server = Postgres::start().await;
    let url = server.database("disorder").await;
    let log = open(&url).await.unwrap();
    let mut feed = feed(&url).open(None).await.unwrap();
    for round in 0..10 {
        let (a, b) = (
            server.admin_client("disorder").await,
            server.admin_client("disorder").await,
        );
        for (client, name) in [(&a, "a"), (&b, "b")] {
            client.batch_execute("BEGIN").await.unwrap();
            client
                .batch_execute(&insert(&format!("{name}{round}")))
                .await
                .unwrap();
        }
        // The later one first, with a write of ours between.
        b.batch_execute("COMMIT").await.unwrap();
        write(&log, &format!("c{round}")).await;
        until(&mut *feed, &format!("c{round}")).await;
        a.batch_execute("COMMIT").await.unwrap();
        until(&mut *feed, &format!("a{round}")).await;
    }
    let mut names = Vec::new();
    let mut again = super::feed(&url).open(None).await.unwrap();
    while let Event::Rows(rows) = again.next().await.unwrap() {
        names.extend(rows.into_iter().map(|row| row.key.to_string()));
    }
    assert_eq!(names.len(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_of_another_log_is_lost() {
    let server = Postgres::start().await;
    let url = server.database("one").await;
    let log = open(&url).await.unwrap();
    write(&log, "k").await;
    let mut one = feed(&url).open(None).await.unwrap();
    let (position, _) = until(&mut *one, "k").await;
    assert!(feed(&url).open(Some(position.clone())).await.is_ok());

    let lost = |opened: Result<Box<dyn Feed>, FeedError>| match opened.err() {
        Some(FeedError::PositionLost(why)) => why,
        other => panic!("{other:?}"),
    };
    let other = server.database("two").await;
    open(&other).await.unwrap();
    lost(feed(&other).open(Some(position.clone())).await);
    // One of the future, as after restoring a copy.
    let mut parts = position.0.splitn(3, ':');
    let identity = parts.next().unwrap();
    let later = Position(format!("{identity}:999999999:"));
    let why = lost(feed(&url).open(Some(later)).await);
    assert!(why.contains("older copy"), "{why}");
    drop((one, log));
    server
        .admin("one", "DROP TABLE kv_log, tidepool_schema")
        .await;
    open(&url).await.unwrap();
    lost(feed(&url).open(Some(position)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_read_stops_nobody() {
    let server = Postgres::start().await;
    let url = server.database("damaged").await;
    let log = open(&url).await.unwrap();
    let row = "INSERT INTO kv_log (key, version, \"timestamp\", deleted, write_id)
        VALUES ('\\xff00', 1, 1, true, 1)";
    let source = feed(&url);
    let mut following = source.open(None).await.unwrap();
    // So that the scan is over and does not pass it over.
    write(&log, "first").await;
    until(&mut *following, "first").await;
    server.admin("damaged", row).await;
    write(&log, "k").await;
    until(&mut *following, "k").await;
    assert_eq!(source.counts().skipped, 1);
    let mut scanning = source.open(None).await.unwrap();
    until(&mut *scanning, "k").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_idle_feed_delivers_a_commit_at_once() {
    let server = Postgres::start().await;
    let url = server.database("idle").await;
    let log = open(&url).await.unwrap();
    // Looking by itself would be far too late: it has to be woken.
    let settings = PostgresFeedSettings {
        batch_rows: 64,
        batch_bytes: 1 << 20,
        resolved_every: Duration::from_secs(5),
    };
    let source = PostgresFeedSource::new(config(&url).unwrap(), settings);
    let mut feed = source.open(None).await.unwrap();
    write(&log, "first").await;
    until(&mut *feed, "first").await;
    let mut took = Vec::new();
    for round in 0..100 {
        let name = format!("k{round}");
        let reader = async {
            until(&mut *feed, &name).await;
            Instant::now()
        };
        let writer = async {
            write(&log, &name).await;
            Instant::now()
        };
        let (written, read) = tokio::join!(writer, reader);
        took.push(read.saturating_duration_since(written));
    }
    took.sort();
    let (median, p99) = (took[50], took[98]);
    println!("commit to delivery: p50 {median:?}, p99 {p99:?}");
    assert!(median < Duration::from_millis(50), "{took:?}");
}
