//! What needs more than a cache: time that passes, a second client, a flush.

use std::sync::Arc;

use tidepool::cache::{Cache, CacheError, Decision, Lookup};
use tidepool::feed::Position;

use super::{begin, find, lease, row, state, store};

/// The tombstone of a key expires while a reader holds a lease from before: the
/// reader's value is refused, and so is a late row. `expire` lets the time pass
/// that the tombstone is kept, and not the time of the lease; it may look keys up,
/// but not this one.
///
/// # Panics
///
/// The cache does not conform.
pub async fn what_expired_stays_gone(cache: &dyn Cache, expire: impl Future<Output = ()>) {
    begin(cache).await;
    let stale = row("expires", 10, Some("stale"));
    let held = lease(cache, "expires").await;
    assert_eq!(store(cache, &row("expires", 20, None)).await, 1);
    expire.await;
    assert!(!cache.fill(held, &state(&stale)).await.unwrap());
    assert_eq!(store(cache, &row("expires", 19, Some("late"))).await, 0);
    assert_eq!(find(cache, "expires").await, None);
    let new = row("expires", 21, Some("new"));
    assert_eq!(store(cache, &new).await, 1);
    assert_eq!(find(cache, "expires").await, Some(state(&new)));
}

/// Two hosts on one cache: `a` and `b` are clients of the same, empty, one.
///
/// # Panics
///
/// The cache does not conform.
pub async fn two_clients(a: Arc<dyn Cache>, b: Arc<dyn Cache>) {
    let ttl = crate::PATIENCE * 10;
    assert!(a.lead(1, ttl).await.unwrap());
    assert!(a.lead(1, ttl).await.unwrap());
    assert!(!b.lead(2, ttl).await.unwrap());
    b.resign(2).await.unwrap();
    assert!(!b.lead(2, ttl).await.unwrap());

    // The position of one is the position of the other, and moves once.
    let start = begin(&*a).await;
    assert_eq!(b.position().await.unwrap(), Some(start.clone()));
    let [one, two] = ["one", "two"].map(|text| Position(text.into()));
    assert!(a.save_position(Some(&start), &one).await.unwrap());
    assert!(!b.save_position(Some(&start), &two).await.unwrap());

    // What one stores the other finds, and never goes back.
    let (old, new) = (
        row("shared", 10, Some("old")),
        row("shared", 11, Some("new")),
    );
    assert_eq!(store(&*a, &new).await, 1);
    assert_eq!(find(&*b, "shared").await, Some(state(&new)));
    assert_eq!(store(&*b, &old).await, 0);

    // A lease of one keeps the other waiting, and is revoked by the other's row.
    let held = lease(&*a, "lease").await;
    assert_eq!(b.lookup(&held.key, None).await.unwrap(), Lookup::Miss(None));
    store(&*b, &row("lease", 12, None)).await;
    let stale = state(&row("lease", 11, Some("stale")));
    assert!(!a.fill(held, &stale).await.unwrap());

    // One waits for the other's fill.
    let filled = row("fill", 13, Some("filled"));
    let held = lease(&*a, "fill").await;
    let key = held.key.clone();
    let filler = async {
        tokio::task::yield_now().await;
        assert!(a.fill(held, &state(&filled)).await.unwrap());
    };
    let (found, ()) = tokio::join!(b.lookup(&key, None), filler);
    assert_eq!(found.unwrap(), Lookup::Found(state(&filled)));

    a.resign(1).await.unwrap();
    assert!(b.lead(2, ttl).await.unwrap());
    assert!(!a.lead(1, ttl).await.unwrap());
}

/// The cache is flushed while hydrator and reader are under way. `flush` does it.
///
/// # Panics
///
/// The cache does not conform.
pub async fn a_flush_is_noticed(cache: &dyn Cache, flush: impl Future<Output = ()>) {
    let start = begin(cache).await;
    let kept = row("kept", 10, Some("kept"));
    store(cache, &kept).await;
    let held = lease(cache, "held").await;
    flush.await;
    let applied = cache
        .apply(std::slice::from_ref(&kept), &[Decision::Store])
        .await;
    assert_eq!(applied, Err(CacheError::Moved));
    assert!(
        !cache
            .fill(held, &state(&row("held", 9, Some("stale"))))
            .await
            .unwrap()
    );
    let next = Position("next".into());
    assert!(!cache.save_position(Some(&start), &next).await.unwrap());
    assert_eq!(cache.position().await.unwrap(), None);
    // Everything comes again.
    assert!(cache.save_position(None, &start).await.unwrap());
    assert_eq!(store(cache, &kept).await, 1);
    assert_eq!(find(cache, "kept").await, Some(state(&kept)));
    assert!(cache.save_position(Some(&start), &next).await.unwrap());
}
