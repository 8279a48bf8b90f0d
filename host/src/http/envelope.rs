//! The JSON envelope of a value, `{"key": "...", "value": "..."}`: the answer
//! of a GET, written once for every request that hits the cache. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

const KEY: &[u8] = b"{\"key\":\"";
const VALUE: &[u8] = b"\",\"value\":\"";
const END: &[u8] = b"\"}";
const END_BASE64: &[u8] = b"\",\"encoding\":\"base64\"}";

/// Writes `{"key","value"}` for a value in UTF-8, and otherwise
/// `{"key","value","encoding":"base64"}`.
///
/// One allocation for what needs no escape, which is found out by one scan.
pub fn envelope(key: &str, value: &[u8]) -> Bytes {
    let text = std::str::from_utf8(value);
    let value_len = match text {
        Ok(text) => text.len(),
        Err(_) => base64::encoded_len(value.len(), true).unwrap_or(value.len()),
    };
    let ends = KEY.len() + VALUE.len() + END_BASE64.len();
    let mut out = Vec::with_capacity(ends + key.len() + value_len);
    out.extend_from_slice(KEY);
    push_escaped(&mut out, key.as_bytes());
    out.extend_from_slice(VALUE);
    match text {
        Ok(text) => {
            push_escaped(&mut out, text.as_bytes());
            out.extend_from_slice(END);
        }
        Err(_) => {
            let start = out.len();
            out.resize(start + value_len, 0);
            // The room is exact: encoding cannot fail.
            let written = BASE64.encode_slice(value, &mut out[start..]).unwrap_or(0);
            out.truncate(start + written);
            out.extend_from_slice(END_BASE64);
        }
    }
    Bytes::from(out)
}

/// Whether JSON (RFC 8259, section 7) wants the byte escaped.
fn needs_escape(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// Appends the inside of a JSON string.
fn push_escaped(out: &mut Vec<u8>, mut text: &[u8]) {
    // Without early exit inside a chunk the compiler uses vector instructions.
    const CHUNK: usize = 64;
    let clean = |chunk: &[u8]| {
        !chunk
            .iter()
            .fold(false, |dirty, b| dirty | needs_escape(*b))
    };
    while let Some((chunk, rest)) = text.split_at_checked(CHUNK) {
        push_chunk(out, chunk, clean(chunk));
        text = rest;
    }
    push_chunk(out, text, clean(text));
}

fn push_chunk(out: &mut Vec<u8>, chunk: &[u8], clean: bool) {
    if clean {
        out.extend_from_slice(chunk);
        return;
    }
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for byte in chunk {
        match *byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            low if low < 0x20 => {
                let digits = [HEX[usize::from(low >> 4)], HEX[usize::from(low & 15)]];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&digits);
            }
            plain => out.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn read_back(key: &str, value: &[u8]) -> Value {
        serde_json::from_slice(&envelope(key, value)).unwrap()
    }

    #[test]
    fn plain_text_is_written_as_clients_expect() {
        assert_eq!(envelope("k", b"v"), &b"{\"key\":\"k\",\"value\":\"v\"}"[..]);
        assert_eq!(envelope("k", b""), &b"{\"key\":\"k\",\"value\":\"\"}"[..]);
    }

    #[test]
    fn bytes_that_are_not_text_are_base64() {
        let written = envelope("k", b"\xff\x00");
        assert_eq!(
            written,
            &b"{\"key\":\"k\",\"value\":\"/wA=\",\"encoding\":\"base64\"}"[..]
        );
    }

    #[test]
    fn every_low_byte_and_every_place_in_a_chunk_is_escaped() {
        for byte in 0..0x80u8 {
            let text = format!("{}{}", char::from(byte), "é".repeat(40));
            assert_eq!(
                read_back(&text, text.as_bytes()),
                json!({"key": text, "value": text})
            );
        }
        for place in 0..130 {
            let mut text = "x".repeat(130);
            text.replace_range(place..=place, "\"");
            assert_eq!(
                read_back("k", text.as_bytes()),
                json!({"key": "k", "value": text})
            );
        }
    }

    proptest! {
        #[test]
        fn text_reads_back(key in any::<String>(), value in any::<String>()) {
            prop_assert_eq!(read_back(&key, value.as_bytes()), json!({"key": key, "value": value}));
        }

        #[test]
        fn bytes_read_back(value in prop::collection::vec(any::<u8>(), 0..300)) {
            let read = read_back("k", &value);
            let text = read["value"].as_str().unwrap();
            let bytes = match read.get("encoding") {
                Some(encoding) => {
                    prop_assert_eq!(encoding, "base64");
                    BASE64.decode(text).unwrap()
                }
                None => text.as_bytes().to_vec(),
            };
            prop_assert_eq!(bytes, value);
        }
    }
}
