//! Decisions of components that fail on one row, on all of them, or never answer.

use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::super::bisect::MOST_ASIDE;
use super::super::{Decide, HydratorSettings, HydratorStatus};
use super::*;
use crate::cache::memory::{MemoryCache, MemoryCacheSettings};
use crate::clock::{ManualClock, SeededEntropy};
use crate::feed::{Feed, FeedCounts, FeedError, FeedSource, Position};
use crate::model::{Key, Version};
use crate::quarantine::Keeper;
use crate::quarantine::keeper::tests::Memory;

/// There is nothing to follow.
struct Nothing;

#[async_trait]
impl FeedSource for Nothing {
    async fn open(&self, _after: Option<Position>) -> Result<Box<dyn Feed>, FeedError> {
        std::future::pending().await
    }

    fn counts(&self) -> FeedCounts {
        FeedCounts::default()
    }
}

/// What is done about a batch with a version that is meant.
#[derive(Clone, Copy)]
enum Bad {
    Traps,
    Hangs,
    TooShort,
}

struct Deciding {
    bad: Bad,
    is_bad: fn(i64) -> bool,
    /// Well behaved from this try on.
    mended_after: usize,
    tries: Mutex<usize>,
    other: Option<Decision>,
}

#[async_trait]
impl Decide for Deciding {
    async fn decide(&self, rows: &Arc<[Row]>) -> Result<Vec<Decision>, String> {
        let tries = {
            let mut tries = self.tries.lock();
            *tries += 1;
            *tries
        };
        let decisions = vec![Decision::Store; rows.len()];
        if tries > self.mended_after || !rows.iter().any(|row| (self.is_bad)(row.version.0)) {
            return Ok(decisions);
        }
        match self.bad {
            Bad::Traps => Err("trapped".into()),
            Bad::Hangs => std::future::pending().await,
            Bad::TooShort => Ok(decisions.into_iter().skip(1).collect()),
        }
    }

    async fn otherwise(&self, rows: &Arc<[Row]>, _why: &str) -> Option<Vec<Decision>> {
        self.other.map(|other| vec![other; rows.len()])
    }
}

fn deciding(bad: Bad, is_bad: fn(i64) -> bool) -> Deciding {
    Deciding {
        bad,
        is_bad,
        mended_after: usize::MAX,
        tries: Mutex::new(0),
        other: None,
    }
}

/// What is decided about rows of the versions from 0, how long that takes, and in how
/// many tries.
async fn run(rows: i64, deciding: Deciding) -> (Found, Duration, usize) {
    let deciding = Arc::new(deciding);
    let (clock, entropy) = (
        Arc::new(ManualClock::at(0)),
        Arc::new(SeededEntropy::new(1)),
    );
    let cache = MemoryCache::new(
        MemoryCacheSettings::default(),
        clock.clone(),
        entropy.clone(),
    );
    let hydrator = Hydrator {
        region: "test".into(),
        feed: Arc::new(Nothing),
        cache: Arc::new(cache),
        decide: deciding.clone(),
        quarantine: Arc::new(Keeper::new(Arc::<Memory>::default(), clock)),
        status: Arc::new(HydratorStatus::default()),
        entropy,
        settings: HydratorSettings::default(),
    };
    let row = |version: i64| Row {
        key: Key::new(&version.to_string()).unwrap(),
        version: Version(version),
        value: None,
    };
    let rows: Arc<[Row]> = (0..rows).map(row).collect();
    let begun = Instant::now();
    let found = decide(&hydrator, &rows).await;
    assert_eq!(found.decisions.len(), rows.len());
    let tries = *deciding.tries.lock();
    (found, begun.elapsed(), tries)
}

fn stored(found: &Found) -> usize {
    let decisions = found.decisions.iter();
    decisions.filter(|it| **it == Decision::Store).count()
}

#[tokio::test(start_paused = true)]
async fn one_bad_row_is_set_aside_and_the_others_are_decided() {
    for (bad, why) in [
        (Bad::Traps, "trapped"),
        (Bad::TooShort, "0 decisions for 1 rows"),
    ] {
        let (found, took, tries) = run(1000, deciding(bad, |version| version == 321)).await;
        assert_eq!(found.aside, [(321, why.to_owned())]);
        assert_eq!((stored(&found), found.given_up), (999, 0));
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert!(tries <= 4 + 20, "{tries}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_alone_is_set_aside_after_its_tries() {
    let (found, _, tries) = run(1, deciding(Bad::Traps, |_| true)).await;
    assert_eq!(found.aside, [(0, "trapped".to_owned())]);
    assert_eq!((stored(&found), found.given_up, tries), (0, 0, 4));
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_on_all_rows_is_given_up() {
    let (found, took, tries) = run(1000, deciding(Bad::Traps, |_| true)).await;
    assert_eq!((stored(&found), found.aside.len()), (0, MOST_ASIDE));
    assert_eq!(found.given_up, 1000 - MOST_ASIDE);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(tries <= 4 + 50, "{tries}");
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_holds_the_feed_for_a_bounded_time() {
    let settings = HydratorSettings::default();
    let bound = 4 * settings.decide_wait + settings.bisect_wait + Duration::from_secs(1);
    let (found, took, _) = run(1000, deciding(Bad::Hangs, |_| true)).await;
    assert_eq!((stored(&found), found.given_up), (0, 1000));
    assert!(took < bound, "{took:?}");
    // One row among few is found in that time.
    let (found, took, _) = run(4, deciding(Bad::Hangs, |version| version == 2)).await;
    assert_eq!(found.aside, [(2, "no decision within 10s".to_owned())]);
    assert_eq!((stored(&found), found.given_up), (3, 0));
    assert!(took < bound, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_mended_meanwhile_decides_the_rest() {
    let mended = Deciding {
        mended_after: 5,
        ..deciding(Bad::Traps, |_| true)
    };
    let (found, ..) = run(100, mended).await;
    assert_eq!((stored(&found), found.aside.len()), (100, 0));
}

#[tokio::test(start_paused = true)]
async fn another_opinion_about_all_comes_before_the_halves() {
    let other = Deciding {
        other: Some(Decision::Refresh),
        ..deciding(Bad::Traps, |version| version == 3)
    };
    let (found, _, tries) = run(10, other).await;
    assert_eq!(found.decisions, [Decision::Refresh; 10]);
    assert_eq!(tries, 4);
}
