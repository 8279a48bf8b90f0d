//! What goes to the terminal: whole texts, tables, and errors of one line.
//! Texts that came over the network lose their control characters here.

use std::io::{ErrorKind, Write};

use super::CliError;

/// Writes a text and a line end to standard output. A reader that has gone
/// (`tidepool handlers | head`) is no error.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    print_on(text).map(drop)
}

/// As [`print`]; whether the reader is still there.
pub(super) fn print_on(text: &str) -> Result<bool, CliError> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::Failed(format!(
            "cannot write to standard output: {error}"
        ))),
    }
}

/// Writes `error: ...` in one line to standard error.
pub(super) fn error(text: &str) {
    line(&format!("error: {}", one_line(text)));
}

/// Writes one line to standard error.
pub(super) fn line(text: &str) {
    // There is nobody left to tell when this fails.
    let _ = writeln!(std::io::stderr(), "{}", one_line(text));
}

/// The text in one line, without control characters.
pub(super) fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines
        .join("; ")
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Rows as columns, two spaces apart; the last column is not padded.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A size for people, with one decimal.
pub(super) fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for larger in ["KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ => format!("{value:.1} {unit}"),
    }
}

/// A digest for people: enough to tell revisions apart.
pub(super) fn digest(digest: &str) -> String {
    one_line(digest)
        .strip_prefix("sha256:")
        .unwrap_or(digest)
        .chars()
        .take(12)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_straight_columns() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(&[
            row(["A", "LONG", "C"]),
            row(["aaa", "é", ""]),
            row(["a", "", "c"]),
        ]);
        assert_eq!(text, "A    LONG  C\naaa  é\na          c");
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(one_line(" a\n\n  b\u{1b}[2Jc\t"), "a; b [2Jc");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(13 * 1024 * 1024 + 512 * 1024), "13.5 MiB");
    }
}
