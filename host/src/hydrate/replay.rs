//! Trying a row again that was set aside: the key's newest row, as the log has it now,
//! goes to the component that runs now. It must not make the feed wait, and need not:
//! the cache compares versions.

use std::sync::Arc;

use super::{DECIDE_WAIT, Decide, ask};
use crate::cache::{Cache, Decision, Lookup};
use crate::log::Log;
use crate::model::{Key, Row, State};
use crate::quarantine::{Entry, Keeper};

/// Why a row was not replayed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be decided about now either, and stays where it is.
    #[error("{0}")]
    Undecided(String),
    /// What is needed for it does not answer.
    #[error("{0}; the rows that were not replayed are kept: run it again")]
    Unavailable(String),
}

/// What it takes to replay rows of a region.
pub struct Replay<'a> {
    /// The region.
    pub region: &'a Arc<str>,
    /// Who decides.
    pub decide: &'a dyn Decide,
    /// Where the row is.
    pub log: &'a dyn Log,
    /// Where it goes.
    pub cache: &'a dyn Cache,
    /// Where it was kept.
    pub keeper: &'a Keeper,
}

impl Replay<'_> {
    /// Replays one row; on success its entry is gone.
    ///
    /// # Errors
    ///
    /// See [`ReplayError`].
    pub async fn run(&self, entry: &Entry) -> Result<(), ReplayError> {
        let key = &entry.key;
        let mut version = entry.version;
        if let Some(row) = row(key, self.read(key).await?) {
            version = version.max(row.version);
            self.apply(row).await?;
        }
        let done = vec![(key.clone(), version)];
        let removed = self.keeper.remove(self.region, done).await;
        removed.map_err(unavailable)
    }

    async fn apply(&self, row: Row) -> Result<(), ReplayError> {
        let key = row.key.clone();
        let rows: Arc<[Row]> = Arc::new([row]);
        let decisions = match ask(self.decide, &rows, DECIDE_WAIT).await {
            Ok(decisions) => decisions,
            Err(why) => {
                // As what fails now, and after all that was not tried again.
                for row in rows.iter() {
                    self.keeper.set_aside(self.region, row, &why);
                }
                return Err(ReplayError::Undecided(why));
            }
        };
        let applied = self.cache.apply(&rows, &decisions).await;
        applied.map_err(unavailable)?;
        if decisions == [Decision::Store] {
            self.fill(&key).await?;
        }
        Ok(())
    }

    /// A row that was evicted once does not come in again by itself, because older ones
    /// must not; it does as what a reader has fetched.
    async fn fill(&self, key: &Key) -> Result<(), ReplayError> {
        let found = self.cache.lookup(key, None).await.map_err(unavailable)?;
        let Lookup::Miss(Some(lease)) = found else {
            return Ok(());
        };
        match self.read(key).await {
            Ok(state) => {
                // Refused when there is something newer, which is as good.
                self.cache.fill(lease, &state).await.map_err(unavailable)?;
                Ok(())
            }
            Err(error) => {
                self.cache.release(lease);
                Err(error)
            }
        }
    }

    async fn read(&self, key: &Key) -> Result<State, ReplayError> {
        self.log.read(key).await.map_err(unavailable)
    }
}

/// The newest row of a key, if it has one.
fn row(key: &Key, state: State) -> Option<Row> {
    let (version, value) = match state {
        State::Live { version, value } => (version, Some(value)),
        State::Deleted { version } => (version, None),
        State::Absent => return None,
    };
    Some(Row {
        key: key.clone(),
        version,
        value,
    })
}

fn unavailable(error: impl std::fmt::Display) -> ReplayError {
    ReplayError::Unavailable(error.to_string())
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
