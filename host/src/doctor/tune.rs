//! What makes the feed of a CockroachDB fast, set where that is allowed. What is
//! fast already is left alone: somebody may have reasons for something faster.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;

use super::cockroach::{LOCK_SCHEMA, POLL, tunable};
use super::{Finding, ask};
use crate::sql::ServerKind;

/// How long one statement may take. A cluster setting takes as long as all nodes
/// need to hear of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sets what makes the feed fast, each with a statement of its own, and answers
/// with an advice for each that was refused. The settings are those of the whole
/// cluster. `role` is who we are there. Nothing is done on PostgreSQL.
pub async fn tune(client: &Client, server: ServerKind, role: &str) -> Vec<Finding> {
    let ServerKind::Cockroach { .. } = server else {
        return Vec::new();
    };
    let facts = ask::cockroach(client, server, role).await;
    let mut refused = Vec::new();
    let mut locked = false;
    for mut finding in tunable(&facts) {
        let Some(statement) = finding.fix.clone() else {
            continue;
        };
        if locked && finding.subject == POLL.name {
            // Without effect on a table whose schema is locked.
            continue;
        }
        let set = timeout(PATIENCE, client.batch_execute(&statement)).await;
        let why = match set {
            Ok(Ok(())) => {
                tracing::info!(statement, "the feed is made faster");
                locked |= statement == LOCK_SCHEMA;
                continue;
            }
            Ok(Err(error)) => error
                .as_db_error()
                .map_or_else(|| error.to_string(), |said| said.message().to_owned()),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        finding.what = format!("{}; it could not be set: {why}", finding.what);
        refused.push(finding);
    }
    refused
}
