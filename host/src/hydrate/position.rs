//! What a hydrator keeps in the cache about where it is: pure text, in and out.
//!
//! A scan gets a random mark. Without one, a cache that is flushed at the start of a
//! scan would look the same before and after, and what the scan saves next would be
//! saved over a cache that had lost what led up to it.

use super::Progress;
use crate::feed::Position;

/// The prefix of a mark, and of a position.
const SCAN: &str = "scan:";
const AT: &str = "at:";

/// Where a hydrator is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Saved {
    /// Scanning.
    Scanning {
        /// Which scan.
        mark: u64,
        /// Where the feed goes on with it; `None`: at the beginning.
        position: Option<Position>,
    },
    /// Everything up to here was applied.
    At(Progress),
}

impl Saved {
    /// As the cache keeps it.
    pub fn encode(&self) -> Position {
        Position(match self {
            Saved::Scanning {
                mark,
                position: None,
            } => format!("{SCAN}{mark:016x}"),
            Saved::Scanning {
                mark,
                position: Some(position),
            } => format!("{SCAN}{mark:016x}:{position}"),
            Saved::At(progress) => {
                format!("{AT}{}:{}", progress.as_of_micros, progress.position)
            }
        })
    }

    /// What the cache keeps; `None`: nothing, or nothing that is understood and so can
    /// be trusted.
    pub fn decode(kept: &Position) -> Option<Saved> {
        if let Some(text) = kept.0.strip_prefix(SCAN) {
            let (mark, position) = match text.split_once(':') {
                Some((mark, position)) => (mark, Some(Position(position.into()))),
                None => (text, None),
            };
            let mark = u64::from_str_radix(mark, 16).ok()?;
            return Some(Saved::Scanning { mark, position });
        }
        let (as_of_micros, position) = kept.0.strip_prefix(AT)?.split_once(':')?;
        Some(Saved::At(Progress {
            as_of_micros: as_of_micros.parse().ok()?,
            position: Position(position.into()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_reads_back() {
        let position = || Position("17: or so".into());
        for saved in [
            Saved::At(Progress {
                position: position(),
                as_of_micros: 5,
            }),
            Saved::Scanning {
                mark: 7,
                position: None,
            },
            Saved::Scanning {
                mark: u64::MAX,
                position: Some(position()),
            },
        ] {
            assert_eq!(Saved::decode(&saved.encode()), Some(saved));
        }
    }

    #[test]
    fn what_is_not_understood_is_not_trusted() {
        for strange in [
            "",
            "17",
            "at:",
            "at:17",
            "at:x:17",
            "scan:",
            "scan:x",
            "scan:x:17",
        ] {
            assert_eq!(Saved::decode(&Position(strange.into())), None, "{strange}");
        }
    }
}
