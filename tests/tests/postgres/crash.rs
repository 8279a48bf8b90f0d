//! A server that dies with writes under way, and connections that are cut: every
//! acknowledged write is there, nothing that was said to have failed ever appears,
//! and a feed that goes on from where it was misses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tidepool::feed::{Event, FeedSource, Position};
use tidepool::log::AppendError;
use tidepool_tests::servers::postgres::Postgres;
use tidepool_tests::within;

use super::*;

/// What became of the writes of all writers, by their values.
#[derive(Default)]
struct Outcomes {
    acknowledged: BTreeMap<String, Version>,
    failed: BTreeSet<String>,
    unknown: BTreeSet<String>,
}

/// Writers that write, each value once, until they are told to stop.
struct Writers {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Outcomes>>,
}

impl Writers {
    fn start(log: &Arc<SqlLog>, count: usize) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicU64::new(0));
        let tasks = (0..count).map(|writer| {
            let (log, stop, written) = (log.clone(), stop.clone(), written.clone());
            tokio::spawn(async move {
                let mut outcomes = Outcomes::default();
                for index in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let value = format!("{writer}/{index}");
                    let key = key(&format!("k{}", (writer + index) % 8));
                    match log
                        .append(key, put(value.clone()), Condition::None, None)
                        .await
                    {
                        Ok(receipt) => {
                            written.fetch_add(1, Ordering::Relaxed);
                            outcomes.acknowledged.insert(value, receipt.version);
                        }
                        Err(AppendError::Unavailable(_)) => {
                            outcomes.failed.insert(value);
                        }
                        Err(AppendError::OutcomeUnknown(_)) => {
                            outcomes.unknown.insert(value);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                outcomes
            })
        });
        let tasks = tasks.collect();
        Writers {
            stop,
            written,
            tasks,
        }
    }

    /// Waits for so many more acknowledged writes.
    async fn more(&self, count: u64) {
        let until = self.written.load(Ordering::Relaxed) + count;
        within("writes", async {
            while self.written.load(Ordering::Relaxed) < until {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn end(self) -> Outcomes {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Outcomes::default();
        for task in self.tasks {
            let outcomes = within("writers to end", task).await.unwrap();
            all.acknowledged.extend(outcomes.acknowledged);
            all.failed.extend(outcomes.failed);
            all.unknown.extend(outcomes.unknown);
        }
        all
    }
}

/// What is in the table, by value.
async fn table(server: &Postgres, database: &str) -> BTreeMap<String, Version> {
    let client = server.admin_client(database).await;
    let rows = client
        .query(
            "SELECT convert_from(value, 'UTF8'), version FROM kv_log",
            &[],
        )
        .await
        .unwrap();
    let count = rows.len();
    let rows = rows.iter().map(|row| (row.get(0), Version(row.get(1))));
    let rows: BTreeMap<String, Version> = rows.collect();
    assert_eq!(rows.len(), count, "a write is there twice");
    rows
}

fn check(outcomes: &Outcomes, rows: &BTreeMap<String, Version>) {
    for (value, version) in &outcomes.acknowledged {
        assert_eq!(rows.get(value), Some(version), "{value} was acknowledged");
    }
    for value in &outcomes.failed {
        assert!(!rows.contains_key(value), "{value} was said to have failed");
    }
    for value in rows.keys() {
        assert!(
            outcomes.acknowledged.contains_key(value) || outcomes.unknown.contains(value),
            "{value} came from nowhere"
        );
    }
}

/// Follows a feed, opening it again from its last position whenever it ends, until
/// `enough` holds of the values that came.
async fn follow(
    url: String,
    mut position: Option<Position>,
    enough: impl Fn(&BTreeSet<String>) -> bool,
) -> BTreeSet<String> {
    let source = feed(&url);
    let mut seen = BTreeSet::new();
    loop {
        let Ok(mut feed) = source.open(position.clone()).await else {
            tokio::task::yield_now().await;
            continue;
        };
        while let Ok(event) = feed.next().await {
            match event {
                Event::Rows(rows) => seen.extend(rows.into_iter().filter_map(|row| {
                    let value = row.value?;
                    String::from_utf8(value.bytes.to_vec()).ok()
                })),
                Event::Scanned { position: at, .. } => position = Some(at),
                Event::Resolved { position: at, .. } => {
                    position = Some(at);
                    if enough(&seen) {
                        return seen;
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_killed_in_the_middle_loses_and_invents_nothing() {
    let mut server = Postgres::start().await;
    let url = server.database("killed").await;
    let log = open(&url).await.unwrap();
    // From the very beginning, so that every row comes and not only the newest.
    let start = {
        let mut feed = feed(&url).open(None).await.unwrap();
        let Event::Resolved { position, .. } = feed.next().await.unwrap() else {
            panic!("rows of an empty log")
        };
        position
    };
    // Set when all is written.
    let all: Arc<OnceLock<BTreeSet<String>>> = Arc::default();
    let follower = tokio::spawn({
        let (url, all) = (url.clone(), all.clone());
        let enough =
            move |seen: &BTreeSet<String>| all.get().is_some_and(|all| seen.is_superset(all));
        follow(url, Some(start), enough)
    });
    let writers = Writers::start(&log, 16);
    for _ in 0..3 {
        writers.more(200).await;
        server.kill();
        server.restart().await;
    }
    writers.more(200).await;
    let outcomes = writers.end().await;
    let rows = table(&server, "killed").await;
    check(&outcomes, &rows);
    all.set(rows.into_keys().collect()).unwrap();
    within("the feed to have everything", follower)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_survive_connections_that_are_cut() {
    let server = Postgres::start().await;
    let url = server.database("cut").await;
    let log = open(&url).await.unwrap();
    let writers = Writers::start(&log, 16);
    let client = server.admin_client("cut").await;
    for _ in 0..20 {
        writers.more(20).await;
        client
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = 'cut' AND usename = 'tidepool'",
                &[],
            )
            .await
            .unwrap();
    }
    writers.more(20).await;
    let outcomes = writers.end().await;
    check(&outcomes, &table(&server, "cut").await);
    // The server was there all the time: each could be looked up and done again.
    assert_eq!(outcomes.unknown.len() + outcomes.failed.len(), 0);
}
