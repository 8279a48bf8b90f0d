//! An entry as Redis keeps it: pure bytes, in and out. It must not panic on any
//! bytes, since whoever can write to that Redis chooses them.
//!
//! One string value with a head of readable text, so that a script can compare
//! versions as text, exactly (numbers in a script are doubles), and that a person
//! can read one with `redis-cli`:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the format, `1` |
//! | 1 | the kind: `V` a value, `D` a tombstone, `N` "the log has nothing", `L` a lease |
//! | 19 | the version in decimal digits, with zeros in front; zeros for `N` |
//! | 19 | `V`: when the value stops existing (microseconds), zeros for never |
//! | 3 | `V`: bytes of the content type in digits; `---` when there is none |
//! | | `V`: the content type, then the bytes of the value |
//!
//! A lease is `1L` and its token in 16 hexadecimal digits. It stands in the place
//! of the entry that it is for: whatever replaces or removes it revokes it.

use std::sync::Arc;

use bytes::Bytes;

use crate::cache::Held;
use crate::model::{MAX_CONTENT_TYPE_BYTES, State, Value, Version};

/// Digits of a version: as many as the largest has.
pub(super) const VERSION_DIGITS: usize = 19;

/// Bytes of an entry before its value, at most.
pub(super) const HEAD_BYTES: usize = TYPE_LENGTH_END + MAX_CONTENT_TYPE_BYTES;

const FORMAT: u8 = b'1';
const NO_CONTENT_TYPE: &[u8] = b"---";
/// Format and kind.
const KIND_END: usize = 2;
const VERSION_END: usize = KIND_END + VERSION_DIGITS;
const EXPIRES_END: usize = VERSION_END + VERSION_DIGITS;
const TYPE_LENGTH_END: usize = EXPIRES_END + NO_CONTENT_TYPE.len();

/// The digits of a version. Versions are positive; others count as 0.
pub(super) fn digits(number: i64) -> String {
    format!("{:0VERSION_DIGITS$}", number.max(0))
}

/// A lease as it stands in the place of its entry.
pub(super) fn lease(token: u64) -> String {
    format!("1L{token:016x}")
}

/// A state as it is kept.
pub(super) fn encode(state: &State) -> Vec<u8> {
    match state {
        State::Live { version, value } => {
            let content_type = value.content_type.as_deref();
            let mut out = Vec::with_capacity(
                TYPE_LENGTH_END + content_type.map_or(0, str::len) + value.bytes.len(),
            );
            head(&mut out, b'V', version.0);
            out.extend_from_slice(digits(value.expires_at.unwrap_or(0)).as_bytes());
            match content_type.filter(|text| text.len() <= MAX_CONTENT_TYPE_BYTES) {
                Some(text) => {
                    out.extend_from_slice(format!("{:03}", text.len()).as_bytes());
                    out.extend_from_slice(text.as_bytes());
                }
                None => out.extend_from_slice(NO_CONTENT_TYPE),
            }
            out.extend_from_slice(&value.bytes);
            out
        }
        State::Deleted { version } => {
            let mut out = Vec::with_capacity(VERSION_END);
            head(&mut out, b'D', version.0);
            out
        }
        State::Absent => {
            let mut out = Vec::with_capacity(VERSION_END);
            head(&mut out, b'N', 0);
            out
        }
    }
}

fn head(out: &mut Vec<u8>, kind: u8, version: i64) {
    out.extend_from_slice(&[FORMAT, kind]);
    out.extend_from_slice(digits(version).as_bytes());
}

/// What bytes mean; `None` when they are no entry of this format.
pub(super) fn decode(bytes: &Bytes) -> Option<Held> {
    let (&format, &kind) = (bytes.first()?, bytes.get(1)?);
    if format != FORMAT {
        return None;
    }
    if kind == b'L' {
        return Some(Held::Lease);
    }
    let version = Version(number(bytes.get(KIND_END..VERSION_END)?)?);
    match kind {
        b'V' => {
            let expires_at = number(bytes.get(VERSION_END..EXPIRES_END)?)?;
            let length = bytes.get(EXPIRES_END..TYPE_LENGTH_END)?;
            let (content_type, start) = if length == NO_CONTENT_TYPE {
                (None, TYPE_LENGTH_END)
            } else {
                let end = TYPE_LENGTH_END + usize::try_from(number(length)?).ok()?;
                let text = std::str::from_utf8(bytes.get(TYPE_LENGTH_END..end)?).ok()?;
                (Some(Arc::from(text)), end)
            };
            let value = Value {
                bytes: bytes.slice(start..),
                content_type,
                expires_at: (expires_at > 0).then_some(expires_at),
            };
            Some(Held::State(State::Live { version, value }))
        }
        b'D' if bytes.len() == VERSION_END => Some(Held::State(State::Deleted { version })),
        b'N' if bytes.len() == VERSION_END => Some(Held::State(State::Absent)),
        _ => None,
    }
}

/// Digits and nothing else, as a number.
fn number(digits: &[u8]) -> Option<i64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn states() -> impl Strategy<Value = State> {
        let version = (1..=i64::MAX).prop_map(Version);
        let value = (
            prop::collection::vec(any::<u8>(), 0..300),
            prop::option::of("[ -~é]{0,100}"),
            prop::option::of(1..=i64::MAX),
        );
        prop_oneof![
            Just(State::Absent),
            version
                .clone()
                .prop_map(|version| State::Deleted { version }),
            (version, value).prop_map(|(version, (bytes, content_type, expires_at))| {
                State::Live {
                    version,
                    value: Value {
                        bytes: bytes.into(),
                        content_type: content_type.map(Arc::from),
                        expires_at,
                    },
                }
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_state_reads_back_as_it_was_written(state in states()) {
            let bytes = Bytes::from(encode(&state));
            prop_assert_eq!(decode(&bytes), Some(Held::State(state)));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&bytes.into());
        }

        #[test]
        fn no_damage_makes_it_panic(state in states(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut bytes = encode(&state);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(&bytes.clone().into());
            bytes.truncate(cut.index(bytes.len()));
            let _ = decode(&bytes.into());
        }

        #[test]
        fn versions_compare_as_text_as_they_do_as_numbers(a in 0..=i64::MAX, b in 0..=i64::MAX) {
            prop_assert_eq!(digits(a).cmp(&digits(b)), a.cmp(&b));
            prop_assert_eq!(digits(a).len(), VERSION_DIGITS);
        }
    }

    #[test]
    fn what_is_no_entry_is_none() {
        for text in [
            "",
            "1",
            "1V",
            "2D0000000000000000001",
            "1X0000000000000000001",
            "1D000000000000000000",
            "1D00000000000000000011",
            "1D+000000000000000001",
            "1D9999999999999999999",
            "1V00000000000000000010000000000000000000999x",
            "1V000000000000000000100000000000000000000+1x",
        ] {
            assert_eq!(decode(&Bytes::from_static(text.as_bytes())), None, "{text}");
        }
        assert_eq!(decode(&lease(7).into()), Some(Held::Lease));
        assert_eq!(lease(u64::MAX).len(), lease(0).len());
    }
}
