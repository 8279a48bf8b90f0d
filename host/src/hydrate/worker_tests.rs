//! The worker between a scripted feed and a cache that can fail at any call.

#[path = "harness_tests.rs"]
mod harness;

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::HydratorSettings;
use super::*;
use crate::cache::{Cache, Decision};
use crate::model::Version;
use harness::{
    Deciding, Flaky, Scripted, assert_hydrated, at, script, start, start_seeded, storing,
};

#[tokio::test(start_paused = true)]
async fn a_failure_at_any_call_is_made_good() {
    for after_effect in [false, true] {
        for fail_at in 0..13 {
            let (feed, cache) = (
                Arc::new(Scripted::default()),
                Arc::new(Flaky::new(fail_at, after_effect)),
            );
            let mut running = start(&feed, &cache, storing());
            running.caught_up().await;
            assert_hydrated(&cache);
            assert_eq!(
                running.status.interruptions(),
                u64::from(fail_at < 12),
                "{fail_at}"
            );
            running.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_call_is_made_good_by_the_next_start() {
    for after_effect in [false, true] {
        for crash_at in 0..12 {
            let (feed, cache) = (
                Arc::new(Scripted::default()),
                Arc::new(Flaky::new(crash_at, after_effect)),
            );
            let first = start(&feed, &cache, storing());
            // Paused time stands still while there is something to do: the worker
            // is now waiting after the failed call.
            tokio::time::sleep(Duration::from_millis(1)).await;
            first.task.abort();
            assert_eq!(cache.calls.load(Ordering::SeqCst), crash_at + 1);
            let mut second = start(&feed, &cache, storing());
            second.caught_up().await;
            assert_hydrated(&cache);
            second.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_resumes_from_what_was_resolved() {
    let (feed, cache) = (
        Arc::new(Scripted::default()),
        Arc::new(Flaky::new(usize::MAX, false)),
    );
    let mut first = start(&feed, &cache, storing());
    first.caught_up().await;
    first.stop().await;
    let second = start(&feed, &cache, storing());
    tokio::time::sleep(Duration::from_millis(1)).await;
    second.stop().await;
    assert_eq!(*feed.opened.lock(), [None, Some(Position("3".into()))]);
}

#[tokio::test(start_paused = true)]
async fn a_scan_goes_on_where_it_was_and_nobody_is_ready_before_its_end() {
    let (feed, cache) = (
        Arc::new(Scripted::default()),
        Arc::new(Flaky::new(usize::MAX, false)),
    );
    // The first page, and nothing more.
    feed.standstill.store(2, Ordering::SeqCst);
    let first = start(&feed, &cache, storing());
    tokio::time::sleep(Duration::from_millis(1)).await;
    let scan = first.status.scan().unwrap();
    assert_eq!((scan.rows, scan.total), (2, Some(3)));
    assert!(!first.status.snapshot_complete());
    assert_eq!(first.status.feed().skipped, 7);
    first.task.abort();
    // It was stopped in the middle of a page; the next one has the rest.
    feed.standstill.store(0, Ordering::SeqCst);
    let mut second = start(&feed, &cache, storing());
    assert!(!second.status.snapshot_complete());
    second.caught_up().await;
    assert_hydrated(&cache);
    let page = Some(Position("page".into()));
    assert_eq!(*feed.opened.lock(), [None, page]);
    assert_eq!(second.status.rows_applied(), 10);
    assert_eq!(second.status.scan(), None);
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_scan_that_cannot_go_on_begins_again() {
    let (feed, cache) = (
        Arc::new(Scripted::default()),
        Arc::new(Flaky::new(usize::MAX, false)),
    );
    feed.standstill.store(2, Ordering::SeqCst);
    let first = start(&feed, &cache, storing());
    tokio::time::sleep(Duration::from_millis(1)).await;
    first.task.abort();
    feed.standstill.store(0, Ordering::SeqCst);
    feed.lost.store(true, Ordering::SeqCst);
    let mut second = start(&feed, &cache, storing());
    second.caught_up().await;
    assert_hydrated(&cache);
    let page = Some(Position("page".into()));
    assert_eq!(*feed.opened.lock(), [None, page, None]);
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_was_flushed_after_a_page_is_scanned_from_the_start() {
    let (feed, cache) = (
        Arc::new(Scripted::default()),
        Arc::new(Flaky::new(usize::MAX, false)),
    );
    feed.standstill.store(2, Ordering::SeqCst);
    let first = start(&feed, &cache, storing());
    tokio::time::sleep(Duration::from_millis(1)).await;
    first.task.abort();
    cache.cache.clear();
    feed.standstill.store(0, Ordering::SeqCst);
    let mut second = start(&feed, &cache, storing());
    second.caught_up().await;
    assert_hydrated(&cache);
    assert_eq!(*feed.opened.lock(), [None, None]);
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_position_is_answered_with_a_scan() {
    let (feed, cache) = (
        Arc::new(Scripted::default()),
        Arc::new(Flaky::new(usize::MAX, false)),
    );
    assert!(cache.save_position(None, &at(0).encode()).await.unwrap());
    feed.lost.store(true, Ordering::SeqCst);
    let mut running = start(&feed, &cache, storing());
    running.caught_up().await;
    assert_hydrated(&cache);
    assert_eq!(*feed.opened.lock(), [Some(Position("0".into())), None]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_flushed_cache_is_noticed_and_filled_again() {
    let (feed, cache) = (
        Arc::new(Scripted::default()),
        Arc::new(Flaky::new(usize::MAX, false)),
    );
    let mut running = start(&feed, &cache, storing());
    running.caught_up().await;
    cache.cache.clear();
    // What the feed resolves next does not fit what the cache has.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(*feed.opened.lock(), [None, None]);
    assert_hydrated(&cache);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restored_cache_is_as_old_as_its_position() {
    let (feed, cache) = (
        Arc::new(Scripted::default()),
        Arc::new(Flaky::new(usize::MAX, false)),
    );
    let mut running = start(&feed, &cache, storing());
    running.caught_up().await;
    cache.cache.clear();
    let restored = at(1).encode();
    assert!(cache.cache.save_position(None, &restored).await.unwrap());
    // Catching up takes long.
    feed.standstill.store(1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let opened = [None, Some(Position("1".into()))];
    assert_eq!(*feed.opened.lock(), opened);
    let progress = running.status.progress().borrow().clone();
    assert_eq!(progress.unwrap().as_of_micros, 100);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_was_flushed_during_a_scan_is_not_taken_for_filled() {
    let (feed, cache) = (
        Arc::new(Scripted::default()),
        Arc::new(Flaky::new(usize::MAX, false)),
    );
    let failing = Deciding {
        failures: AtomicUsize::new(1),
        failure: Err("wait".into()),
        poison: None,
    };
    let mut running = start(&feed, &cache, failing);
    tokio::time::sleep(Duration::from_millis(1)).await;
    cache.cache.clear();
    running.caught_up().await;
    assert_eq!(*feed.opened.lock(), [None, None]);
    assert!(running.status.last_error().unwrap().contains("flushed"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_feed_is_opened_again() {
    let (feed, cache) = (
        Arc::new(Scripted::default()),
        Arc::new(Flaky::new(usize::MAX, false)),
    );
    feed.silent.store(true, Ordering::SeqCst);
    let mut running = start(&feed, &cache, storing());
    running.caught_up().await;
    assert_eq!(*feed.opened.lock(), [None, None]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_waits_for_an_operator_is_tried_slowly_and_nothing_is_cleared() {
    let (feed, cache) = (
        Arc::new(Scripted::default()),
        Arc::new(Flaky::new(usize::MAX, false)),
    );
    let at = Progress {
        position: Position("1".into()),
        as_of_micros: 0,
    };
    let kept = Saved::At(at.clone()).encode();
    cache.applied.lock().extend((1..=3).map(Version));
    assert!(cache.save_position(None, &kept).await.unwrap());
    feed.broken.store(2, Ordering::SeqCst);
    let begun = tokio::time::Instant::now();
    let mut running = start(&feed, &cache, storing());
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(running.status.last_error().unwrap().contains("repaired"));
    assert_eq!(cache.position().await.unwrap(), Some(kept));
    running.caught_up().await;
    assert_eq!(begun.elapsed(), 2 * HydratorSettings::default().repair_wait);
    let resumed = Some(at.position);
    assert_eq!(
        *feed.opened.lock(),
        [resumed.clone(), resumed.clone(), resumed]
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_recovers_is_given_the_time() {
    let (feed, cache) = (
        Arc::new(Scripted::default()),
        Arc::new(Flaky::new(usize::MAX, false)),
    );
    let failing = Deciding {
        failures: AtomicUsize::new(3),
        failure: Err("trap".into()),
        poison: None,
    };
    let mut running = start(&feed, &cache, failing);
    running.caught_up().await;
    assert_hydrated(&cache);
    assert_eq!(running.status.rows_evicted_by_fallback(), 0);
    assert_eq!(
        running.status.last_error().unwrap(),
        "the hydrate handler failed: trap"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_is_always_wrong_loses_and_stalls_nothing() {
    let wrong = [
        Err("trap".into()),
        Ok(vec![]),
        Ok(vec![Decision::Store; 100]),
    ];
    for failure in wrong {
        let (feed, cache) = (
            Arc::new(Scripted::default()),
            Arc::new(Flaky::new(usize::MAX, false)),
        );
        let stale = script().into_iter().find_map(|event| match event {
            Event::Rows(rows) => Some(rows),
            Event::Scanned { .. } | Event::Resolved { .. } => None,
        });
        cache
            .cache
            .apply(&stale.unwrap(), &[Decision::Store; 2])
            .await
            .unwrap();
        let mut running = start(
            &feed,
            &cache,
            Deciding {
                failures: AtomicUsize::new(usize::MAX),
                failure,
                poison: None,
            },
        );
        running.caught_up().await;
        assert_eq!(running.status.rows_evicted_by_fallback(), 12);
        assert_eq!(running.status.rows_applied(), 12);
        assert_eq!(cache.stats().entries, 0);
        // Of each key the newest row.
        assert_eq!(running.status.rows_set_aside(), 12);
        let aside = running.keeper.list("test").await.unwrap();
        let versions: Vec<i64> = aside.iter().map(|entry| entry.version.0).collect();
        assert_eq!(versions, [9, 7, 8]);
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_poisonous_row_is_set_aside_and_its_neighbours_are_kept() {
    let (feed, cache) = (
        Arc::new(Scripted::default()),
        Arc::new(Flaky::new(usize::MAX, false)),
    );
    let deciding = Deciding {
        poison: Some(Version(8)),
        ..storing()
    };
    let mut running = start(&feed, &cache, deciding);
    running.caught_up().await;
    let version = |key| cache.lookup_now(key, None).and_then(|it| it.version());
    assert_eq!(version("k0"), Some(Version(9)));
    assert_eq!(version("k1"), Some(Version(7)));
    // What it had of the key was older.
    assert_eq!(version("k2"), None);
    assert_eq!(running.status.rows_set_aside(), 1);
    assert_eq!(running.status.rows_evicted_by_fallback(), 1);
    assert_eq!(running.status.interruptions(), 0);
    let aside = running.keeper.list("test").await.unwrap();
    let [entry] = &aside[..] else {
        panic!("{aside:?}")
    };
    assert_eq!((entry.key.as_str(), entry.version), ("k2", Version(8)));
    assert_eq!(entry.why, "poison");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_next_takes_over() {
    let (feed, cache) = (
        Arc::new(Scripted::default()),
        Arc::new(Flaky::new(usize::MAX, false)),
    );
    let mut first = start_seeded(&feed, &cache, storing(), 2);
    first.caught_up().await;
    let mut second = start_seeded(&feed, &cache, storing(), 3);
    // It is as far as the leader is, without a feed of its own.
    second.caught_up().await;
    assert_eq!(*feed.opened.lock(), [None]);
    assert_eq!(second.status.rows_applied(), 0);
    first.stop().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*feed.opened.lock(), [None, Some(Position("3".into()))]);
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_has_lost_the_lead_stops_following() {
    let (feed, cache) = (
        Arc::new(Scripted::default()),
        Arc::new(Flaky::new(usize::MAX, false)),
    );
    let mut running = start(&feed, &cache, storing());
    running.caught_up().await;
    *cache.leader.lock() = Some(17);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(running.status.interruptions(), 1);
    assert!(running.status.last_error().unwrap().contains("the lead"));
    let calls = cache.calls.load(Ordering::SeqCst);
    cache.resign(17).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(cache.calls.load(Ordering::SeqCst) > calls);
    assert_eq!(feed.opened.lock().len(), 2);
    running.stop().await;
}
