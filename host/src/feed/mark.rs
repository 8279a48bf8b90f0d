//! The position of a scan that is under way: pure text, in and out.
//!
//! A scan is at a moment of the log, its start, from which the feed follows when the
//! scan has ended. Both have to survive an interruption, or what was written while
//! it scanned would be missing.

use super::{Event, Position};
use crate::hex;

/// What such a position begins with; no other position does.
const SCAN: &str = "scan:";

/// Where a scan is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    /// The moment that it began at, as the backend writes positions.
    pub start: String,
    /// Every row with an earlier timestamp has been delivered when it has ended.
    pub as_of_micros: i64,
    /// Keys scanned.
    pub keys: u64,
    /// The last of them; empty before the first.
    pub last: Vec<u8>,
}

impl Mark {
    /// A scan that begins.
    pub fn new(start: String, as_of_micros: i64) -> Mark {
        Mark {
            start,
            as_of_micros,
            keys: 0,
            last: Vec::new(),
        }
    }

    /// So many more keys were scanned, up to this one.
    pub fn pass(&mut self, keys: usize, key: &[u8]) {
        self.keys = self.keys.saturating_add(keys as u64);
        self.last.clear();
        self.last.extend_from_slice(key);
    }

    /// Says where the scan is; `total` is what an estimate of the keys said.
    pub fn scanned(&self, total: Option<u64>) -> Event {
        Event::Scanned {
            position: self.encode(),
            rows: self.keys,
            total: total.filter(|total| *total >= self.keys),
        }
    }

    fn encode(&self) -> Position {
        let (as_of, keys, start) = (self.as_of_micros, self.keys, &self.start);
        let last = hex::encode(&self.last);
        Position(format!("{SCAN}{as_of}:{keys}:{last}:{start}"))
    }

    /// The mark of a position; `None` when it is not that of a scan.
    pub fn decode(position: &Position) -> Option<Mark> {
        let mut parts = position.0.strip_prefix(SCAN)?.splitn(4, ':');
        Some(Mark {
            as_of_micros: parts.next()?.parse().ok()?,
            keys: parts.next()?.parse().ok()?,
            last: hex::decode(parts.next()?)?,
            start: parts.next()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark(position: &str) -> Option<Mark> {
        Mark::decode(&Position(position.into()))
    }

    proptest! {
        #[test]
        fn a_mark_reads_back(start in ".*", as_of_micros: i64, keys: u64, last: Vec<u8>) {
            let mark = Mark { start, as_of_micros, keys, last };
            prop_assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = mark(&text);
            let _ = mark(&format!("scan:{text}"));
        }
    }

    #[test]
    fn what_is_not_of_a_scan_is_none() {
        for text in [
            "",
            "17",
            "scan:",
            "scan:1",
            "scan:1:2",
            "scan:1:2:aa",
            "scan:1:2:a:17",
            "scan:1:2:é:17",
            "scan:1:2:xx:17",
            "scan:1:-2:aa:17",
            "scan::2:aa:17",
        ] {
            assert_eq!(mark(text), None, "{text}");
        }
    }

    #[test]
    fn an_estimate_that_was_passed_is_no_estimate() {
        let mut mark = Mark::new("7".into(), 0);
        mark.pass(1, b"a");
        mark.pass(1, b"b");
        for (estimate, total) in [(None, None), (Some(1), None), (Some(2), Some(2))] {
            let position = Position("scan:0:2:62:7".into());
            let scanned = Event::Scanned {
                position,
                rows: 2,
                total,
            };
            assert_eq!(mark.scanned(estimate), scanned);
        }
    }
}
