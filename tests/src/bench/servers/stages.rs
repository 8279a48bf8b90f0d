//! What a fill is made of, each stage alone: the feed, the decisions of the
//! `hydrate` component, applying rows to the cache.

use std::sync::Arc;
use std::time::Instant;

use tidepool::cache::Decision;
use tidepool::feed::postgres::{PostgresFeedSettings, PostgresFeedSource};
use tidepool::feed::{Event, FeedSource};
use tidepool::hydrate::Decide;
use tidepool::hydrate::component::ComponentDecide;
use tidepool::model::{Row, Version};
use tidepool::sql::SqlConfig;
use tidepool_tests::servers::postgres::ROLE;

use super::{Cluster, fill};
use crate::beside::caught_up;
use crate::report::Part;
use crate::{Result, Sizes};
use tidepool_tests::server::ADMIN_TOKEN;

/// Measures them on what the fill has left.
pub async fn measure(cluster: &Cluster, sizes: &Sizes, part: &mut Part) -> Result<()> {
    let url = cluster.postgres.url(ROLE, fill::DATABASE);
    let region = cluster.region(0, &url).await?;
    caught_up(&region.app, Some(ADMIN_TOKEN)).await?;
    let settings = &region.settings;
    let bounds = PostgresFeedSettings {
        batch_rows: settings.feed.batch_rows,
        batch_bytes: settings.feed.batch_bytes,
        resolved_every: settings.feed.resolved_interval,
    };
    let source = PostgresFeedSource::new(SqlConfig::new(&settings.database)?, bounds);
    let start = Instant::now();
    let mut feed = source.open(None).await?;
    let (mut scanned, mut batch) = (0, Vec::new());
    while let Event::Rows(rows) = feed.next().await? {
        scanned += rows.len();
        batch = rows;
    }
    let rate = |rows: usize, start: Instant| rows as f64 / start.elapsed().as_secs_f64();
    part.fact("hydrate, the feed alone", rate(scanned, start), "rows/s");
    if batch.is_empty() {
        return Err("the feed has given nothing".into());
    }

    let component = ComponentDecide {
        registry: Arc::clone(&region.app.registry),
        region: 0,
    };
    let rows: Arc<[Row]> = batch.clone().into();
    let (start, mut decided) = (Instant::now(), 0);
    while start.elapsed() < sizes.turn {
        decided += component.decide(&rows).await?.len();
    }
    part.fact(
        "hydrate, the decisions alone",
        rate(decided, start),
        "rows/s",
    );

    let decisions = vec![Decision::Store; batch.len()];
    let cache = &region.app.backends[0].cache;
    let (start, mut applied) = (Instant::now(), 0);
    while start.elapsed() < sizes.turn {
        for row in &mut batch {
            row.version = Version(row.version.0 + 1);
        }
        applied += cache.apply(&batch, &decisions).await?.stored;
    }
    let applied = usize::try_from(applied)?;
    part.fact("hydrate, applying alone", rate(applied, start), "rows/s");
    region.app.stop().await;
    Ok(())
}
