//! What every feed has to do, as one suite that each backend runs. It writes
//! through the log that belongs to the feed, and never waits but for events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidepool::feed::{Event, Feed, FeedError, FeedSource, Position};
use tidepool::log::{Change, Log};
use tidepool::model::{Condition, Key, State, Version};

use super::log::{put, strange_keys};
use crate::PATIENCE;

/// Runs the suite on a log that is empty.
pub async fn run(log: Arc<dyn Log>, source: Arc<dyn FeedSource>) {
    an_empty_log_is_resolved(&*source).await;
    a_scan_gives_the_newest_of_every_key(&*log, &*source).await;
    resuming_gives_everything_after(&*log, &*source).await;
    a_dropped_call_loses_nothing(&*log, &*source).await;
    an_idle_feed_goes_on_resolving(&*source).await;
    a_start_while_others_write_has_no_gap(log.clone(), source.clone()).await;
    a_scan_that_is_interrupted_goes_on(&*log, &*source).await;
    a_position_that_is_none_is_lost(&*source).await;
}

/// What a feed has delivered, until now.
#[derive(Default)]
struct Reader {
    newest: BTreeMap<Key, Version>,
    all: BTreeSet<(Key, Version)>,
    resolved: Option<(Position, i64)>,
    scanned: Option<(Position, u64)>,
}

impl Reader {
    fn take(&mut self, event: Event) {
        match event {
            Event::Rows(rows) => {
                assert!(!rows.is_empty(), "rows are never empty");
                for row in rows {
                    let newest = self.newest.entry(row.key.clone()).or_insert(row.version);
                    *newest = row.version.max(*newest);
                    self.all.insert((row.key, row.version));
                }
            }
            Event::Scanned {
                position,
                rows,
                total,
            } => {
                assert!(self.resolved.is_none(), "a scan after its end");
                let before = self.scanned.as_ref().map_or(0, |(_, before)| *before);
                assert!(rows >= before && total.is_none_or(|total| total >= rows));
                self.scanned = Some((position, rows));
            }
            Event::Resolved {
                position,
                as_of_micros,
            } => {
                assert!(
                    self.resolved
                        .as_ref()
                        .is_none_or(|(_, before)| *before <= as_of_micros)
                );
                self.resolved = Some((position, as_of_micros));
            }
        }
    }

    /// Reads up to a `Resolved` after which `enough` holds.
    async fn until(&mut self, feed: &mut dyn Feed, enough: impl Fn(&Reader) -> bool) -> Position {
        loop {
            let event = next(feed).await;
            let resolved = matches!(event, Event::Resolved { .. });
            self.take(event);
            if resolved && enough(self) {
                return self.resolved.clone().expect("has just been set").0;
            }
        }
    }
}

async fn next(feed: &mut dyn Feed) -> Event {
    tokio::time::timeout(PATIENCE, feed.next())
        .await
        .expect("the feed is silent")
        .unwrap()
}

async fn write(log: &dyn Log, key: &Key, change: Change) -> (Key, Version) {
    let receipt = log
        .append(key.clone(), change, Condition::None, None)
        .await
        .unwrap();
    (key.clone(), receipt.version)
}

fn key(name: &str) -> Key {
    Key::new(&format!("feed/{name}")).unwrap()
}

async fn an_empty_log_is_resolved(source: &dyn FeedSource) {
    let mut feed = source.open(None).await.unwrap();
    assert!(matches!(next(&mut *feed).await, Event::Resolved { .. }));
}

async fn a_scan_gives_the_newest_of_every_key(log: &dyn Log, source: &dyn FeedSource) {
    let mut expected = BTreeMap::new();
    for change in [put("old"), put("new"), Change::Delete] {
        for key in strange_keys() {
            let (key, version) = write(log, &key, change.clone()).await;
            expected.insert(key, version);
        }
    }
    for index in 0..200 {
        let (key, version) = write(log, &key(&format!("scan/{index}")), put("x")).await;
        expected.insert(key, version);
    }
    let mut reader = Reader::default();
    let mut feed = source.open(None).await.unwrap();
    // The first one ends the scan: everything is there.
    reader.until(&mut *feed, |_| true).await;
    assert_eq!(reader.newest, expected);
}

async fn resuming_gives_everything_after(log: &dyn Log, source: &dyn FeedSource) {
    let mut position = Reader::default()
        .until(&mut *source.open(None).await.unwrap(), |_| true)
        .await;
    for round in 0..3 {
        let mut written = BTreeSet::new();
        for version in 0..20 {
            written.insert(write(log, &key(&format!("resume/{}", version % 3)), put("x")).await);
        }
        let mut reader = Reader::default();
        let mut feed = source.open(Some(position.clone())).await.unwrap();
        let resolved = reader
            .until(&mut *feed, |reader| reader.all.is_superset(&written))
            .await;
        // Every other round starts again from where it did: at least once.
        if round % 2 == 0 {
            let mut again = Reader::default();
            let mut feed = source.open(Some(position.clone())).await.unwrap();
            again
                .until(&mut *feed, |again| again.all.is_superset(&written))
                .await;
        }
        position = resolved;
    }
}

async fn a_dropped_call_loses_nothing(log: &dyn Log, source: &dyn FeedSource) {
    let mut feed = source.open(None).await.unwrap();
    let mut reader = Reader::default();
    reader.until(&mut *feed, |_| true).await;
    let mut written = BTreeSet::new();
    for round in 0..40 {
        written.insert(write(log, &key("cancel"), put("x")).await);
        let patience = Duration::from_micros(round * 20);
        if let Ok(event) = tokio::time::timeout(patience, feed.next()).await {
            reader.take(event.unwrap());
        }
    }
    reader
        .until(&mut *feed, |reader| reader.all.is_superset(&written))
        .await;
}

async fn an_idle_feed_goes_on_resolving(source: &dyn FeedSource) {
    let mut feed = source.open(None).await.unwrap();
    let mut reader = Reader::default();
    for _ in 0..3 {
        reader.until(&mut *feed, |_| true).await;
    }
}

async fn a_start_while_others_write_has_no_gap(log: Arc<dyn Log>, source: Arc<dyn FeedSource>) {
    let writers = (0..4).map(|writer| {
        let log = log.clone();
        tokio::spawn(async move {
            for index in 0..150 {
                write(
                    &*log,
                    &key(&format!("gap/{}", (index * 7 + writer) % 40)),
                    put("x"),
                )
                .await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut readers = Vec::new();
    for _ in 0..4 {
        let source = source.clone();
        readers.push((source.open(None).await.unwrap(), Reader::default()));
        for (feed, reader) in &mut readers {
            reader.take(next(&mut **feed).await);
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let mut expected = BTreeMap::new();
    for key in (0..40).map(|index| key(&format!("gap/{index}"))) {
        let State::Live { version, .. } = log.read(&key).await.unwrap() else {
            panic!("{key} is not there")
        };
        expected.insert(key, version);
    }
    for (mut feed, mut reader) in readers {
        let caught_up = |reader: &Reader| {
            expected
                .iter()
                .all(|(key, version)| reader.newest.get(key) == Some(version))
        };
        reader.until(&mut *feed, caught_up).await;
    }
}

/// Interrupts a scan again and again, right after it has said how far it is or with a
/// page in hand that is lost, and writes something before it goes on.
async fn a_scan_that_is_interrupted_goes_on(log: &dyn Log, source: &dyn FeedSource) {
    const INTERRUPTIONS: usize = 12;
    for index in 0..60 {
        write(log, &key(&format!("interrupted/{index}")), put("old")).await;
    }
    let mut before = Reader::default();
    let mut feed = source.open(None).await.unwrap();
    before.until(&mut *feed, |_| true).await;
    let before = before.newest;
    // Of these one is scanned first and the other last, whatever the order.
    let ends = [before.keys().next(), before.keys().next_back()].map(Option::unwrap);

    let mut expected = before.clone();
    let mut reader = Reader::default();
    // How many rows from before the scan came, and at most at once.
    let (mut came, mut most) = (0, 0);
    let mut interruptions = 0;
    loop {
        let position = reader.scanned.clone().map(|(position, _)| position);
        let mut feed = source.open(position).await.unwrap();
        let interrupt = interruptions < INTERRUPTIONS;
        let lose = interruptions % 2 == 1;
        loop {
            let event = next(&mut *feed).await;
            if let Event::Rows(rows) = &event {
                let old = rows.iter();
                let old = old.filter(|row| before.get(&row.key) == Some(&row.version));
                let old = old.count();
                (came, most) = (came + old, most.max(old));
                if interrupt && lose {
                    break;
                }
            }
            let page_ends = matches!(event, Event::Scanned { .. });
            reader.take(event);
            if reader.resolved.is_some() || interrupt && page_ends {
                break;
            }
        }
        if reader.resolved.is_some() {
            break;
        }
        interruptions += 1;
        let new = key(&format!("interrupted/new/{interruptions}"));
        let changes = [put("new"), Change::Delete, put("new")];
        for (key, change) in [ends[0], ends[1], &new].into_iter().zip(changes) {
            let (key, version) = write(log, key, change).await;
            expected.insert(key, version);
        }
    }
    // What was written meanwhile follows on the position at its end.
    let (position, _) = reader.resolved.clone().unwrap();
    let mut feed = source.open(Some(position)).await.unwrap();
    reader
        .until(&mut *feed, |reader| reader.newest == expected)
        .await;
    let bound = before.len() + most * INTERRUPTIONS / 2;
    assert!(
        came <= bound,
        "{came} rows of {}, {most} at once",
        before.len()
    );
}

async fn a_position_that_is_none_is_lost(source: &dyn FeedSource) {
    for text in [
        "",
        "nonsense",
        "-1",
        "scan:",
        "scan:0:1:6b:",
        "scan:0:1:6b:nonsense",
    ] {
        let Err(error) = source.open(Some(Position(text.into()))).await else {
            panic!("{text:?} was taken")
        };
        assert!(matches!(error, FeedError::PositionLost(_)), "{error}");
    }
}
