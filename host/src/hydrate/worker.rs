//! The loop from the feed to the cache. It must not decide what to keep, and must
//! never stop or skip because somebody who decides is wrong.
//!
//! The order is what makes a crash harmless: rows are applied, then the position
//! that the feed resolved after them is saved, by compare-and-set. A crash between
//! the two makes rows come twice, which the versioned cache does not mind. When the
//! compare fails the cache was flushed or restored under us: what it lost is found
//! again by starting from the position that it has now, or by a scan.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::position::Saved;
use super::{Hydrator, Progress};
use crate::cache::{CacheError, Decision};
use crate::clock::Entropy;
use crate::feed::{Event, FeedError, Position};
use crate::model::Row;

/// Why a feed is not followed any further. All are answered by starting again.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("the feed was silent for {0:?}")]
    Silent(Duration),
    #[error("the cache was flushed or restored, or another hydrator writes to it")]
    CacheHasMoved,
}

pub(super) async fn follow_forever(hydrator: &Hydrator) {
    let settings = &hydrator.settings;
    let mut backoff = Backoff::new(settings.reopen_backoff, settings.reopen_backoff_max);
    let mut rescan = false;
    loop {
        let ended = match follow(hydrator, rescan, &mut backoff).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        hydrator.status.interrupted();
        hydrator.status.error(ended.to_string());
        rescan = matches!(ended, Ended::Feed(FeedError::PositionLost(_)));
        let region = &*hydrator.region;
        let wait = if let Ended::Feed(FeedError::Repair(_)) = ended {
            tracing::error!(region, reason = %ended, "the feed waits for an operator");
            settings.repair_wait
        } else {
            tracing::warn!(region, reason = %ended, "the feed is opened again");
            backoff.next(&*hydrator.entropy)
        };
        sleep(wait).await;
    }
}

/// Follows one feed until it ends.
async fn follow(
    hydrator: &Hydrator,
    rescan: bool,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, Ended> {
    let silence = hydrator.settings.silence;
    let mut kept = hydrator.cache.position().await?;
    let after = Saved::resume(kept.as_ref()).filter(|_| !rescan);
    if after.is_none() {
        let mark = Saved::Scanning(hydrator.entropy.next_u64());
        save(hydrator, &mut kept, mark).await?;
    }
    let opening = timeout(silence, hydrator.feed.open(after)).await;
    let mut feed = opening.map_err(|_| Ended::Silent(silence))??;
    loop {
        match timeout(silence, feed.next())
            .await
            .map_err(|_| Ended::Silent(silence))??
        {
            Event::Rows(rows) => apply(hydrator, rows.into()).await?,
            Event::Resolved {
                position,
                as_of_micros,
            } => {
                save(hydrator, &mut kept, Saved::At(position.clone())).await?;
                hydrator.status.resolved(Progress {
                    position,
                    as_of_micros,
                });
                backoff.reset();
            }
        }
    }
}

async fn save(hydrator: &Hydrator, kept: &mut Option<Position>, saved: Saved) -> Result<(), Ended> {
    let position = saved.encode();
    if !hydrator
        .cache
        .save_position(kept.as_ref(), &position)
        .await?
    {
        return Err(Ended::CacheHasMoved);
    }
    *kept = Some(position);
    Ok(())
}

async fn apply(hydrator: &Hydrator, rows: Arc<[Row]>) -> Result<(), Ended> {
    let decisions = match decide(hydrator, &rows).await {
        Some(decisions) => decisions,
        None => {
            // Always right: the next read of these keys goes to the log.
            hydrator.status.evicted_by_fallback(rows.len());
            vec![Decision::Evict; rows.len()]
        }
    };
    hydrator.cache.apply(&rows, &decisions).await?;
    hydrator.status.applied(rows.len());
    Ok(())
}

/// A decision for each row; `None` when there is none to be had. Every try may
/// meet another handler: a swap is how a bad one is repaired.
async fn decide(hydrator: &Hydrator, rows: &Arc<[Row]>) -> Option<Vec<Decision>> {
    let settings = &hydrator.settings;
    let mut backoff = Backoff::new(settings.decide_backoff, settings.reopen_backoff_max);
    let mut tries = 0;
    loop {
        let why = match timeout(settings.decide_wait, hydrator.decide.decide(rows)).await {
            Ok(Ok(decisions)) if decisions.len() == rows.len() => return Some(decisions),
            Ok(Ok(decisions)) => format!("{} decisions for {} rows", decisions.len(), rows.len()),
            Ok(Err(why)) => why,
            Err(_) => format!("no decision within {:?}", settings.decide_wait),
        };
        let region = &*hydrator.region;
        hydrator
            .status
            .error(format!("the hydrate handler failed: {why}"));
        if tries == settings.decide_retries {
            tracing::error!(
                region,
                why,
                rows = rows.len(),
                "the hydrate handler failed; its rows are evicted"
            );
            return None;
        }
        tries += 1;
        tracing::warn!(
            region,
            why,
            tries,
            "the hydrate handler failed; it is tried again"
        );
        sleep(backoff.next(&*hydrator.entropy)).await;
    }
}

/// Waits that double, each with a random half so that many do not come back at
/// once.
struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    fn new(first: Duration, max: Duration) -> Backoff {
        Backoff {
            first,
            max,
            next: first,
        }
    }

    fn reset(&mut self) {
        self.next = self.first;
    }

    fn next(&mut self, entropy: &dyn Entropy) -> Duration {
        let whole = self.next.min(self.max);
        self.next = whole.saturating_mul(2);
        let half = whole / 2;
        // The upper 32 bits, as a fraction.
        half + half.mul_f64((entropy.next_u64() >> 32) as f64 / f64::from(u32::MAX))
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
