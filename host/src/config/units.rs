//! How settings are written as text: sizes ("1 MiB"), durations ("250ms"),
//! regions ("us-east-1=127.0.0.1:8080") and secrets. Pure.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A region: its name and the address of its data plane.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegionSetting {
    /// Its name, for example `us-east-1`.
    pub name: String,
    /// Where its data plane listens.
    pub listen: SocketAddr,
}

impl TryFrom<String> for RegionSetting {
    type Error = String;

    fn try_from(text: String) -> Result<RegionSetting, String> {
        let (name, listen) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` is not a region; write name=address:port"))?;
        let listen = listen.trim().parse().map_err(|_| {
            format!("`{text}` is not a region: `{listen}` is not address:port, for example 127.0.0.1:8080")
        })?;
        Ok(RegionSetting {
            name: name.trim().to_owned(),
            listen,
        })
    }
}

impl From<RegionSetting> for String {
    fn from(region: RegionSetting) -> String {
        region.to_string()
    }
}

impl fmt::Display for RegionSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.listen)
    }
}

/// What stands in place of a secret wherever settings are shown.
const MASK: &str = "********";

/// A text that is never shown: neither `Debug` nor serialization has it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself. Compare it in constant time; never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

/// Binary units, largest first, as they are written.
const UNITS: [(&str, usize); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Sizes: a number of bytes, or text with a binary unit.
pub(super) mod size {
    use std::fmt;

    use serde::{Deserializer, Serializer, de};

    use super::UNITS;

    /// Writes with the largest unit that divides the size.
    pub(crate) fn serialize<S: Serializer>(
        bytes: &usize,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&text(*bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<usize, D::Error> {
        deserializer.deserialize_any(Visitor)
    }

    /// The size with the largest unit that divides it.
    pub(crate) fn text(bytes: usize) -> String {
        let (unit, factor) = UNITS
            .into_iter()
            .find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor))
            .unwrap_or(("B", 1));
        format!("{} {unit}", bytes / factor)
    }

    /// The size that a text means.
    pub(super) fn parse(text: &str) -> Option<usize> {
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start();
        let factor = match unit {
            "" => 1,
            _ => {
                UNITS
                    .into_iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case(unit))?
                    .1
            }
        };
        number.parse::<usize>().ok()?.checked_mul(factor)
    }

    struct Visitor;

    impl de::Visitor<'_> for Visitor {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(
                "a size: bytes, or a whole number with B, KiB, MiB or GiB such as \"1 MiB\"",
            )
        }

        fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<usize, E> {
            usize::try_from(bytes)
                .map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
        }

        fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<usize, E> {
            usize::try_from(bytes)
                .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(bytes), &self))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<usize, E> {
            parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
}

/// Durations: text such as "250ms", "5s", "1m 30s".
pub(super) mod duration {
    use std::fmt;
    use std::time::Duration;

    use serde::{Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(
        time: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        deserializer.deserialize_any(Visitor)
    }

    struct Visitor;

    impl de::Visitor<'_> for Visitor {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration with its unit, such as \"250ms\" or \"5s\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            humantime::parse_duration(text)
                .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_size_reads_back_as_it_was_written(bytes in any::<u32>()) {
            prop_assert_eq!(size::parse(&size::text(bytes as usize)), Some(bytes as usize));
        }

        #[test]
        fn no_text_makes_the_size_parser_panic(text in ".*") {
            let _ = size::parse(&text);
        }
    }

    #[test]
    fn sizes_are_written_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("1 B", 1),
            ("1 MiB", 1 << 20),
            ("64KiB", 64 << 10),
            (" 2 gib ", 2 << 30),
        ] {
            assert_eq!(size::parse(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "1.5 MiB",
            "-1",
            "1 MB",
            "1 MiB MiB",
            "99999999999 GiB",
        ] {
            assert_eq!(size::parse(text), None, "{text}");
        }
        assert_eq!(size::text(1 << 20), "1 MiB");
        assert_eq!(size::text(1025), "1025 B");
        assert_eq!(size::text(0), "0 B");
    }

    #[test]
    fn a_secret_shows_itself_to_nobody() {
        let secret = Some(Secret::new("correct horse battery"));
        assert!(!format!("{secret:?}").contains("horse"));
        assert!(!serde_json::to_string(&secret).unwrap().contains("horse"));
    }
}
