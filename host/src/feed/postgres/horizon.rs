//! Up to which time the log is complete. Pure.
//!
//! A row has its timestamp before its commit. Whoever reads the clock for one holds
//! a lock on the table by then. So before a snapshot is taken, the clock is read and
//! then the list of those who hold that lock: what the snapshot does not see is of
//! one of them, or has a later timestamp. How old the timestamps of a holder can be
//! is told by when it was first seen: not older than the last look without it.

use std::collections::HashMap;

/// Looks at the holders of the lock, one after another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Horizon {
    /// Each holder, with what its timestamps are not older than.
    holders: HashMap<String, i64>,
    /// The clock at the last look; before the first one, nothing is known.
    last: i64,
}

impl Horizon {
    /// A look: the clock, and then who held the lock. Gives the time before which no
    /// row has its timestamp that a snapshot taken afterwards does not see.
    pub fn look(&mut self, now: i64, holders: Vec<String>) -> i64 {
        let known = std::mem::take(&mut self.holders);
        let since = |holder: &String| known.get(holder).copied().unwrap_or(self.last);
        self.holders = holders
            .into_iter()
            .map(|holder| {
                let since = since(&holder);
                (holder, since)
            })
            .collect();
        self.last = now;
        self.holders.values().copied().min().unwrap_or(now).min(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_writing_holds_the_time_back_to_the_last_look_without_it() {
        let mut horizon = Horizon::default();
        let holders = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        // Nothing is known of who was there before us.
        assert_eq!(horizon.look(10, holders(&["a"])), 0);
        assert_eq!(horizon.look(20, holders(&["a", "b"])), 0);
        assert_eq!(horizon.look(30, holders(&["b"])), 10);
        assert_eq!(horizon.look(40, holders(&["b", "c"])), 10);
        assert_eq!(horizon.look(50, holders(&["c"])), 30);
        assert_eq!(horizon.look(60, holders(&[])), 60);
        // A clock that has stepped back.
        assert_eq!(horizon.look(55, holders(&[])), 55);
    }
}
