//! How far a scan is and how long it will take, for people. It must not decide
//! anything: that nothing is missing is the feed's business.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// The rate is that of so long, and is sampled so often.
const WINDOW: Duration = Duration::from_secs(10);
const SAMPLE_EVERY: Duration = Duration::from_millis(500);

/// How often a scan is worth a line in the log.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How far a scan is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ScanProgress {
    /// Rows that were scanned and applied, one for each key, those before a restart
    /// included.
    pub rows: u64,
    /// Rows that there are, about. None when the log has no cheap estimate.
    pub total: Option<u64>,
    /// Rows per second, lately.
    pub rows_per_second: u64,
    /// Time left at that rate. None when `total` is, or nothing moves.
    pub seconds_left: Option<u64>,
}

impl fmt::Display for ScanProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scanned {}", self.rows)?;
        if let Some(total) = self.total {
            write!(f, " of about {total}")?;
        }
        write!(f, " keys, {} rows/s", self.rows_per_second)?;
        match self.seconds_left {
            Some(left) => write!(f, ", {left} s left"),
            None => Ok(()),
        }
    }
}

/// A scan as it goes.
#[derive(Debug)]
pub(super) struct Scan {
    rows: u64,
    total: Option<u64>,
    /// How far it was and when, from the start of the window on; never empty.
    samples: VecDeque<(Instant, u64)>,
    /// When the last line was due.
    told: Instant,
}

impl Scan {
    /// A scan that is so far when it is heard of.
    pub fn new(now: Instant, rows: u64, total: Option<u64>) -> Scan {
        Scan {
            rows,
            total,
            samples: [(now, rows)].into(),
            told: now,
        }
    }

    /// It is so far now. Gives what to log when a line is due.
    pub fn at(&mut self, now: Instant, rows: u64, total: Option<u64>) -> Option<ScanProgress> {
        (self.rows, self.total) = (rows, total);
        let newest = self.samples.back().map_or(now, |(at, _)| *at);
        if now.duration_since(newest) >= SAMPLE_EVERY {
            self.samples.push_back((now, rows));
        }
        // The one before the window's start is where the window starts.
        let old = |sample: Option<&(Instant, u64)>| {
            sample.is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW)
        };
        while old(self.samples.get(1)) {
            self.samples.pop_front();
        }
        if now.duration_since(self.told) < LINE_EVERY {
            return None;
        }
        self.told = now;
        Some(self.progress(now))
    }

    /// How far it is, at `now`: a scan that stands still becomes slower.
    pub fn progress(&self, now: Instant) -> ScanProgress {
        let (since, before) = self.samples.front().copied().unwrap_or((now, self.rows));
        let millis = now.duration_since(since).as_millis();
        let done = u128::from(self.rows.saturating_sub(before));
        let rate = (done * 1000).checked_div(millis).unwrap_or(0);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        let left = self.total.map(|total| total.saturating_sub(self.rows));
        ScanProgress {
            rows: self.rows,
            total: self.total,
            rows_per_second: rate,
            seconds_left: left
                .filter(|_| rate > 0)
                .map(|left| left.div_ceil(rate.max(1))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn the_rate_is_that_of_the_last_while() {
        let begun = Instant::now();
        // After a restart: what was before it is not of this rate.
        let mut scan = Scan::new(begun, 400_000, Some(1_000_000));
        let progress = scan.progress(begun);
        assert_eq!((progress.rows_per_second, progress.seconds_left), (0, None));
        for second in 1..=30u64 {
            // Twice as fast since the twentieth second.
            let rows = 400_000 + 1000 * second + 1000 * second.saturating_sub(20);
            scan.at(begun + seconds(second), rows, Some(1_000_000));
        }
        let progress = scan.progress(begun + seconds(30));
        assert_eq!(progress.rows_per_second, 2000);
        assert_eq!(
            progress.to_string(),
            "scanned 440000 of about 1000000 keys, 2000 rows/s, 280 s left"
        );
        assert!(scan.samples.len() <= 22);
        // It stands still.
        let later = scan.progress(begun + seconds(40));
        assert_eq!(later.rows_per_second, 1000);
    }

    #[test]
    fn many_steps_take_few_samples() {
        let begun = Instant::now();
        let mut scan = Scan::new(begun, 0, None);
        for step in 1..=100_000 {
            scan.at(begun + Duration::from_millis(step), step, None);
        }
        assert!(scan.samples.len() <= 22, "{}", scan.samples.len());
        let text = scan.progress(begun + seconds(100)).to_string();
        assert_eq!(text, "scanned 100000 keys, 1000 rows/s");
    }

    #[test]
    fn a_line_is_due_now_and_then() {
        let begun = Instant::now();
        let mut scan = Scan::new(begun, 0, None);
        let due: Vec<u64> = (1..=60)
            .filter(|second| scan.at(begun + seconds(*second), *second, None).is_some())
            .collect();
        assert_eq!(due, [5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60]);
    }
}
