//! Bytes as hexadecimal digits, as PostgreSQL, CockroachDB and our own positions
//! write them. Pure.

/// Two lower-case digits for each byte.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that digits mean; `None` when they are no such digits.
pub fn decode(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = digits.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    for pair in pairs {
        let [high, low] = pair else { return None };
        bytes.push(u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn digits_mean_what_was_written(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = decode(&text);
        }
    }

    #[test]
    fn what_are_no_digits_is_none() {
        assert_eq!(decode("00Ff"), Some(vec![0, 255]));
        for text in ["0", "0g", "é", "+1", " 00"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
