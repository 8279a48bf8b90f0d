//! The versioned cache core: one shard, synchronous and deterministic. Time and
//! randomness are parameters, so that a simulator can drive this very code. It
//! must not wait, lock, log or read a clock; `memory.rs` does the first two.
//!
//! # Why an entry never goes back
//!
//! Three rules, each tested by taking it away:
//!
//! - **compare-and-set**: an entry is replaced only by a newer version;
//! - **floor**: the highest version of anything that was applied to the shard or
//!   held by it and is not there any more. A row for a key without an entry is
//!   kept only above the floor;
//! - **lease**: a fill needs the lease given at the miss, and every applied row
//!   revokes its key's lease, whatever its decision.
//!
//! Let `a` be the highest version of a key that was applied, or filled, so far.
//! Either the entry has a version of at least `a`, or there is no entry and the
//! floor is at least `a`, or the log was asked after `a` and the fill is refused
//! unless that is still so. Hazard by hazard:
//!
//! | interleaving | closed by |
//! |---|---|
//! | a row arrives twice, or after a newer one | compare-and-set |
//! | ... after the newer entry was evicted, or its tombstone expired | floor: it rose to that version when the entry left |
//! | ... after the newer row was applied but not kept (`Evict`, `Refresh` without entry, too big) | floor: it rises to rows that are not kept |
//! | a slow fill read version 1, version 2 was applied in between | revoked lease |
//! | the same, and version 2 was evicted, or deleted and forgotten, before the fill | revoked lease: it does not depend on the entry being there |
//! | the same, and another reader took a new lease since | the token is of the old lease |
//! | a fill whose reader slept past its lease | expired lease |
//! | a fill read version 2 before the feed brings it; version 1 comes late | compare-and-set; floor when the fill was evicted |
//! | "absent" was read, then the key is written | applying the row revokes the lease, or replaces the negative entry |
//! | an `Evict` for a row that is older than the entry | the newer entry stays: it needs no eviction |
//! | a flush while rows and fills are under way | leases are lost with the entries; `save_position` fails for the hydrator that follows from before the flush, and it starts again |
//!
//! Fills are not held to the floor: a lease promises that the log is read after
//! the lease was given, and **that read MUST reflect every row applied before the
//! lease**. A log that answers from a lagging replica has to ask for a version, or
//! a time, that makes it so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indexmap::IndexMap;

use super::{Decision, Held, Holding};
use crate::clock::Entropy;
use crate::model::{Key, Row, State, Version};

/// Accounted for each entry beside the bytes of key, content type and value: the
/// entry itself, its share of the index (at most half empty), and the headers of
/// the three allocations.
pub const ENTRY_OVERHEAD_BYTES: usize = 256;

/// Entries looked at for having outlived their time at every change: more than
/// one, so that the dead go faster than others come.
const SWEEP_STEPS: usize = 2;

/// Leases looked at for a free place when there are too many.
const LEASE_SWEEP_STEPS: usize = 16;

/// Bounds of a shard. Times are in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardSettings {
    /// Bound on the accounted bytes.
    pub max_bytes: usize,
    /// Bound on leases.
    pub max_leases: usize,
    /// How long a lease can be used.
    pub lease_micros: i64,
    /// How long a tombstone is kept.
    pub tombstone_micros: i64,
    /// How long "the log has nothing" is believed.
    pub negative_micros: i64,
}

/// What a look without a change finds.
#[derive(PartialEq, Eq, Debug)]
pub enum Peek {
    /// What the cache has.
    Found(State),
    /// An entry, but older than asked for.
    Behind,
    /// Nothing that answers.
    Nothing,
}

/// What a lookup finds.
#[derive(PartialEq, Eq, Debug)]
pub enum Outcome {
    /// What the cache has.
    Found(State),
    /// An entry, but older than asked for: the feed will bring the newer one.
    Behind,
    /// Nothing; here is the lease.
    Leased(u64),
    /// Nothing; somebody else has the lease.
    Held,
    /// Nothing, and there are too many leases.
    Crowded,
}

/// What a fill or an applied row did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effect {
    /// The shard has taken it.
    pub stored: bool,
    /// A lease of the key has ended with it.
    pub lease_ended: bool,
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// From here on it is as good as not there.
    gone_at: i64,
    /// Second chance of the CLOCK: set by every hit, cleared by a passing hand.
    referenced: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Granted {
    token: u64,
    expires_at: i64,
}

/// One shard. See the head of this file.
#[derive(Debug)]
pub struct Shard {
    settings: ShardSettings,
    entries: IndexMap<Key, Entry>,
    leases: IndexMap<Key, Granted>,
    bytes: usize,
    floor: Version,
    evictions: u64,
    clock_hand: usize,
    sweep_hand: usize,
    lease_hand: usize,
}

impl Shard {
    /// An empty shard.
    pub fn new(settings: ShardSettings) -> Shard {
        Shard {
            settings,
            entries: IndexMap::new(),
            leases: IndexMap::new(),
            bytes: 0,
            floor: Version(0),
            evictions: 0,
            clock_hand: 0,
            sweep_hand: 0,
            lease_hand: 0,
        }
    }

    /// What it holds at `now`, leases included, at most `most` of it.
    pub fn holdings(&self, now: i64, most: usize) -> Vec<Holding> {
        let entries = self.entries.iter().map(|(key, entry)| {
            let held = Held::State(entry.state.clone());
            (key, held, entry.gone_at)
        });
        let leases = self.leases.iter();
        let leases = leases.map(|(key, lease)| (key, Held::Lease, lease.expires_at));
        let there = entries.chain(leases).filter(|(.., until)| *until > now);
        let holding = |(key, held, until): (&Key, Held, i64)| Holding {
            key: key.as_str().to_owned(),
            held: Some(held),
            left: (until < i64::MAX)
                .then(|| Duration::from_micros(until.saturating_sub(now).unsigned_abs())),
        };
        there.take(most).map(holding).collect()
    }

    /// A look that changes nothing but the second chance: a read lock is enough.
    pub fn peek(&self, key: &str, at_least: Option<Version>, now: i64) -> Peek {
        let Some(entry) = self.entries.get(key).filter(|entry| entry.gone_at > now) else {
            return Peek::Nothing;
        };
        match (entry.state.version(), at_least) {
            (Some(version), Some(wanted)) if version < wanted => return Peek::Behind,
            (None, Some(_)) => return Peek::Nothing,
            _ => {}
        }
        // Reading first keeps the cache line shared between readers of a hot key.
        if !entry.referenced.load(Ordering::Relaxed) {
            entry.referenced.store(true, Ordering::Relaxed);
        }
        Peek::Found(as_of(&entry.state, now))
    }

    /// Looks a key up and gives out its lease when there is nothing.
    pub fn lookup(
        &mut self,
        key: &Key,
        at_least: Option<Version>,
        now: i64,
        tokens: &dyn Entropy,
    ) -> Outcome {
        match self.peek(key.as_str(), at_least, now) {
            Peek::Found(state) => return Outcome::Found(state),
            Peek::Behind => return Outcome::Behind,
            Peek::Nothing => {}
        }
        self.sweep(key, now);
        match self.leases.get(key).copied() {
            Some(held) if held.expires_at > now => return Outcome::Held,
            Some(_) => {}
            None if self.leases.len() >= self.settings.max_leases && !self.free_a_lease(now) => {
                return Outcome::Crowded;
            }
            None => {}
        }
        let token = tokens.next_u64();
        let expires_at = now.saturating_add(self.settings.lease_micros);
        self.leases
            .insert(key.clone(), Granted { token, expires_at });
        Outcome::Leased(token)
    }

    /// Fills a key with what the log said after the lease was given.
    pub fn fill(&mut self, key: &Key, token: u64, state: &State, now: i64) -> Effect {
        let Some(granted) = self
            .leases
            .get(key)
            .copied()
            .filter(|granted| granted.token == token)
        else {
            return Effect {
                stored: false,
                lease_ended: false,
            };
        };
        self.leases.swap_remove(key);
        self.sweep(key, now);
        let newer = match self
            .entries
            .get(key)
            .and_then(|entry| entry.state.version())
        {
            Some(held) => state.version().is_some_and(|version| version > held),
            None => true,
        };
        let stored =
            granted.expires_at > now && newer && self.put(key, as_of(state, now), true, now);
        Effect {
            stored,
            lease_ended: true,
        }
    }

    /// Gives a lease back. Whether it was still held.
    pub fn release(&mut self, key: &Key, token: u64) -> bool {
        let held = self
            .leases
            .get(key)
            .is_some_and(|granted| granted.token == token);
        if held {
            self.leases.swap_remove(key);
        }
        held
    }

    /// Applies a row.
    pub fn apply(&mut self, row: &Row, decision: Decision, now: i64) -> Effect {
        let lease_ended = self.leases.swap_remove(&row.key).is_some();
        self.sweep(&row.key, now);
        let entry = self.entries.get(&row.key);
        let keep = match entry.map(|entry| entry.state.version()) {
            Some(Some(held)) if held >= row.version => {
                return Effect {
                    stored: false,
                    lease_ended,
                };
            }
            Some(Some(_)) => decision != Decision::Evict,
            // Without a version to compare with, only above the floor is a row
            // known to be the newest that was seen.
            absent => {
                row.version > self.floor
                    && match decision {
                        Decision::Store => true,
                        Decision::Refresh => absent.is_some(),
                        Decision::Evict => false,
                    }
            }
        };
        let stored = if keep {
            self.put(
                &row.key,
                State::of(row.version, row.value.clone(), now),
                false,
                now,
            )
        } else {
            if let Some(index) = self.entries.get_index_of(&row.key) {
                self.remove(index);
            }
            self.raise_floor(row.version);
            false
        };
        Effect {
            stored,
            lease_ended,
        }
    }

    /// Loses everything, as a flushed cache does.
    pub fn clear(&mut self) {
        let evictions = self.evictions;
        *self = Shard {
            evictions,
            ..Shard::new(self.settings)
        };
    }

    /// Entries, tombstones and negative entries included.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Accounted bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Entries given up to stay within the bound.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    fn put(&mut self, key: &Key, state: State, referenced: bool, now: i64) -> bool {
        let weight = weight(key, &state);
        if weight > self.settings.max_bytes {
            if let Some(index) = self.entries.get_index_of(key) {
                self.remove(index);
            }
            if let Some(version) = state.version() {
                self.raise_floor(version);
            }
            self.evictions += 1;
            return false;
        }
        let gone_at = match &state {
            State::Live { value, .. } => value.expires_at.map_or(i64::MAX, |at| {
                at.saturating_add(self.settings.tombstone_micros)
            }),
            State::Deleted { .. } => now.saturating_add(self.settings.tombstone_micros),
            State::Absent => now.saturating_add(self.settings.negative_micros),
        };
        if let Some(entry) = self.entries.get_mut(key) {
            self.bytes -= self::weight(key, &entry.state);
            entry.state = state;
            entry.gone_at = gone_at;
            *entry.referenced.get_mut() |= referenced;
        } else {
            let referenced = AtomicBool::new(referenced);
            self.entries.insert(
                key.clone(),
                Entry {
                    state,
                    gone_at,
                    referenced,
                },
            );
        }
        self.bytes += weight;
        self.evict_down_to_bound(key);
        true
    }

    /// CLOCK: the hand passes over what was hit since it last came by, and over
    /// what has just been put. Ends because that one alone is within the bound.
    fn evict_down_to_bound(&mut self, just_put: &Key) {
        while self.bytes > self.settings.max_bytes {
            if self.clock_hand >= self.entries.len() {
                self.clock_hand = 0;
            }
            let Some((key, entry)) = self.entries.get_index_mut(self.clock_hand) else {
                return;
            };
            if key == just_put || std::mem::take(entry.referenced.get_mut()) {
                self.clock_hand += 1;
            } else {
                self.remove(self.clock_hand);
                self.evictions += 1;
            }
        }
    }

    /// Forgets what has outlived its time: the entry of `key`, so that what
    /// follows sees the floor instead, and a few others.
    fn sweep(&mut self, key: &Key, now: i64) {
        if let Some((index, _, entry)) = self.entries.get_full(key)
            && entry.gone_at <= now
        {
            self.remove(index);
        }
        for _ in 0..SWEEP_STEPS {
            if self.sweep_hand >= self.entries.len() {
                self.sweep_hand = 0;
            }
            let Some((key, entry)) = self.entries.get_index_mut(self.sweep_hand) else {
                return;
            };
            if entry.gone_at <= now {
                self.remove(self.sweep_hand);
                continue;
            }
            if let State::Live { version, value } = &entry.state
                && value.expired(now)
            {
                // Its version stays, its bytes go.
                let tombstone = State::Deleted { version: *version };
                self.bytes = self.bytes - weight(key, &entry.state) + weight(key, &tombstone);
                entry.state = tombstone;
            }
            self.sweep_hand += 1;
        }
    }

    fn free_a_lease(&mut self, now: i64) -> bool {
        for _ in 0..LEASE_SWEEP_STEPS {
            if self.lease_hand >= self.leases.len() {
                self.lease_hand = 0;
            }
            match self.leases.get_index(self.lease_hand) {
                Some((_, granted)) if granted.expires_at <= now => {
                    self.leases.swap_remove_index(self.lease_hand);
                    return true;
                }
                _ => self.lease_hand += 1,
            }
        }
        false
    }

    /// The only way out for an entry: the floor learns its version.
    fn remove(&mut self, index: usize) {
        if let Some((key, entry)) = self.entries.swap_remove_index(index) {
            self.bytes -= weight(&key, &entry.state);
            if let Some(version) = entry.state.version() {
                self.raise_floor(version);
            }
        }
    }

    fn raise_floor(&mut self, version: Version) {
        self.floor = self.floor.max(version);
    }
}

fn as_of(state: &State, now: i64) -> State {
    match state {
        State::Live { version, value } if value.expired(now) => {
            State::Deleted { version: *version }
        }
        other => other.clone(),
    }
}

fn weight(key: &Key, state: &State) -> usize {
    let value = match state {
        State::Live { value, .. } => {
            value.bytes.len() + value.content_type.as_ref().map_or(0, |text| text.len())
        }
        State::Deleted { .. } | State::Absent => 0,
    };
    ENTRY_OVERHEAD_BYTES + key.as_str().len() + value
}

#[cfg(test)]
#[path = "versioned_tests.rs"]
mod tests;
