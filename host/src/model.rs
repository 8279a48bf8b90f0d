//! The words that every part of the host shares: versions, keys, values, rows
//! and conditions. Pure data and pure functions; no clock, no I/O.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Longest key, in bytes of UTF-8. It is part of the HTTP contract and of the
/// database schema, so it is not a setting.
pub const MAX_KEY_BYTES: usize = 1024;

/// Largest value that a configuration may allow, in bytes.
pub const MAX_VALUE_BYTES_CEILING: usize = 25 * 1024 * 1024;

/// Longest time to live, in seconds: ten years of 365 days.
pub const MAX_TTL_SECONDS: u32 = 315_360_000;

/// Longest content type kept with a value, in bytes.
pub const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// The version of a key: microseconds since the Unix epoch, strictly
/// increasing per key. Also its entity tag.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub i64);

impl Version {
    /// The version rule: `max(latest + 1, now)`, at least 1.
    ///
    /// `now_micros` is the wall clock of the database that holds the log.
    pub fn next(latest: Option<Version>, now_micros: i64) -> Version {
        let after = latest.map_or(1, |v| v.0.saturating_add(1));
        Version(after.max(now_micros))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is not a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// The empty key.
    #[error("the key is empty; give a key of 1 to {MAX_KEY_BYTES} bytes")]
    Empty,
    /// Over [`MAX_KEY_BYTES`].
    #[error("the key has {0} bytes; at most {MAX_KEY_BYTES} are allowed")]
    TooLong(usize),
}

/// A key: 1 to [`MAX_KEY_BYTES`] bytes of any UTF-8. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(Arc<str>);

impl Key {
    /// Checks the bounds and takes a copy.
    pub fn new(text: &str) -> Result<Key, KeyError> {
        match text.len() {
            0 => Err(KeyError::Empty),
            n if n > MAX_KEY_BYTES => Err(KeyError::TooLong(n)),
            _ => Ok(Key(Arc::from(text))),
        }
    }

    /// The text of the key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A live value. Cheap to clone: the bytes are shared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// The bytes as written.
    pub bytes: Bytes,
    /// The media type it was written with; `None` for text out of the JSON
    /// envelope.
    pub content_type: Option<Arc<str>>,
    /// When it stops existing, microseconds since the Unix epoch.
    pub expires_at: Option<i64>,
}

impl Value {
    /// Whether it has stopped existing at `now_micros`.
    pub fn expired(&self, now_micros: i64) -> bool {
        self.expires_at.is_some_and(|at| at <= now_micros)
    }
}

/// One committed row of the log: what a key became at a version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The key.
    pub key: Key,
    /// Its version as of this row.
    pub version: Version,
    /// The value; `None` is a tombstone.
    pub value: Option<Value>,
}

/// What a cache or the log knows about a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// It has a value.
    Live {
        /// Version of the value.
        version: Version,
        /// The value.
        value: Value,
    },
    /// It was deleted, or has expired, as of this version.
    Deleted {
        /// Version of the tombstone, or of the value that expired.
        version: Version,
    },
    /// It was never written.
    Absent,
}

impl State {
    /// The version of the latest row, live or not.
    pub fn version(&self) -> Option<Version> {
        match self {
            State::Live { version, .. } | State::Deleted { version } => Some(*version),
            State::Absent => None,
        }
    }

    /// The state that a row means at `now_micros`: a value past its time
    /// counts as deleted at its own version.
    pub fn of(version: Version, value: Option<Value>, now_micros: i64) -> State {
        match value {
            Some(value) if !value.expired(now_micros) => State::Live { version, value },
            _ => State::Deleted { version },
        }
    }
}

/// Entity tags of a conditional request that can name a version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tags {
    /// `*`: any live value.
    Any,
    /// One of these; none matches an empty list.
    Versions(Vec<Version>),
}

impl Tags {
    fn matches(&self, live: Version) -> bool {
        match self {
            Tags::Any => true,
            Tags::Versions(list) => list.contains(&live),
        }
    }
}

/// The precondition of a request (RFC 9110, section 13).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Condition {
    /// Always holds.
    #[default]
    None,
    /// Holds when the key has a live value with one of the tags.
    IfMatch(Tags),
    /// Holds unless the key has a live value with one of the tags.
    IfNoneMatch(Tags),
}

impl Condition {
    /// Whether it holds for a key whose live value has version `live`
    /// (`None`: absent, deleted or expired).
    pub fn holds(&self, live: Option<Version>) -> bool {
        match (self, live) {
            (Condition::None, _) | (Condition::IfNoneMatch(_), None) => true,
            (Condition::IfMatch(_), None) => false,
            (Condition::IfMatch(tags), Some(v)) => tags.matches(v),
            (Condition::IfNoneMatch(tags), Some(v)) => !tags.matches(v),
        }
    }
}

/// How fresh the answer to a read has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// Whatever the region's cache holds.
    #[default]
    Cached,
    /// This version of the key, or a later one.
    AtLeast(Version),
    /// Straight from the log.
    Log,
}

/// Longest staleness that a read may allow.
pub const MAX_STALENESS: Duration = Duration::from_secs(24 * 3600);

/// The four things a region does through a component.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// GET and HEAD.
    Get,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
    /// Applying the feed.
    Hydrate,
}

impl Operation {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Operation; 4] = [
        Operation::Get,
        Operation::Put,
        Operation::Delete,
        Operation::Hydrate,
    ];

    /// Name in commands, paths and WIT.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Get => "get",
            Operation::Put => "put",
            Operation::Delete => "delete",
            Operation::Hydrate => "hydrate",
        }
    }

    /// The operation of that name.
    pub fn parse(name: &str) -> Option<Operation> {
        Operation::ALL.into_iter().find(|op| op.name() == name)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a revision does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RevisionState {
    /// New requests go to it.
    Active,
    /// A share of the keys goes to it.
    Canary,
    /// It finishes the requests that it has.
    Draining,
    /// It does nothing, and can be rolled back to.
    Retired,
}

impl RevisionState {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            RevisionState::Active => "active",
            RevisionState::Canary => "canary",
            RevisionState::Draining => "draining",
            RevisionState::Retired => "retired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn versions_strictly_increase_whatever_the_clock_says(clocks in prop::collection::vec(any::<i64>(), 1..50)) {
            let mut latest = None;
            for now in clocks {
                // The clock of a real machine stays below i64::MAX - 50.
                let now = now.min(i64::MAX - 100);
                let next = Version::next(latest, now);
                prop_assert!(latest.is_none_or(|l| next > l));
                prop_assert!(next.0 >= now && next.0 >= 1);
                latest = Some(next);
            }
        }

        #[test]
        fn if_match_and_if_none_match_are_opposites_on_live_keys(v in 1i64..9, tags in prop::collection::vec(1i64..9, 0..4)) {
            let tags = Tags::Versions(tags.into_iter().map(Version).collect());
            let live = Some(Version(v));
            prop_assert_ne!(
                Condition::IfMatch(tags.clone()).holds(live),
                Condition::IfNoneMatch(tags).holds(live)
            );
        }
    }

    #[test]
    fn an_absent_key_fails_if_match_and_passes_if_none_match() {
        for tags in [
            Tags::Any,
            Tags::Versions(vec![Version(3)]),
            Tags::Versions(vec![]),
        ] {
            assert!(!Condition::IfMatch(tags.clone()).holds(None));
            assert!(Condition::IfNoneMatch(tags).holds(None));
        }
    }

    #[test]
    fn a_key_has_one_to_1024_bytes() {
        assert_eq!(Key::new(""), Err(KeyError::Empty));
        assert!(Key::new(&"k".repeat(1024)).is_ok());
        assert_eq!(Key::new(&"k".repeat(1025)), Err(KeyError::TooLong(1025)));
        // The bound is in bytes, not characters.
        assert!(Key::new(&"é".repeat(512)).is_ok());
        assert!(Key::new(&"é".repeat(513)).is_err());
    }

    #[test]
    fn a_value_past_its_time_counts_as_deleted_at_its_version() {
        let value = Value {
            bytes: Bytes::from_static(b"x"),
            content_type: None,
            expires_at: Some(10),
        };
        assert!(matches!(
            State::of(Version(1), Some(value.clone()), 9),
            State::Live { .. }
        ));
        assert_eq!(
            State::of(Version(1), Some(value), 10),
            State::Deleted {
                version: Version(1)
            }
        );
    }
}
