//! Rows that were set aside, tried again over an embedded log and a cache in memory.

use async_trait::async_trait;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;
use crate::cache::memory::{MemoryCache, MemoryCacheSettings};
use crate::clock::{ManualClock, SeededEntropy};
use crate::log::Change;
use crate::log::sqlite::{SqliteDatabase, SqliteLog, SqliteSettings};
use crate::model::{Condition, Version};
use crate::quarantine::sqlite::SqliteQuarantine;

const REGION: &str = "eu";

/// Decides so about every row, or not at all.
struct Deciding(Mutex<Result<Decision, String>>);

#[async_trait]
impl Decide for Deciding {
    async fn decide(&self, rows: &Arc<[Row]>) -> Result<Vec<Decision>, String> {
        let decision = self.0.lock().clone();
        decision.map(|decision| vec![decision; rows.len()])
    }
}

struct World {
    region: Arc<str>,
    log: SqliteLog,
    cache: MemoryCache,
    keeper: Keeper,
    decide: Deciding,
    _folder: TempDir,
}

async fn world() -> World {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(ManualClock::at(1));
    let settings = SqliteSettings::default();
    let database = SqliteDatabase::open(folder.path(), clock.clone(), settings).unwrap();
    let entropy = Arc::new(SeededEntropy::new(1));
    let cache = MemoryCache::new(MemoryCacheSettings::default(), clock.clone(), entropy);
    cache.position().await.unwrap();
    let store = Arc::new(SqliteQuarantine::new(database.clone()));
    World {
        region: REGION.into(),
        log: SqliteLog::new(database),
        cache,
        keeper: Keeper::new(store, clock),
        decide: Deciding(Mutex::new(Ok(Decision::Store))),
        _folder: folder,
    }
}

impl World {
    async fn append(&self, change: Change) -> Row {
        let key = Key::new("k").unwrap();
        let appended = self.log.append(key.clone(), change, Condition::None, None);
        let version = appended.await.unwrap().version;
        let state = self.log.read(&key).await.unwrap();
        let row = row(&key, state).unwrap();
        assert_eq!(row.version, version);
        row
    }

    async fn put(&self, value: &'static str) -> Row {
        self.append(Change::Put {
            value: bytes::Bytes::from_static(value.as_bytes()),
            content_type: None,
            ttl: None,
        })
        .await
    }

    /// As the worker does.
    async fn set_aside(&self, row: &Row) {
        let evict = self
            .cache
            .apply(std::slice::from_ref(row), &[Decision::Evict]);
        evict.await.unwrap();
        self.keeper.set_aside(&self.region, row, "trap");
    }

    async fn replay(&self) -> Result<(), ReplayError> {
        let entries = self.keeper.list(REGION).await.unwrap();
        let [entry] = &entries[..] else {
            panic!("{entries:?}")
        };
        let replay = Replay {
            region: &self.region,
            decide: &self.decide,
            log: &self.log,
            cache: &self.cache,
            keeper: &self.keeper,
        };
        replay.run(entry).await
    }

    async fn aside(&self) -> Vec<(Version, String)> {
        let entries = self.keeper.list(REGION).await.unwrap();
        let aside = entries.into_iter();
        aside.map(|entry| (entry.version, entry.why)).collect()
    }

    fn cached(&self) -> Option<Version> {
        self.cache.lookup_now("k", None).and_then(|it| it.version())
    }
}

#[tokio::test]
async fn what_is_decided_about_is_in_the_cache_and_leaves() {
    let it = world().await;
    it.set_aside(&it.put("v").await).await;
    assert_eq!(it.cached(), None);
    let newest = it.put("newer").await;
    it.replay().await.unwrap();
    assert_eq!(it.cached(), Some(newest.version));
    assert_eq!(it.aside().await, []);
}

#[tokio::test]
async fn a_tombstone_is_replayed_too() {
    let it = world().await;
    it.put("v").await;
    let deleted = it.append(Change::Delete).await;
    it.set_aside(&deleted).await;
    it.replay().await.unwrap();
    assert_eq!(it.cached(), Some(deleted.version));
    assert_eq!(it.aside().await, []);
}

#[tokio::test]
async fn what_is_not_to_be_kept_only_leaves() {
    let it = world().await;
    *it.decide.0.lock() = Ok(Decision::Evict);
    it.set_aside(&it.put("v").await).await;
    it.replay().await.unwrap();
    assert_eq!(it.cached(), None);
    assert_eq!(it.aside().await, []);
}

#[tokio::test]
async fn what_still_fails_stays_with_the_newest_reason() {
    let it = world().await;
    *it.decide.0.lock() = Err("worse".into());
    it.set_aside(&it.put("v").await).await;
    let newest = it.put("newer").await;
    let failed = it.replay().await.unwrap_err();
    assert_eq!(failed, ReplayError::Undecided("worse".into()));
    assert_eq!(it.cached(), None);
    assert_eq!(it.aside().await, [(newest.version, "worse".to_owned())]);
}

#[tokio::test]
async fn a_key_that_the_log_does_not_have_leaves() {
    let it = world().await;
    *it.decide.0.lock() = Err("not asked".into());
    let row = Row {
        key: Key::new("k").unwrap(),
        version: Version(7),
        value: None,
    };
    it.set_aside(&row).await;
    it.replay().await.unwrap();
    assert_eq!(it.aside().await, []);
}
