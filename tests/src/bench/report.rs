//! The table of a run: printed, and written with the machine's description.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::load::Measured;

/// One line of the table: the round with the median rate.
#[derive(Clone, Debug)]
pub struct Row {
    name: String,
    connections: usize,
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    failures: u64,
}

impl Row {
    /// Picks the median round.
    pub fn median(name: &str, connections: usize, mut rounds: Vec<Measured>) -> Row {
        let failures = rounds.iter().map(|round| round.failures).sum();
        rounds.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
        let round = rounds.swap_remove(rounds.len() / 2);
        Row {
            name: name.to_owned(),
            connections,
            rate: round.rate(),
            p50_us: round.p(0.5),
            p99_us: round.p(0.99),
            failures,
        }
    }
}

/// What the swap run measured.
#[derive(Clone, Debug)]
pub struct Swap {
    /// Swaps made.
    pub swaps: usize,
    /// Requests that failed or got a mixed-up answer.
    pub failures: u64,
    /// Requests during the swaps.
    pub requests: usize,
    /// p99 before the swaps.
    pub steady_p99_us: f64,
    /// p99 while a swap follows the other.
    pub swapping_p99_us: f64,
    /// Requests per second before.
    pub steady_rate: f64,
    /// Requests per second during.
    pub swapping_rate: f64,
    /// A swap, upload to live.
    pub swap_p50_ms: f64,
    /// The same.
    pub swap_p99_ms: f64,
}

/// Prints the table and writes `docs/performance.json`.
pub fn write(rows: &[Row], syncs: f64, swap: &Swap) -> io::Result<()> {
    let rate = |name: &str, connections| {
        rows.iter()
            .find(|row| row.name == name && row.connections == connections)
            .map_or(f64::NAN, |row| row.rate)
    };
    let (bare, native, component) = (
        "bare hyper, a constant",
        "GET hit, native function",
        "GET hit, component",
    );
    println!(
        "{:<26} {:>5} {:>10} {:>8} {:>8} {:>9}",
        "what", "conns", "requests/s", "p50 us", "p99 us", "of bare"
    );
    for row in rows {
        let of_bare = row.rate / rate(bare, row.connections);
        println!(
            "{:<26} {:>5} {:>10.0} {:>8.0} {:>8.0} {:>9.2}{}",
            row.name,
            row.connections,
            row.rate,
            row.p50_us,
            row.p99_us,
            of_bare,
            if row.failures > 0 {
                format!("  {} FAILED", row.failures)
            } else {
                String::new()
            }
        );
    }
    let put = rate("PUT, on disk", 64);
    let ratios = [
        (
            "component / native, GET hit, 64 connections",
            rate(component, 64) / rate(native, 64),
            0.90,
        ),
        (
            "component / native, GET hit, 1 connection",
            rate(component, 1) / rate(native, 1),
            0.90,
        ),
        (
            "GET hit / bare hyper, 64 connections",
            rate(component, 64) / rate(bare, 64),
            0.60,
        ),
        (
            "GET hit / bare hyper, 1 connection",
            rate(component, 1) / rate(bare, 1),
            0.60,
        ),
        ("PUT/s at 64 connections / 5,000", put / 5000.0, 1.0),
    ];
    println!();
    for (name, ratio, bound) in ratios {
        println!(
            "{name:<46} {ratio:>6.2}  (to reach: {bound:.2}){}",
            if ratio < bound { "  NOT REACHED" } else { "" }
        );
    }
    println!(
        "\nthe disk alone: {syncs:.0} synced appends/s; PUT at 64 connections: {:.1} per such sync",
        put / syncs
    );
    println!(
        "{} swaps, {} requests from 64 connections meanwhile: {} failed; p99 {:.0} us steady, {:.0} us while swapping; \
         {:.0} and {:.0} requests/s; a swap takes {:.1} ms (p99 {:.1} ms)",
        swap.swaps,
        swap.requests,
        swap.failures,
        swap.steady_p99_us,
        swap.swapping_p99_us,
        swap.steady_rate,
        swap.swapping_rate,
        swap.swap_p50_ms,
        swap.swap_p99_ms
    );
    let document = json!({
        "machine": machine(),
        "rows": rows.iter().map(|row| json!({
            "what": row.name,
            "connections": row.connections,
            "requests_per_second": row.rate.round(),
            "p50_us": row.p50_us,
            "p99_us": row.p99_us,
            "failures": row.failures,
        })).collect::<Vec<_>>(),
        "ratios": ratios.iter().map(|(name, ratio, bound)| json!({
            "what": name, "ratio": (ratio * 1000.0).round() / 1000.0, "to_reach": bound,
        })).collect::<Vec<_>>(),
        "synced_appends_per_second": syncs.round(),
        "swap": {
            "swaps": swap.swaps,
            "requests": swap.requests,
            "failures": swap.failures,
            "steady_p99_us": swap.steady_p99_us,
            "swapping_p99_us": swap.swapping_p99_us,
            "steady_requests_per_second": swap.steady_rate.round(),
            "swapping_requests_per_second": swap.swapping_rate.round(),
            "swap_p50_ms": swap.swap_p50_ms,
            "swap_p99_ms": swap.swap_p99_ms,
        },
    });
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.json");
    fs::create_dir_all(path.parent().unwrap_or(&path))?;
    fs::write(&path, format!("{document:#}\n"))?;
    println!("written to docs/performance.json");
    Ok(())
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
