//! What is the memory cache's own: shards, bounds, waiting. The conformance suite
//! runs in the tests package.

use super::*;
use crate::clock::{ManualClock, SeededEntropy};
use crate::model::Value;

fn cache(settings: MemoryCacheSettings) -> (Arc<MemoryCache>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(1));
    let cache = MemoryCache::new(settings, clock.clone(), Arc::new(SeededEntropy::new(3)));
    (Arc::new(cache), clock)
}

fn row(key: &str, version: i64, size: usize) -> Row {
    let value = Value {
        bytes: vec![0; size].into(),
        content_type: None,
        expires_at: None,
    };
    Row {
        key: Key::new(key).unwrap(),
        version: Version(version),
        value: Some(value),
    }
}

#[tokio::test]
async fn the_largest_value_fits_wherever_the_bound_allows_it() {
    for max_bytes in [26 * 1024 * 1024, 60 * 1024 * 1024, 1024 * 1024 * 1024] {
        let (cache, _) = cache(MemoryCacheSettings {
            max_bytes,
            ..Default::default()
        });
        let applied = cache
            .apply(
                &[row("big", 1, MAX_VALUE_BYTES_CEILING)],
                &[Decision::Store],
            )
            .await
            .unwrap();
        assert_eq!(applied.stored, 1, "{max_bytes}");
    }
}

#[tokio::test]
async fn the_bound_holds_whatever_is_applied() {
    let (cache, _) = cache(MemoryCacheSettings {
        max_bytes: 1 << 20,
        largest_value_bytes: 1 << 16,
        ..Default::default()
    });
    assert!(cache.slots.len() > 1);
    for version in 1..2_000 {
        cache
            .apply(
                &[row(&format!("k{version}"), version, 2_000)],
                &[Decision::Store],
            )
            .await
            .unwrap();
    }
    let stats = cache.stats();
    assert!(
        stats.bytes <= stats.max_bytes && stats.bytes > stats.max_bytes / 2,
        "{stats:?}"
    );
    assert_eq!(stats.entries + stats.evictions, 1_999);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_and_an_abandoned_lease_is_taken_over() {
    let (cache, clock) = cache(MemoryCacheSettings::default());
    let key = Key::new("slow").unwrap();
    let Lookup::Miss(Some(abandoned)) = cache.lookup(&key, None).await.unwrap() else {
        panic!("no lease")
    };
    let before = Instant::now();
    assert_eq!(cache.lookup(&key, None).await.unwrap(), Lookup::Miss(None));
    assert_eq!(before.elapsed(), MemoryCacheSettings::default().lease_wait);
    assert!(cache.slot("slow").read().waiting.is_empty());

    clock.advance(2_000_000);
    let Lookup::Miss(Some(taken)) = cache.lookup(&key, None).await.unwrap() else {
        panic!("no lease")
    };
    let state = State::Deleted {
        version: Version(1),
    };
    assert!(!cache.fill(abandoned, &state).await.unwrap());
    assert!(cache.fill(taken, &state).await.unwrap());
}

#[tokio::test]
async fn a_flush_loses_entries_leases_and_position_together() {
    let (cache, _) = cache(MemoryCacheSettings::default());
    let position = Position("5".into());
    assert!(cache.save_position(None, &position).await.unwrap());
    cache
        .apply(&[row("a", 1, 1)], &[Decision::Store])
        .await
        .unwrap();
    let key = Key::new("b").unwrap();
    let Lookup::Miss(Some(lease)) = cache.lookup(&key, None).await.unwrap() else {
        panic!("no lease")
    };
    cache.clear();
    assert_eq!(cache.stats().entries, 0);
    assert!(!cache.fill(lease, &State::Absent).await.unwrap());
    assert_eq!(cache.position().await.unwrap(), None);
    // The hydrator that followed from before learns of it.
    assert!(
        !cache
            .save_position(Some(&position), &Position("6".into()))
            .await
            .unwrap()
    );
}
