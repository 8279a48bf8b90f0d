//! Waits that double, each with a random half so that many do not come back at
//! once.

use std::time::Duration;

use crate::clock::Entropy;

/// See the head of this file.
pub(super) struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// From `first` to `max`.
    pub fn new(first: Duration, max: Duration) -> Backoff {
        Backoff {
            first,
            max,
            next: first,
        }
    }

    /// Begins again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next wait.
    pub fn next(&mut self, entropy: &dyn Entropy) -> Duration {
        let whole = self.next.min(self.max);
        self.next = whole.saturating_mul(2);
        let half = whole / 2;
        // The upper 32 bits, as a fraction.
        half + half.mul_f64((entropy.next_u64() >> 32) as f64 / f64::from(u32::MAX))
    }
}
