//! What every cache has to do. Time passes only where a function says so.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

mod any;
mod look;
mod shared;

use std::sync::Arc;

use bytes::Bytes;
use tidepool::cache::{Cache, Decision, Lease, Lookup};
use tidepool::feed::Position;
use tidepool::model::{Key, Row, State, Value, Version};

pub use shared::{a_flush_is_noticed, two_clients, what_expired_stays_gone};

/// Runs the suite on a cache that is empty. The cache must have room for 64 KiB.
///
/// # Panics
///
/// The cache does not conform.
pub async fn run(cache: Arc<dyn Cache>) {
    the_position_is_compared_and_set(&*cache).await;
    look::what_it_holds_can_be_seen(&*cache).await;
    rows_are_found_and_never_go_back(&*cache).await;
    a_delete_is_a_tombstone(&*cache).await;
    decisions_are_followed(&*cache).await;
    a_miss_hands_out_one_lease(&*cache).await;
    a_fill_needs_its_lease(&*cache).await;
    a_change_revokes_the_lease_whatever_the_decision(&*cache).await;
    a_lease_of_before_is_not_the_lease_of_now(&*cache).await;
    an_absent_key_is_remembered_until_it_is_written(&*cache).await;
    an_old_entry_does_not_answer_for_a_newer_version(&*cache).await;
    a_reader_waits_for_the_fill(cache.clone()).await;
    a_released_lease_goes_to_one_who_waits(cache.clone()).await;
    any::keys_and_values_are_any_bytes(&*cache).await;
    a_value_past_its_time_is_deleted(&*cache).await;
    any::rows_in_any_order_converge(&*cache).await;
    any::no_order_and_no_decision_makes_a_key_go_back(&*cache).await;
    a_hydrator_can_lead(&*cache).await;
}

/// Begins where a hydrator begins, so that rows are taken.
///
/// # Panics
///
/// The cache is not empty.
pub async fn begin(cache: &dyn Cache) -> Position {
    let start = Position("start".into());
    assert_eq!(cache.position().await.unwrap(), None);
    assert!(cache.save_position(None, &start).await.unwrap());
    start
}

/// A row of text.
///
/// # Panics
///
/// The key is none.
pub fn row(key: &str, version: i64, value: Option<&'static str>) -> Row {
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

/// The state that it means, before its time is over.
pub fn state(row: &Row) -> State {
    State::of(row.version, row.value.clone(), 0)
}

/// Applies a row to be stored; whether it was, as 1 or 0.
///
/// # Panics
///
/// The cache fails.
pub async fn store(cache: &dyn Cache, row: &Row) -> u64 {
    cache
        .apply(std::slice::from_ref(row), &[Decision::Store])
        .await
        .unwrap()
        .stored
}

/// What the cache has; a lease that comes instead is given back.
///
/// # Panics
///
/// The cache fails.
pub async fn find(cache: &dyn Cache, key: &str) -> Option<State> {
    match cache.lookup(&Key::new(key).unwrap(), None).await.unwrap() {
        Lookup::Found(state) => Some(state),
        Lookup::Miss(Some(lease)) => {
            cache.release(lease);
            None
        }
        Lookup::Miss(None) => None,
    }
}

/// The lease of a key that is missing.
///
/// # Panics
///
/// There is none.
pub async fn lease(cache: &dyn Cache, key: &str) -> Lease {
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

async fn a_lease_of_before_is_not_the_lease_of_now(cache: &dyn Cache) {
    let before = lease(cache, "again").await;
    cache
        .apply(&[row("again", 55, None)], &[Decision::Evict])
        .await
        .unwrap();
    let now = lease(cache, "again").await;
    assert!(
        !cache
            .fill(before, &state(&row("again", 54, Some("stale"))))
            .await
            .unwrap()
    );
    let latest = row("again", 55, None);
    assert!(cache.fill(now, &state(&latest)).await.unwrap());
    assert_eq!(find(cache, "again").await, Some(state(&latest)));
}

async fn a_value_past_its_time_is_deleted(cache: &dyn Cache) {
    let mut row = row("over", 200, Some("x"));
    if let Some(value) = &mut row.value {
        value.expires_at = Some(1);
    }
    assert_eq!(store(cache, &row).await, 1);
    let deleted = State::Deleted {
        version: Version(200),
    };
    assert_eq!(find(cache, "over").await, Some(deleted));
}

async fn a_hydrator_can_lead(cache: &dyn Cache) {
    assert!(cache.lead(7, crate::PATIENCE).await.unwrap());
    assert!(cache.lead(7, crate::PATIENCE).await.unwrap());
    cache.resign(7).await.unwrap();
    assert!(cache.lead(7, crate::PATIENCE).await.unwrap());
    cache.resign(7).await.unwrap();
}
