//! What is the SQLite log's own: folders that cannot be used, crashes, overload,
//! work beside the log.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::log::write_id::REMEMBERED;
use crate::model::{Tags, Version};

fn open(folder: &Path) -> Result<Arc<SqliteDatabase>, OpenError> {
    SqliteDatabase::open(folder, Arc::new(SystemClock), SqliteSettings::default())
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn put(text: &'static str) -> Change {
    Change::Put {
        value: Bytes::from_static(text.as_bytes()),
        content_type: None,
        ttl: None,
    }
}

async fn append(database: &Arc<SqliteDatabase>, name: &str, change: Change) -> Receipt {
    SqliteLog::new(database.clone())
        .append(key(name), change, Condition::None, None)
        .await
        .unwrap()
}

#[tokio::test]
async fn versions_increase_even_when_the_clock_goes_back() {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(ManualClock::at(5_000));
    let database =
        SqliteDatabase::open(folder.path(), clock.clone(), SqliteSettings::default()).unwrap();
    assert_eq!(
        append(&database, "k", put("1")).await.version,
        Version(5_000)
    );
    clock.advance(-4_000);
    let second = append(&database, "k", put("2")).await;
    assert_eq!(
        (second.version, second.timestamp_micros),
        (Version(5_001), clock.now_micros())
    );
}

#[tokio::test]
async fn an_id_is_known_for_a_day_and_then_free() {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(ManualClock::at(5_000));
    let database =
        SqliteDatabase::open(folder.path(), clock.clone(), SqliteSettings::default()).unwrap();
    let log = SqliteLog::new(database);
    let id = Some(WriteId::parse(b"a").unwrap());
    let send = |value| log.append(key("k"), put(value), Condition::None, id);
    let first = send("1").await.unwrap();
    let day = i64::try_from(REMEMBERED.as_micros()).unwrap();
    clock.advance(day - 1);
    assert_eq!(send("1").await, Ok(first));
    assert_eq!(send("2").await, Err(AppendError::IdReused));
    clock.advance(1);
    let second = send("2").await.unwrap();
    assert!(second.version > first.version);
    assert_eq!(send("2").await, Ok(second));
    assert_eq!(send("1").await, Err(AppendError::IdReused));
    // A clock that steps back forgets nothing.
    clock.advance(-2 * day);
    assert_eq!(send("2").await, Ok(second));
}

#[tokio::test]
async fn an_id_is_known_to_a_process_that_starts_later() {
    let folder = TempDir::new().unwrap();
    let id = Some(WriteId::parse(b"a").unwrap());
    let mut receipts = Vec::new();
    for _ in 0..2 {
        let database = open(folder.path()).unwrap();
        let log = SqliteLog::new(database.clone());
        let receipt = log.append(key("k"), put("1"), Condition::None, id).await;
        receipts.push(receipt.unwrap());
        database.close().await;
    }
    assert_eq!(receipts[0], receipts[1]);
}

#[test]
fn an_id_is_looked_for_in_its_index() {
    let folder = TempDir::new().unwrap();
    drop(open(folder.path()).unwrap());
    let connection = rusqlite::Connection::open(folder.path().join("tidepool.db")).unwrap();
    let plan = format!("EXPLAIN QUERY PLAN {}", writer::KNOWN);
    let plan: String = connection
        .query_row(&plan, ("k", 1, 0), |row| row.get(3))
        .unwrap();
    let wanted = "SEARCH kv_log USING INDEX kv_log_write_id (key=? AND write_id=?)";
    assert_eq!(plan, wanted);
}

#[tokio::test]
async fn an_acknowledged_write_survives_a_crash() {
    let folder = TempDir::new().unwrap();
    let database = open(folder.path()).unwrap();
    let mut last = None;
    for _ in 0..50 {
        last = Some(append(&database, "k", put("x")).await.version);
    }
    // What a killed process leaves: the files as they are, nothing closed.
    let crashed = TempDir::new().unwrap();
    for name in ["tidepool.db", "tidepool.db-wal"] {
        fs::copy(folder.path().join(name), crashed.path().join(name)).unwrap();
    }
    let reopened = open(crashed.path()).unwrap();
    assert_eq!(
        SqliteLog::new(reopened.clone())
            .read(&key("k"))
            .await
            .unwrap()
            .version(),
        last
    );
    assert_eq!(*reopened.committed().borrow(), 50);
    // And dropping without closing loses nothing either.
    drop(database);
    let reopened = open(folder.path()).unwrap();
    assert_eq!(
        SqliteLog::new(reopened)
            .read(&key("k"))
            .await
            .unwrap()
            .version(),
        last
    );
}

#[tokio::test]
async fn closing_finishes_what_is_queued_and_gives_the_folder_free() {
    let folder = TempDir::new().unwrap();
    let database = open(folder.path()).unwrap();
    let log = SqliteLog::new(database.clone());
    let (written, ()) = tokio::join!(
        log.append(key("k"), put("x"), Condition::None, None),
        database.close()
    );
    let written = written.unwrap().version;
    let refused = log.append(key("k"), put("y"), Condition::None, None).await;
    assert!(
        matches!(refused, Err(AppendError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(log.read(&key("k")).await.is_err());
    database.close().await;
    let reopened = open(folder.path()).unwrap();
    assert_eq!(
        SqliteLog::new(reopened)
            .read(&key("k"))
            .await
            .unwrap()
            .version(),
        Some(written)
    );
}

#[tokio::test]
async fn only_one_process_has_a_folder() {
    let folder = TempDir::new().unwrap();
    let database = open(folder.path()).unwrap();
    let refusal = open(folder.path()).unwrap_err();
    assert!(matches!(refusal, OpenError::InUse(_)));
    assert!(
        refusal
            .to_string()
            .contains("is in use by another tidepool; stop it"),
        "{refusal}"
    );
    append(&database, "k", put("x")).await;
}

#[test]
fn what_is_not_a_folder_is_named() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for path in [file.clone(), file.join("below")] {
        let refusal = open(&path).unwrap_err();
        assert!(matches!(refusal, OpenError::NotAFolder(_)), "{refusal}");
    }
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_as_it_was() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tidepool.db");
    let database = open(folder.path()).unwrap();
    for index in 0..400 {
        let change = Change::Put {
            value: vec![7; 500].into(),
            content_type: None,
            ttl: None,
        };
        append(&database, &format!("k{index}"), change).await;
    }
    database.close().await;
    let whole = fs::read(&file).unwrap();

    let zeroed = vec![0; whole.len()];
    let short = b"SQLite".to_vec();
    let text = b"not a database, but long enough to be one. ".repeat(200);
    let cut = whole[..whole.len() / 2].to_vec();
    let mut scribbled = whole.clone();
    let quarter = whole.len() / 4;
    scribbled[quarter..3 * quarter].fill(0xa5);
    for damaged in [zeroed, short, text, cut, scribbled] {
        fs::write(&file, &damaged).unwrap();
        let refusal = open(folder.path()).unwrap_err();
        assert!(matches!(refusal, OpenError::Damaged { .. }), "{refusal:?}");
        assert!(!refusal.to_string().contains('\n'), "{refusal}");
        assert_eq!(fs::read(&file).unwrap(), damaged);
    }
    fs::write(&file, &whole).unwrap();
    open(folder.path()).unwrap();
}

#[tokio::test]
async fn damage_met_later_is_an_error_of_that_read() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tidepool.db");
    let database = open(folder.path()).unwrap();
    for index in 0..400 {
        let change = Change::Put {
            value: vec![7; 500].into(),
            content_type: None,
            ttl: None,
        };
        append(&database, &format!("k{index}"), change).await;
    }
    database.close().await;
    let mut bytes = fs::read(&file).unwrap();
    let quarter = bytes.len() / 4;
    bytes[quarter..3 * quarter].fill(0xa5);
    fs::write(&file, &bytes).unwrap();
    // No time to look for damage: as with a file that is too big for it.
    let settings = SqliteSettings {
        damage_check: Duration::ZERO,
        ..SqliteSettings::default()
    };
    let Ok(database) = SqliteDatabase::open(folder.path(), Arc::new(SystemClock), settings) else {
        return;
    };
    let log = SqliteLog::new(database);
    let mut failed = 0;
    for index in 0..400 {
        match log.read(&key(&format!("k{index}"))).await {
            Ok(_) => {}
            Err(ReadError::Unavailable(why)) => {
                assert!(why.contains("damaged"), "{why}");
                failed += 1;
            }
        }
    }
    assert!(failed > 0);
}

#[test]
fn newer_and_foreign_databases_are_refused() {
    let folder = TempDir::new().unwrap();
    drop(open(folder.path()).unwrap());
    let file = folder.path().join("tidepool.db");
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let refusal = open(folder.path()).unwrap_err();
    assert!(
        matches!(refusal, OpenError::Newer { found: 99, .. }),
        "{refusal}"
    );

    fs::remove_file(&file).unwrap();
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.execute_batch("CREATE TABLE other (x)").unwrap();
    drop(connection);
    assert!(matches!(
        open(folder.path()).unwrap_err(),
        OpenError::Foreign(_)
    ));
}

#[tokio::test]
async fn too_much_is_refused_and_nothing_is_lost() {
    let folder = TempDir::new().unwrap();
    let settings = SqliteSettings {
        queue_jobs: 2,
        queue_bytes: 100_000,
        ..SqliteSettings::default()
    };
    let database = SqliteDatabase::open(folder.path(), Arc::new(SystemClock), settings).unwrap();
    let log = SqliteLog::new(database.clone());
    let (release, held) = std::sync::mpsc::channel::<()>();
    let busy = {
        let database = database.clone();
        tokio::spawn(async move { database.exec(move |_| Ok(held.recv().is_ok())).await })
    };
    tokio::task::yield_now().await;
    // One is let in whatever its size; the next is over the bound in bytes.
    let big = || Change::Put {
        value: Bytes::from(vec![0; 200_000]),
        content_type: None,
        ttl: None,
    };
    let first = tokio::spawn({
        let log = log.clone();
        async move { log.append(key("big"), big(), Condition::None, None).await }
    });
    tokio::task::yield_now().await;
    let refused = log
        .append(key("big"), big(), Condition::None, None)
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, AppendError::Unavailable(why) if why.contains("try again")),
        "{refused}"
    );
    release.send(()).unwrap();
    assert!(busy.await.unwrap().unwrap());
    first.await.unwrap().unwrap();
    log.append(key("big"), big(), Condition::None, None)
        .await
        .unwrap();
}

#[tokio::test]
async fn work_beside_the_log_is_all_or_nothing() {
    let folder = TempDir::new().unwrap();
    let database = open(folder.path()).unwrap();
    let count = || {
        database.read(|connection| {
            connection.query_row("SELECT count(*) FROM kv_log", (), |row| {
                row.get::<_, i64>(0)
            })
        })
    };
    const INSERT: &str =
        "INSERT INTO kv_log (key, version, timestamp, deleted) VALUES ('k', 1, 1, 1)";
    database
        .exec(|transaction| transaction.execute(INSERT, ()))
        .await
        .unwrap();
    let failed = database.exec(|transaction| {
        transaction.execute("DELETE FROM kv_log", ())?;
        transaction.execute("no such statement", ())
    });
    assert!(matches!(failed.await, Err(ExecError::Failed(_))));
    let panicked = database.exec(|transaction| -> rusqlite::Result<()> {
        transaction.execute("DELETE FROM kv_log", ())?;
        panic!("inside")
    });
    assert!(matches!(panicked.await, Err(ExecError::Failed(_))));
    assert_eq!(count().await.unwrap(), 1);
    append(&database, "k", put("still works")).await;
    let written = database
        .read(|connection| connection.execute("DELETE FROM kv_log", ()))
        .await;
    assert!(written.is_err(), "readers only read");
}

/// Makes every append fail, the way that `body` of a trigger does; until undone.
async fn sabotage(database: &Arc<SqliteDatabase>, body: &'static str) {
    let trigger = format!("CREATE TRIGGER sabotage AFTER INSERT ON kv_log BEGIN {body}; END");
    database
        .exec(move |transaction| transaction.execute_batch(&trigger))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_failure_before_the_commit_and_one_of_the_commit_are_told_apart() {
    let folder = TempDir::new().unwrap();
    let database = open(folder.path()).unwrap();
    let log = SqliteLog::new(database.clone());
    let first = append(&database, "k", put("1")).await.version;
    // A foreign key that is checked only at the commit.
    const TABLES: &str = "CREATE TABLE parent (id INTEGER PRIMARY KEY);
        CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);";
    database
        .exec(|transaction| transaction.execute_batch(TABLES))
        .await
        .unwrap();

    sabotage(&database, "SELECT RAISE(ABORT, 'refused')").await;
    let failed = log.append(key("k"), put("2"), Condition::None, None).await;
    assert!(
        matches!(failed, Err(AppendError::Unavailable(_))),
        "{failed:?}"
    );
    database
        .exec(|transaction| transaction.execute_batch("DROP TRIGGER sabotage"))
        .await
        .unwrap();

    sabotage(&database, "INSERT INTO child VALUES (1)").await;
    let failed = log.append(key("k"), put("2"), Condition::None, None).await;
    assert!(
        matches!(failed, Err(AppendError::OutcomeUnknown(_))),
        "{failed:?}"
    );
    // Not even a condition is answered from what was not committed.
    let newer = log.append(key("k"), put("3"), Condition::None, None);
    let conditional = log.append(key("k"), put("4"), Condition::IfNoneMatch(Tags::Any), None);
    let (newer, conditional) = tokio::join!(newer, conditional);
    assert!(newer.is_err());
    if let Err(AppendError::PreconditionFailed { current }) = conditional {
        assert_eq!(current, Some(first));
    }
    database
        .exec(|transaction| transaction.execute_batch("DROP TRIGGER sabotage"))
        .await
        .unwrap();

    assert_eq!(log.read(&key("k")).await.unwrap().version(), Some(first));
    assert_eq!(*database.committed().borrow(), 1);
    assert!(append(&database, "k", put("5")).await.version > first);
}
