//! What a hydrator keeps in the cache about where it is: pure text, in and out.
//!
//! A scan gets a random mark. Without one, a cache that is flushed during a scan
//! would look the same before and after, and the end of that scan would be saved
//! over a cache that had lost the first half of it.

use crate::feed::Position;

/// The prefix of a mark, and of a position.
const SCAN: &str = "scan:";
const AT: &str = "at:";

/// Where a hydrator is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Saved {
    /// Scanning; nothing to resume from.
    Scanning(u64),
    /// Everything up to here was applied.
    At(Position),
}

impl Saved {
    /// As the cache keeps it.
    pub fn encode(&self) -> Position {
        Position(match self {
            Saved::Scanning(mark) => format!("{SCAN}{mark:016x}"),
            Saved::At(position) => format!("{AT}{position}"),
        })
    }

    /// Where to resume, of what the cache keeps; `None`: scan. What it does not
    /// understand it does not trust.
    pub fn resume(kept: Option<&Position>) -> Option<Position> {
        let text = kept?.0.strip_prefix(AT)?;
        Some(Position(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_position_is_resumed_from() {
        let at = Position("at:17 or so".into());
        assert_eq!(
            Saved::resume(Some(&Saved::At(at.clone()).encode())),
            Some(at)
        );
        assert_eq!(Saved::resume(Some(&Saved::Scanning(7).encode())), None);
        assert_eq!(Saved::resume(Some(&Position("17".into()))), None);
        assert_eq!(Saved::resume(None), None);
        assert_ne!(Saved::Scanning(1).encode(), Saved::Scanning(2).encode());
    }
}
