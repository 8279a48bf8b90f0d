//! What every cache has to do, as one suite that each backend runs. It drives a
//! cache only through its contract.

use std::sync::Arc;

use bytes::Bytes;

use super::{Cache, Decision, Lease, Lookup};
use crate::feed::Position;
use crate::model::{Key, Row, State, Value, Version};

/// Runs the suite on a cache that is empty.
pub(crate) async fn run(cache: Arc<dyn Cache>) {
    rows_are_found_and_never_go_back(&*cache).await;
    a_delete_is_a_tombstone(&*cache).await;
    decisions_are_followed(&*cache).await;
    a_miss_hands_out_one_lease(&*cache).await;
    a_fill_needs_its_lease(&*cache).await;
    a_change_revokes_the_lease_whatever_the_decision(&*cache).await;
    an_absent_key_is_remembered_until_it_is_written(&*cache).await;
    an_old_entry_does_not_answer_for_a_newer_version(&*cache).await;
    a_reader_waits_for_the_fill(cache.clone()).await;
    a_released_lease_goes_to_one_who_waits(cache.clone()).await;
    the_position_is_compared_and_set(&*cache).await;
    keys_and_values_are_any_bytes(&*cache).await;
}

fn row(key: &str, version: i64, value: Option<&'static str>) -> Row {
    let value = value.map(|text| Value {
        bytes: Bytes::from_static(text.as_bytes()),
        content_type: None,
        expires_at: None,
    });
    Row {
        key: Key::new(key).unwrap(),
        version: Version(version),
        value,
    }
}

fn state(row: &Row) -> State {
    State::of(row.version, row.value.clone(), 0)
}

async fn store(cache: &dyn Cache, row: &Row) -> u64 {
    cache
        .apply(std::slice::from_ref(row), &[Decision::Store])
        .await
        .unwrap()
        .stored
}

async fn find(cache: &dyn Cache, key: &str) -> Option<State> {
    match cache.lookup(&Key::new(key).unwrap(), None).await.unwrap() {
        Lookup::Found(state) => Some(state),
        Lookup::Miss(Some(lease)) => {
            cache.release(lease);
            None
        }
        Lookup::Miss(None) => None,
    }
}

async fn lease(cache: &dyn Cache, key: &str) -> Lease {
    match cache.lookup(&Key::new(key).unwrap(), None).await.unwrap() {
        Lookup::Miss(Some(lease)) => lease,
        other => panic!("no lease for {key}: {other:?}"),
    }
}

async fn rows_are_found_and_never_go_back(cache: &dyn Cache) {
    let (old, new) = (row("order", 10, Some("old")), row("order", 20, Some("new")));
    assert_eq!(store(cache, &new).await, 1);
    assert_eq!(store(cache, &old).await, 0);
    assert_eq!(store(cache, &new).await, 0);
    assert_eq!(find(cache, "order").await, Some(state(&new)));
}

async fn a_delete_is_a_tombstone(cache: &dyn Cache) {
    let (put, delete) = (row("gone", 10, Some("x")), row("gone", 11, None));
    store(cache, &put).await;
    assert_eq!(store(cache, &delete).await, 1);
    store(cache, &put).await;
    assert_eq!(
        find(cache, "gone").await,
        Some(State::Deleted {
            version: Version(11)
        })
    );
}

async fn decisions_are_followed(cache: &dyn Cache) {
    let rows = [
        row("kept", 30, Some("1")),
        row("skipped", 31, Some("2")),
        row("kept", 32, Some("3")),
    ];
    let applied = cache
        .apply(
            &rows,
            &[Decision::Store, Decision::Refresh, Decision::Refresh],
        )
        .await
        .unwrap();
    assert_eq!((applied.stored, applied.skipped), (2, 1));
    assert_eq!(find(cache, "kept").await, Some(state(&rows[2])));
    assert_eq!(find(cache, "skipped").await, None);
    let evict = row("kept", 33, Some("4"));
    cache.apply(&[evict], &[Decision::Evict]).await.unwrap();
    assert_eq!(find(cache, "kept").await, None);
    // Not even by way of what was evicted.
    store(cache, &rows[2]).await;
    assert_eq!(find(cache, "kept").await, None);
}

async fn a_miss_hands_out_one_lease(cache: &dyn Cache) {
    let first = lease(cache, "one").await;
    assert_eq!(
        cache.lookup(&first.key, None).await.unwrap(),
        Lookup::Miss(None)
    );
    cache.release(first);
    let second = lease(cache, "one").await;
    cache.release(second);
}

async fn a_fill_needs_its_lease(cache: &dyn Cache) {
    let filled = row("fill", 40, Some("filled"));
    let good = lease(cache, "fill").await;
    let forged = Lease {
        key: good.key.clone(),
        token: good.token ^ 1,
    };
    assert!(!cache.fill(forged, &state(&filled)).await.unwrap());
    let twice = Lease {
        key: good.key.clone(),
        token: good.token,
    };
    assert!(cache.fill(good, &state(&filled)).await.unwrap());
    assert!(
        !cache
            .fill(twice, &state(&row("fill", 41, None)))
            .await
            .unwrap()
    );
    assert_eq!(find(cache, "fill").await, Some(state(&filled)));
    assert_eq!(store(cache, &row("fill", 39, Some("late"))).await, 0);
}

async fn a_change_revokes_the_lease_whatever_the_decision(cache: &dyn Cache) {
    for (key, decision) in [
        ("rs", Decision::Store),
        ("rr", Decision::Refresh),
        ("re", Decision::Evict),
    ] {
        let stale = row(key, 50, Some("stale"));
        let revoked = lease(cache, key).await;
        cache
            .apply(&[row(key, 51, None)], &[decision])
            .await
            .unwrap();
        assert!(
            !cache.fill(revoked, &state(&stale)).await.unwrap(),
            "{decision:?}"
        );
        assert_ne!(find(cache, key).await, Some(state(&stale)), "{decision:?}");
    }
}

async fn an_absent_key_is_remembered_until_it_is_written(cache: &dyn Cache) {
    let miss = lease(cache, "absent").await;
    assert!(cache.fill(miss, &State::Absent).await.unwrap());
    assert_eq!(find(cache, "absent").await, Some(State::Absent));
    let written = row("absent", 60, Some("now"));
    assert_eq!(store(cache, &written).await, 1);
    assert_eq!(find(cache, "absent").await, Some(state(&written)));
}

async fn an_old_entry_does_not_answer_for_a_newer_version(cache: &dyn Cache) {
    let held = row("atleast", 70, Some("70"));
    store(cache, &held).await;
    let look = |version| cache.lookup(&held.key, Some(Version(version)));
    assert_eq!(look(70).await.unwrap(), Lookup::Found(state(&held)));
    assert_eq!(look(71).await.unwrap(), Lookup::Miss(None));
    assert_eq!(cache.lookup_now("atleast", Some(Version(71))), None);

    let miss = lease(cache, "neg").await;
    assert!(cache.fill(miss, &State::Absent).await.unwrap());
    let negative = cache
        .lookup(&Key::new("neg").unwrap(), Some(Version(1)))
        .await
        .unwrap();
    let Lookup::Miss(lease) = negative else {
        panic!("a negative entry has no version: {negative:?}")
    };
    lease.into_iter().for_each(|lease| cache.release(lease));
}

async fn a_reader_waits_for_the_fill(cache: Arc<dyn Cache>) {
    let filled = row("wait", 80, Some("80"));
    let miss = lease(&*cache, "wait").await;
    let key = miss.key.clone();
    let reader = async { cache.lookup(&key, None).await.unwrap() };
    let filler = async {
        tokio::task::yield_now().await;
        assert!(cache.fill(miss, &state(&filled)).await.unwrap());
    };
    let (found, ()) = tokio::join!(reader, filler);
    assert_eq!(found, Lookup::Found(state(&filled)));
}

async fn a_released_lease_goes_to_one_who_waits(cache: Arc<dyn Cache>) {
    let miss = lease(&*cache, "hand").await;
    let key = miss.key.clone();
    let readers = async {
        let (a, b) = tokio::join!(cache.lookup(&key, None), cache.lookup(&key, None));
        [a.unwrap(), b.unwrap()]
    };
    let releaser = async {
        tokio::task::yield_now().await;
        cache.release(miss);
    };
    let (found, ()) = tokio::join!(readers, releaser);
    let leases: Vec<Lease> = found
        .into_iter()
        .filter_map(|lookup| match lookup {
            Lookup::Miss(lease) => lease,
            Lookup::Found(state) => panic!("nobody filled, but found {state:?}"),
        })
        .collect();
    assert_eq!(leases.len(), 1);
    leases.into_iter().for_each(|lease| cache.release(lease));
}

async fn the_position_is_compared_and_set(cache: &dyn Cache) {
    let [a, b] = ["a", "b"].map(|text| Position(text.into()));
    assert_eq!(cache.position().await.unwrap(), None);
    assert!(!cache.save_position(Some(&a), &b).await.unwrap());
    assert!(cache.save_position(None, &a).await.unwrap());
    assert!(!cache.save_position(None, &b).await.unwrap());
    assert!(cache.save_position(Some(&a), &a).await.unwrap());
    assert!(cache.save_position(Some(&a), &b).await.unwrap());
    assert_eq!(cache.position().await.unwrap(), Some(b));
}

async fn keys_and_values_are_any_bytes(cache: &dyn Cache) {
    for (index, key) in ["\0", "a\0b", "\u{10ffff}", "é", " ", "%2F/..", "\r\n"]
        .into_iter()
        .enumerate()
    {
        let bytes = Bytes::from_iter(0..=255u8);
        let value = Value {
            bytes,
            content_type: Some("text/plain; charset=\"x\"".into()),
            expires_at: Some(i64::MAX),
        };
        let row = Row {
            key: Key::new(key).unwrap(),
            version: Version(90 + index as i64),
            value: Some(value),
        };
        store(cache, &row).await;
        assert_eq!(find(cache, key).await, Some(state(&row)), "{key:?}");
    }
}
