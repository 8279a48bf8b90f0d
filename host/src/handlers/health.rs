//! How a revision is doing, over the last seconds, and whether it does worse than
//! the one that it replaces: pure but for a lock.

use std::time::Duration;

use parking_lot::Mutex;

use crate::config::Handlers;

/// The window that a revision is judged by, in seconds.
pub const WINDOW_SECONDS: u64 = 10;

/// Latencies are counted by powers of two of a microsecond, up to 8 s.
const CLASSES: usize = 24;

/// A latency is not held against a revision up to this: the end of the class that
/// 16 ms are in.
const SLOW: Duration = Duration::from_micros(1 << 14);

/// Counted calls from which on older ones weigh half in what is usual.
const USUAL_CALLS: u32 = 1024;

/// Calls that were counted.
#[derive(Clone, Copy, Default)]
struct Tally {
    calls: u32,
    bad: u32,
    latency: [u32; CLASSES],
}

#[derive(Clone, Copy, Default)]
struct Second {
    number: u64,
    tally: Tally,
}

#[derive(Default)]
struct Counted {
    window: [Second; WINDOW_SECONDS as usize],
    /// Whenever they were: the last of them weigh most.
    usual: Tally,
}

/// The last seconds of a revision, and what is usual for it.
#[derive(Default)]
pub struct Health(Mutex<Counted>);

/// What calls amount to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Calls.
    pub calls: u64,
    /// Those that failed by the component's fault.
    pub bad: u64,
    /// Nine of ten calls took no longer.
    pub p90: Duration,
}

impl Health {
    /// Counts a call in a second (of any clock that only goes forward).
    pub fn record(&self, second: u64, bad: bool, took: Duration) {
        let mut counted = self.0.lock();
        let usual = &mut counted.usual;
        usual.add(bad, took);
        if usual.calls >= USUAL_CALLS {
            usual.calls /= 2;
            usual.bad /= 2;
            usual.latency.iter_mut().for_each(|count| *count /= 2);
        }
        let place = (second % WINDOW_SECONDS) as usize;
        let Some(now) = counted.window.get_mut(place) else {
            return;
        };
        if now.number != second {
            *now = Second {
                number: second,
                ..Second::default()
            };
        }
        now.tally.add(bad, took);
    }

    /// The window that ends in a second.
    pub fn summary(&self, second: u64) -> Summary {
        let counted = self.0.lock();
        let window = counted.window.iter();
        let recent =
            window.filter(|one| one.number <= second && second - one.number < WINDOW_SECONDS);
        sum(recent.map(|one| &one.tally))
    }

    /// What another one is compared with: the window that ends in a second where that
    /// has enough calls, and else what was usual before, however long ago. After a
    /// swap there are no more calls.
    pub fn to_compare(&self, second: u64, settings: &Handlers) -> Summary {
        let window = self.summary(second);
        match window.calls >= u64::from(settings.take_back_calls) {
            true => window,
            false => sum(std::iter::once(&self.0.lock().usual)),
        }
    }
}

impl Tally {
    fn add(&mut self, bad: bool, took: Duration) {
        self.calls += 1;
        self.bad += u32::from(bad);
        if let Some(count) = self.latency.get_mut(class(took)) {
            *count += 1;
        }
    }
}

fn sum<'a>(tallies: impl Iterator<Item = &'a Tally>) -> Summary {
    let mut summary = Summary::default();
    let mut latency = [0u64; CLASSES];
    for one in tallies {
        summary.calls += u64::from(one.calls);
        summary.bad += u64::from(one.bad);
        for (sum, count) in latency.iter_mut().zip(one.latency) {
            *sum += u64::from(count);
        }
    }
    let counted: u64 = latency.iter().sum();
    let mut left = counted * 9 / 10;
    for (class, count) in latency.into_iter().enumerate() {
        if count > left {
            summary.p90 = Duration::from_micros(1 << class);
            break;
        }
        left -= count;
    }
    summary
}

fn class(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let class = u64::BITS - micros.leading_zeros();
    (class as usize).min(CLASSES - 1)
}

/// What is wrong with a revision, if something is, against the one that it
/// replaces.
pub fn judge(new: Summary, old: Summary, settings: &Handlers) -> Option<String> {
    let least = u64::from(settings.take_back_calls);
    if new.calls < least {
        return None;
    }
    let percent = |summary: Summary| match summary.calls {
        0 => 0,
        calls => summary.bad * 100 / calls,
    };
    if percent(new) >= percent(old) + u64::from(settings.take_back_percent) {
        return Some(format!(
            "{} of {} calls failed in {WINDOW_SECONDS} s, before it {} of {}",
            new.bad, new.calls, old.bad, old.calls
        ));
    }
    let factor = settings.take_back_latency;
    let slow = old.p90.saturating_mul(factor).max(SLOW);
    // It takes as many to know what is usual.
    if factor > 0 && old.calls >= least && new.p90 > slow {
        return Some(format!(
            "nine of ten calls took up to {:?}, before it up to {:?}",
            new.p90, old.p90
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_micros(100);

    fn of(calls: u64, bad: u64, took: Duration) -> Summary {
        let health = Health::default();
        for call in 0..calls {
            health.record(5, call < bad, took);
        }
        health.summary(5)
    }

    #[test]
    fn a_window_forgets_what_is_older() {
        let health = Health::default();
        for second in 0..100 {
            health.record(second, second % 2 == 0, FAST);
        }
        let summary = health.summary(99);
        assert_eq!((summary.calls, summary.bad), (10, 5));
        assert_eq!(health.summary(104).calls, 5);
        assert_eq!(health.summary(1000).calls, 0);
    }

    #[test]
    fn what_was_usual_is_compared_with_when_the_calls_have_ended() {
        let settings = Handlers::default();
        let health = Health::default();
        for call in 0..u64::from(USUAL_CALLS) * 10 {
            health.record(5, call % 2 == 0, FAST);
        }
        let window = health.to_compare(5, &settings);
        assert_eq!(window, health.summary(5));
        let usual = health.to_compare(5000, &settings);
        assert!(usual.calls >= u64::from(USUAL_CALLS / 2), "{usual:?}");
        assert!(usual.calls < u64::from(USUAL_CALLS), "{usual:?}");
        assert_eq!((usual.bad * 2).abs_diff(usual.calls), 0, "{usual:?}");
        assert_eq!(usual.p90, window.p90);
        // What it does later counts more.
        for _ in 0..USUAL_CALLS * 4 {
            health.record(6000, false, Duration::from_millis(5));
        }
        let usual = health.to_compare(9000, &settings);
        assert!(usual.bad * 10 < usual.calls, "{usual:?}");
        assert_eq!(usual.p90, Duration::from_micros(8192));
    }

    #[test]
    fn nine_of_ten_are_within_the_latency() {
        let health = Health::default();
        for call in 0..100 {
            let took = if call < 89 { 100 } else { 5_000 };
            health.record(1, false, Duration::from_micros(took));
        }
        assert_eq!(health.summary(1).p90, Duration::from_micros(8192));
        health.record(1, false, Duration::from_secs(3600));
        assert!(of(1, 0, Duration::ZERO).p90 <= Duration::from_micros(1));
        assert_eq!(of(10, 0, FAST).p90, Duration::from_micros(128));
    }

    #[test]
    fn failures_count_from_the_least_number_of_calls() {
        let settings = Handlers::default();
        let least = u64::from(settings.take_back_calls);
        let all = |calls| judge(of(calls, calls, FAST), of(0, 0, FAST), &settings);
        assert_eq!(all(least - 1), None);
        assert!(all(least).is_some());
        let good = of(1000, 0, FAST);
        let share = u64::from(settings.take_back_percent);
        assert_eq!(judge(of(1000, share * 10 - 1, FAST), good, &settings), None);
        assert!(judge(of(1000, share * 10, FAST), good, &settings).is_some());
        // What the old one does too is not the new one's fault.
        let bad = of(1000, 500, FAST);
        assert_eq!(judge(of(1000, 550, FAST), bad, &settings), None);
    }

    #[test]
    fn one_that_is_much_slower_is_judged_too() {
        let settings = Handlers::default();
        let slow = of(1000, 0, Duration::from_millis(100));
        assert!(judge(slow, of(1000, 0, FAST), &settings).is_some());
        assert_eq!(judge(slow, of(3, 0, FAST), &settings), None);
        assert_eq!(judge(slow, slow, &settings), None);
        let quick = of(1000, 0, Duration::from_millis(16));
        assert_eq!(judge(quick, of(1000, 0, FAST), &settings), None);
        let over = of(1000, 0, SLOW);
        assert!(judge(over, of(1000, 0, FAST), &settings).is_some());
        let off = Handlers {
            take_back_latency: 0,
            ..settings
        };
        assert_eq!(judge(slow, of(1000, 0, FAST), &off), None);
    }
}
