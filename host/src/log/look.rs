//! A statement and what it answers as text, for people who look into the log.

use crate::hex;

/// Most rows of an answer that are shown.
pub const MOST_ROWS: usize = 10_000;

/// Most bytes of a value that are kept to be shown.
const MOST_BYTES: usize = 1024;

/// What a statement answers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Table {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows, a text for each column.
    pub rows: Vec<Vec<String>>,
    /// Whether there are more than [`MOST_ROWS`].
    pub more: bool,
}

impl Table {
    /// Takes a row in, unless there are enough.
    pub(super) fn push(&mut self, row: impl FnOnce() -> Vec<String>) {
        self.more = self.rows.len() >= MOST_ROWS;
        if !self.more {
            self.rows.push(row());
        }
    }
}

/// What no value is shown as.
pub(super) const NULL: &str = "NULL";

/// Bytes as people read them: text where they are text, else `\x` and hexadecimal
/// digits.
pub(super) fn bytes(bytes: &[u8]) -> String {
    let shown = bytes.get(..MOST_BYTES).unwrap_or(bytes);
    // Of a text that was cut in the middle of a character the rest is one.
    let text = match std::str::from_utf8(shown) {
        Err(error) if shown.len() < bytes.len() && error.error_len().is_none() => {
            std::str::from_utf8(&shown[..error.valid_up_to()])
        }
        whole => whole,
    };
    match text {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("\\x{}", hex::encode(shown)),
    }
}

/// A column as a server writes it as text: bytes come as `\x` and hexadecimal
/// digits, and nothing else tells them from a text that looks so.
pub(super) fn text(text: &str) -> String {
    // Two digits a byte, and one byte more, to see that there are more.
    let most = 2 * (MOST_BYTES + 1);
    let digits = text.strip_prefix("\\x");
    match digits.and_then(|it| hex::decode(it.get(..most).unwrap_or(it))) {
        Some(decoded) => bytes(&decoded),
        None => text.chars().take(MOST_BYTES).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_where_they_can_be() {
        assert_eq!(text("\\x6869"), "hi");
        assert_eq!(text("\\xc3a9"), "é");
        for other in ["\\xff", "\\x00", "\\x1b5b", "\\x6", "\\xzz", "x6869", ""] {
            assert_eq!(text(other), other);
        }
    }

    #[test]
    fn values_are_cut() {
        let long = "é".repeat(MOST_BYTES);
        let half = &long[..MOST_BYTES];
        assert_eq!(bytes(long.as_bytes()), half);
        assert_eq!(text(&format!("\\x{}", hex::encode(long.as_bytes()))), half);
        assert_eq!(bytes(&long.as_bytes()[1..]).len(), 2 + 2 * MOST_BYTES);
        let odd = format!("x{long}");
        assert_eq!(bytes(odd.as_bytes()), &odd[..MOST_BYTES - 1]);
        assert_eq!(text(&odd).chars().count(), MOST_BYTES);
    }

    #[test]
    fn what_is_too_much_is_left_out_and_said() {
        let mut table = Table::default();
        for _ in 0..MOST_ROWS {
            table.push(|| vec![String::new()]);
        }
        assert!(!table.more && table.rows.len() == MOST_ROWS);
        table.push(|| unreachable!());
        assert!(table.more);
    }
}
