//! The worker between a scripted feed and a cache that can fail at any call.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::{Decide, HydratorSettings, HydratorStatus};
use super::*;
use crate::cache::memory::{MemoryCache, MemoryCacheSettings};
use crate::cache::{Applied, Cache, CacheStats, Lease, Lookup};
use crate::clock::{ManualClock, SeededEntropy};
use crate::feed::{FeedCounts, FeedSource};
use crate::model::{Key, State, Value, Version};

/// A log of three keys and nine rows, in three resolved ranges, the first of which is
/// a scan in two pages.
fn script() -> Vec<Event> {
    let mut events = Vec::new();
    for range in 0..3 {
        let row = |version| Row {
            key: Key::new(&format!("k{}", version % 3)).unwrap(),
            version: Version(version),
            value: (version != 5).then(|| Value {
                bytes: Bytes::from(version.to_string()),
                content_type: None,
                expires_at: None,
            }),
        };
        let first = range * 3 + 1;
        // Newest first, as some feeds catch up, and one of them twice.
        events.push(Event::Rows(vec![row(first + 2), row(first)]));
        if range == 0 {
            events.push(Event::Scanned {
                position: Position("page".into()),
                rows: 2,
                total: Some(3),
            });
        }
        events.push(Event::Rows(vec![row(first + 1), row(first)]));
        events.push(Event::Resolved {
            position: Position((range + 1).to_string()),
            as_of_micros: 100 * (range + 1),
        });
    }
    events
}

/// Plays the script from the start, or from after a position, then says once a
/// second that this was all.
#[derive(Default)]
struct Scripted {
    opened: Mutex<Vec<Option<Position>>>,
    /// The next position is lost.
    lost: AtomicBool,
    /// The next feed never says anything.
    silent: AtomicBool,
    /// So many feeds wait for an operator.
    broken: AtomicUsize,
    /// After so many events of a feed nothing comes for long; 0: never.
    standstill: AtomicUsize,
}

/// Events, and whether nothing comes after them.
struct Playing(VecDeque<Event>, bool);

#[async_trait]
impl FeedSource for Scripted {
    async fn open(&self, after: Option<Position>) -> Result<Box<dyn Feed>, FeedError> {
        self.opened.lock().push(after.clone());
        if after.is_some() && self.lost.swap(false, Ordering::SeqCst) {
            return Err(FeedError::PositionLost("as the script says".into()));
        }
        let broken = self
            .broken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        if broken.is_ok() {
            return Err(FeedError::Repair("as the script says".into()));
        }
        if self.silent.swap(false, Ordering::SeqCst) {
            return Ok(Box::new(Silent));
        }
        let events = script();
        let skip = after.map_or(0, |after| {
            let at = |event: &Event| match event {
                Event::Rows(_) => false,
                Event::Scanned { position, .. } | Event::Resolved { position, .. } => {
                    *position == after
                }
            };
            events
                .iter()
                .position(at)
                .expect("a position that was resolved")
                + 1
        });
        let events = events.into_iter().skip(skip);
        let standstill = self.standstill.load(Ordering::SeqCst);
        Ok(Box::new(match standstill {
            0 => Playing(events.collect(), false),
            some => Playing(events.take(some).collect(), true),
        }))
    }

    fn counts(&self) -> FeedCounts {
        FeedCounts {
            skipped: 7,
            ..FeedCounts::default()
        }
    }
}

#[async_trait]
impl Feed for Playing {
    async fn next(&mut self) -> Result<Event, FeedError> {
        match self.0.pop_front() {
            Some(event) => Ok(event),
            None if self.1 => std::future::pending().await,
            None => {
                sleep(Duration::from_secs(1)).await;
                Ok(script().pop().expect("it ends with what is resolved"))
            }
        }
    }
}

struct Silent;

#[async_trait]
impl Feed for Silent {
    async fn next(&mut self) -> Result<Event, FeedError> {
        std::future::pending().await
    }
}

/// A memory cache whose n-th call fails, before or after it has had its effect;
/// and which checks that nothing is resolved before it was applied.
struct Flaky {
    cache: MemoryCache,
    calls: AtomicUsize,
    fail_at: usize,
    after_effect: bool,
    applied: Mutex<HashSet<Version>>,
    leader: Mutex<Option<u64>>,
}

impl Flaky {
    fn new(fail_at: usize, after_effect: bool) -> Flaky {
        let entropy = Arc::new(SeededEntropy::new(1));
        let cache = MemoryCache::new(
            MemoryCacheSettings::default(),
            Arc::new(ManualClock::at(0)),
            entropy,
        );
        Flaky {
            cache,
            calls: AtomicUsize::new(0),
            fail_at,
            after_effect,
            applied: Mutex::default(),
            leader: Mutex::default(),
        }
    }

    async fn call<T: Send>(
        &self,
        work: impl Future<Output = Result<T, CacheError>> + Send,
    ) -> Result<T, CacheError> {
        let failing = self.calls.fetch_add(1, Ordering::SeqCst) == self.fail_at;
        let gone = || Err(CacheError::Unavailable("as the script says".into()));
        if failing && !self.after_effect {
            return gone();
        }
        let done = work.await;
        if failing { gone() } else { done }
    }
}

#[async_trait]
impl Cache for Flaky {
    fn lookup_now(&self, key: &str, at_least: Option<Version>) -> Option<State> {
        self.cache.lookup_now(key, at_least)
    }

    async fn peek(
        &self,
        key: &Key,
        at_least: Option<Version>,
    ) -> Result<Option<State>, CacheError> {
        self.cache.peek(key, at_least).await
    }

    async fn lookup(&self, key: &Key, at_least: Option<Version>) -> Result<Lookup, CacheError> {
        self.cache.lookup(key, at_least).await
    }

    async fn fill(&self, lease: Lease, state: &State) -> Result<bool, CacheError> {
        self.cache.fill(lease, state).await
    }

    fn release(&self, lease: Lease) {
        self.cache.release(lease);
    }

    async fn apply(&self, rows: &[Row], decisions: &[Decision]) -> Result<Applied, CacheError> {
        let work = async {
            self.applied
                .lock()
                .extend(rows.iter().map(|row| row.version));
            self.cache.apply(rows, decisions).await
        };
        self.call(work).await
    }

    async fn lead(&self, holder: u64, _ttl: Duration) -> Result<bool, CacheError> {
        let mut leader = self.leader.lock();
        Ok(*leader.get_or_insert(holder) == holder)
    }

    async fn resign(&self, holder: u64) -> Result<(), CacheError> {
        self.leader.lock().take_if(|leader| *leader == holder);
        Ok(())
    }

    async fn position(&self) -> Result<Option<Position>, CacheError> {
        self.call(self.cache.position()).await
    }

    async fn save_position(
        &self,
        previous: Option<&Position>,
        position: &Position,
    ) -> Result<bool, CacheError> {
        let saved = Saved::decode(position).unwrap();
        let before: Vec<i64> = match &saved {
            Saved::At(progress) => (1..=3 * progress.position.0.parse::<i64>().unwrap()).collect(),
            Saved::Scanning { position: None, .. } => vec![],
            Saved::Scanning { .. } => vec![3, 1],
        };
        let all =
            |applied: &HashSet<Version>| before.iter().all(|v| applied.contains(&Version(*v)));
        assert!(all(&self.applied.lock()), "{saved:?} without its rows");
        self.call(self.cache.save_position(previous, position))
            .await
    }

    fn stats(&self) -> CacheStats {
        self.cache.stats()
    }
}

/// Answers with this, until the failures are used up; then stores everything.
struct Deciding {
    failures: AtomicUsize,
    failure: Result<Vec<Decision>, String>,
}

#[async_trait]
impl Decide for Deciding {
    async fn decide(&self, rows: &Arc<[Row]>) -> Result<Vec<Decision>, String> {
        let left = self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        if left.is_ok() {
            self.failure.clone()
        } else {
            Ok(vec![Decision::Store; rows.len()])
        }
    }
}

fn storing() -> Deciding {
    Deciding {
        failures: AtomicUsize::new(0),
        failure: Err(String::new()),
    }
}

struct Running {
    status: Arc<HydratorStatus>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn start(feed: &Arc<Scripted>, cache: &Arc<Flaky>, decide: Deciding) -> Running {
    start_seeded(feed, cache, decide, 2)
}

fn start_seeded(feed: &Arc<Scripted>, cache: &Arc<Flaky>, decide: Deciding, seed: u64) -> Running {
    let status = Arc::new(HydratorStatus::default());
    let (stop, stopped) = watch::channel(false);
    let hydrator = Hydrator {
        region: "test".into(),
        feed: feed.clone(),
        cache: cache.clone(),
        decide: Arc::new(decide),
        status: status.clone(),
        entropy: Arc::new(SeededEntropy::new(seed)),
        settings: HydratorSettings::default(),
    };
    Running {
        status,
        stop,
        task: tokio::spawn(hydrator.run(stopped)),
    }
}

impl Running {
    async fn caught_up(&mut self) {
        let mut progress = self.status.progress();
        let end = |progress: &Option<Progress>| {
            progress
                .as_ref()
                .is_some_and(|progress| progress.as_of_micros == 300)
        };
        tokio::select! {
            caught_up = progress.wait_for(end) => drop(caught_up.unwrap()),
            ended = &mut self.task => panic!("the hydrator has ended: {ended:?}"),
        }
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }
}

fn at(range: i64) -> Saved {
    Saved::At(Progress {
        position: Position(range.to_string()),
        as_of_micros: 100 * range,
    })
}

fn assert_hydrated(cache: &Flaky) {
    for newest in 7..=9 {
        let found = cache.lookup_now(&format!("k{}", newest % 3), None);
        assert_eq!(
            found.and_then(|state| state.version()),
            Some(Version(newest))
        );
    }
}

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
async fn a_cache_that_was_flushed_during_a_scan_is_not_taken_for_filled() {
    let (feed, cache) = (
        Arc::new(Scripted::default()),
        Arc::new(Flaky::new(usize::MAX, false)),
    );
    let failing = Deciding {
        failures: AtomicUsize::new(1),
        failure: Err("wait".into()),
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
            },
        );
        running.caught_up().await;
        assert_eq!(running.status.rows_evicted_by_fallback(), 12);
        assert_eq!(running.status.rows_applied(), 12);
        assert_eq!(cache.stats().entries, 0);
        running.stop().await;
    }
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
