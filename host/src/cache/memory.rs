//! The embedded cache: shards of the versioned core behind locks, and the waiting
//! for somebody else's fill. What may be kept is decided in `versioned.rs`; this
//! file must not look into entries.
//!
//! A hit takes one read lock and clones two reference counts. Everything that
//! waits does so outside the locks, on a `Notify` per leased key, for at most
//! [`MemoryCacheSettings::lease_wait`].

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, timeout_at};

use super::versioned::{ENTRY_OVERHEAD_BYTES, Effect, Outcome, Peek, Shard, ShardSettings};
use super::{Applied, Cache, CacheError, CacheStats, Decision, Holding, Lease, Lookup};
use crate::clock::{Clock, Entropy};
use crate::feed::Position;
use crate::model::{
    Key, MAX_CONTENT_TYPE_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES_CEILING, Row, State, Version,
};

/// Bounds of a region's cache.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryCacheSettings {
    /// Bound on the bytes of all entries, overhead included. Leases come on top:
    /// at most about 1.2 KiB each.
    pub max_bytes: usize,
    /// Most shards. There are fewer where the bound is so small that a shard
    /// could not hold a value of `largest_value_bytes`.
    pub max_shards: usize,
    /// Largest value, in bytes, that has to fit into one shard.
    pub largest_value_bytes: usize,
    /// How long a tombstone is kept. Longer than any replay or slow fill takes.
    pub tombstone_ttl: Duration,
    /// How long "the log has nothing" is believed.
    pub negative_ttl: Duration,
    /// How long a lease can be used: longer than a read of the log takes.
    pub lease_ttl: Duration,
    /// How long a lookup waits for somebody else's fill.
    pub lease_wait: Duration,
    /// Most leases at a time, per shard.
    pub max_leases_per_shard: usize,
}

impl Default for MemoryCacheSettings {
    fn default() -> Self {
        MemoryCacheSettings {
            max_bytes: 256 * 1024 * 1024,
            max_shards: 16,
            largest_value_bytes: MAX_VALUE_BYTES_CEILING,
            tombstone_ttl: Duration::from_secs(600),
            negative_ttl: Duration::from_secs(5),
            lease_ttl: Duration::from_secs(2),
            lease_wait: Duration::from_millis(100),
            max_leases_per_shard: 512,
        }
    }
}

/// A region's cache in the memory of this process.
#[derive(Debug)]
pub struct MemoryCache {
    slots: Vec<RwLock<Slot>>,
    hash_seed: u64,
    position: Mutex<Option<Position>>,
    /// Cleared since the position was read.
    moved: AtomicBool,
    max_bytes: usize,
    lease_wait: Duration,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

#[derive(Debug)]
struct Slot {
    shard: Shard,
    /// Who waits for the end of a lease: what to wake, and how many they are.
    waiting: HashMap<Key, (Arc<Notify>, usize)>,
}

impl Slot {
    fn lease_has_ended(&self, key: &Key, effect: Effect) {
        if effect.lease_ended
            && let Some((wake, _)) = self.waiting.get(key)
        {
            wake.notify_waiters();
        }
    }
}

impl MemoryCache {
    /// An empty cache.
    pub fn new(
        settings: MemoryCacheSettings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> MemoryCache {
        let largest_entry = settings.largest_value_bytes
            + MAX_KEY_BYTES
            + MAX_CONTENT_TYPE_BYTES
            + ENTRY_OVERHEAD_BYTES;
        let shards = (settings.max_bytes / largest_entry).clamp(1, settings.max_shards.max(1));
        let bounds = ShardSettings {
            max_bytes: settings.max_bytes / shards,
            max_leases: settings.max_leases_per_shard,
            lease_micros: micros(settings.lease_ttl),
            tombstone_micros: micros(settings.tombstone_ttl),
            negative_micros: micros(settings.negative_ttl),
        };
        let slots = (0..shards).map(|_| {
            let shard = Shard::new(bounds);
            RwLock::new(Slot {
                shard,
                waiting: HashMap::new(),
            })
        });
        MemoryCache {
            slots: slots.collect(),
            hash_seed: entropy.next_u64(),
            position: Mutex::new(None),
            moved: AtomicBool::new(false),
            max_bytes: settings.max_bytes,
            lease_wait: settings.lease_wait,
            clock,
            entropy,
        }
    }

    /// Loses entries, leases and position together, as a flushed cache does.
    pub fn clear(&self) {
        let mut position = self.position.lock();
        for slot in &self.slots {
            let mut slot = slot.write();
            slot.shard.clear();
            slot.waiting
                .values()
                .for_each(|(wake, _)| wake.notify_waiters());
        }
        *position = None;
        self.moved.store(true, Ordering::SeqCst);
    }

    fn slot(&self, key: &str) -> &RwLock<Slot> {
        // Seeded, so that nobody can aim keys at one shard.
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.hash_seed);
        key.hash(&mut hasher);
        let index = hasher.finish() % self.slots.len() as u64;
        &self.slots[index as usize]
    }
}

#[async_trait]
impl Cache for MemoryCache {
    fn lookup_now(&self, key: &str, at_least: Option<Version>) -> Option<State> {
        let now = self.clock.now_micros();
        match self.slot(key).read().shard.peek(key, at_least, now) {
            Peek::Found(state) => Some(state),
            Peek::Behind | Peek::Nothing => None,
        }
    }

    async fn peek(
        &self,
        key: &Key,
        at_least: Option<Version>,
    ) -> Result<Option<State>, CacheError> {
        Ok(self.lookup_now(key.as_str(), at_least))
    }

    async fn lookup(&self, key: &Key, at_least: Option<Version>) -> Result<Lookup, CacheError> {
        if let Some(state) = self.lookup_now(key.as_str(), at_least) {
            return Ok(Lookup::Found(state));
        }
        let slot = self.slot(key.as_str());
        let deadline = Instant::now() + self.lease_wait;
        loop {
            // Registered under the lock: an end of the lease is not missed.
            let (_place, woken) = {
                let mut guard = slot.write();
                let now = self.clock.now_micros();
                match guard
                    .shard
                    .lookup(key, at_least, now, self.entropy.as_ref())
                {
                    Outcome::Found(state) => return Ok(Lookup::Found(state)),
                    Outcome::Leased(token) => {
                        return Ok(Lookup::Miss(Some(Lease {
                            key: key.clone(),
                            token,
                        })));
                    }
                    Outcome::Behind | Outcome::Crowded => return Ok(Lookup::Miss(None)),
                    Outcome::Held => Waiter::enter(slot, &mut guard, key),
                }
            };
            if timeout_at(deadline, woken).await.is_err() {
                return Ok(Lookup::Miss(None));
            }
        }
    }

    async fn fill(&self, lease: Lease, state: &State) -> Result<bool, CacheError> {
        let mut slot = self.slot(lease.key.as_str()).write();
        let effect = slot
            .shard
            .fill(&lease.key, lease.token, state, self.clock.now_micros());
        slot.lease_has_ended(&lease.key, effect);
        Ok(effect.stored)
    }

    fn release(&self, lease: Lease) {
        let mut slot = self.slot(lease.key.as_str()).write();
        if slot.shard.release(&lease.key, lease.token)
            && let Some((wake, _)) = slot.waiting.get(&lease.key)
        {
            // One of them takes the lease; the others go on waiting for it.
            wake.notify_one();
        }
    }

    async fn apply(&self, rows: &[Row], decisions: &[Decision]) -> Result<Applied, CacheError> {
        if self.moved.load(Ordering::SeqCst) {
            return Err(CacheError::Moved);
        }
        let mut applied = Applied::default();
        for (index, row) in rows.iter().enumerate() {
            let decision = decisions.get(index).copied().unwrap_or(Decision::Evict);
            let mut slot = self.slot(row.key.as_str()).write();
            let effect = slot.shard.apply(row, decision, self.clock.now_micros());
            slot.lease_has_ended(&row.key, effect);
            match effect.stored {
                true => applied.stored += 1,
                false => applied.skipped += 1,
            }
        }
        Ok(applied)
    }

    async fn position(&self) -> Result<Option<Position>, CacheError> {
        let position = self.position.lock();
        self.moved.store(false, Ordering::SeqCst);
        Ok(position.clone())
    }

    async fn save_position(
        &self,
        previous: Option<&Position>,
        position: &Position,
    ) -> Result<bool, CacheError> {
        let mut saved = self.position.lock();
        let unchanged = saved.as_ref() == previous;
        if unchanged {
            *saved = Some(position.clone());
        }
        Ok(unchanged)
    }

    async fn lead(&self, _holder: u64, _ttl: Duration) -> Result<bool, CacheError> {
        // It belongs to one process, and that to one hydrator.
        Ok(true)
    }

    async fn resign(&self, _holder: u64) -> Result<(), CacheError> {
        Ok(())
    }

    async fn holdings(&self, most: usize) -> Result<Vec<Holding>, CacheError> {
        let now = self.clock.now_micros();
        let mut holdings = Vec::new();
        for slot in &self.slots {
            let left = most - holdings.len();
            holdings.extend(slot.read().shard.holdings(now, left));
        }
        Ok(holdings)
    }

    fn stats(&self) -> CacheStats {
        let mut stats = CacheStats {
            reachable: true,
            max_bytes: self.max_bytes as u64,
            ..CacheStats::default()
        };
        for slot in &self.slots {
            let shard = &slot.read().shard;
            stats.entries += shard.entries() as u64;
            stats.bytes += shard.bytes() as u64;
            stats.evictions += shard.evictions();
        }
        stats
    }
}

/// A place among those who wait for a key; leaving it is dropping it.
struct Waiter<'a> {
    slot: &'a RwLock<Slot>,
    key: Key,
}

impl<'a> Waiter<'a> {
    fn enter(slot: &'a RwLock<Slot>, guard: &mut Slot, key: &Key) -> (Waiter<'a>, OwnedNotified) {
        let (wake, waiters) = guard.waiting.entry(key.clone()).or_default();
        *waiters += 1;
        (
            Waiter {
                slot,
                key: key.clone(),
            },
            wake.clone().notified_owned(),
        )
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut slot = self.slot.write();
        if let Some((_, waiters)) = slot.waiting.get_mut(&self.key) {
            *waiters -= 1;
            if *waiters == 0 {
                slot.waiting.remove(&self.key);
            }
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
