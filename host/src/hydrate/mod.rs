//! Hydrating: applying the feed's rows to a region's cache.
//!
//! - `component.rs`: the decisions of the region's `hydrate` component
//! - `worker.rs`: the loop from the feed to the cache
//! - `decide.rs`: decisions about a batch, whatever the component does
//! - `bisect.rs`: finding the rows that it fails on (pure)
//! - `replay.rs`: trying a row again that was set aside
//! - `backoff.rs`: waits that double
//! - `position.rs`: what the worker keeps in the cache about where it is
//! - `status.rs`: what others can see of it
//! - `scan.rs`: how far a scan is, and how long it will take
//!
//! What to do with a row is decided by somebody else, through [`Decide`]: in a
//! region that is the `hydrate` component. Whatever it answers, or fails to, the
//! worker here keeps the feed moving and the cache true: it saves a position only
//! when everything before it was applied, and evicts what nobody decided about. Single
//! rows that cannot be decided about are set aside in the
//! [`quarantine`](crate::quarantine).

mod backoff;
mod bisect;
pub mod component;
mod decide;
mod position;
pub mod replay;
mod scan;
mod status;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::cache::{Cache, Decision};
use crate::clock::Entropy;
use crate::feed::FeedSource;
use crate::model::Row;
use crate::quarantine::Keeper;

pub use scan::ScanProgress;
pub use status::{HydratorStatus, Progress};

/// Decides what to do with rows of the feed.
#[async_trait]
pub trait Decide: Send + Sync {
    /// One decision for each row, in their order; or why there is none. Other
    /// numbers of decisions count as an error.
    async fn decide(&self, rows: &Arc<[Row]>) -> Result<Vec<Decision>, String>;

    /// Asked when every try has failed: decisions from elsewhere, if there are some.
    async fn otherwise(&self, _rows: &Arc<[Row]>, _why: &str) -> Option<Vec<Decision>> {
        None
    }
}

/// How long one try to decide may take.
const DECIDE_WAIT: Duration = Duration::from_secs(10);

/// One try to decide, of a bounded time: a decision for each row.
async fn ask(
    decide: &dyn Decide,
    rows: &Arc<[Row]>,
    wait: Duration,
) -> Result<Vec<Decision>, String> {
    match tokio::time::timeout(wait, decide.decide(rows)).await {
        Ok(Ok(decisions)) if decisions.len() == rows.len() => Ok(decisions),
        Ok(Ok(decisions)) => Err(format!(
            "{} decisions for {} rows",
            decisions.len(),
            rows.len()
        )),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(format!("no decision within {wait:?}")),
    }
}

/// Bounds of a hydrator's waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HydratorSettings {
    /// How often a batch without decisions is tried again before it is halved.
    pub decide_retries: u32,
    /// How long one try may take.
    pub decide_wait: Duration,
    /// How long all tries together may take that look for the rows of a batch that
    /// cannot be decided about. What is not found by then is evicted.
    pub bisect_wait: Duration,
    /// First wait between two tries; doubles with each.
    pub decide_backoff: Duration,
    /// First wait before an interrupted feed is opened again; doubles with each
    /// interruption until there is progress.
    pub reopen_backoff: Duration,
    /// Bound on that wait.
    pub reopen_backoff_max: Duration,
    /// Wait before a feed that an operator has to repair is opened again.
    pub repair_wait: Duration,
    /// Silence after which a feed is taken for lost. Several times what the feed
    /// needs to say that it is idle.
    pub silence: Duration,
    /// How long the lead among the hydrators of one cache is held without being
    /// renewed: when a leader dies, the next one takes over that much later.
    pub lead_ttl: Duration,
    /// How often the lead is renewed, or asked for. Several times in `lead_ttl`.
    pub lead_interval: Duration,
}

impl Default for HydratorSettings {
    fn default() -> Self {
        HydratorSettings {
            decide_retries: 3,
            decide_wait: DECIDE_WAIT,
            bisect_wait: Duration::from_secs(30),
            decide_backoff: Duration::from_millis(20),
            reopen_backoff: Duration::from_millis(50),
            reopen_backoff_max: Duration::from_secs(5),
            repair_wait: Duration::from_secs(30),
            silence: Duration::from_secs(10),
            lead_ttl: Duration::from_secs(3),
            lead_interval: Duration::from_millis(500),
        }
    }
}

/// A region's hydrator.
pub struct Hydrator {
    /// Name of the region, for the log lines.
    pub region: Arc<str>,
    /// Where rows come from.
    pub feed: Arc<dyn FeedSource>,
    /// Where they go.
    pub cache: Arc<dyn Cache>,
    /// Who decides.
    pub decide: Arc<dyn Decide>,
    /// Where rows go that cannot be decided about.
    pub quarantine: Arc<Keeper>,
    /// What others see.
    pub status: Arc<HydratorStatus>,
    /// For the jitter of waits and the mark of a scan.
    pub entropy: Arc<dyn Entropy>,
    /// Bounds.
    pub settings: HydratorSettings,
}

impl Hydrator {
    /// Follows the feed until `stop` says `true`, or its sender is gone. It may be
    /// stopped at any point, also by dropping it: what was not resolved comes again.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let holder = self.entropy.next_u64();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = worker::follow_forever(&self, holder) => {}
        }
        // So that another need not wait for the end of the lead. If it does not
        // work the lead ends by itself.
        let resigning = self.cache.resign(holder);
        let _ = tokio::time::timeout(self.settings.lead_interval, resigning).await;
    }
}
