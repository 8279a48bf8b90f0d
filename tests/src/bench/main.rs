//! The benchmark: everything in one run on one machine, so that what counts
//! is the ratios. `make bench` runs it; it prints its tables and writes them,
//! with the machine's description, to `docs/`.
//!
//! `tidepool-bench` measures both parts, `--embedded` and `--servers` one of
//! them. `--full` fills a cache with a million keys instead of 200,000.
//! `--quick` measures next to nothing and writes nothing: it shows that
//! everything works. For a profiler, `--serve` only starts the servers of the
//! embedded part, or of the other with `--servers`, and says where they are; and
//! `--calls` only calls the component.

mod beside;
mod deploys;
mod disk;
mod embedded;
mod load;
mod report;
mod requests;
mod servers;

use std::error::Error;
use std::process::{ExitCode, Termination as _};
use std::time::Duration;

use load::Measured;
use report::Row;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Rounds in which variants take turns; the tables have the median round, and
    /// the median of the rounds' ratios.
    rounds: usize,
    /// How long each variant runs in a round.
    turn: Duration,
    /// Swaps while 64 connections read, of components that were compiled before; and
    /// a tenth as many that compile.
    swaps: usize,
    /// Rollbacks, and deployments to hosts on servers.
    deploys: usize,
    /// Different components that are deployed one after another.
    components: usize,
    /// Keys that a new cache is filled with.
    fill_keys: u64,
    /// Fills.
    fills: usize,
    /// Writes that are waited for in all caches.
    writes: usize,
}

const USUAL: Sizes = Sizes {
    rounds: 15,
    turn: Duration::from_secs(1),
    swaps: 1_000,
    deploys: 200,
    components: 500,
    fill_keys: 200_000,
    fills: 3,
    writes: 2_000,
};

const QUICK: Sizes = Sizes {
    rounds: 1,
    turn: Duration::from_millis(200),
    swaps: 20,
    deploys: 4,
    components: 20,
    fill_keys: 5_000,
    fills: 1,
    writes: 40,
};

/// `--full`.
const FULL_FILL_KEYS: u64 = 1_000_000;

const USAGE: &str =
    "usage: tidepool-bench [--embedded | --servers] [--full | --quick | --serve | --calls]";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Measure,
    Serve,
    Calls,
}

fn main() -> ExitCode {
    // The host that it starts compiles with a process of this program.
    if let Some(done) = tidepool::cli::answer_compile(std::env::args_os()) {
        return done;
    }
    run().report()
}

fn run() -> Result<()> {
    let (mut embedded, mut servers) = (false, false);
    let (mut mode, mut sizes, mut write) = (Mode::Measure, USUAL, true);
    for argument in std::env::args().skip(1) {
        match &*argument {
            "--embedded" => embedded = true,
            "--servers" => servers = true,
            "--full" => sizes.fill_keys = FULL_FILL_KEYS,
            "--quick" => (sizes, write) = (QUICK, false),
            "--serve" => mode = Mode::Serve,
            "--calls" => mode = Mode::Calls,
            _ => return Err(USAGE.into()),
        }
    }
    if cfg!(debug_assertions) && write && mode == Mode::Measure {
        return Err("this is not a release build: only --quick makes sense".into());
    }
    let both = embedded == servers;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    match mode {
        Mode::Calls => return embedded::calls(&runtime),
        Mode::Serve if servers => return servers::serve(&runtime),
        Mode::Serve => return embedded::serve(&runtime),
        Mode::Measure => {}
    }
    let mut parts = Vec::new();
    if embedded || both {
        parts.push(embedded::measure(&runtime, &sizes)?);
    }
    if servers || both {
        parts.push(servers::measure(&runtime, &sizes)?);
    }
    parts.iter().for_each(report::print);
    if write {
        report::write(&parts)?;
    }
    Ok(())
}

/// Something to run for a turn.
type Variant<'a> = (&'a str, Box<dyn FnMut() -> Measured + 'a>);

/// Runs variants in turns, so that each meets the same machine.
fn in_turns(sizes: &Sizes, connections: usize, mut variants: Vec<Variant<'_>>) -> Vec<Row> {
    let mut runs: Vec<Vec<Measured>> = vec![Vec::new(); variants.len()];
    for _ in 0..sizes.rounds {
        for (runs, (_, run)) in runs.iter_mut().zip(&mut variants) {
            runs.push(run());
        }
    }
    let rows = variants.iter().zip(runs);
    rows.map(|((what, _), runs)| Row::median(what, connections, runs))
        .collect()
}

/// Waits for a person.
fn until_enter() -> Result<()> {
    println!("enter ends");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
