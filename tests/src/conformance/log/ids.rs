//! A write with an id is one write, however often and wherever it is sent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidepool::log::{AppendError, Change, Log, Receipt, WriteId};
use tidepool::model::{Condition, Key, State, Tags};

use super::{key, live, put, write};

fn id(text: &str) -> Option<WriteId> {
    Some(WriteId::parse(text.as_bytes()).unwrap())
}

async fn once(log: &dyn Log, key: &Key, change: Change, name: &str) -> Receipt {
    log.append(key.clone(), change, Condition::None, id(name))
        .await
        .unwrap()
}

/// All changes that a put can be.
fn puts() -> Vec<Change> {
    let mut all = Vec::new();
    for value in ["", "1", "2"] {
        for content_type in [None, Some(""), Some("text/plain")] {
            for ttl in [None, Some(3_600), Some(7_200)] {
                all.push(Change::Put {
                    value: Bytes::from_static(value.as_bytes()),
                    content_type: content_type.map(Arc::from),
                    ttl: ttl.map(Duration::from_secs),
                });
            }
        }
    }
    all
}

pub async fn a_repeat_has_the_receipt_of_the_first(log: &dyn Log) {
    let key = key("repeat");
    let forever = Change::Put {
        value: Bytes::from_static(b"x"),
        content_type: None,
        ttl: Some(Duration::MAX),
    };
    let mut changes = puts();
    changes.extend([Change::Delete, forever]);
    for (index, change) in changes.iter().enumerate() {
        let name = format!("repeat-{index}");
        let first = once(log, &key, change.clone(), &name).await;
        assert_eq!(once(log, &key, change.clone(), &name).await, first);
        assert_eq!(log.read(&key).await.unwrap().version(), Some(first.version));
    }
    // A tombstone of a key that never was is a write as well.
    let never = super::key("repeat of nothing");
    let first = once(log, &never, Change::Delete, "d").await;
    assert_eq!(once(log, &never, Change::Delete, "d").await, first);
}

pub async fn a_repeat_is_known_however_much_was_written_since(log: &dyn Log) {
    let key = key("repeat late");
    let first = once(log, &key, put("first"), "a").await;
    let mut last = first.version;
    for round in 0..100 {
        last = match round % 3 {
            0 => write(log, &key, Change::Delete).await.version,
            1 => write(log, &key, put("later")).await.version,
            _ => {
                once(log, &key, put("first"), &format!("b{round}"))
                    .await
                    .version
            }
        };
        assert_eq!(once(log, &key, put("first"), "a").await, first);
    }
    assert_eq!(log.read(&key).await.unwrap().version(), Some(last));
}

pub async fn a_condition_that_held_is_not_looked_at_again(log: &dyn Log) {
    let key = key("repeat conditional");
    let absent = Condition::IfNoneMatch(Tags::Any);
    let create = || log.append(key.clone(), put("1"), absent.clone(), id("create"));
    let first = create().await.unwrap();
    assert_eq!(create().await, Ok(first));
    let this = Condition::IfMatch(Tags::Versions(vec![first.version]));
    let delete = || log.append(key.clone(), Change::Delete, this.clone(), id("delete"));
    let second = delete().await.unwrap();
    assert_eq!(delete().await, Ok(second));
    assert_eq!(create().await, Ok(first));
    assert_eq!(
        log.read(&key).await.unwrap(),
        State::Deleted {
            version: second.version
        }
    );

    // One that did not hold has left nothing to know it by.
    let any = Condition::IfMatch(Tags::Any);
    let update = || log.append(key.clone(), put("2"), any.clone(), id("update"));
    let failed = Err(AppendError::PreconditionFailed { current: None });
    assert_eq!(update().await, failed);
    assert_eq!(update().await, failed);
    let third = write(log, &key, put("there")).await;
    let fourth = update().await.unwrap();
    assert!(fourth.version > third.version);
    assert_eq!(update().await, Ok(fourth));
}

pub async fn an_id_is_of_one_change(log: &dyn Log) {
    let key = key("reused");
    let all = puts();
    let mut last = None;
    for (index, change) in all.iter().enumerate() {
        let name = format!("reused-{index}");
        let first = once(log, &key, change.clone(), &name).await;
        let others = all.iter().chain([&Change::Delete]);
        for other in others.filter(|other| *other != change) {
            let reused = log.append(key.clone(), other.clone(), Condition::None, id(&name));
            assert_eq!(
                reused.await,
                Err(AppendError::IdReused),
                "{change:?} {other:?}"
            );
        }
        last = Some(first.version);
    }
    let tombstone = once(log, &key, Change::Delete, "gone").await.version;
    for other in &all {
        // Also when its condition would not hold.
        let condition = Condition::IfMatch(Tags::Any);
        let reused = log.append(key.clone(), other.clone(), condition, id("gone"));
        assert_eq!(reused.await, Err(AppendError::IdReused), "{other:?}");
    }
    assert!(Some(tombstone) > last);
    assert_eq!(
        log.read(&key).await.unwrap(),
        State::Deleted { version: tombstone }
    );
}

pub async fn an_id_belongs_to_its_key(log: &dyn Log) {
    let keys: Vec<Key> = (0..8).map(|n| key(&format!("same id {n}"))).collect();
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(log.read(key).await.unwrap(), State::Absent);
        let value = ["one", "two"][index % 2];
        let version = once(log, key, put(value), "shared").await.version;
        let state = log.read(key).await.unwrap();
        assert_eq!(live(&state), Some((version, value.as_bytes())));
    }
}

pub async fn many_at_once_are_one_write(log: Arc<dyn Log>) {
    for round in 0..8 {
        let key = key(&format!("at once {round}"));
        // With and without a row to lock, a condition, and others who write.
        let crowded = round / 4 == 1;
        let before = match round % 2 {
            0 => None,
            _ => Some(write(&*log, &key, put("before")).await.version),
        };
        let condition = match (before, round % 4 < 2 && !crowded) {
            (_, false) => Condition::None,
            (None, true) => Condition::IfNoneMatch(Tags::Any),
            (Some(before), true) => Condition::IfMatch(Tags::Versions(vec![before])),
        };
        let writers = (0..32).map(|writer| {
            let (log, key, condition) = (log.clone(), key.clone(), condition.clone());
            let other = (crowded && writer % 4 == 3).then(|| id(&format!("other-{writer}")));
            tokio::spawn(async move {
                let name = other.unwrap_or_else(|| id("once"));
                let receipt = log.append(key, put("once"), condition, name).await;
                (other.is_some(), receipt.unwrap())
            })
        });
        let (mut repeats, mut others) = (Vec::new(), Vec::new());
        for writer in writers.collect::<Vec<_>>() {
            match writer.await.unwrap() {
                (false, receipt) => repeats.push(receipt),
                (true, receipt) => others.push(receipt.version),
            }
        }
        assert!(repeats.iter().all(|receipt| *receipt == repeats[0]));
        let mut versions = others.clone();
        versions.push(repeats[0].version);
        versions.sort();
        versions.dedup();
        assert_eq!(versions.len(), others.len() + 1);
        let latest = log.read(&key).await.unwrap().version();
        assert_eq!(latest, versions.last().copied());
    }
}
