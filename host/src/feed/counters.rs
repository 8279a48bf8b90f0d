//! What feeds have met that should not be, counted. It must not decide what to do
//! about it.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// How often, since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct FeedCounts {
    /// Rows that could not be read and so were left out: the cache may be stale there.
    pub skipped: u64,
    /// Rows whose removal, by time to live or compaction, was seen and ignored.
    pub removed: u64,
    /// Rows that came although a position at or after them had been declared
    /// resolved: the server has broken its promise.
    pub late: u64,
}

/// Shared by the feeds of a source.
#[derive(Debug, Default)]
pub(super) struct FeedCounters {
    pub skipped: Counter,
    pub removed: Counter,
    pub late: Counter,
}

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Counts one more. Gives how many there are when that is worth a line in the
    /// log: one may be one of many, so every power of two is.
    pub fn count(&self) -> Option<u64> {
        let now = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        now.is_power_of_two().then_some(now)
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl FeedCounters {
    /// How many there are of each.
    pub fn counts(&self) -> FeedCounts {
        FeedCounts {
            skipped: self.skipped.get(),
            removed: self.removed.get(),
            late: self.late.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_power_of_two_is_told() {
        let counters = FeedCounters::default();
        let told: Vec<u64> = (0..20).filter_map(|_| counters.late.count()).collect();
        assert_eq!(told, [1, 2, 4, 8, 16]);
        let late = FeedCounts {
            late: 20,
            ..FeedCounts::default()
        };
        assert_eq!(counters.counts(), late);
    }
}
