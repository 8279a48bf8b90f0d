//! The quarantine in PostgreSQL or CockroachDB, in a table beside the log's, which the
//! log has made. It has one connection: what is done here is rare, and nobody waits for
//! it but an operator.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Client, Error, Row, Statement};

use super::{Entry, MOST_PER_REGION, Quarantine, QuarantineError, number, refused};
use crate::model::{Key, Version};
use crate::sql::{Pool, SqlConfig, ready_to_write};

/// Puts entries. `$1`: the region; then keys, versions, times and reasons.
const PUT: &str = "INSERT INTO tidepool_quarantine (region, key, version, at, why)
    SELECT $1::text, part.k, part.v, part.t, part.w
    FROM unnest($2::bytea[], $3::int8[], $4::int8[], $5::text[]) AS part (k, v, t, w)
    ON CONFLICT (region, key) DO UPDATE
    SET version = excluded.version, at = excluded.at, why = excluded.why
    WHERE tidepool_quarantine.version <= excluded.version";

/// Removes the oldest. `$1`: the region, `$2`: so many stay.
const TRIM: &str = "DELETE FROM tidepool_quarantine WHERE region = $1 AND key IN (
        SELECT key FROM tidepool_quarantine WHERE region = $1
        ORDER BY at DESC, key OFFSET $2::int8)
    RETURNING version";

/// `$1`: the region, `$2`: at most so many.
const LIST: &str = "SELECT key, version, at, why FROM tidepool_quarantine WHERE region = $1
    ORDER BY at DESC, key LIMIT $2::int8";

const COUNTS: &str = "SELECT region, count(*)::int8 FROM tidepool_quarantine GROUP BY region";

/// `$1`: the region; then keys, and the newest version of each that goes.
const REMOVE: &str = "DELETE FROM tidepool_quarantine WHERE region = $1 AND EXISTS (
        SELECT 1 FROM unnest($2::bytea[], $3::int8[]) AS part (k, v)
        WHERE part.k = tidepool_quarantine.key AND part.v >= tidepool_quarantine.version)";

/// The statements, prepared on a connection.
#[derive(Debug)]
struct Statements {
    put: Statement,
    trim: Statement,
    list: Statement,
    counts: Statement,
    remove: Statement,
}

impl Statements {
    /// All of them in one round trip.
    async fn prepare(client: &Client) -> Result<Statements, Error> {
        let (put, trim, list, counts, remove) = tokio::try_join!(
            client.prepare(PUT),
            client.prepare(TRIM),
            client.prepare(LIST),
            client.prepare(COUNTS),
            client.prepare(REMOVE),
        )?;
        Ok(Statements {
            put,
            trim,
            list,
            counts,
            remove,
        })
    }
}

/// The quarantine on a server.
#[derive(Debug)]
pub struct SqlQuarantine(Pool<Statements>);

impl SqlQuarantine {
    /// The quarantine of a database whose tables the log has made. Begins to connect
    /// and does not wait for it. Call it inside a tokio runtime.
    pub fn new(mut config: SqlConfig) -> SqlQuarantine {
        config.connections = 1;
        let settings = config.clone();
        SqlQuarantine(Pool::new(
            config,
            Arc::new(move |client, server| {
                let settings = settings.clone();
                Box::pin(async move {
                    ready_to_write(&client, server, &settings).await?;
                    Statements::prepare(&client).await
                })
            }),
        ))
    }

    /// All statements here can be repeated.
    async fn run(
        &self,
        statement: fn(&Statements) -> &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, QuarantineError> {
        self.0.query(statement, parameters).await.map_err(refused)
    }
}

#[async_trait]
impl Quarantine for SqlQuarantine {
    async fn put(&self, region: &str, entries: Vec<Entry>) -> Result<u64, QuarantineError> {
        let keys: Vec<&[u8]> = entries
            .iter()
            .map(|it| it.key.as_str().as_bytes())
            .collect();
        let versions: Vec<i64> = entries.iter().map(|it| it.version.0).collect();
        let times: Vec<i64> = entries.iter().map(|it| it.at).collect();
        let reasons: Vec<&str> = entries.iter().map(|it| &*it.why).collect();
        let parameters: [&(dyn ToSql + Sync); 5] = [&region, &keys, &versions, &times, &reasons];
        self.run(|it| &it.put, &parameters).await?;
        let most = number(MOST_PER_REGION);
        let gone = self.run(|it| &it.trim, &[&region, &most]).await?;
        Ok(gone.len() as u64)
    }

    async fn list(&self, region: &str) -> Result<Vec<Entry>, QuarantineError> {
        let most = number(MOST_PER_REGION);
        let rows = self.run(|it| &it.list, &[&region, &most]).await?;
        rows.iter().map(entry).collect()
    }

    async fn counts(&self) -> Result<BTreeMap<String, u64>, QuarantineError> {
        let rows = self.run(|it| &it.counts, &[]).await?;
        let counts = rows.iter().map(|row| {
            let count: i64 = column(row, 1)?;
            Ok((column(row, 0)?, u64::try_from(count).map_err(refused)?))
        });
        counts.collect()
    }

    async fn remove(&self, region: &str, keys: Vec<(Key, Version)>) -> Result<(), QuarantineError> {
        let versions: Vec<i64> = keys.iter().map(|(_, version)| version.0).collect();
        let keys: Vec<&[u8]> = keys
            .iter()
            .map(|(key, _)| key.as_str().as_bytes())
            .collect();
        self.run(|it| &it.remove, &[&region, &keys, &versions])
            .await?;
        Ok(())
    }
}

fn entry(row: &Row) -> Result<Entry, QuarantineError> {
    let key = std::str::from_utf8(column(row, 0)?).map_err(refused)?;
    Ok(Entry {
        key: Key::new(key).map_err(refused)?,
        version: Version(column(row, 1)?),
        at: column(row, 2)?,
        why: column(row, 3)?,
    })
}

fn column<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, QuarantineError> {
    row.try_get(at).map_err(refused)
}
