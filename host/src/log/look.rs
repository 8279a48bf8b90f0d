//! A statement and what it answers as text, for people who look into the log.
//! Nothing here changes anything.

use crate::hex;

/// Most rows of an answer that are shown.
pub const MOST_ROWS: usize = 10_000;

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
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("\\x{}", hex::encode(bytes)),
    }
}

/// A column as a server writes it as text: bytes come as `\x` and hexadecimal
/// digits, and nothing else tells them from a text that looks so.
pub(super) fn text(text: &str) -> String {
    match text.strip_prefix("\\x").and_then(hex::decode) {
        Some(decoded) => bytes(&decoded),
        None => text.to_owned(),
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
