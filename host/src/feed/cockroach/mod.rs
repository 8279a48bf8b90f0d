//! The feed of a CockroachDB: a changefeed without a sink, over a connection of
//! its own. It must not write.
//!
//! - `decode.rs`, `hlc.rs`: what the changefeed says (pure)
//! - `statement.rs`: what it is asked (pure)
//! - `failure.rs`: what its errors mean (pure)
//! - `answer.rs`: the answer to a statement, with bounds
//! - `scan.rs`: the newest row of every key, at one moment
//! - `feed.rs`: scan, then changefeed, as events
//! - `changes.rs`: that something has changed in other tables
//!
//! Without a position it notes the database's moment, reads the newest row of
//! every key as of that moment, page by page, and follows everything committed
//! after it. With one, it follows everything committed after it. Only moments that
//! the server has declared resolved are positions, and in a scan its moment with the
//! last key.
//!
//! The server sends rows of one key in any order, newest first when it catches up,
//! and some of them twice.

mod answer;
pub mod changes;
pub mod decode;
pub mod failure;
mod feed;
pub mod hlc;
mod scan;
pub mod statement;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use tokio_postgres::{Client, Column};

use super::counters::FeedCounters;
use super::mark::Mark;
use super::{Feed, FeedCounts, FeedError, FeedSource, Position};
use crate::sql::{ServerKind, SqlConfig, connect_dedicated};
use failure::{Told, Who};
use feed::{CockroachFeed, Server, Start};
use hlc::Hlc;

/// Bounds of a feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CockroachFeedSettings {
    /// Most rows in a batch, and in a page of a scan.
    pub batch_rows: usize,
    /// Bytes after which a batch takes no more rows.
    pub batch_bytes: usize,
    /// How often the server is asked to declare a position resolved. At least
    /// 10 ms; the cluster's settings may make it longer.
    pub resolved_every: Duration,
    /// How long the first answer to a statement may take. On an idle table that is
    /// the first resolved position: 1 to 4 s as clusters are set up.
    pub answer_wait: Duration,
    /// Silence of a changefeed after which it is taken for lost. Several times
    /// `resolved_every`, and longer than a range takes to find another leader
    /// (9 s were seen).
    pub silence: Duration,
}

impl Default for CockroachFeedSettings {
    fn default() -> Self {
        CockroachFeedSettings {
            batch_rows: 1024,
            batch_bytes: 4 * 1024 * 1024,
            resolved_every: Duration::from_secs(1),
            answer_wait: Duration::from_secs(30),
            silence: Duration::from_secs(15),
        }
    }
}

impl CockroachFeedSettings {
    /// The longest that `open` or `next` may take before it answers by itself: who
    /// waits for them has to wait longer.
    pub fn longest_wait(&self) -> Duration {
        self.answer_wait.max(self.silence)
    }
}

/// Opens feeds of a cluster.
#[derive(Debug)]
pub struct CockroachFeedSource {
    config: SqlConfig,
    settings: CockroachFeedSettings,
    counters: Arc<FeedCounters>,
}

impl CockroachFeedSource {
    /// Feeds of the cluster that this leads to. The first of its nodes that lets us
    /// in is used; one that drains does not.
    pub fn new(config: SqlConfig, settings: CockroachFeedSettings) -> CockroachFeedSource {
        CockroachFeedSource {
            config,
            settings,
            counters: Arc::default(),
        }
    }

    /// Opens a feed of what is committed from now on, to see whether there can be
    /// one.
    ///
    /// # Errors
    ///
    /// As [`FeedSource::open`], but for a lost position.
    pub async fn open_now(&self) -> Result<Box<dyn Feed>, FeedError> {
        let opened = async {
            let server = self.begin().await?;
            let start = Start::After(moment(&server.client, &server.who).await?);
            Ok(self.feed(server, start))
        };
        self.within(opened).await
    }

    fn feed(&self, server: Server, start: Start) -> Box<dyn Feed> {
        let counters = Arc::clone(&self.counters);
        Box::new(CockroachFeed::new(server, start, self.settings, counters))
    }

    /// Connecting has bounds of its own; this one is for all that follows too.
    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, FeedError>> + Send,
    ) -> Result<T, FeedError> {
        let wait = self.settings.answer_wait;
        let late = || FeedError::Interrupted(format!("the server did not answer within {wait:?}"));
        timeout(wait, work).await.map_err(|_| late())?
    }

    /// Learns of the server what has to be known before a feed begins.
    async fn begin(&self) -> Result<Server, FeedError> {
        let connected = connect_dedicated(&self.config).await;
        let (client, connection, kind) = connected.map_err(|error| failure::unconnected(&error))?;
        if let ServerKind::Postgres { .. } = kind {
            return Err(FeedError::Repair(format!(
                "{} is {kind} and not CockroachDB; name a CockroachDB in the URL",
                self.config.target()
            )));
        }
        let who = Who {
            server: kind,
            role: self.config.role().to_owned(),
            tables: statement::TABLE,
        };
        let failed = |error| failure::error(&Told::of(&error), &who);
        // A user may have a bound on statements; a changefeed has no end.
        let unbounded = client.batch_execute("SET statement_timeout = 0").await;
        unbounded.map_err(failed)?;
        let table = client.prepare(scan::KEY_COLUMN).await.map_err(failed)?;
        let column = table.columns().first().map(Column::type_);
        let Some(keys) = column.and_then(scan::key_column) else {
            return Err(FeedError::Repair(format!(
                "the column kv_log.key is {column:?} and should be BYTES; let Tidepool create the table"
            )));
        };
        Ok(Server {
            client: Arc::new(client),
            _connection: connection,
            who,
            keys,
        })
    }
}

/// The database's moment.
async fn moment(client: &Client, who: &Who) -> Result<Hlc, FeedError> {
    let text = async {
        let row = client.query_one(scan::MOMENT, &[]).await?;
        row.try_get::<_, String>(0)
    };
    let text = text.await;
    let text = text.map_err(|error| failure::error(&Told::of(&error), who))?;
    Hlc::parse(&text)
        .ok_or_else(|| FeedError::Interrupted(format!("the database's moment is {text:?}")))
}

/// How many keys there are, if that is to be had for nothing.
async fn estimate(server: &Server) -> Option<u64> {
    // Progress is told without it, so it is no reason to stop.
    let found = server.client.query_opt(scan::KEYS, &[]).await;
    let keys: i64 = found.ok()??.try_get(0).ok()?;
    u64::try_from(keys).ok()
}

#[async_trait]
impl FeedSource for CockroachFeedSource {
    async fn open(&self, after: Option<Position>) -> Result<Box<dyn Feed>, FeedError> {
        let mark = after.as_ref().and_then(Mark::decode);
        let after = match (&mark, &after) {
            (Some(mark), _) => Some(position(&mark.start)?),
            (None, Some(after)) => Some(position(&after.0)?),
            (None, None) => None,
        };
        let opened = async {
            let server = self.begin().await?;
            let start = match after {
                Some(position) if mark.is_none() => Start::After(position),
                at => Start::Scan {
                    at: match at {
                        Some(at) => at,
                        None => moment(&server.client, &server.who).await?,
                    },
                    mark,
                    total: estimate(&server).await,
                },
            };
            Ok(self.feed(server, start))
        };
        self.within(opened).await
    }

    fn counts(&self) -> FeedCounts {
        self.counters.counts()
    }
}

fn position(text: &str) -> Result<Hlc, FeedError> {
    let lost = || FeedError::PositionLost(format!("{text:?} is not a position of this log"));
    Hlc::parse(text).ok_or_else(lost)
}
