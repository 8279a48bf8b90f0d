//! The id that a client may give a write, so that the same write sent again is
//! not another one. Pure; it must not say what a log does with it: the contract
//! does.

use std::time::Duration;

use sha2::{Digest, Sha256};

/// The header that an HTTP client gives it in
/// (draft-ietf-httpapi-idempotency-key-header).
pub const HEADER: &str = "idempotency-key";

/// Longest id, in bytes.
pub const MAX_BYTES: usize = 255;

/// How long the log knows a write by its id, by the database's clock.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// A text that is no id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", Self::ADVICE)]
pub struct BadWriteId;

impl BadWriteId {
    /// What to send instead.
    pub const ADVICE: &str =
        "send 1 to 255 visible ASCII characters, bare or as a string in double quotes";
}

/// See the head of this file. It means something only together with the key that
/// is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WriteId(i64);

impl WriteId {
    /// Reads an id: visible ASCII as it is, or in double quotes, where a backslash
    /// stands before a double quote and before itself (RFC 9651, section 3.3.3).
    /// Both ways of writing it are the same id.
    ///
    /// # Errors
    ///
    /// It is neither, or has no or more than [`MAX_BYTES`] bytes.
    pub fn parse(text: &[u8]) -> Result<WriteId, BadWriteId> {
        let text = text.trim_ascii();
        let unquoted;
        let id = match text.strip_prefix(b"\"") {
            None => text,
            Some(quoted) => {
                unquoted = unquote(quoted).ok_or(BadWriteId)?;
                &unquoted[..]
            }
        };
        let fits = (1..=MAX_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
        if !fits {
            return Err(BadWriteId);
        }
        Ok(WriteId(number(&[id])))
    }

    /// The id of a write after `before` others of the same request: itself for the
    /// first.
    #[must_use]
    pub fn after(self, before: u32) -> WriteId {
        match before {
            0 => self,
            // No id that a client gives has a NUL.
            _ => WriteId(number(&[
                b"\0",
                &self.0.to_be_bytes(),
                &before.to_be_bytes(),
            ])),
        }
    }

    /// As it is stored: below 0, and the same on every host and in every release.
    pub fn number(self) -> i64 {
        self.0
    }
}

/// What stands before the closing quote, which is the last byte.
fn unquote(quoted: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(quoted.len());
    let mut rest = quoted.iter();
    loop {
        match rest.next()? {
            b'"' => return rest.as_slice().is_empty().then_some(text),
            b'\\' => text.push(*rest.next().filter(|byte| matches!(byte, b'"' | b'\\'))?),
            byte => text.push(*byte),
        }
    }
}

/// 63 bits are enough: ids are compared among the writes of one key and one day.
fn number(parts: &[&[u8]]) -> i64 {
    let mut digest = Sha256::new_with_prefix(b"tidepool/write_id/");
    for part in parts {
        digest.update(part);
    }
    let digest = digest.finalize();
    let mut number = [0; 8];
    number.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(number) | i64::MIN
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> Result<i64, BadWriteId> {
        WriteId::parse(text.as_bytes()).map(WriteId::number)
    }

    #[test]
    fn an_id_is_the_same_bare_and_quoted() {
        assert_eq!(id("a-1"), id("\"a-1\""));
        assert_eq!(id("a-1"), id(" \"a-1\"\t"));
        assert_eq!(id(r#"a"\b"#), id(r#""a\"\\b""#));
        assert_ne!(id("a-1"), id("a-2"));
        assert_ne!(id("a"), id("A"));
        // Stored, and compared with what other releases have stored.
        assert_eq!(id("a-1"), Ok(-8146024328703700529));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let long = "x".repeat(MAX_BYTES);
        assert!(id(&long).is_ok() && id(&format!("\"{long}\"")).is_ok());
        for text in [
            "",
            "\"\"",
            "\"",
            "\"a",
            "\"a\"b",
            "\"a\";b=1",
            "\"a\", \"b\"",
            "\"a\\\"",
            "\"a\\b\"",
            "a b",
            "\"a b\"",
            "é",
            "\u{7f}",
            &format!("{long}x"),
            &format!("\"{long}x\""),
        ] {
            assert_eq!(id(text), Err(BadWriteId), "{text:?}");
        }
    }

    #[test]
    fn each_write_of_a_request_has_an_id_of_its_own() {
        let first = WriteId::parse(b"a").unwrap();
        assert_eq!(first.after(0), first);
        let mut all: Vec<i64> = (0..100).map(|n| first.after(n).number()).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 100);
    }

    proptest! {
        #[test]
        fn every_id_is_below_zero_and_nothing_panics(text in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(id) = WriteId::parse(&text) {
                prop_assert!(id.number() < 0 && id.after(7).number() < 0);
            }
        }
    }
}
