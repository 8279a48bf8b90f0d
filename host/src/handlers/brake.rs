//! How often something is logged: a handler that fails or prints on every call
//! would fill a disk. It only counts; who asks decides.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Counts what comes within a second.
#[derive(Debug, Default)]
pub(super) struct PerSecond {
    second: AtomicI64,
    count: AtomicU64,
}

impl PerSecond {
    /// How many came before this one in the second of a time in microseconds.
    /// About so many: those that come as the second changes may be counted to
    /// either.
    pub(super) fn before(&self, now_micros: i64) -> u64 {
        let second = now_micros / 1_000_000;
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.count.store(0, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_begins_anew() {
        let brake = PerSecond::default();
        let times = [5_000_000, 5_000_001, 5_999_999, 6_000_000, 9_000_000];
        let before = times.map(|now| brake.before(now));
        assert_eq!(before, [0, 1, 2, 0, 0]);
    }
}
