//! The quarantine in the embedded database.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Row, params};

use super::{Entry, MOST_PER_REGION, Quarantine, QuarantineError, number, refused};
use crate::log::sqlite::SqliteDatabase;
use crate::model::{Key, Version};

/// The quarantine in the embedded database.
#[derive(Debug)]
pub struct SqliteQuarantine(Arc<SqliteDatabase>);

impl SqliteQuarantine {
    /// The quarantine in `database`.
    pub fn new(database: Arc<SqliteDatabase>) -> SqliteQuarantine {
        SqliteQuarantine(database)
    }
}

#[async_trait]
impl Quarantine for SqliteQuarantine {
    async fn put(&self, region: &str, entries: Vec<Entry>) -> Result<u64, QuarantineError> {
        let region = region.to_owned();
        let written = self.0.exec(move |tx| {
            let mut put = tx.prepare_cached(
                "INSERT INTO quarantine (region, key, version, at, why)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (region, key) DO UPDATE
                 SET version = excluded.version, at = excluded.at, why = excluded.why
                 WHERE quarantine.version <= excluded.version",
            )?;
            for Entry {
                key,
                version,
                at,
                why,
            } in &entries
            {
                put.execute(params![region, key.as_str(), version.0, at, why])?;
            }
            tx.prepare_cached(
                "DELETE FROM quarantine WHERE region = ?1 AND key IN (
                     SELECT key FROM quarantine WHERE region = ?1
                     ORDER BY at DESC, key LIMIT -1 OFFSET ?2)",
            )?
            .execute(params![region, number(MOST_PER_REGION)])
        });
        written.await.map(|gone| gone as u64).map_err(refused)
    }

    async fn list(&self, region: &str) -> Result<Vec<Entry>, QuarantineError> {
        let region = region.to_owned();
        let read = self.0.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT key, version, at, why FROM quarantine WHERE region = ?1
                     ORDER BY at DESC, key",
                )?
                .query_map(params![region], entry)?
                .collect::<Result<Vec<_>, _>>()
        });
        let entries = read.await.map_err(refused)?;
        entries.into_iter().collect()
    }

    async fn counts(&self) -> Result<BTreeMap<String, u64>, QuarantineError> {
        let read = self.0.read(move |connection| {
            connection
                .prepare_cached("SELECT region, count(*) FROM quarantine GROUP BY region")?
                .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        });
        read.await.map_err(refused)
    }

    async fn remove(&self, region: &str, keys: Vec<(Key, Version)>) -> Result<(), QuarantineError> {
        let region = region.to_owned();
        let written = self.0.exec(move |tx| {
            let mut remove = tx.prepare_cached(
                "DELETE FROM quarantine WHERE region = ?1 AND key = ?2 AND version <= ?3",
            )?;
            for (key, version) in &keys {
                remove.execute(params![region, key.as_str(), version.0])?;
            }
            Ok(())
        });
        written.await.map_err(refused)
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Result<Entry, QuarantineError>> {
    let key: String = row.get(0)?;
    let (version, at, why) = (Version(row.get(1)?), row.get(2)?, row.get(3)?);
    Ok(Key::new(&key).map_err(refused).map(|key| Entry {
        key,
        version,
        at,
        why,
    }))
}
