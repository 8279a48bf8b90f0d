//! Writes with ids: hosts at once, lost answers, how long an id is known, and that
//! looking for one is a point of an index.

use tidepool::log::sql::statements;
use tidepool::log::write_id::REMEMBERED;
use tidepool::log::{AppendError, Receipt, WriteId};
use tidepool::model::Tags;
use tidepool::sql::ServerKind;
use tidepool_tests::servers::postgres::Postgres;

use super::*;

const COCKROACH: ServerKind = ServerKind::Cockroach {
    major: 23,
    minor: 1,
};

fn id(text: &str) -> WriteId {
    WriteId::parse(text.as_bytes()).unwrap()
}

async fn rows(server: &Postgres, database: &str) -> i64 {
    let client = server.admin_client(database).await;
    let counted = client.query_one("SELECT count(*) FROM kv_log", &[]).await;
    counted.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hosts_that_send_the_same_write_at_once_write_once() {
    let server = Postgres::start().await;
    let url = server.database("once").await;
    let mut hosts = Vec::new();
    for _ in 0..3 {
        hosts.push(open(&url).await.unwrap());
    }
    for round in 1..=10i64 {
        let absent = Condition::IfNoneMatch(Tags::Any);
        let name = key(&format!("k{round}"));
        let writers = (0..32).map(|writer| {
            let (log, name) = (hosts[writer % hosts.len()].clone(), name.clone());
            let (change, absent) = (put("x"), absent.clone());
            tokio::spawn(async move { log.append(name, change, absent, Some(id("a"))).await })
        });
        let mut receipts: Vec<Receipt> = Vec::new();
        for writer in writers.collect::<Vec<_>>() {
            receipts.push(writer.await.unwrap().unwrap());
        }
        receipts.dedup();
        assert_eq!(receipts.len(), 1);
        assert_eq!(rows(&server, "once").await, round);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_known_for_a_day_and_then_free() {
    let server = Postgres::start().await;
    let log = open(&server.database("day").await).await.unwrap();
    let send = |value| log.append(key("k"), put(value), Condition::None, Some(id("a")));
    let first = send("1").await.unwrap();
    // As if it had been written so much earlier, less a minute and then more.
    let earlier = async |micros: u128| {
        let move_it = format!("UPDATE kv_log SET \"timestamp\" = \"timestamp\" - {micros}");
        server.admin("day", &move_it).await;
    };
    let minute = 60_000_000;
    earlier(REMEMBERED.as_micros() - minute).await;
    assert_eq!(send("1").await.unwrap().version, first.version);
    assert_eq!(send("2").await, Err(AppendError::IdReused));
    earlier(2 * minute).await;
    let second = send("2").await.unwrap();
    assert!(second.version > first.version);
    assert_eq!(send("2").await, Ok(second));
    assert_eq!(send("1").await, Err(AppendError::IdReused));
}

/// Sends a write until it has a receipt, as a client would.
async fn insist(log: &SqlLog, name: &str, value: String) -> Receipt {
    let write_id = id(&value);
    let value = Bytes::from(value);
    loop {
        let change = put(value.clone());
        let sent = log.append(key(name), change, Condition::None, Some(write_id));
        match sent.await {
            Ok(receipt) => return receipt,
            Err(AppendError::Unavailable(_) | AppendError::OutcomeUnknown(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_that_are_sent_until_they_are_known_are_written_once() {
    let mut server = Postgres::start().await;
    let log = open(&server.database("lost").await).await.unwrap();
    let mut all = 0;
    for round in 0..4 {
        let writers = (0..16).map(|writer| {
            let log = log.clone();
            tokio::spawn(async move {
                let mut receipts = Vec::new();
                for index in 0..20 {
                    let name = format!("k{}", (writer + index) % 4);
                    let value = format!("{round}/{writer}/{index}");
                    receipts.push((value.clone(), insist(&log, &name, value).await));
                }
                receipts
            })
        });
        let writers: Vec<_> = writers.collect();
        // In the middle of them.
        let half = all + 100;
        let client = server.admin_client("lost").await;
        let before = tidepool_tests::within("some writes", async {
            let count = "SELECT count(*) FROM kv_log";
            while client.query_one(count, &[]).await.unwrap().get::<_, i64>(0) < half {}
        });
        before.await;
        if round < 2 {
            server.kill();
            server.restart().await;
        } else {
            let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = 'lost' AND usename = 'tidepool'";
            server.admin("lost", cut).await;
        }
        let client = server.admin_client("lost").await;
        for writer in writers {
            for (value, receipt) in writer.await.unwrap() {
                let found = "SELECT version, \"timestamp\" FROM kv_log WHERE value = $1";
                let found = client.query(found, &[&value.as_bytes()]).await.unwrap();
                assert_eq!(found.len(), 1, "{value}");
                let there = (found[0].get(0), found[0].get(1));
                assert_eq!(there, (receipt.version.0, receipt.timestamp_micros));
            }
        }
        all += 320;
        assert_eq!(rows(&server, "lost").await, all);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_from_before_there_were_ids_are_brought_up_to_date() {
    let server = Postgres::start().await;
    let url = server.database("older").await;
    write(&open(&url).await.unwrap(), "k").await;
    let undo = "DROP INDEX kv_log_write_id; DELETE FROM tidepool_schema WHERE version >= 2";
    server.admin("older", undo).await;
    let log = open(&url).await.unwrap();
    let send = || log.append(key("k"), put("x"), Condition::None, Some(id("a")));
    let first = send().await.unwrap();
    assert_eq!(send().await, Ok(first));
    let client = server.admin_client("older").await;
    let index = "SELECT 1 FROM pg_indexes WHERE indexname = 'kv_log_write_id'";
    assert_eq!(client.query(index, &[]).await.unwrap().len(), 1);
}

/// How the server would run an append of one write.
async fn plan(server: &Postgres, database: &str, kind: ServerKind, ids: bool) -> String {
    let client = server.admin_client(database).await;
    let append = statements::append(kind, ids);
    let more = match (kind, ids) {
        (ServerKind::Postgres { .. }, _) => "",
        (ServerKind::Cockroach { .. }, false) => ", 'hot'",
        (ServerKind::Cockroach { .. }, true) => ", 'hot', -1",
    };
    let prepare = format!(
        "SET plan_cache_mode = force_generic_plan; PREPARE append AS {append};
         EXPLAIN EXECUTE append ('{{hot}}', '{{-1}}', '{{false}}', '{{null}}', '{{null}}',
            '{{x}}', '{{0}}', '{{}}', '{{}}'{more})"
    );
    let lines = client.simple_query(&prepare).await.unwrap();
    let lines = lines.iter().filter_map(|line| match line {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_write_with_an_id_looks_for_one_and_at_one_point() {
    let server = Postgres::start().await;
    let log = open(&server.database("plan").await).await.unwrap();
    let many = "INSERT INTO kv_log (key, version, \"timestamp\", deleted, write_id, value)
        SELECT 'hot', n, n, false, CASE WHEN n % 2 = 0 THEN n ELSE -n END, 'x'
        FROM generate_series(1, 20000) AS n; ANALYZE kv_log";
    server.admin("plan", many).await;
    let postgres = log.server();
    for kind in [postgres, COCKROACH] {
        let plain = plan(&server, "plan", kind, false).await;
        assert!(!plain.contains("kv_log_write_id"), "{plain}");
        assert!(!plain.contains("Seq Scan"), "{plain}");
        let once = plan(&server, "plan", kind, true).await;
        assert!(once.contains("using kv_log_write_id"), "{once}");
        assert!(!once.contains("Seq Scan"), "{once}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_statement_for_cockroachdb_knows_a_repeat_too() {
    let server = Postgres::start().await;
    let url = server.database("dialect").await;
    open(&url).await.unwrap();
    let client = server.admin_client("dialect").await;
    let append = client.prepare(&statements::append(COCKROACH, true)).await;
    let append = append.unwrap();
    let key = &b"k"[..];
    let first_id = id("a").number();
    // The first has an id, and "if absent"; others without one may follow it.
    let send = async |value: &'static [u8], others: usize| {
        let count = 1 + others;
        let mut ids = vec![first_id];
        ids.extend((1i64..).take(others));
        let mut conditions = vec![0i64; count];
        conditions[0] = 2;
        let none: Vec<i64> = Vec::new();
        let rows = client
            .query(
                &append,
                &[
                    &vec![key; count],
                    &ids,
                    &vec![false; count],
                    &vec![None::<&str>; count],
                    &vec![None::<i64>; count],
                    &vec![Some(value); count],
                    &conditions,
                    &none,
                    &none,
                    &key,
                    &first_id,
                ],
            )
            .await
            .unwrap();
        let rows = rows.iter().map(|row| (row.get(2), row.get(3), row.get(4)));
        rows.collect::<Vec<(Option<i64>, i64, Option<bool>)>>()
    };
    let first = send(b"x", 1).await;
    let version = first[0].0.unwrap();
    assert_eq!((first[0].2, first[1].0), (None, Some(version + 1)));
    let again = send(b"x", 2).await;
    assert_eq!(again[0], (Some(version), first[0].1, Some(true)));
    assert!(again[1].0.unwrap() > version + 1 && again[2].0 > again[1].0);
    assert_eq!(send(b"y", 0).await[0].2, Some(false));
    assert_eq!(rows(&server, "dialect").await, 4);
}
