//! The quarantine: rows that a region's `hydrate` component could not decide about,
//! each by itself. They are not in the cache, so that nobody sees anything wrong; here
//! they can be seen, and given to another component. This file is the contract.
//!
//! - `sqlite.rs`, `sql.rs`: the backends, in the log's database
//! - `keeper.rs`: what a host does with it, without ever making the feed wait
//!
//! A backend MUST:
//! - keep one entry for a region and a key, that of the newest version, and of two for
//!   one version the one that came later;
//! - answer a put only after it is durable;
//! - keep at most [`MOST_PER_REGION`] entries of a region: the oldest go, and it says
//!   how many.
//!
//! It must not read or change the log or a cache.

pub mod keeper;
pub mod sql;
pub mod sqlite;

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::model::{Key, Version};

pub use keeper::Keeper;

/// Entries that are kept of a region: more than somebody looks at, and few enough to be
/// listed in one answer.
pub const MOST_PER_REGION: usize = 1000;

/// Longest reason, in bytes.
pub const MAX_WHY_BYTES: usize = 512;

/// A row that was set aside. Its value is in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The version that nothing was decided about.
    pub version: Version,
    /// When, in microseconds since the Unix epoch, by the clock of the host that did.
    pub at: i64,
    /// Why, in one line of at most [`MAX_WHY_BYTES`].
    pub why: String,
}

impl Entry {
    /// An entry with a reason that can be kept and shown: one line, cut to its bound.
    pub fn new(key: Key, version: Version, at: i64, why: &str) -> Entry {
        let mut line = String::new();
        for c in why.trim().chars() {
            let c = if c.is_control() { ' ' } else { c };
            if line.len() + c.len_utf8() > MAX_WHY_BYTES {
                break;
            }
            line.push(c);
        }
        Entry {
            key,
            version,
            at,
            why: line,
        }
    }
}

/// Why the quarantine does not answer. Something may have been done; all of it can be
/// done again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the quarantine cannot be used: {0}; try again")]
pub struct QuarantineError(pub String);

/// See the head of this file.
#[async_trait]
pub trait Quarantine: Send + Sync {
    /// Puts entries of a region, each with another key. Answers how many of the oldest
    /// had to go.
    async fn put(&self, region: &str, entries: Vec<Entry>) -> Result<u64, QuarantineError>;

    /// The entries of a region, the newest first.
    async fn list(&self, region: &str) -> Result<Vec<Entry>, QuarantineError>;

    /// How many entries each region has that has some.
    async fn counts(&self) -> Result<BTreeMap<String, u64>, QuarantineError>;

    /// Forgets the entries of these keys, unless they are of a newer version.
    async fn remove(&self, region: &str, keys: Vec<(Key, Version)>) -> Result<(), QuarantineError>;
}

/// As the databases have numbers.
fn number(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn refused(error: impl std::fmt::Display) -> QuarantineError {
    QuarantineError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_and_has_a_bound() {
        let key = Key::new("k").unwrap();
        let why = |why: &str| Entry::new(key.clone(), Version(1), 0, why).why;
        assert_eq!(why(" trapped\0\nat 7\n"), "trapped  at 7");
        let long = why(&"é".repeat(MAX_WHY_BYTES));
        assert_eq!(long, "é".repeat(MAX_WHY_BYTES / 2));
    }
}
