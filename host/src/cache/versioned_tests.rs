//! Random interleavings of everything that can happen to a shard, against a model
//! of the log. Taking away the floor, the revocation of leases or the
//! compare-and-set makes `nothing_ever_goes_back` fail.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::clock::SeededEntropy;
use crate::model::Value;

const SETTINGS: ShardSettings = ShardSettings {
    // Room for about three of the entries below.
    max_bytes: 3 * (ENTRY_OVERHEAD_BYTES + 40),
    max_leases: 4,
    lease_micros: 100,
    tombstone_micros: 60,
    negative_micros: 30,
};

const KEYS: Range<usize> = 0..5;

#[derive(Clone, Debug)]
enum Step {
    /// Somebody writes to the log.
    Write {
        key: usize,
        size: Option<usize>,
        ttl: Option<i64>,
    },
    /// A feed delivers any row, of any age, once more.
    Deliver {
        row: prop::sample::Index,
        decision: usize,
    },
    /// A reader comes, and keeps the lease if it gets one.
    Lookup {
        key: usize,
        at_least: Option<prop::sample::Index>,
    },
    /// A reader with a lease asks the log, now.
    Read { flight: prop::sample::Index },
    /// It fills with what it had read, or gives the lease back.
    Land {
        flight: prop::sample::Index,
        release: bool,
    },
    /// Time goes by.
    Advance { micros: i64 },
    /// Everything is lost; the feeds start again, the readers do not.
    Clear,
}

fn steps() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (KEYS, prop::option::weighted(0.7, 1usize..40), prop::option::weighted(0.2, 1i64..80))
            .prop_map(|(key, size, ttl)| Step::Write { key, size, ttl }),
        8 => (index(), 0usize..6).prop_map(|(row, decision)| Step::Deliver { row, decision }),
        8 => (KEYS, prop::option::weighted(0.1, index())).prop_map(|(key, at_least)| Step::Lookup { key, at_least }),
        4 => index().prop_map(|flight| Step::Read { flight }),
        5 => (index(), prop::bool::weighted(0.1)).prop_map(|(flight, release)| Step::Land { flight, release }),
        3 => (0i64..90).prop_map(|micros| Step::Advance { micros }),
    ]
}

struct Flight {
    key: Key,
    token: u64,
    read: Option<State>,
}

struct World {
    shard: Shard,
    now: i64,
    log: Vec<Row>,
    flights: Vec<Flight>,
    /// The highest version that was applied, or shown to a reader, per key.
    seen: BTreeMap<Key, Version>,
    entropy: SeededEntropy,
}

impl World {
    fn new() -> World {
        World {
            shard: Shard::new(SETTINGS),
            now: 1_000,
            log: Vec::new(),
            flights: Vec::new(),
            seen: BTreeMap::new(),
            entropy: SeededEntropy::new(7),
        }
    }

    fn newest(&self, key: &Key) -> State {
        let rows = self.log.iter().filter(|row| row.key == *key);
        match rows.max_by_key(|row| row.version) {
            Some(row) => State::of(row.version, row.value.clone(), self.now),
            None => State::Absent,
        }
    }

    fn see(&mut self, key: &Key, version: Option<Version>) {
        if let Some(version) = version {
            let seen = self.seen.entry(key.clone()).or_insert(version);
            *seen = version.max(*seen);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write { key, size, ttl } => {
                let key = key_of(key);
                let version = Version::next(self.newest(&key).version(), self.now);
                let value = size.map(|size| Value {
                    bytes: Bytes::from(vec![b'v'; size]),
                    content_type: None,
                    expires_at: ttl.map(|ttl| self.now + ttl),
                });
                self.log.push(Row {
                    key,
                    version,
                    value,
                });
            }
            Step::Deliver { row, decision } if !self.log.is_empty() => {
                let row = row.get(&self.log).clone();
                let decision = [Decision::Refresh, Decision::Evict].get(decision).copied();
                self.shard
                    .apply(&row, decision.unwrap_or(Decision::Store), self.now);
                self.see(&row.key, Some(row.version));
            }
            Step::Lookup { key, at_least } => {
                let key = key_of(key);
                let at_least = at_least
                    .filter(|_| !self.log.is_empty())
                    .map(|row| row.get(&self.log).version);
                match self.shard.lookup(&key, at_least, self.now, &self.entropy) {
                    Outcome::Found(state) => {
                        assert!(at_least.is_none_or(|wanted| state.version() >= Some(wanted)));
                        self.see(&key, state.version());
                    }
                    Outcome::Leased(token) => self.flights.push(Flight {
                        key,
                        token,
                        read: None,
                    }),
                    Outcome::Behind | Outcome::Held | Outcome::Crowded => {}
                }
            }
            Step::Read { flight } if !self.flights.is_empty() => {
                let index = flight.index(self.flights.len());
                self.flights[index].read = Some(self.newest(&self.flights[index].key));
            }
            Step::Land { flight, release } if !self.flights.is_empty() => {
                let flight = self.flights.swap_remove(flight.index(self.flights.len()));
                match flight.read {
                    Some(state) if !release => {
                        self.shard.fill(&flight.key, flight.token, &state, self.now);
                    }
                    _ => drop(self.shard.release(&flight.key, flight.token)),
                }
            }
            Step::Advance { micros } => self.now += micros,
            Step::Clear => {
                self.shard.clear();
                self.seen.clear();
            }
            Step::Deliver { .. } | Step::Read { .. } | Step::Land { .. } => {}
        }
    }

    fn check(&self) {
        for key in KEYS.map(key_of) {
            if let Peek::Found(state) = self.shard.peek(key.as_str(), None, self.now) {
                let seen = self.seen.get(&key).copied();
                assert!(
                    state.version() >= seen,
                    "{key}: found {state:?} after {seen:?}"
                );
                if let State::Live { value, .. } = &state {
                    assert!(!value.expired(self.now), "{key}: found what has expired");
                }
                if state.version() == self.newest(&key).version() {
                    assert_eq!(state, self.newest(&key));
                }
            }
        }
        let weights: usize = self
            .shard
            .entries
            .iter()
            .map(|(key, entry)| weight(key, &entry.state))
            .sum();
        assert_eq!(self.shard.bytes, weights);
        assert!(weights <= SETTINGS.max_bytes);
        assert!(self.shard.leases.len() <= SETTINGS.max_leases);
    }
}

fn key_of(index: usize) -> Key {
    Key::new(&format!("key-{index}")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_ever_goes_back(steps in prop::collection::vec(steps(), 1..80), order in any::<prop::sample::Index>()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
        // When everything was applied, in whatever order, what is found is the newest.
        for offset in 0..world.log.len() {
            let row = world.log[(order.index(world.log.len()) + offset) % world.log.len()].clone();
            world.shard.apply(&row, Decision::Store, world.now);
            world.see(&row.key, Some(row.version));
            world.check();
        }
        for key in KEYS.map(key_of) {
            if let Peek::Found(state) = world.shard.peek(key.as_str(), None, world.now) {
                prop_assert_eq!(state, world.newest(&key));
            }
        }
    }

    #[test]
    fn a_flush_loses_leases_with_the_entries(
        before in prop::collection::vec(steps(), 1..40),
        after in prop::collection::vec(steps(), 1..40),
    ) {
        let mut world = World::new();
        before.into_iter().for_each(|step| world.step(step));
        world.step(Step::Clear);
        prop_assert_eq!((world.shard.entries(), world.shard.bytes()), (0, 0));
        for step in after {
            world.step(step);
            world.check();
        }
    }
}

fn put(key: &str, version: i64, size: usize) -> Row {
    let value = Value {
        bytes: Bytes::from(vec![0; size]),
        content_type: None,
        expires_at: None,
    };
    Row {
        key: Key::new(key).unwrap(),
        version: Version(version),
        value: Some(value),
    }
}

fn version_of(shard: &Shard, key: &str) -> Option<i64> {
    match shard.peek(key, None, 0) {
        Peek::Found(state) => state.version().map(|version| version.0),
        Peek::Behind | Peek::Nothing => None,
    }
}

#[test]
fn what_was_hit_survives_what_was_not() {
    let mut shard = Shard::new(SETTINGS);
    for (key, version) in [("a", 1), ("b", 2), ("c", 3)] {
        assert!(
            shard
                .apply(&put(key, version, 39), Decision::Store, 0)
                .stored
        );
    }
    assert_eq!(version_of(&shard, "a"), Some(1));
    assert!(shard.apply(&put("d", 4, 39), Decision::Store, 0).stored);
    assert_eq!(shard.evictions(), 1);
    assert_eq!(version_of(&shard, "a"), Some(1));
    assert_eq!(version_of(&shard, "b"), None);
}

#[test]
fn what_does_not_fit_is_not_kept_and_nothing_older_is() {
    let mut shard = Shard::new(SETTINGS);
    assert!(shard.apply(&put("a", 1, 1), Decision::Store, 0).stored);
    assert!(
        !shard
            .apply(&put("a", 3, SETTINGS.max_bytes), Decision::Store, 0)
            .stored
    );
    assert_eq!((version_of(&shard, "a"), shard.evictions()), (None, 1));
    assert!(!shard.apply(&put("a", 2, 1), Decision::Store, 0).stored);
}

#[test]
fn refresh_keeps_what_is_there_and_evict_spares_what_is_newer() {
    let mut shard = Shard::new(SETTINGS);
    assert!(!shard.apply(&put("a", 1, 1), Decision::Refresh, 0).stored);
    assert!(shard.apply(&put("a", 2, 1), Decision::Store, 0).stored);
    assert!(shard.apply(&put("a", 4, 1), Decision::Refresh, 0).stored);
    assert!(!shard.apply(&put("a", 3, 1), Decision::Evict, 0).stored);
    assert_eq!(version_of(&shard, "a"), Some(4));
    assert!(!shard.apply(&put("a", 5, 1), Decision::Evict, 0).stored);
    assert_eq!(version_of(&shard, "a"), None);
}

#[test]
fn a_value_past_its_time_is_a_tombstone_and_gives_its_bytes_back() {
    let mut shard = Shard::new(SETTINGS);
    let mut row = put("a", 1, 30);
    row.value.as_mut().unwrap().expires_at = Some(10);
    assert!(shard.apply(&row, Decision::Store, 0).stored);
    let tombstone = State::Deleted {
        version: Version(1),
    };
    assert_eq!(shard.peek("a", None, 10), Peek::Found(tombstone));
    assert!(shard.apply(&put("b", 2, 1), Decision::Store, 10).stored);
    assert_eq!(shard.bytes(), 2 * (ENTRY_OVERHEAD_BYTES + 1) + 1);
    // And is forgotten later, not to come back.
    let later = 10 + SETTINGS.tombstone_micros;
    assert_eq!(shard.peek("a", None, later), Peek::Nothing);
    assert!(!shard.apply(&row, Decision::Store, later).stored);
}

#[test]
fn leases_are_bounded_and_the_dead_make_room() {
    let entropy = SeededEntropy::new(1);
    let mut shard = Shard::new(SETTINGS);
    let mut look = |key: usize, now| shard.lookup(&key_of(key), None, now, &entropy);
    for key in 0..SETTINGS.max_leases {
        assert!(matches!(look(key, 0), Outcome::Leased(_)));
    }
    assert_eq!(look(0, 0), Outcome::Held);
    assert_eq!(look(SETTINGS.max_leases, 0), Outcome::Crowded);
    assert!(matches!(
        look(SETTINGS.max_leases, SETTINGS.lease_micros),
        Outcome::Leased(_)
    ));
}

#[test]
fn a_lease_cannot_be_used_after_its_time() {
    let entropy = SeededEntropy::new(1);
    let mut shard = Shard::new(SETTINGS);
    let key = key_of(0);
    let Outcome::Leased(token) = shard.lookup(&key, None, 0, &entropy) else {
        panic!("no lease")
    };
    let effect = shard.fill(&key, token, &State::Absent, SETTINGS.lease_micros);
    assert_eq!(
        effect,
        Effect {
            stored: false,
            lease_ended: true
        }
    );
}
