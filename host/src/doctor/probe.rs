//! A changefeed, tried for real: whether this user may follow the table, whether
//! rangefeeds are on, and how far behind what it resolves is. It ends with the
//! first answer, and leaves nothing behind.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Finding;
use crate::feed::cockroach::hlc::Hlc;
use crate::feed::cockroach::{CockroachFeedSettings, CockroachFeedSource};
use crate::feed::{Event, FeedError};
use crate::sql::SqlConfig;

/// How long the first answer may take: several times what it does.
const PATIENCE: Duration = Duration::from_secs(20);

/// What it is called.
const SUBJECT: &str = "changefeed";

/// Tries one.
pub(super) async fn changefeed(config: &SqlConfig) -> Finding {
    let settings = CockroachFeedSettings {
        answer_wait: PATIENCE,
        ..CockroachFeedSettings::default()
    };
    let begun = Instant::now();
    let source = CockroachFeedSource::new(config.clone(), settings);
    match first_resolved(&source).await {
        Ok(resolved) => Finding::ok(SUBJECT, told(begun.elapsed(), resolved)),
        Err(FeedError::Interrupted(why)) => Finding::problem(SUBJECT, why)
            .costs("without it no cache learns of a write")
            .fixed_by("check the cluster's health; then run this again"),
        Err(error) => Finding::problem(SUBJECT, error.to_string())
            .costs("without it no cache learns of a write"),
    }
}

async fn first_resolved(source: &CockroachFeedSource) -> Result<i64, FeedError> {
    let mut feed = source.open_now().await?;
    loop {
        if let Event::Resolved { position, .. } = feed.next().await?
            && let Some(resolved) = Hlc::parse(&position.0)
        {
            return Ok(resolved.micros());
        }
    }
}

fn told(took: Duration, resolved_micros: i64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let behind = now.saturating_sub(Duration::from_micros(resolved_micros.max(0).unsigned_abs()));
    format!(
        "it answers after {:.1} s, and what it resolves is {:.1} s behind this host's clock",
        took.as_secs_f64(),
        behind.as_secs_f64()
    )
}
