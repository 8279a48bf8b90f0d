//! The CockroachDB feed against a stand-in that plays conversations recorded from
//! a running server, and some with faults put in. What is shown is how our code
//! reacts; nothing here says anything about the database.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

mod changes;
mod doctor;
mod faults;
mod recorded;
mod scan;

use std::time::Duration;

use tidepool::config::{Database, Secret};
use tidepool::feed::cockroach::{CockroachFeedSettings, CockroachFeedSource};
use tidepool::feed::{Event, Feed, FeedError, FeedSource, Position};
use tidepool::model::Row;
use tidepool::sql::SqlConfig;
use tidepool_tests::servers::pgwire::{Script, StandIn, Step};
use tidepool_tests::within;

/// Waits that no test should meet.
const PATIENT: CockroachFeedSettings = CockroachFeedSettings {
    batch_rows: 100,
    batch_bytes: 1024 * 1024,
    resolved_every: Duration::from_secs(1),
    answer_wait: Duration::from_secs(60),
    silence: Duration::from_secs(60),
};

/// How to connect to a cluster of these nodes.
fn config(nodes: &[&StandIn]) -> SqlConfig {
    let nodes: Vec<_> = nodes
        .iter()
        .map(|node| node.address().to_string())
        .collect();
    let url = format!("postgresql://feed@{}/kv?sslmode=disable", nodes.join(","));
    let database = Database {
        url: Some(Secret::new(url)),
        ..Database::default()
    };
    SqlConfig::new(&database).unwrap()
}

/// Feeds of a cluster of these nodes.
fn source(nodes: &[&StandIn], settings: CockroachFeedSettings) -> CockroachFeedSource {
    CockroachFeedSource::new(config(nodes), settings)
}

/// A stand-in whose next changefeed takes these steps.
async fn playing(steps: Vec<Step>) -> StandIn {
    StandIn::start(Script {
        feeds: [steps].into(),
        ..Script::default()
    })
    .await
}

/// A resolved position as a changefeed sends it.
fn resolved(position: &str) -> Step {
    Step::Row(None, None, format!("{{\"resolved\":\"{position}\"}}"))
}

/// A row as a changefeed sends it.
fn row(key: &str, version: i64, value: &str) -> Step {
    let digits: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    let value = serde_json::json!({
        "after": {"key": key, "version": version, "deleted": false, "value": format!("\\x{digits}")},
        "updated": format!("1795431500000{version:06}.0000000000"),
    });
    let key = serde_json::json!([key, version]).to_string();
    Step::Row(Some("kv_log".into()), Some(key), value.to_string())
}

/// What a feed delivered: everything until an error, or until it has resolved this
/// position.
#[derive(Default)]
struct Delivered {
    rows: Vec<Row>,
    resolved: Vec<String>,
    /// Positions of a scan, its rows until then, and how many there may be.
    scanned: Vec<(String, u64, Option<u64>)>,
    /// Sizes of the batches.
    batches: Vec<usize>,
    error: Option<FeedError>,
}

impl Delivered {
    /// Keys and versions, in their order.
    fn versions(&self) -> Vec<(&str, i64)> {
        let rows = self.rows.iter();
        rows.map(|row| (row.key.as_str(), row.version.0)).collect()
    }

    fn error(&self) -> &FeedError {
        self.error.as_ref().unwrap()
    }
}

async fn read(feed: &mut dyn Feed, until: Option<&str>) -> Delivered {
    let mut delivered = Delivered::default();
    let mut as_of = i64::MIN;
    loop {
        match within("an event of the feed", feed.next()).await {
            Ok(Event::Rows(rows)) => {
                assert!(!rows.is_empty());
                delivered.batches.push(rows.len());
                delivered.rows.extend(rows);
            }
            Ok(Event::Scanned {
                position,
                rows,
                total,
            }) => delivered.scanned.push((position.0, rows, total)),
            Ok(Event::Resolved {
                position,
                as_of_micros,
            }) => {
                assert!(as_of_micros >= as_of, "it went back");
                as_of = as_of_micros;
                delivered.resolved.push(position.0);
                if delivered.resolved.last().map(String::as_str) == until {
                    return delivered;
                }
            }
            Err(error) => {
                delivered.error = Some(error);
                return delivered;
            }
        }
    }
}

/// Opens a feed and reads it.
async fn follow(
    source: &CockroachFeedSource,
    after: Option<&str>,
    until: Option<&str>,
) -> Delivered {
    let after = after.map(|text| Position(text.to_owned()));
    match within("a feed", source.open(after)).await {
        Ok(mut feed) => read(&mut *feed, until).await,
        Err(error) => Delivered {
            error: Some(error),
            ..Delivered::default()
        },
    }
}
