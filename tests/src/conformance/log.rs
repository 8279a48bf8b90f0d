//! What every log has to do, as one suite that each backend runs.

mod ids;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use tidepool::log::{AppendError, Change, Log, Receipt};
use tidepool::model::{Condition, Key, State, Tags, Value, Version};

/// Keys from every corner of UTF-8: NUL, controls, four-byte characters, what
/// looks like SQL or a path, composed and decomposed forms, the longest.
pub fn strange_keys() -> Vec<Key> {
    let longest = "é".repeat(512);
    [
        "\0",
        "a",
        "a\0",
        "a\0b",
        "\u{1}",
        "\u{7f}",
        "\u{feff}",
        "\u{10ffff}",
        "é",
        "e\u{301}",
        " ",
        "'; --",
        "../x",
        "%",
        "K",
        "k",
        &longest,
    ]
    .into_iter()
    .map(|text| Key::new(text).unwrap())
    .collect()
}

/// Runs the suite. Keys begin with `conformance/` or are strange ones: the log
/// may hold others.
pub async fn run(log: Arc<dyn Log>) {
    what_is_written_is_read(&*log).await;
    a_stale_read_is_no_older_than_it_may_be(&*log).await;
    a_delete_is_a_version_of_its_own(&*log).await;
    conditions_look_at_the_live_value(&*log).await;
    a_value_past_its_time_counts_as_deleted(&*log).await;
    keys_and_values_are_any_bytes(&*log).await;
    versions_increase_however_many_write(log.clone()).await;
    two_conditional_writers_never_both_win(log.clone()).await;
    a_dropped_append_does_no_harm(log.clone()).await;
    ids::a_repeat_has_the_receipt_of_the_first(&*log).await;
    ids::a_repeat_is_known_however_much_was_written_since(&*log).await;
    ids::a_condition_that_held_is_not_looked_at_again(&*log).await;
    ids::an_id_is_of_one_change(&*log).await;
    ids::an_id_belongs_to_its_key(&*log).await;
    ids::many_at_once_are_one_write(log).await;
}

/// A value without a type and without an end.
pub fn put(text: &'static str) -> Change {
    Change::Put {
        value: Bytes::from_static(text.as_bytes()),
        content_type: None,
        ttl: None,
    }
}

fn key(name: &str) -> Key {
    Key::new(&format!("conformance/{name}")).unwrap()
}

async fn write(log: &dyn Log, key: &Key, change: Change) -> Receipt {
    log.append(key.clone(), change, Condition::None, None)
        .await
        .unwrap()
}

fn live(state: &State) -> Option<(Version, &[u8])> {
    match state {
        State::Live { version, value } => Some((*version, &value.bytes)),
        State::Deleted { .. } | State::Absent => None,
    }
}

async fn what_is_written_is_read(log: &dyn Log) {
    let key = key("read");
    assert_eq!(log.read(&key).await.unwrap(), State::Absent);
    let first = write(log, &key, put("1")).await;
    let second = write(log, &key, put("2")).await;
    assert!(second.version > first.version);
    let State::Live { version, value } = log.read(&key).await.unwrap() else {
        panic!("it is not there")
    };
    let expected = Value {
        bytes: Bytes::from_static(b"2"),
        content_type: None,
        expires_at: None,
    };
    assert_eq!((version, value), (second.version, expected));
}

async fn a_stale_read_is_no_older_than_it_may_be(log: &dyn Log) {
    let key = key("stale");
    let version = write(log, &key, put("1")).await.version;
    let written = Instant::now();
    for age in [Duration::from_secs(1), Duration::from_secs(8)] {
        loop {
            let asked = Instant::now();
            match log.read_stale(&key, age).await.unwrap() {
                State::Absent => assert!(asked.duration_since(written) <= age),
                state => break assert_eq!(live(&state), Some((version, &b"1"[..]))),
            }
        }
    }
}

async fn a_delete_is_a_version_of_its_own(log: &dyn Log) {
    let key = key("delete");
    let put = write(log, &key, put("x")).await.version;
    let delete = write(log, &key, Change::Delete).await.version;
    assert!(delete > put);
    assert_eq!(
        log.read(&key).await.unwrap(),
        State::Deleted { version: delete }
    );
    assert!(write(log, &key, self::put("y")).await.version > delete);
    let never = self::key("never written");
    let delete = write(log, &never, Change::Delete).await.version;
    assert_eq!(
        log.read(&never).await.unwrap(),
        State::Deleted { version: delete }
    );
}

async fn conditions_look_at_the_live_value(log: &dyn Log) {
    let key = key("conditions");
    let any = Condition::IfMatch(Tags::Any);
    let none = Condition::IfNoneMatch(Tags::Any);
    let failed = |current| Err(AppendError::PreconditionFailed { current });
    let append =
        |change, condition: &Condition| log.append(key.clone(), change, condition.clone(), None);

    assert_eq!(append(put("1"), &any).await, failed(None));
    let first = append(put("1"), &none).await.unwrap().version;
    assert_eq!(append(put("2"), &none).await, failed(Some(first)));
    let this = Condition::IfMatch(Tags::Versions(vec![Version(first.0 - 1), first]));
    let second = append(put("2"), &this).await.unwrap().version;
    assert_eq!(append(Change::Delete, &this).await, failed(Some(second)));
    assert_eq!(
        live(&log.read(&key).await.unwrap()),
        Some((second, &b"2"[..]))
    );
    append(Change::Delete, &any).await.unwrap();
    assert_eq!(append(Change::Delete, &any).await, failed(None));
    append(put("3"), &none).await.unwrap();
}

async fn a_value_past_its_time_counts_as_deleted(log: &dyn Log) {
    let key = key("ttl");
    let put = |ttl| Change::Put {
        value: Bytes::from_static(b"x"),
        content_type: None,
        ttl: Some(ttl),
    };
    let long = write(log, &key, put(Duration::from_secs(3_600))).await;
    let State::Live { value, .. } = log.read(&key).await.unwrap() else {
        panic!("expired early")
    };
    assert_eq!(
        value.expires_at,
        Some(long.timestamp_micros + 3_600_000_000)
    );
    let short = write(log, &key, put(Duration::ZERO)).await.version;
    assert_eq!(
        log.read(&key).await.unwrap(),
        State::Deleted { version: short }
    );
    let absent = Condition::IfNoneMatch(Tags::Any);
    assert!(
        log.append(key.clone(), put(Duration::MAX), absent, None)
            .await
            .unwrap()
            .version
            > short
    );
    assert!(live(&log.read(&key).await.unwrap()).is_some());
}

async fn keys_and_values_are_any_bytes(log: &dyn Log) {
    let big = Bytes::from_iter((0..1 << 20).map(|index: u32| (index % 251) as u8));
    let values = [
        Bytes::new(),
        Bytes::from_static(b"\0"),
        Bytes::from_iter(0..=255),
        big,
    ];
    let mut written = Vec::new();
    for (index, key) in strange_keys().into_iter().enumerate() {
        let value = values[index % values.len()].clone();
        let content_type = Some(Arc::from("application/x; a=\"\u{e9}\""));
        let change = Change::Put {
            value: value.clone(),
            content_type: content_type.clone(),
            ttl: None,
        };
        written.push((
            write(log, &key, change).await.version,
            key,
            value,
            content_type,
        ));
    }
    for (expected, key, bytes, media_type) in written {
        let State::Live { version, value } = log.read(&key).await.unwrap() else {
            panic!("{key:?} is not there")
        };
        assert_eq!(
            (version, value.bytes, value.content_type),
            (expected, bytes, media_type),
            "{key:?}"
        );
    }
}

async fn versions_increase_however_many_write(log: Arc<dyn Log>) {
    let key = key("versions");
    let writers = (0..32).map(|_| {
        let (log, key) = (log.clone(), key.clone());
        tokio::spawn(async move {
            let mut mine = Vec::new();
            for _ in 0..16 {
                mine.push(write(&*log, &key, put("x")).await.version);
            }
            assert!(mine.is_sorted_by(|a, b| a < b));
            mine
        })
    });
    let mut all = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        all.extend(writer.await.unwrap());
    }
    all.sort();
    assert!(all.is_sorted_by(|a, b| a < b), "a version was given twice");
    assert_eq!(log.read(&key).await.unwrap().version(), all.last().copied());
}

async fn two_conditional_writers_never_both_win(log: Arc<dyn Log>) {
    let key = key("race");
    let mut latest = write(&*log, &key, put("0")).await.version;
    for _ in 0..16 {
        let attempts = (0..8).map(|_| {
            let (log, key) = (log.clone(), key.clone());
            let condition = Condition::IfMatch(Tags::Versions(vec![latest]));
            tokio::spawn(async move { log.append(key, put("x"), condition, None).await })
        });
        let mut winners = Vec::new();
        for attempt in attempts.collect::<Vec<_>>() {
            match attempt.await.unwrap() {
                Ok(receipt) => winners.push(receipt.version),
                Err(AppendError::PreconditionFailed { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(winners.len(), 1);
        latest = winners[0];
    }
}

async fn a_dropped_append_does_no_harm(log: Arc<dyn Log>) {
    let key = key("dropped");
    for _ in 0..8 {
        let append = log.append(key.clone(), put("x"), Condition::None, None);
        let _ = tokio::time::timeout(Duration::ZERO, append).await;
    }
    let last = write(&*log, &key, put("last")).await.version;
    assert_eq!(
        live(&log.read(&key).await.unwrap()),
        Some((last, &b"last"[..]))
    );
}
