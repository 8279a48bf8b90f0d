//! Decisions about a batch, whatever those who decide do: some tries, another opinion,
//! and then halves, so that one row does not take its neighbours with it. All of it
//! has an end. It must not touch the cache.

use std::sync::Arc;

use tokio::time::{Instant, sleep, timeout};

use super::backoff::Backoff;
use super::bisect::{Bisection, Found};
use super::{Hydrator, ask};
use crate::cache::Decision;
use crate::model::Row;

/// Decides about a batch.
pub(super) async fn decide(hydrator: &Hydrator, rows: &Arc<[Row]>) -> Found {
    match whole(hydrator, rows).await {
        Ok(decisions) => Found {
            decisions,
            aside: Vec::new(),
            given_up: 0,
        },
        Err(why) => halves(hydrator, rows, &why).await,
    }
}

/// Every try may meet another component: a swap is how a bad one is repaired.
async fn whole(hydrator: &Hydrator, rows: &Arc<[Row]>) -> Result<Vec<Decision>, String> {
    let settings = &hydrator.settings;
    let mut backoff = Backoff::new(settings.decide_backoff, settings.reopen_backoff_max);
    let mut tries = 0;
    loop {
        let why = match ask(&*hydrator.decide, rows, settings.decide_wait).await {
            Ok(decisions) => return Ok(decisions),
            Err(why) => why,
        };
        let region = &*hydrator.region;
        hydrator
            .status
            .error(format!("the hydrate handler failed: {why}"));
        if tries == settings.decide_retries {
            let other = timeout(settings.decide_wait, hydrator.decide.otherwise(rows, &why));
            return match other.await {
                Ok(Some(decisions)) if decisions.len() == rows.len() => Ok(decisions),
                _ => Err(why),
            };
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

/// What can be decided about parts of a batch that fails as a whole.
async fn halves(hydrator: &Hydrator, rows: &Arc<[Row]>, why: &str) -> Found {
    let settings = &hydrator.settings;
    let until = Instant::now() + settings.bisect_wait;
    let mut last = why.to_owned();
    let mut bisection = Bisection::new(rows.len(), why);
    while let Some(part) = bisection.next() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let some: Arc<[Row]> = rows.get(part.clone()).unwrap_or_default().into();
        match ask(&*hydrator.decide, &some, left.min(settings.decide_wait)).await {
            Ok(decisions) => bisection.decided(part, &decisions),
            Err(why) => {
                bisection.failed(part, &why);
                last = why;
            }
        }
    }
    let found = bisection.found();
    let region = &*hydrator.region;
    if let Some((_, why)) = found.aside.first() {
        tracing::error!(
            region,
            why,
            rows = found.aside.len(),
            "the hydrate handler fails on single rows; they are evicted and set aside, see `tidepool feed quarantine`"
        );
    }
    if found.given_up > 0 {
        tracing::error!(
            region,
            why = last,
            rows = found.given_up,
            "the hydrate handler failed; its rows are evicted"
        );
    }
    found
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
