//! A scripted feed, a cache that can fail at any call, and a worker between the two.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::super::{Decide, HydratorSettings, HydratorStatus};
use super::super::*;
use crate::cache::memory::{MemoryCache, MemoryCacheSettings};
use crate::cache::{Applied, Cache, CacheStats, Decision, Holding, Lease, Lookup};
use crate::clock::{ManualClock, SeededEntropy};
use crate::feed::{FeedCounts, FeedSource};
use crate::model::{Key, State, Value, Version};
use crate::quarantine::Keeper;
use crate::quarantine::keeper::tests::Memory;

/// A log of three keys and nine rows, in three resolved ranges, the first of which is
/// a scan in two pages.
pub(super) fn script() -> Vec<Event> {
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
pub(super) struct Scripted {
    pub(super) opened: Mutex<Vec<Option<Position>>>,
    /// The next position is lost.
    pub(super) lost: AtomicBool,
    /// The next feed never says anything.
    pub(super) silent: AtomicBool,
    /// So many feeds wait for an operator.
    pub(super) broken: AtomicUsize,
    /// After so many events of a feed nothing comes for long; 0: never.
    pub(super) standstill: AtomicUsize,
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
pub(super) struct Flaky {
    pub(super) cache: MemoryCache,
    pub(super) calls: AtomicUsize,
    fail_at: usize,
    after_effect: bool,
    pub(super) applied: Mutex<HashSet<Version>>,
    pub(super) leader: Mutex<Option<u64>>,
}

impl Flaky {
    pub(super) fn new(fail_at: usize, after_effect: bool) -> Flaky {
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

    async fn holdings(&self, most: usize) -> Result<Vec<Holding>, CacheError> {
        self.cache.holdings(most).await
    }

    fn stats(&self) -> CacheStats {
        self.cache.stats()
    }
}

/// Answers with this, until the failures are used up; then stores everything, but for
/// batches with the poisonous version.
pub(super) struct Deciding {
    pub(super) failures: AtomicUsize,
    pub(super) failure: Result<Vec<Decision>, String>,
    pub(super) poison: Option<Version>,
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
        } else if rows.iter().any(|row| Some(row.version) == self.poison) {
            Err("poison".into())
        } else {
            Ok(vec![Decision::Store; rows.len()])
        }
    }
}

pub(super) fn storing() -> Deciding {
    Deciding {
        failures: AtomicUsize::new(0),
        failure: Err(String::new()),
        poison: None,
    }
}

pub(super) struct Running {
    pub(super) keeper: Arc<Keeper>,
    pub(super) status: Arc<HydratorStatus>,
    stop: watch::Sender<bool>,
    pub(super) task: JoinHandle<()>,
}

pub(super) fn start(feed: &Arc<Scripted>, cache: &Arc<Flaky>, decide: Deciding) -> Running {
    start_seeded(feed, cache, decide, 2)
}

pub(super) fn start_seeded(
    feed: &Arc<Scripted>,
    cache: &Arc<Flaky>,
    decide: Deciding,
    seed: u64,
) -> Running {
    let status = Arc::new(HydratorStatus::default());
    let clock = Arc::new(ManualClock::at(0));
    let keeper = Arc::new(Keeper::new(Arc::<Memory>::default(), clock));
    let (stop, stopped) = watch::channel(false);
    let hydrator = Hydrator {
        region: "test".into(),
        feed: feed.clone(),
        cache: cache.clone(),
        decide: Arc::new(decide),
        quarantine: keeper.clone(),
        status: status.clone(),
        entropy: Arc::new(SeededEntropy::new(seed)),
        settings: HydratorSettings::default(),
    };
    Running {
        keeper,
        status,
        stop,
        task: tokio::spawn(hydrator.run(stopped)),
    }
}

impl Running {
    pub(super) async fn caught_up(&mut self) {
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

    pub(super) async fn stop(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }
}

pub(super) fn at(range: i64) -> Saved {
    Saved::At(Progress {
        position: Position(range.to_string()),
        as_of_micros: 100 * range,
    })
}

pub(super) fn assert_hydrated(cache: &Flaky) {
    for newest in 7..=9 {
        let found = cache.lookup_now(&format!("k{}", newest % 3), None);
        assert_eq!(
            found.and_then(|state| state.version()),
            Some(Version(newest))
        );
    }
}
