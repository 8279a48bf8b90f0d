//! What has been deployed, on disk beside the log: components by digest,
//! revisions per slot, and which one is active. A deployment is recorded in
//! one transaction before it serves, so a restart serves what was serving.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::load::Digest;
use crate::log::sqlite::SqliteDatabase;
use crate::model::Operation;

/// Why the record could not be read or written. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[error("the record of deployments cannot be used: {0}")]
pub struct StoreError(pub String);

/// A revision as recorded.
#[derive(Clone, Debug)]
pub struct StoredRevision {
    /// The region.
    pub region: String,
    /// The operation.
    pub operation: Operation,
    /// Its number.
    pub number: u64,
    /// Digest of the component.
    pub digest: Digest,
    /// Length of the component.
    pub size: usize,
    /// Microseconds since the Unix epoch.
    pub deployed_at: i64,
    /// Who.
    pub deployed_by: String,
    /// What else there is to say.
    pub note: String,
    /// Whether the slot runs it.
    pub active: bool,
}

/// A deployment to record.
#[derive(Clone, Debug)]
pub struct NewRevision {
    /// The operation.
    pub operation: Operation,
    /// The regions that get it.
    pub regions: Vec<Arc<str>>,
    /// Digest of the component.
    pub digest: Digest,
    /// The component.
    pub component: Bytes,
    /// Microseconds since the Unix epoch.
    pub at: i64,
    /// Who.
    pub by: String,
    /// What else there is to say.
    pub note: String,
}

/// The record of deployments in the embedded database.
#[derive(Clone)]
pub struct DeploymentStore {
    database: Arc<SqliteDatabase>,
    keep: usize,
}

impl DeploymentStore {
    /// The record in `database`; it keeps the newest `keep` revisions per slot.
    pub fn new(database: Arc<SqliteDatabase>, keep: usize) -> DeploymentStore {
        DeploymentStore {
            database,
            keep: keep.max(1),
        }
    }

    /// Records a deployment and makes it active. Answers the number that the
    /// revision has in each region, in the order asked.
    ///
    /// # Errors
    ///
    /// The database refuses.
    pub async fn deploy(&self, new: NewRevision) -> Result<Vec<u64>, StoreError> {
        let keep = self.keep;
        self.run(move |tx| {
            tx.prepare_cached("INSERT OR IGNORE INTO components (digest, bytes) VALUES (?1, ?2)")?
                .execute(params![new.digest.as_bytes(), &new.component[..]])?;
            let mut numbers = Vec::with_capacity(new.regions.len());
            for region in &new.regions {
                numbers.push(insert(tx, &new, region, keep)?);
            }
            drop_unused_components(tx)?;
            Ok(numbers)
        })
        .await
    }

    /// Makes recorded revisions active: one number per region.
    ///
    /// # Errors
    ///
    /// The database refuses, or a revision is not recorded.
    pub async fn activate(
        &self,
        operation: Operation,
        numbers: Vec<(Arc<str>, u64)>,
    ) -> Result<(), StoreError> {
        self.run(move |tx| {
            for (region, number) in numbers {
                deactivate(tx, &region, operation)?;
                let changed = tx
                    .prepare_cached(
                        "UPDATE revisions SET active = 1 WHERE region = ?1 AND operation = ?2 AND number = ?3",
                    )?
                    .execute(params![&*region, operation.name(), number])?;
                if changed != 1 {
                    return Err(rusqlite::Error::QueryReturnedNoRows);
                }
            }
            Ok(())
        })
        .await
    }

    /// All recorded revisions, newest first within a slot.
    ///
    /// # Errors
    ///
    /// The database refuses, or what it has is damaged.
    pub async fn list(&self) -> Result<Vec<StoredRevision>, StoreError> {
        self.run(|tx| {
            let mut statement = tx.prepare_cached(
                "SELECT region, operation, number, r.digest, length(bytes), deployed_at, deployed_by, note, active
                 FROM revisions r JOIN components c ON c.digest = r.digest
                 ORDER BY region, operation, number DESC",
            )?;
            let rows = statement.query_map([], |row| {
                let operation: String = row.get(1)?;
                let digest: Vec<u8> = row.get(3)?;
                Ok(StoredRevision {
                    region: row.get(0)?,
                    operation: Operation::parse(&operation).ok_or_else(|| damaged(1))?,
                    number: row.get(2)?,
                    digest: Digest::from_bytes(&digest).ok_or_else(|| damaged(3))?,
                    size: row.get(4)?,
                    deployed_at: row.get(5)?,
                    deployed_by: row.get(6)?,
                    note: row.get(7)?,
                    active: row.get(8)?,
                })
            })?;
            rows.collect()
        })
        .await
    }

    /// The bytes of a component.
    ///
    /// # Errors
    ///
    /// The database refuses, does not have it, or has other bytes under its
    /// digest.
    pub async fn component(&self, digest: Digest) -> Result<Bytes, StoreError> {
        let bytes: Option<Vec<u8>> = self
            .run(move |tx| {
                tx.prepare_cached("SELECT bytes FROM components WHERE digest = ?1")?
                    .query_row(params![digest.as_bytes()], |row| row.get(0))
                    .optional()
            })
            .await?;
        let bytes =
            bytes.ok_or_else(|| StoreError(format!("component {digest} is not recorded")))?;
        if Digest::of(&bytes) != digest {
            return Err(StoreError(format!(
                "component {digest} is damaged on disk; deploy it again"
            )));
        }
        Ok(Bytes::from(bytes))
    }

    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R, StoreError> {
        self.database
            .exec(work)
            .await
            .map_err(|error| StoreError(error.to_string()))
    }
}

fn insert(
    tx: &Transaction<'_>,
    new: &NewRevision,
    region: &str,
    keep: usize,
) -> rusqlite::Result<u64> {
    let operation = new.operation.name();
    let number: u64 = tx
        .prepare_cached("SELECT coalesce(max(number), 0) + 1 FROM revisions WHERE region = ?1 AND operation = ?2")?
        .query_row(params![region, operation], |row| row.get(0))?;
    deactivate(tx, region, new.operation)?;
    tx.prepare_cached(
        "INSERT INTO revisions (region, operation, number, digest, deployed_at, deployed_by, note, active)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1)",
    )?
    .execute(params![region, operation, number, new.digest.as_bytes(), new.at, new.by, new.note])?;
    tx.prepare_cached(
        "DELETE FROM revisions WHERE region = ?1 AND operation = ?2 AND number <= ?3 - ?4",
    )?
    .execute(params![region, operation, number, keep])?;
    Ok(number)
}

fn deactivate(tx: &Transaction<'_>, region: &str, operation: Operation) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE revisions SET active = 0 WHERE region = ?1 AND operation = ?2 AND active = 1",
    )?
    .execute(params![region, operation.name()])?;
    Ok(())
}

fn drop_unused_components(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM components WHERE digest NOT IN (SELECT digest FROM revisions)")?
        .execute([])?;
    Ok(())
}

fn damaged(column: usize) -> rusqlite::Error {
    rusqlite::Error::InvalidColumnType(column, "damaged".into(), rusqlite::types::Type::Blob)
}
