//! Hearing of what other hosts have appended or reported: LISTEN on PostgreSQL, a
//! changefeed on CockroachDB, on a connection of its own. It must not read what is
//! new: whoever is woken does, and looks by himself while this does not work.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_postgres::Client;

use super::statements::{CHANNEL, TABLES};
use crate::deployments::ledger::LONGEST_WAIT;
use crate::feed::FeedError;
use crate::feed::cockroach::CockroachFeedSettings;
use crate::feed::cockroach::changes::Changes;
use crate::sql::{Backoff, ConnectionTask, ServerKind, SqlConfig, connect_dedicated};

/// How long it waits before it tries again what an administrator has to allow first.
const UNTIL_REPAIRED: Duration = Duration::from_secs(30);

/// Why it does not hear.
enum Deaf {
    /// That passes.
    Interrupted(String),
    /// It will not pass by itself.
    Repair(String),
}

/// Wakes whoever waits for `changed`, until it is dropped.
pub(super) async fn run(config: SqlConfig, changed: Arc<Notify>) {
    let mut backoff = Backoff::new(config.request_timeout);
    let mut told = None;
    loop {
        let deaf = follow(&config, &changed, &mut backoff, &mut told).await;
        let (Deaf::Interrupted(why) | Deaf::Repair(why)) = &deaf;
        // Said once, and not at every try.
        if told.as_ref() != Some(why) {
            tracing::warn!(
                why,
                "deployments of other hosts are seen up to {LONGEST_WAIT:?} later"
            );
            told = Some(why.clone());
        }
        match deaf {
            Deaf::Interrupted(_) => backoff.wait().await,
            Deaf::Repair(_) => tokio::time::sleep(UNTIL_REPAIRED).await,
        }
    }
}

async fn follow(
    config: &SqlConfig,
    changed: &Notify,
    backoff: &mut Backoff,
    told: &mut Option<String>,
) -> Deaf {
    let connected = match connect_dedicated(config).await {
        Ok(connected) => connected,
        Err(error) => return Deaf::Interrupted(error.to_string()),
    };
    let hears = || {
        backoff.reset();
        *told = None;
    };
    match connected {
        (client, connection, ServerKind::Postgres { .. }) => {
            listen(config, &client, &connection, changed, hears).await
        }
        connected => match changefeed(config, connected, changed, hears).await {
            FeedError::Repair(why) => Deaf::Repair(why),
            FeedError::Interrupted(why) | FeedError::PositionLost(why) => Deaf::Interrupted(why),
        },
    }
}

async fn listen(
    config: &SqlConfig,
    client: &Client,
    connection: &ConnectionTask,
    changed: &Notify,
    hears: impl FnOnce(),
) -> Deaf {
    let mut notified = connection.notifications();
    let listen = format!("LISTEN {CHANNEL}");
    match tokio::time::timeout(config.request_timeout, client.batch_execute(&listen)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Deaf::Interrupted(config.statement_error(&error).to_string()),
        Err(_) => return Deaf::Interrupted(config.silent().to_string()),
    }
    hears();
    // There may have been something before.
    changed.notify_one();
    while notified.changed().await.is_ok() {
        changed.notify_one();
    }
    Deaf::Interrupted("the connection to the database was lost".to_owned())
}

async fn changefeed(
    config: &SqlConfig,
    connected: (Client, ConnectionTask, ServerKind),
    changed: &Notify,
    hears: impl FnOnce(),
) -> FeedError {
    let settings = CockroachFeedSettings::default();
    let opened = Changes::open(connected, config.role(), TABLES, settings).await;
    let mut changes = match opened {
        Ok(changes) => changes,
        Err(error) => return error,
    };
    let mut hears = Some(hears);
    loop {
        match changes.next().await {
            Ok(row) => {
                if let Some(hears) = hears.take() {
                    hears();
                    changed.notify_one();
                }
                if row {
                    changed.notify_one();
                }
            }
            Err(error) => return error,
        }
    }
}
