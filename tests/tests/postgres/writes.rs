//! Writing: batches, hot keys, clocks, what one write can do to others.

use std::time::Instant;

use tidepool::log::AppendError;
use tidepool::log::sql::statements;
use tidepool::model::{State, Tags};
use tidepool::sql::ServerKind;
use tidepool_tests::servers::postgres::Postgres;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_of_one_key_share_commits() {
    let server = Postgres::start().await;
    let url = server.database("hot").await;
    let log = open(&url).await.unwrap();
    let writers = (0..32).map(|_| {
        let log = log.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                write(&log, "hot").await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let client = server.admin_client("hot").await;
    let counted = client
        .query_one(
            "SELECT count(*), count(DISTINCT version), count(DISTINCT xid) FROM kv_log",
            &[],
        )
        .await
        .unwrap();
    let (rows, versions, commits): (i64, i64, i64) =
        (counted.get(0), counted.get(1), counted.get(2));
    assert_eq!((rows, versions), (640, 640));
    assert!(commits < rows / 4, "{commits} commits for {rows} rows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hosts_that_write_the_same_keys_do_not_get_stuck() {
    let server = Postgres::start().await;
    let url = server.database("hosts").await;
    let mut writers = Vec::new();
    for _ in 0..3 {
        let log = open(&url).await.unwrap();
        for writer in 0..16 {
            let log = log.clone();
            writers.push(tokio::spawn(async move {
                let mut versions = Vec::new();
                for index in 0..20 {
                    let name = format!("k{}", (writer * 7 + index * 3) % 10);
                    versions.push((name.clone(), write(&log, &name).await));
                }
                versions
            }));
        }
    }
    let mut all = Vec::new();
    for writer in writers {
        all.extend(writer.await.unwrap());
    }
    let written = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), written, "a version of a key was given twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_increase_when_the_clock_steps_back() {
    let server = Postgres::start().await;
    let url = server.database("clock").await;
    let log = open(&url).await.unwrap();
    let now = write(&log, "k").await.0;
    // As if the clock had been an hour ahead when this was written.
    let ahead = now + 3_600_000_000;
    let row = format!(
        "INSERT INTO kv_log (key, version, \"timestamp\", deleted, write_id, value)
         VALUES ('k', {ahead}, {ahead}, false, 1, 'x')"
    );
    server.admin("clock", &row).await;
    let receipt = log
        .append(key("k"), put("y"), Condition::None, None)
        .await
        .unwrap();
    assert_eq!(receipt.version, Version(ahead + 1));
    assert!(receipt.timestamp_micros < ahead);
    let condition = Condition::IfMatch(Tags::Versions(vec![receipt.version]));
    let next = log
        .append(key("k"), put("z"), condition, None)
        .await
        .unwrap();
    assert_eq!(next.version, Version(ahead + 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_the_database_refuses_harms_no_other() {
    let server = Postgres::start().await;
    let log = open(&server.database("refused").await).await.unwrap();
    let writes = (0..64).map(|index| {
        let log = log.clone();
        tokio::spawn(async move {
            let bad = index % 8 == 3;
            let change = Change::Put {
                value: Bytes::from_static(b"x"),
                // PostgreSQL's text cannot hold it.
                content_type: bad.then(|| Arc::from("a\0b")),
                ttl: None,
            };
            let name = format!("k{}", index % 16);
            (
                bad,
                log.append(key(&name), change, Condition::None, None).await,
            )
        })
    });
    for write in writes.collect::<Vec<_>>() {
        let (bad, outcome) = write.await.unwrap();
        match outcome {
            Err(AppendError::Unavailable(_)) => assert!(bad),
            other => assert!(!bad && other.is_ok(), "{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_condition_sees_what_the_same_burst_has_written() {
    let server = Postgres::start().await;
    let log = open(&server.database("burst").await).await.unwrap();
    for round in 0..20 {
        let name = format!("k{round}");
        let attempts = (0..16).map(|_| {
            let (log, key) = (log.clone(), key(&name));
            let absent = Condition::IfNoneMatch(Tags::Any);
            tokio::spawn(async move { log.append(key, put("x"), absent, None).await })
        });
        let mut won = Vec::new();
        for attempt in attempts.collect::<Vec<_>>() {
            match attempt.await.unwrap() {
                Ok(receipt) => won.push(receipt.version),
                Err(AppendError::PreconditionFailed { current }) => assert!(current.is_some()),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won.len(), 1);
        assert_eq!(log.read(&key(&name)).await.unwrap().version(), Some(won[0]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lock_that_somebody_holds_is_waited_for_and_then_given_up() {
    let server = Postgres::start().await;
    let url = server.database("locked").await;
    let settings = Database {
        url: Some(Secret::new(&*url)),
        request_timeout: Duration::from_secs(3),
        ..Database::default()
    };
    let config = SqlConfig::new(&settings).unwrap();
    let log_settings = config::Log::default();
    let log = SqlLog::open(config, &log_settings, Arc::new(SystemEntropy))
        .await
        .unwrap();
    write(&log, "k").await;
    let client = server.admin_client("locked").await;
    client
        .batch_execute("BEGIN; LOCK TABLE kv_log IN EXCLUSIVE MODE")
        .await
        .unwrap();
    let start = Instant::now();
    let error = log
        .append(key("k"), put("x"), Condition::None, None)
        .await
        .unwrap_err();
    // Its bound: three times the time of a request.
    assert!(start.elapsed() < Duration::from_secs(12));
    assert!(
        matches!(
            error,
            AppendError::Unavailable(_) | AppendError::OutcomeUnknown(_)
        ),
        "{error}"
    );
    client.batch_execute("ROLLBACK").await.unwrap();
    // It was not written behind our back.
    let State::Live { value, .. } = log.read(&key("k")).await.unwrap() else {
        panic!("it is gone")
    };
    assert_eq!(value.bytes, "x");
    let rows = client
        .query_one("SELECT count(*) FROM kv_log", &[])
        .await
        .unwrap();
    let expected = if matches!(error, AppendError::Unavailable(_)) {
        1..=1
    } else {
        1..=2
    };
    assert!(expected.contains(&rows.get::<_, i64>(0)), "{error}");
    write(&log, "k").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_statement_for_cockroachdb_is_sql_and_does_the_same() {
    let server = Postgres::start().await;
    let url = server.database("dialect").await;
    open(&url).await.unwrap();
    let client = server.admin_client("dialect").await;
    let cockroach = ServerKind::Cockroach {
        major: 23,
        minor: 1,
    };
    let append = client
        .prepare(&statements::append(cockroach, false))
        .await
        .unwrap();
    let key = &b"k"[..];
    let mut seen: Vec<(bool, Option<i64>, Option<i64>)> = Vec::new();
    // A plain burst; "if absent", which fails; "if this version", which holds, with
    // another append after it.
    for (conditions, tag) in [
        (vec![0i64, 0, 0], None),
        (vec![2], None),
        (vec![3, 0], Some(2)),
    ] {
        let count = conditions.len();
        let tag = tag.map(|at: usize| seen[at].2.unwrap());
        let ids: Vec<i64> = (0..count).map(|at| (seen.len() + at) as i64).collect();
        let rows = client
            .query(
                &append,
                &[
                    &vec![key; count],
                    &ids,
                    &vec![false; count],
                    &vec![None::<&str>; count],
                    &vec![None::<i64>; count],
                    &vec![Some(&b"x"[..]); count],
                    &conditions,
                    &tag.iter().map(|_| 1i64).collect::<Vec<_>>(),
                    &tag.iter().copied().collect::<Vec<_>>(),
                    &key,
                ],
            )
            .await
            .unwrap();
        seen.extend(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))));
    }
    let first = seen[0].2.unwrap();
    assert_eq!(
        seen,
        [
            (true, None, Some(first)),
            (true, None, Some(first + 1)),
            (true, None, Some(first + 2)),
            (false, Some(first + 2), None),
            (true, Some(first + 2), seen[4].2),
            (true, Some(first + 2), Some(seen[4].2.unwrap() + 1)),
        ]
    );
    assert!(seen[4].2.unwrap() > first + 2);
}
