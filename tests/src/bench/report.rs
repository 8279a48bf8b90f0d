//! What a run has measured: printed, written with the machine's description to
//! `docs/performance.json`, and from there into the tables of
//! `docs/performance.md`. A part that was not run stays as it was.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::Result;
use crate::load::Measured;

/// One part of the benchmark, with all that it measured.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name in the documents.
    pub name: &'static str,
    /// Requests per second and latencies.
    pub rows: Vec<Row>,
    /// What is to be reached.
    pub bounds: Vec<Bound>,
    /// What explains it.
    pub facts: Vec<Fact>,
}

impl Part {
    /// The rate of a row.
    pub fn rate(&self, what: &str, connections: usize) -> f64 {
        let row = self.row(what, connections);
        row.map_or(f64::NAN, |row| row.rate)
    }

    fn row(&self, what: &str, connections: usize) -> Option<&Row> {
        let wanted = |row: &&Row| row.what == what && row.connections == connections;
        self.rows.iter().find(wanted)
    }

    /// Adds the bound of one row's rate over another's: the median of what it was in
    /// each round. The two were measured right after each other in it, so a machine
    /// that others slow down for a while slows down both.
    pub fn ratio(&mut self, above: &str, below: &str, connections: usize, least: f64) {
        let s = if connections == 1 { "" } else { "s" };
        let rows = (self.row(above, connections), self.row(below, connections));
        self.bounds.push(Bound {
            what: format!("{above} / {below}, {connections} connection{s}"),
            measured: match rows {
                (Some(above), Some(below)) => above.over(below),
                _ => f64::NAN,
            },
            reach: Reach::AtLeast(least),
        });
    }

    /// Adds a fact.
    pub fn fact(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        let what = what.into();
        self.facts.push(Fact { what, value, unit });
    }
}

/// The round with the median rate.
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    connections: usize,
    rate: f64,
    /// Of every round, in their order.
    rates: Vec<f64>,
    p50_us: f64,
    p99_us: f64,
    failures: u64,
}

impl Row {
    /// Picks the median round.
    pub fn median(what: &str, connections: usize, mut rounds: Vec<Measured>) -> Row {
        let failures = rounds.iter().map(|round| round.failures).sum();
        let rates = rounds.iter().map(Measured::rate).collect();
        rounds.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
        let round = rounds.swap_remove(rounds.len() / 2);
        Row {
            what: what.to_owned(),
            connections,
            rate: round.rate(),
            rates,
            p50_us: round.p(0.5),
            p99_us: round.p(0.99),
            failures,
        }
    }

    /// The median of the ratios of rounds, with a row that took turns with this one.
    fn over(&self, other: &Row) -> f64 {
        let both = self.rates.iter().zip(&other.rates);
        let mut ratios: Vec<f64> = both.map(|(own, others)| own / others).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Something to be reached.
#[derive(Clone, Debug)]
pub struct Bound {
    /// What it is.
    pub what: String,
    /// How it came out.
    pub measured: f64,
    /// What it should be.
    pub reach: Reach,
}

/// Where a bound is.
#[derive(Clone, Copy, Debug)]
pub enum Reach {
    /// It or more.
    AtLeast(f64),
    /// Less.
    Under(f64),
}

impl Bound {
    fn reached(&self) -> bool {
        match self.reach {
            Reach::AtLeast(bound) => self.measured >= bound,
            Reach::Under(bound) => self.measured < bound,
        }
    }

    fn json(&self) -> Value {
        let (word, bound) = match self.reach {
            Reach::AtLeast(bound) => ("at_least", bound),
            Reach::Under(bound) => ("under", bound),
        };
        json!({
            "what": self.what,
            "measured": rounded(self.measured),
            word: bound,
            "reached": self.reached(),
        })
    }
}

/// A number beside the bounds.
#[derive(Clone, Debug)]
pub struct Fact {
    what: String,
    value: f64,
    unit: &'static str,
}

impl Part {
    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "what": row.what,
                "connections": row.connections,
                "per_second": row.rate.round(),
                "p50_us": row.p50_us,
                "p99_us": row.p99_us,
                "failures": row.failures,
            })
        });
        let facts = self.facts.iter().map(|fact| {
            json!({
                "what": fact.what, "value": rounded(fact.value), "unit": fact.unit,
            })
        });
        json!({
            "machine": machine(),
            "rows": rows.collect::<Vec<_>>(),
            "bounds": self.bounds.iter().map(Bound::json).collect::<Vec<_>>(),
            "facts": facts.collect::<Vec<_>>(),
        })
    }
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// Prints the tables of a part.
pub fn print(part: &Part) {
    println!("\n{}", tables(&part.json()));
}

/// Writes parts into the documents.
pub fn write(parts: &[Part]) -> Result<()> {
    let json = docs("performance.json");
    let text = fs::read_to_string(&json).unwrap_or_else(|_| "{}".to_owned());
    let mut document: Value = serde_json::from_str(&text)?;
    for part in parts {
        document[part.name] = part.json();
    }
    fs::write(&json, format!("{document:#}\n"))?;
    let page = docs("performance.md");
    fs::write(&page, filled(&fs::read_to_string(&page)?, &document))?;
    println!("written to docs/performance.json and the tables of docs/performance.md");
    Ok(())
}

fn docs(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name)
}

/// The page, with the tables of the document in the place of those it has.
fn filled(page: &str, document: &Value) -> String {
    const BEGIN: &str = "<!-- tables of ";
    const END: &str = "<!-- end of tables -->";
    let mut out = String::new();
    let mut within = false;
    for line in page.lines() {
        within &= line != END;
        if !within {
            out += line;
            out.push('\n');
        }
        if let Some(name) = line.strip_prefix(BEGIN) {
            let name = name.split(',').next().unwrap_or_default();
            let tables = match document.get(name) {
                Some(part) => tables(part),
                None => "Not measured yet: run `make bench`.\n".to_owned(),
            };
            let _ = write!(out, "\n{tables}\n");
            within = true;
        }
    }
    out
}

/// A part of the document as tables in Markdown.
fn tables(part: &Value) -> String {
    let mut out = String::new();
    let list = |name| part[name].as_array().map_or(&[][..], |list| list);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();

    let mut rows =
        vec![["what", "connections", "per second", "p50 µs", "p99 µs"].map(str::to_owned)];
    rows.extend(list("rows").iter().map(|row| {
        let failed = match row["failures"].as_u64() {
            Some(0) | None => String::new(),
            Some(failures) => format!(" **({failures} FAILED)**"),
        };
        [
            text(&row["what"]) + &failed,
            row["connections"].to_string(),
            number(&row["per_second"]),
            number(&row["p50_us"]),
            number(&row["p99_us"]),
        ]
    }));
    table(&mut out, &rows);

    let mut bounds = vec![["bound", "measured", "to reach", ""].map(str::to_owned)];
    bounds.extend(list("bounds").iter().map(|bound| {
        let to_reach = match bound.get("at_least") {
            Some(least) => number(least),
            None => format!("under {}", number(&bound["under"])),
        };
        let reached = match bound["reached"].as_bool() {
            Some(true) => "reached",
            _ => "**not reached**",
        };
        let measured = number(&bound["measured"]);
        [text(&bound["what"]), measured, to_reach, reached.to_owned()]
    }));
    out.push('\n');
    table(&mut out, &bounds);

    let mut facts = vec![["beside it", "measured", ""].map(str::to_owned)];
    facts.extend(list("facts").iter().map(|fact| {
        [
            text(&fact["what"]),
            number(&fact["value"]),
            text(&fact["unit"]),
        ]
    }));
    out.push('\n');
    table(&mut out, &facts);

    let machine = &part["machine"];
    let _ = write!(
        out,
        "\nOn {} cores of {}, {} of memory, Linux {}.\n",
        machine["cores"],
        text(&machine["processor"]),
        text(&machine["memory"]),
        text(&machine["kernel"]),
    );
    out
}

/// A table, aligned to be read as text too. The first and the last column are
/// words, those between are numbers; a table of five columns has no last one.
fn table<const N: usize>(out: &mut String, rows: &[[String; N]]) {
    let mut widths = [3; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let number = |at: usize| at > 0 && (at + 1 < N || N == 5);
    for (index, row) in rows.iter().enumerate() {
        for (at, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let _ = match number(at) {
                true => write!(out, "| {cell:>width$} "),
                false => write!(out, "| {cell:<width$} "),
            };
        }
        *out += "|\n";
        if index == 0 {
            for (at, &width) in widths.iter().enumerate() {
                let dashes = "-".repeat(width);
                let _ = match number(at) {
                    true => write!(out, "|{dashes}-:"),
                    false => write!(out, "|{dashes}--"),
                };
            }
            *out += "|\n";
        }
    }
}

/// A number as people read it: thousands apart, digits behind the point only
/// where they matter.
fn number(value: &Value) -> String {
    let Some(value) = value.as_f64() else {
        return "-".to_owned();
    };
    if value.abs() < 100.0 && value.fract() != 0.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && digit.is_ascii_digit() && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// What the run was on. No names of machines.
fn machine() -> Value {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .map(str::to_owned);
        line.and_then(|line| {
            line.split_once(':')
                .map(|(_, value)| value.trim().to_owned())
        })
        .unwrap_or_default()
    };
    json!({
        "processor": field("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": field("/proc/meminfo", "MemTotal"),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_the_page_are_those_of_the_document() {
        let document = fs::read_to_string(docs("performance.json")).unwrap();
        let document = serde_json::from_str(&document).unwrap();
        let page = fs::read_to_string(docs("performance.md")).unwrap();
        assert_eq!(page, filled(&page, &document));
    }

    #[test]
    fn numbers_are_for_people() {
        for (value, text) in [
            (0.793, "0.79"),
            (1.0, "1"),
            (99.5, "99.50"),
            (123.4, "123"),
            (1234.0, "1,234"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(number(&json!(value)), text);
        }
        // No rate at all is null in JSON.
        assert_eq!(number(&json!(f64::NAN)), "-");
    }
}
