//! The loop from the feed to the cache. It must not decide what to keep, and must
//! never stop or skip because somebody who decides is wrong.
//!
//! The order is what makes a crash harmless: rows are applied, then the position
//! that the feed resolved after them is saved, by compare-and-set. A crash between
//! the two makes rows come twice, which the versioned cache does not mind. When the
//! compare fails the cache was flushed or restored under us: what it lost is found
//! again by starting from the position that it has now, or by a scan. A scan saves
//! where it is in the same way, page by page, and goes on there.
//!
//! One event is handled at a time, in order, while the feed gets the next one ready:
//! that one is all that waits here, and whatever is slow holds the feed back.
//!
//! Of the hydrators that share a cache one leads and the others wait. That is for
//! the sake of work, not of truth: should two ever lead for a moment, rows are
//! applied twice, and only one of them saves the next position.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::decide::decide;
use super::position::Saved;
use super::{Hydrator, Progress};
use crate::cache::CacheError;
use crate::feed::{Event, Feed, FeedError, Position};
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
    #[error("another hydrator has taken the lead")]
    LostTheLead,
}

pub(super) async fn follow_forever(hydrator: &Hydrator, holder: u64) {
    let settings = &hydrator.settings;
    let mut backoff = Backoff::new(settings.reopen_backoff, settings.reopen_backoff_max);
    let mut rescan = false;
    loop {
        let ended = match lead(hydrator, holder).await {
            Ok(()) => {
                let followed = tokio::select! {
                    followed = follow(hydrator, rescan, &mut backoff) => followed,
                    led = keep_the_lead(hydrator, holder) => led,
                };
                match followed {
                    Ok(never) => match never {},
                    Err(ended) => ended,
                }
            }
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

/// Waits until this hydrator leads; meanwhile what the leader has saved is how far
/// this one is, too.
async fn lead(hydrator: &Hydrator, holder: u64) -> Result<(), Ended> {
    let settings = &hydrator.settings;
    while !hydrator.cache.lead(holder, settings.lead_ttl).await? {
        hydrator.status.no_scan();
        let kept = hydrator.cache.position().await?;
        known(hydrator, kept.as_ref().and_then(Saved::decode).as_ref());
        sleep(settings.lead_interval).await;
    }
    Ok(())
}

/// Says how far the cache is, by what is saved there: it may have been restored, and
/// be of an earlier time than what was last known of it.
fn known(hydrator: &Hydrator, saved: Option<&Saved>) {
    match saved {
        Some(Saved::At(progress)) => hydrator.status.resolved(progress.clone()),
        Some(Saved::Scanning { .. }) | None => hydrator.status.lost(),
    }
}

async fn keep_the_lead(
    hydrator: &Hydrator,
    holder: u64,
) -> Result<std::convert::Infallible, Ended> {
    let settings = &hydrator.settings;
    loop {
        sleep(settings.lead_interval).await;
        if !hydrator.cache.lead(holder, settings.lead_ttl).await? {
            return Err(Ended::LostTheLead);
        }
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
    let saved = kept.as_ref().and_then(Saved::decode);
    known(hydrator, saved.as_ref());
    let (scan, after) = match saved.filter(|_| !rescan) {
        Some(Saved::At(progress)) => (0, Some(progress.position)),
        Some(Saved::Scanning {
            mark,
            position: Some(position),
        }) => (mark, Some(position)),
        Some(Saved::Scanning { position: None, .. }) | None => {
            let mark = hydrator.entropy.next_u64();
            let position = None;
            hydrator.status.no_scan();
            save(hydrator, &mut kept, Saved::Scanning { mark, position }).await?;
            (mark, None)
        }
    };
    let opening = timeout(silence, hydrator.feed.open(after)).await;
    let mut feed = opening.map_err(|_| Ended::Silent(silence))??;
    let mut event = next(hydrator, &mut *feed).await?;
    loop {
        let handled = handle(hydrator, event, scan, &mut kept, backoff);
        // What is being handled goes first: if it fails there is nothing to wait for,
        // and if the feed does it is finished all the same.
        let ahead = async { Ok(next(hydrator, &mut *feed).await) };
        let ((), ahead) = tokio::try_join!(handled, ahead)?;
        event = ahead?;
    }
}

async fn next(hydrator: &Hydrator, feed: &mut dyn Feed) -> Result<Event, Ended> {
    let silence = hydrator.settings.silence;
    let next = timeout(silence, feed.next()).await;
    hydrator.status.met(hydrator.feed.counts());
    Ok(next.map_err(|_| Ended::Silent(silence))??)
}

/// Does what an event is for; `scan` is the mark of the scan, if there is one.
async fn handle(
    hydrator: &Hydrator,
    event: Event,
    scan: u64,
    kept: &mut Option<Position>,
    backoff: &mut Backoff,
) -> Result<(), Ended> {
    match event {
        Event::Rows(rows) => return apply(hydrator, rows.into()).await,
        Event::Scanned {
            position,
            rows,
            total,
        } => {
            let saved = Saved::Scanning {
                mark: scan,
                position: Some(position),
            };
            save(hydrator, kept, saved).await?;
            if let Some(progress) = hydrator.status.scanned(rows, total) {
                tracing::info!(region = &*hydrator.region, "{progress}");
            }
        }
        Event::Resolved {
            position,
            as_of_micros,
        } => {
            let progress = Progress {
                position,
                as_of_micros,
            };
            save(hydrator, kept, Saved::At(progress.clone())).await?;
            hydrator.status.resolved(progress);
        }
    }
    backoff.reset();
    Ok(())
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
    let found = decide(hydrator, &rows).await;
    // Evicting is always right: the next read of these keys goes to the log.
    hydrator.cache.apply(&rows, &found.decisions).await?;
    for (row, why) in &found.aside {
        if let Some(row) = rows.get(*row) {
            hydrator.quarantine.set_aside(&hydrator.region, row, why);
        }
    }
    let status = &hydrator.status;
    status.set_aside(found.aside.len());
    status.evicted_by_fallback(found.aside.len() + found.given_up);
    status.applied(rows.len());
    Ok(())
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
