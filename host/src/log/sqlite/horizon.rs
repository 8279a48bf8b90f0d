//! Up to which time the log is complete. A row has its timestamp before its
//! commit, so while a commit is under way the time is held back: without that, a
//! reader of the feed would take a row for delivered that nobody can read yet.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::Clock;

/// Shared by the writer and whoever says how far the log is.
#[derive(Debug)]
pub(super) struct Horizon {
    clock: Arc<dyn Clock>,
    /// When the commit under way has begun. The clock is read under the lock, so
    /// that a commit that begins later has only later timestamps.
    began: Mutex<Option<i64>>,
}

impl Horizon {
    /// A horizon that nothing holds back.
    pub fn new(clock: Arc<dyn Clock>) -> Horizon {
        let began = Mutex::new(None);
        Horizon { clock, began }
    }

    /// A commit begins; the timestamps of its rows are still to be taken.
    pub fn begin(&self) {
        let mut began = self.began.lock();
        *began = Some(self.clock.now_micros());
    }

    /// It is over: its rows can be read, or there are none.
    pub fn end(&self) {
        *self.began.lock() = None;
    }

    /// Every row with an earlier timestamp is seen by a read that begins now.
    pub fn micros(&self) -> i64 {
        let began = self.began.lock();
        let now = self.clock.now_micros();
        began.map_or(now, |began| began.min(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn a_commit_under_way_holds_the_time_back() {
        let clock = Arc::new(ManualClock::at(10));
        let horizon = Horizon::new(clock.clone());
        assert_eq!(horizon.micros(), 10);
        horizon.begin();
        clock.advance(5);
        assert_eq!(horizon.micros(), 10);
        horizon.end();
        assert_eq!(horizon.micros(), 15);
        horizon.begin();
        clock.advance(-7);
        assert_eq!(horizon.micros(), 8);
    }
}
