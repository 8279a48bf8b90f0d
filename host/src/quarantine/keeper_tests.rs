//! The keeper over a store that can be away.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::super::MOST_PER_REGION;
use super::*;
use crate::clock::ManualClock;

/// A store in memory that is away when it is told to be.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) away: AtomicBool,
    entries: Mutex<BTreeMap<(String, Key), Entry>>,
}

impl Memory {
    fn there(&self) -> Result<(), QuarantineError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(QuarantineError("as the script says".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Quarantine for Memory {
    async fn put(&self, region: &str, entries: Vec<Entry>) -> Result<u64, QuarantineError> {
        self.there()?;
        let mut kept = self.entries.lock();
        for entry in entries {
            kept.insert((region.to_owned(), entry.key.clone()), entry);
        }
        let mut gone = 0;
        while kept.len() > MOST_PER_REGION {
            kept.pop_first();
            gone += 1;
        }
        Ok(gone)
    }

    async fn list(&self, region: &str) -> Result<Vec<Entry>, QuarantineError> {
        self.there()?;
        let kept = self.entries.lock();
        let of_region = kept.iter().filter(|((at, _), _)| at == region);
        Ok(of_region.map(|(_, entry)| entry.clone()).collect())
    }

    async fn counts(&self) -> Result<BTreeMap<String, u64>, QuarantineError> {
        self.there()?;
        let mut counts = BTreeMap::new();
        for (region, _) in self.entries.lock().keys() {
            *counts.entry(region.clone()).or_default() += 1;
        }
        Ok(counts)
    }

    async fn remove(&self, region: &str, keys: Vec<(Key, Version)>) -> Result<(), QuarantineError> {
        self.there()?;
        for (key, _) in keys {
            self.entries.lock().remove(&(region.to_owned(), key));
        }
        Ok(())
    }
}

fn row(key: &str, version: i64) -> Row {
    Row {
        key: Key::new(key).unwrap(),
        version: Version(version),
        value: None,
    }
}

struct Kept {
    store: Arc<Memory>,
    clock: Arc<ManualClock>,
    keeper: Arc<Keeper>,
    region: Arc<str>,
}

fn kept() -> Kept {
    let store = Arc::<Memory>::default();
    let clock = Arc::new(ManualClock::at(1));
    Kept {
        keeper: Arc::new(Keeper::new(store.clone(), clock.clone())),
        store,
        clock,
        region: "eu".into(),
    }
}

impl Kept {
    fn aside(&self, key: &str, version: i64) {
        self.keeper
            .set_aside(&self.region, &row(key, version), "trap");
        self.clock.advance(1);
    }

    async fn listed(&self) -> Vec<(String, i64)> {
        let entries = self.keeper.list("eu").await.unwrap();
        let pairs = entries.iter();
        pairs
            .map(|entry| (entry.key.to_string(), entry.version.0))
            .collect()
    }
}

fn pairs(pairs: &[(&str, i64)]) -> Vec<(String, i64)> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, version)| ((*key).to_owned(), *version))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_set_aside_is_seen_at_once_and_written_soon() {
    let it = kept();
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(it.keeper.clone().run(stopped));
    it.aside("a", 1);
    it.aside("b", 2);
    it.aside("a", 3);
    it.aside("a", 2);
    assert_eq!(it.listed().await, pairs(&[("a", 3), ("b", 2)]));
    assert_eq!(it.keeper.count("eu"), None);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(it.store.list("eu").await.unwrap().len(), 2);
    assert_eq!(it.listed().await, pairs(&[("a", 3), ("b", 2)]));
    assert_eq!(it.keeper.count("eu"), Some(2));
    assert_eq!(it.keeper.count("us"), Some(0));
    stop.send(true).unwrap();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_waits_and_has_a_bound() {
    let it = kept();
    it.store.away.store(true, Ordering::SeqCst);
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(it.keeper.clone().run(stopped));
    for version in 0..=MOST_WAITING as i64 {
        it.aside(&format!("k{version}"), version);
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(it.keeper.waiting.lock().entries.len(), MOST_WAITING);
    it.keeper.list("eu").await.unwrap_err();
    it.store.away.store(false, Ordering::SeqCst);
    sleep(LONGEST_PAUSE * 2).await;
    assert_eq!(it.keeper.count("eu"), Some(MOST_WAITING as u64));
    assert_eq!(it.keeper.waiting.lock().entries.len(), 0);
    // The oldest is the one that went.
    let listed = it.listed().await;
    assert!(!listed.contains(&("k0".to_owned(), 0)));
    assert_eq!(listed[0], (format!("k{MOST_WAITING}"), MOST_WAITING as i64));
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_does_not_come_back_and_what_is_newer_stays() {
    let it = kept();
    it.aside("a", 1);
    it.aside("b", 5);
    let keys = ["a", "b"].map(|key| (Key::new(key).unwrap(), Version(4)));
    it.keeper.remove("eu", keys.to_vec()).await.unwrap();
    assert_eq!(it.listed().await, pairs(&[("b", 5)]));
    it.keeper.end().await;
    assert_eq!(it.listed().await, pairs(&[("b", 5)]));
    assert_eq!(it.store.list("eu").await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_end_without_a_store_is_an_end() {
    let it = kept();
    it.aside("a", 1);
    it.store.away.store(true, Ordering::SeqCst);
    it.keeper.end().await;
    assert_eq!(
        it.keeper.regions().await.unwrap_err().0,
        "as the script says"
    );
}
