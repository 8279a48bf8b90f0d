//! What a hydrator keeps in the cache about where it is: pure text, in and out.
//!
//! A scan gets a random mark. Without one, a cache that is flushed during a scan
//! would look the same before and after, and the end of that scan would be saved
//! over a cache that had lost the first half of it.

use super::Progress;
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
    At(Progress),
}

impl Saved {
    /// As the cache keeps it.
    pub fn encode(&self) -> Position {
        Position(match self {
            Saved::Scanning(mark) => format!("{SCAN}{mark:016x}"),
            Saved::At(progress) => {
                format!("{AT}{}:{}", progress.as_of_micros, progress.position)
            }
        })
    }

    /// How far the cache is, of what it keeps; `None`: scan. What it does not
    /// understand it does not trust.
    pub fn progress(kept: Option<&Position>) -> Option<Progress> {
        let text = kept?.0.strip_prefix(AT)?;
        let (as_of_micros, position) = text.split_once(':')?;
        Some(Progress {
            as_of_micros: as_of_micros.parse().ok()?,
            position: Position(position.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_position_is_resumed_from() {
        let at = Progress {
            position: Position("17: or so".into()),
            as_of_micros: 5,
        };
        assert_eq!(
            Saved::progress(Some(&Saved::At(at.clone()).encode())),
            Some(at)
        );
        assert_eq!(Saved::progress(Some(&Saved::Scanning(7).encode())), None);
        for strange in ["17", "at:", "at:17", "at:x:17"] {
            assert_eq!(Saved::progress(Some(&Position(strange.into()))), None);
        }
        assert_eq!(Saved::progress(None), None);
        assert_ne!(Saved::Scanning(1).encode(), Saved::Scanning(2).encode());
    }
}
