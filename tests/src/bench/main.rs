//! The benchmark: everything in one run on one machine, so that what counts
//! is the ratios. `make bench` runs it, prints the table and writes it, with
//! the machine's description, to `docs/performance.json`. With `--serve` it
//! only starts the servers and says where, and with `--calls` it only calls the
//! component, both for a profiler.

mod disk;
mod load;
mod report;
mod servers;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use load::{Measured, Plan, find};
use report::{Row, Swap};
use servers::Servers;

/// Rounds in which the variants take turns; the table has the median round.
const ROUNDS: usize = 5;
/// How long each variant runs in a round.
const TURN: Duration = Duration::from_secs(2);
/// Swaps while 64 connections read.
const SWAPS: usize = 200;
/// The value that is read and written, in bytes.
const VALUE_BYTES: usize = 100;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let servers = runtime.block_on(Servers::start(folder.path()))?;

    let put = put_request("hit", 0);
    let written = load::run(
        &plan(servers.region, 1, move |_, _| put.clone(), created),
        Duration::from_millis(100),
    );
    if written.failures > 0 {
        return Err("the value to be read cannot be written".into());
    }
    runtime.block_on(servers.caught_up())?;

    if std::env::args().nth(1).as_deref() == Some("--serve") {
        println!(
            "bare {}\nnative {}\ncomponent {}\nenter ends",
            servers.bare, servers.native, servers.region
        );
        std::io::stdin().read_line(&mut String::new())?;
        runtime.block_on(servers.stop());
        return Ok(());
    }

    if std::env::args().nth(1).as_deref() == Some("--calls") {
        let nanos = runtime.block_on(servers.nanoseconds_per_call())?;
        println!("one call of the get component for a hit, HTTP left out: {nanos:.0} ns");
        runtime.block_on(servers.deploy(&servers::fixture("tagged-a")?))?;
        let nanos = runtime.block_on(servers.nanoseconds_per_call())?;
        println!("one call of a component that only asks for the key: {nanos:.0} ns");
        runtime.block_on(servers.stop());
        return Ok(());
    }

    let mut rows = Vec::new();
    for connections in [1, 64] {
        rows.extend(reads(&servers, connections)?);
        rows.push(median("PUT, on disk", connections, || {
            load::run(&plan(servers.region, connections, put_of, created), TURN)
        }));
    }
    let syncs = disk::syncs_per_second(folder.path())?;
    let swap = swaps(&runtime, &servers)?;
    runtime.block_on(servers.stop());
    report::write(&rows, syncs, &swap)?;
    Ok(())
}

/// The three ways to answer a read, in turns.
fn reads(servers: &Servers, connections: usize) -> Result<Vec<Row>> {
    let variants = [
        ("bare hyper, a constant", servers.bare),
        ("GET hit, native function", servers.native),
        ("GET hit, component", servers.region),
    ];
    let mut runs: Vec<Vec<Measured>> = vec![Vec::new(); variants.len()];
    for _ in 0..ROUNDS {
        for (at, (_, address)) in variants.iter().enumerate() {
            let plan = plan(
                *address,
                connections,
                |_, _| GET.to_vec(),
                |_, answer| answer.starts_with(b"HTTP/1.1 200"),
            );
            runs[at].push(load::run(&plan, TURN));
        }
    }
    Ok(variants
        .iter()
        .zip(runs)
        .map(|((name, _), runs)| Row::median(name, connections, runs))
        .collect())
}

const GET: &[u8] = b"GET /kv/hit HTTP/1.1\r\nhost: bench\r\n\r\n";

fn median(name: &str, connections: usize, mut run: impl FnMut() -> Measured) -> Row {
    Row::median(name, connections, (0..ROUNDS).map(|_| run()).collect())
}

fn put_of(connection: usize, turn: u64) -> Vec<u8> {
    put_request(&format!("w{connection}-{}", turn % 1000), turn)
}

fn put_request(key: &str, turn: u64) -> Vec<u8> {
    let value = format!("{turn:0>VALUE_BYTES$}");
    let body = format!("{{\"value\":\"{value}\"}}");
    format!(
        "PUT /kv/{key} HTTP/1.1\r\nhost: bench\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn created(_: usize, answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.1 201")
}

fn plan(
    address: SocketAddr,
    connections: usize,
    request: impl Fn(usize, u64) -> Vec<u8> + Send + Sync + 'static,
    right: impl Fn(usize, &[u8]) -> bool + Send + Sync + 'static,
) -> Plan {
    Plan {
        address,
        connections,
        request: Arc::new(request),
        right: Arc::new(right),
        stop: Arc::new(AtomicBool::new(false)),
    }
}

/// Swaps the `get` component of one region while 64 connections read. Both
/// components answer every key with a tag and the key.
fn swaps(runtime: &tokio::runtime::Runtime, servers: &Servers) -> Result<Swap> {
    let components = [servers::fixture("tagged-a")?, servers::fixture("tagged-b")?];
    runtime.block_on(servers.deploy(&components[0]))?;
    let request = |connection: usize, _| {
        format!("GET /kv/key{connection} HTTP/1.1\r\nhost: bench\r\n\r\n").into_bytes()
    };
    let right = |connection: usize, answer: &[u8]| {
        let tag = if find(answer, b"\r\nx-tag: a\r\n").is_some() {
            "a"
        } else {
            "b"
        };
        answer.starts_with(b"HTTP/1.1 200")
            && answer.ends_with(format!("{tag}:key{connection}").as_bytes())
    };
    let mut plan = plan(servers.region, 64, request, right);
    let steady = load::run(&plan, TURN);

    plan.stop = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&plan.stop);
    let loading = std::thread::spawn(move || load::run(&plan, Duration::from_secs(600)));
    let begun = Instant::now();
    let mut at = Vec::with_capacity(SWAPS);
    let mut times = Vec::with_capacity(SWAPS);
    for n in 1..=SWAPS {
        let start = Instant::now();
        runtime.block_on(servers.deploy(&servers::never_seen(&components[n % 2], n)))?;
        times.push(start.elapsed());
        at.push(begun.elapsed());
    }
    let all = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    let during = loading.join().map_err(|_| "the load generator panicked")?;
    times.sort_unstable();
    Ok(Swap {
        swaps: SWAPS,
        failures: steady.failures + during.failures,
        requests: during.samples.len(),
        steady_p99_us: steady.p(0.99),
        swapping_p99_us: during.quantile(0.99, Duration::ZERO, all),
        steady_rate: steady.rate(),
        swapping_rate: during.rate(),
        swap_p50_ms: times[times.len() / 2].as_secs_f64() * 1e3,
        swap_p99_ms: times[times.len() * 99 / 100].as_secs_f64() * 1e3,
    })
}
