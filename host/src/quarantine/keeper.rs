//! What a host does with the quarantine. Setting a row aside is a note in memory and
//! never waits; a task writes the notes down, and goes on trying while the database
//! does not answer. Whoever looks sees both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::{Entry, Quarantine, QuarantineError};
use crate::clock::Clock;
use crate::model::{Key, Row, Version};

/// Entries that wait in memory to be written, of all regions of the host: the oldest
/// of more are forgotten.
pub const MOST_WAITING: usize = 1000;

/// Time between two writes. A component that fails on everything writes no more often.
const PACE: Duration = Duration::from_millis(200);

/// Longest wait before the next try to write; the first is [`PACE`], and each doubles.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often it is looked how many entries there are: other hosts replay them too.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How long the end of a host may take to write what waits.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// A key of a region.
type Place = (Arc<str>, Key);

#[derive(Default)]
struct Waiting {
    entries: BTreeMap<Place, Entry>,
    /// Forgotten, and not told yet.
    forgotten: u64,
}

/// See the head of this file.
pub struct Keeper {
    store: Arc<dyn Quarantine>,
    clock: Arc<dyn Clock>,
    waiting: Mutex<Waiting>,
    /// There is something to write.
    due: Notify,
    /// One change at a time: what is removed must not be written by somebody who had
    /// it in hand.
    changing: tokio::sync::Mutex<()>,
    counts: Mutex<Option<BTreeMap<String, u64>>>,
}

impl Keeper {
    /// Keeps entries in `store`; [`Keeper::run`] writes them.
    pub fn new(store: Arc<dyn Quarantine>, clock: Arc<dyn Clock>) -> Keeper {
        Keeper {
            store,
            clock,
            waiting: Mutex::default(),
            due: Notify::new(),
            changing: tokio::sync::Mutex::default(),
            counts: Mutex::default(),
        }
    }

    /// Notes that nothing could be decided about a row.
    pub fn set_aside(&self, region: &Arc<str>, row: &Row, why: &str) {
        let entry = Entry::new(row.key.clone(), row.version, self.clock.now_micros(), why);
        let place = (Arc::clone(region), row.key.clone());
        let mut waiting = self.waiting.lock();
        let held = waiting.entries.get(&place);
        if held.is_some_and(|held| held.version > entry.version) {
            return;
        }
        waiting.entries.insert(place, entry);
        if waiting.entries.len() > MOST_WAITING {
            let oldest = waiting.entries.iter().min_by_key(|(_, entry)| entry.at);
            if let Some(oldest) = oldest.map(|(place, _)| place.clone()) {
                waiting.entries.remove(&oldest);
                waiting.forgotten += 1;
            }
        }
        drop(waiting);
        self.due.notify_one();
    }

    /// Writes what is set aside, until `stop` says `true` or its sender is gone.
    pub async fn run(self: Arc<Keeper>, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            never = self.write_forever() => match never {},
        }
    }

    /// Writes what still waits, when nothing more comes; what cannot be written in a
    /// moment is lost.
    pub async fn end(&self) {
        let written = timeout(LAST_WRITE, self.write()).await;
        let lost = self.waiting.lock().entries.len();
        if lost > 0 {
            let why = match written {
                Ok(Err(error)) => error.to_string(),
                _ => format!("no answer within {LAST_WRITE:?}"),
            };
            tracing::error!(
                rows = lost,
                why,
                "rows that were set aside are not in the quarantine"
            );
        }
    }

    async fn write_forever(&self) -> std::convert::Infallible {
        let mut pause = PACE;
        let mut told = None;
        loop {
            let done = match self.write().await {
                Ok(()) => self.look().await,
                failed => failed,
            };
            match done {
                Ok(()) => {
                    (pause, told) = (PACE, None);
                    let due = timeout(LOOK_EVERY, self.due.notified());
                    let _ = due.await;
                }
                Err(error) => {
                    // Said once, and not at every try.
                    if told.as_ref() != Some(&error) {
                        tracing::warn!(%error, "rows that are set aside wait in memory");
                        told = Some(error);
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            sleep(pause).await;
        }
    }

    async fn write(&self) -> Result<(), QuarantineError> {
        let _one_at_a_time = self.changing.lock().await;
        let (entries, forgotten) = {
            let mut waiting = self.waiting.lock();
            let forgotten = std::mem::take(&mut waiting.forgotten);
            (waiting.entries.clone(), forgotten)
        };
        if forgotten > 0 {
            tracing::error!(
                rows = forgotten,
                "more rows were set aside than can wait to be written; the oldest are not in the quarantine"
            );
        }
        let mut regions: BTreeMap<Arc<str>, Vec<Entry>> = BTreeMap::new();
        for ((region, _), entry) in entries {
            regions.entry(region).or_default().push(entry);
        }
        for (region, entries) in regions {
            let gone = self.store.put(&region, entries.clone()).await?;
            if gone > 0 {
                tracing::error!(
                    region = &*region,
                    rows = gone,
                    "the quarantine of the region is full; the oldest rows went: replay or drop what is there"
                );
            }
            let mut waiting = self.waiting.lock();
            for entry in entries {
                let place = (Arc::clone(&region), entry.key.clone());
                // Unless it was set aside once more meanwhile.
                if waiting.entries.get(&place) == Some(&entry) {
                    waiting.entries.remove(&place);
                }
            }
        }
        Ok(())
    }

    async fn look(&self) -> Result<(), QuarantineError> {
        let counts = self.store.counts().await?;
        *self.counts.lock() = Some(counts);
        Ok(())
    }

    /// How many entries a region has; `None` until it is known. It may be half a
    /// minute old.
    pub fn count(&self, region: &str) -> Option<u64> {
        let counts = self.counts.lock();
        let counts = counts.as_ref()?;
        Some(counts.get(region).copied().unwrap_or(0))
    }

    /// The regions that have entries.
    ///
    /// # Errors
    ///
    /// See [`QuarantineError`].
    pub async fn regions(&self) -> Result<BTreeSet<String>, QuarantineError> {
        let waiting: Vec<String> = {
            let waiting = self.waiting.lock();
            let regions = waiting.entries.keys().map(|(region, _)| region.to_string());
            regions.collect()
        };
        let counts = self.store.counts().await?;
        Ok(counts.into_keys().chain(waiting).collect())
    }

    /// The entries of a region, the newest first.
    ///
    /// # Errors
    ///
    /// See [`QuarantineError`].
    pub async fn list(&self, region: &str) -> Result<Vec<Entry>, QuarantineError> {
        // First, so that what is written in between is seen in one of the two.
        let waiting: Vec<Entry> = {
            let waiting = self.waiting.lock();
            let entries = waiting
                .entries
                .iter()
                .filter(|((at, _), _)| **at == *region);
            entries.map(|(_, entry)| entry.clone()).collect()
        };
        let mut entries = self.store.list(region).await?;
        for new in waiting {
            match entries.iter_mut().find(|entry| entry.key == new.key) {
                Some(kept) if kept.version <= new.version => *kept = new,
                Some(_) => {}
                None => entries.push(new),
            }
        }
        entries.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.key.cmp(&b.key)));
        Ok(entries)
    }

    /// Forgets the entries of these keys, unless they are of a newer version.
    ///
    /// # Errors
    ///
    /// See [`QuarantineError`].
    pub async fn remove(
        &self,
        region: &str,
        keys: Vec<(Key, Version)>,
    ) -> Result<(), QuarantineError> {
        let _one_at_a_time = self.changing.lock().await;
        {
            let region: Arc<str> = region.into();
            let mut waiting = self.waiting.lock();
            for (key, version) in &keys {
                let place = (Arc::clone(&region), key.clone());
                let held = waiting.entries.get(&place);
                if held.is_some_and(|held| held.version <= *version) {
                    waiting.entries.remove(&place);
                }
            }
        }
        self.store.remove(region, keys).await?;
        self.due.notify_one();
        Ok(())
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
pub(crate) mod tests;
