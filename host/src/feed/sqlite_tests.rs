//! What is the SQLite feed's own: bounds of a batch, what `Resolved` claims about
//! time, a log restored from a copy.

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::log::sqlite::{SqliteLog, SqliteSettings};
use crate::log::{Change, Log, Receipt};
use crate::model::{Condition, Key};

const SMALL: SqliteFeedSettings = SqliteFeedSettings {
    batch_rows: 3,
    batch_bytes: 1 << 20,
    resolved_every: Duration::from_millis(20),
};

fn open(clock: Arc<dyn Clock>) -> (Arc<SqliteDatabase>, TempDir) {
    let folder = TempDir::new().unwrap();
    let database = SqliteDatabase::open(folder.path(), clock, SqliteSettings::default()).unwrap();
    (database, folder)
}

fn put(text: &'static str) -> Change {
    Change::Put {
        value: Bytes::from_static(text.as_bytes()),
        content_type: None,
        ttl: None,
    }
}

async fn write(database: &Arc<SqliteDatabase>, key: &str) -> Receipt {
    let log = SqliteLog::new(database.clone());
    log.append(Key::new(key).unwrap(), put("x"), Condition::None, None)
        .await
        .unwrap()
}

#[tokio::test]
async fn batches_are_bounded_in_rows_and_in_bytes() {
    let (database, _folder) = open(Arc::new(SystemClock));
    for index in 0..10 {
        write(&database, &format!("k{index}")).await;
    }
    for (settings, most) in [
        (SMALL, 3),
        (
            SqliteFeedSettings {
                batch_bytes: 1,
                ..SMALL
            },
            1,
        ),
    ] {
        let source = SqliteFeedSource::new(database.clone(), settings);
        for after in [None, Some(Position("0".into()))] {
            let mut feed = source.open(after).await.unwrap();
            let mut rows = 0;
            while rows < 10 {
                if let Event::Rows(batch) = feed.next().await.unwrap() {
                    assert!(batch.len() <= most);
                    rows += batch.len();
                }
            }
        }
    }
}

#[tokio::test]
async fn resolved_claims_no_more_than_was_delivered() {
    let clock = Arc::new(ManualClock::at(100));
    let (database, _folder) = open(clock.clone());
    let mut written = Vec::new();
    for index in 0..7 {
        clock.advance(10);
        written.push(
            write(&database, &format!("k{index}"))
                .await
                .timestamp_micros,
        );
    }
    clock.advance(1_000);
    let mut feed = SqliteFeedSource::new(database, SMALL)
        .open(Some(Position("0".into())))
        .await
        .unwrap();
    let mut delivered = 0;
    let mut last = 0;
    while last < clock.now_micros() {
        match feed.next().await.unwrap() {
            Event::Rows(rows) => delivered += rows.len(),
            Event::Scanned { .. } => panic!("it was not asked to scan"),
            Event::Resolved {
                position,
                as_of_micros,
            } => {
                assert_eq!(position.0, delivered.to_string());
                assert!(
                    written[delivered..]
                        .iter()
                        .all(|timestamp| *timestamp >= as_of_micros)
                );
                last = as_of_micros;
            }
        }
    }
    assert_eq!(delivered, 7);
}

#[tokio::test]
async fn a_position_past_the_end_is_lost() {
    let (database, _folder) = open(Arc::new(SystemClock));
    write(&database, "k").await;
    let source = SqliteFeedSource::new(database, SMALL);
    assert!(source.open(Some(Position("1".into()))).await.is_ok());
    let error = source.open(Some(Position("2".into()))).await.err().unwrap();
    assert!(matches!(error, FeedError::PositionLost(_)), "{error}");
}

#[tokio::test]
async fn purging_the_newest_row_gives_its_number_to_nobody() {
    let (database, _folder) = open(Arc::new(SystemClock));
    write(&database, "k").await;
    let source = SqliteFeedSource::new(database.clone(), SMALL);
    database
        .exec(|transaction| transaction.execute("DELETE FROM kv_log", ()))
        .await
        .unwrap();
    let mut feed = source.open(Some(Position("1".into()))).await.unwrap();
    write(&database, "k").await;
    loop {
        if let Event::Rows(rows) = feed.next().await.unwrap() {
            assert_eq!(rows.len(), 1);
            break;
        }
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_left_out_and_counted() {
    let (database, _folder) = open(Arc::new(SystemClock));
    let damage = |key: &'static str| {
        let row = format!(
            "INSERT INTO kv_log (key, version, timestamp, deleted, value) VALUES ({key}, 1, 1, 0, 'x')"
        );
        database.exec(move |transaction| transaction.execute(&row, ()))
    };
    for key in ["x'6b'", "CAST(x'6bff' AS TEXT)", "''", "'k0'"] {
        damage(key).await.unwrap();
    }
    for index in 1..=4 {
        write(&database, &format!("k{index}")).await;
    }
    damage("'k5'").await.unwrap();
    for after in [None, Some(Position("0".into()))] {
        let scans = after.is_none();
        let source = SqliteFeedSource::new(database.clone(), SMALL);
        let mut feed = source.open(after).await.unwrap();
        let mut keys = Vec::new();
        while keys.len() < 4 {
            if let Event::Rows(rows) = feed.next().await.unwrap() {
                keys.extend(rows.into_iter().map(|row| row.key.to_string()));
            }
        }
        assert_eq!(keys, ["k1", "k2", "k3", "k4"]);
        while !matches!(feed.next().await.unwrap(), Event::Resolved { .. }) {}
        // No scan sees what is no text, or empty.
        assert_eq!(source.counts().skipped, if scans { 3 } else { 5 });
    }
}

#[tokio::test]
async fn a_closed_log_ends_the_feed() {
    let (database, _folder) = open(Arc::new(SystemClock));
    let source = SqliteFeedSource::new(database.clone(), SqliteFeedSettings::default());
    let mut feed = source.open(None).await.unwrap();
    while !matches!(feed.next().await.unwrap(), Event::Resolved { .. }) {}
    database.close().await;
    loop {
        match feed.next().await {
            Ok(_) => {}
            Err(error) => break assert!(matches!(error, FeedError::Interrupted(_)), "{error}"),
        }
    }
    assert!(matches!(
        source.open(None).await.err().unwrap(),
        FeedError::Interrupted(_)
    ));
}
