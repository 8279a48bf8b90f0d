//! Positions of a changefeed: hybrid logical timestamps. Pure text, in and out.
//!
//! One is nanoseconds of wall clock, a dot, and ten digits of a logical clock.
//! It is kept and compared as two integers: as a float it would lose its end.

use std::fmt;

/// Digits of the logical clock.
const LOGICAL_DIGITS: usize = 10;

/// A moment of the database. Moments compare as the database orders them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Hlc {
    /// Nanoseconds since the Unix epoch.
    wall: i64,
    /// Orders what happened within one nanosecond.
    logical: i32,
}

impl Hlc {
    /// The moment that a text means: `1701102296662969433.0000000000`, without
    /// a logical clock, or with the `?` that old servers append. `None` when it
    /// means none, or one at or before the Unix epoch.
    pub fn parse(text: &str) -> Option<Hlc> {
        let text = text.strip_suffix('?').unwrap_or(text);
        let (wall, logical) = match text.split_once('.') {
            Some((wall, logical)) if logical.len() == LOGICAL_DIGITS => (wall, logical),
            Some(_) => return None,
            None => (text, "0"),
        };
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(wall) || !digits(logical) {
            return None;
        }
        let wall = wall.parse().ok().filter(|wall| *wall > 0)?;
        let logical = logical.parse().ok()?;
        Some(Hlc { wall, logical })
    }

    /// Its wall clock in microseconds since the Unix epoch, rounded down.
    pub fn micros(self) -> i64 {
        self.wall / 1000
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:0width$}",
            self.wall,
            self.logical,
            width = LOGICAL_DIGITS
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_reads_back_as_it_was_written(wall in 1..=i64::MAX, logical in 0..=i32::MAX) {
            let hlc = Hlc { wall, logical };
            prop_assert_eq!(Hlc::parse(&hlc.to_string()), Some(hlc));
            prop_assert_eq!(Hlc::parse(&format!("{hlc}?")), Some(hlc));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*|[0-9.?-]{0,40}") {
            let _ = Hlc::parse(&text);
        }

        #[test]
        fn what_is_accepted_is_digits_and_can_stand_in_a_statement(text in "[0-9.?' -]{0,32}") {
            if let Some(hlc) = Hlc::parse(&text) {
                prop_assert!(hlc.to_string().bytes().all(|b| b.is_ascii_digit() || b == b'.'));
            }
        }
    }

    #[test]
    fn neighbours_compare_as_integers() {
        let text = [
            "1795431499455657141.0000000000",
            "1795431499455657141.0000000001",
            "1795431499455657141.2147483647",
            "1795431499455657142.0000000000",
        ];
        let moments: Vec<_> = text.iter().map(|text| Hlc::parse(text).unwrap()).collect();
        assert!(moments.is_sorted_by(|a, b| a < b));
        assert_eq!(moments[0].micros(), 1_795_431_499_455_657);
    }

    #[test]
    fn only_a_position_is_one() {
        assert_eq!(
            Hlc::parse("17").map(|hlc| hlc.to_string()),
            Some("17.0000000000".into())
        );
        for text in [
            "",
            "0",
            "-1",
            "+1",
            "1.",
            ".0000000000",
            "1.5",
            "1.000000000",
            "1.00000000000",
            "nonsense",
            "1.2147483648",
            "1.0000000000??",
            " 1",
            "1e3",
            "9223372036854775808",
            "1.-000000001",
            "?",
        ] {
            assert_eq!(Hlc::parse(text), None, "{text:?}");
        }
    }
}
