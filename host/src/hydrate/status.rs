//! What others can see of a hydrator: counters, and events to wait on. Reading is
//! cheap and never waits for the worker.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::scan::{Scan, ScanProgress};
use crate::feed::{FeedCounts, Position};

/// How far a hydrator is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The feed's position up to which everything was applied.
    pub position: Position,
    /// Every row with an earlier timestamp (microseconds since the Unix epoch, the
    /// log's clock) was applied.
    pub as_of_micros: i64,
}

/// Shared between a hydrator and those who watch it.
#[derive(Debug)]
pub struct HydratorStatus {
    progress: watch::Sender<Option<Progress>>,
    /// When that came.
    since: Mutex<Option<Instant>>,
    scan: Mutex<Option<Scan>>,
    feed: Mutex<FeedCounts>,
    applied: AtomicU64,
    evicted_by_fallback: AtomicU64,
    set_aside: AtomicU64,
    interruptions: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Default for HydratorStatus {
    fn default() -> Self {
        HydratorStatus {
            progress: watch::Sender::new(None),
            since: Mutex::new(None),
            scan: Mutex::new(None),
            feed: Mutex::new(FeedCounts::default()),
            applied: AtomicU64::new(0),
            evicted_by_fallback: AtomicU64::new(0),
            set_aside: AtomicU64::new(0),
            interruptions: AtomicU64::new(0),
            last_error: Mutex::new(None),
        }
    }
}

impl HydratorStatus {
    /// The progress as it is made; `None` until something was resolved.
    pub fn progress(&self) -> watch::Receiver<Option<Progress>> {
        self.progress.subscribe()
    }

    /// Whether this hydrator has come, once, to where the log was.
    pub fn snapshot_complete(&self) -> bool {
        self.progress.borrow().is_some()
    }

    /// How far the cache may be behind the log at `now`; `None` until the snapshot
    /// is complete. At least as long as nothing was resolved, whatever the two clocks
    /// say of each other.
    pub fn lag_micros(&self, now_micros: i64) -> Option<i64> {
        let since = self.since.lock().map_or(Duration::ZERO, |it| it.elapsed());
        let since = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        let progress = self.progress.borrow();
        progress
            .as_ref()
            .map(|progress| now_micros.saturating_sub(progress.as_of_micros).max(since))
    }

    /// Whether the cache is at most `bound` behind at `now`.
    pub fn ready(&self, now_micros: i64, bound: Duration) -> bool {
        self.lag_micros(now_micros)
            .is_some_and(|lag| lag as u128 <= bound.as_micros())
    }

    /// How far the scan is that this hydrator applies; `None` when there is none.
    pub fn scan(&self) -> Option<ScanProgress> {
        let scan = self.scan.lock();
        scan.as_ref().map(|scan| scan.progress(Instant::now()))
    }

    /// What the feed has met that should not be.
    pub fn feed(&self) -> FeedCounts {
        *self.feed.lock()
    }

    /// Rows applied, whatever the cache made of them.
    pub fn rows_applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// Rows evicted because nobody decided about them.
    pub fn rows_evicted_by_fallback(&self) -> u64 {
        self.evicted_by_fallback.load(Ordering::Relaxed)
    }

    /// Those of them that were set aside, each by itself.
    pub fn rows_set_aside(&self) -> u64 {
        self.set_aside.load(Ordering::Relaxed)
    }

    /// How often the feed had to be opened again.
    pub fn interruptions(&self) -> u64 {
        self.interruptions.load(Ordering::Relaxed)
    }

    /// The last thing that went wrong, also when it is over.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    pub(crate) fn resolved(&self, progress: Progress) {
        let next = Some(progress);
        if *self.progress.borrow() != next {
            *self.since.lock() = Some(Instant::now());
            self.progress.send_replace(next);
        }
        self.no_scan();
    }

    /// What the cache has is not known: it has no position, or only that of a scan.
    pub(super) fn lost(&self) {
        self.progress
            .send_if_modified(|progress| progress.take().is_some());
    }

    /// A scan is so far. Gives what to log when a line is due.
    pub(crate) fn scanned(&self, rows: u64, total: Option<u64>) -> Option<ScanProgress> {
        let now = Instant::now();
        match &mut *self.scan.lock() {
            Some(scan) => scan.at(now, rows, total),
            none => {
                *none = Some(Scan::new(now, rows, total));
                None
            }
        }
    }

    /// There is no scan, or it is somebody else's.
    pub(super) fn no_scan(&self) {
        *self.scan.lock() = None;
    }

    pub(super) fn met(&self, counts: FeedCounts) {
        *self.feed.lock() = counts;
    }

    pub(super) fn applied(&self, rows: usize) {
        self.applied.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(super) fn evicted_by_fallback(&self, rows: usize) {
        self.evicted_by_fallback
            .fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(super) fn set_aside(&self, rows: usize) {
        self.set_aside.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(super) fn interrupted(&self) {
        self.interruptions.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn error(&self, text: String) {
        *self.last_error.lock() = Some(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ready_is_a_complete_snapshot_within_the_bound() {
        let status = HydratorStatus::default();
        let bound = Duration::from_micros(50);
        assert!(!status.snapshot_complete() && !status.ready(100, bound));
        status.resolved(Progress {
            position: Position("1".into()),
            as_of_micros: 100,
        });
        assert!(status.snapshot_complete() && status.ready(150, bound));
        assert_eq!(status.lag_micros(151), Some(51));
        assert!(!status.ready(151, bound));
        // A clock that is behind the log's is not a reason to wait, and hides nothing.
        assert_eq!(status.lag_micros(90), Some(0));
        tokio::time::advance(Duration::from_micros(60)).await;
        assert_eq!(status.lag_micros(90), Some(60));
        status.resolved(Progress {
            position: Position("1".into()),
            as_of_micros: 100,
        });
        assert_eq!(status.lag_micros(90), Some(60), "that is nothing new");
        status.lost();
        assert_eq!(status.lag_micros(90), None);
    }
}
