//! The embedded part: a whole host on the embedded log and caches.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tempfile::TempDir;
use tidepool::app::App;
use tidepool::config::Settings;
use tidepool::model::{Key, Operation};
use tidepool::wit_host::bindings::tidepool::kv::types::{self, Condition, Consistency};
use tidepool::wit_host::context::{self, Cached};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::beside::{ANY_PORT, bare_hyper, caught_up, native, send};
use crate::load::{self, Plan, find};
use crate::report::{Bound, Part, Reach};
use crate::requests::{GET, HIT, created, found, put, put_of};
use crate::{Result, Sizes, disk, in_turns, until_enter};

const BARE: &str = "bare hyper, a constant";
const NATIVE: &str = "GET hit, native function";
const COMPONENT: &str = "GET hit, component";
const PUT: &str = "PUT, on disk";

/// Measures it.
pub fn measure(runtime: &Runtime, sizes: &Sizes) -> Result<Part> {
    let folder = tempfile::tempdir()?;
    let host = start(runtime, &folder)?;
    let mut part = Part {
        name: "embedded",
        rows: Vec::new(),
        bounds: Vec::new(),
        facts: Vec::new(),
    };
    for connections in [1, 64] {
        let read = |address| {
            let plan = Plan::http(address, connections, |_, _| GET.to_vec(), found);
            Box::new(move || load::run(&plan, sizes.turn)) as Box<dyn FnMut() -> _>
        };
        let reads = vec![
            (BARE, read(host.bare)),
            (NATIVE, read(host.native)),
            (COMPONENT, read(host.region)),
        ];
        part.rows.extend(in_turns(sizes, connections, reads));
        let plan = Plan::http(host.region, connections, put_of, created);
        let write = Box::new(move || load::run(&plan, sizes.turn));
        part.rows
            .extend(in_turns(sizes, connections, vec![(PUT, write)]));
    }
    for connections in [64, 1] {
        part.ratio(COMPONENT, NATIVE, connections, 0.90);
    }
    for connections in [64, 1] {
        part.ratio(COMPONENT, BARE, connections, 0.60);
    }
    let puts = part.rate(PUT, 64);
    part.bounds.push(Bound {
        what: "PUT at 64 connections, per second".to_owned(),
        measured: puts,
        reach: Reach::AtLeast(5000.0),
    });
    let syncs = disk::syncs_per_second(folder.path(), sizes.turn)?;
    part.fact("the disk alone, synced appends", syncs, "/s");
    swaps(runtime, &host, sizes, &mut part)?;
    memory(runtime, &host, sizes, &mut part)?;
    runtime.block_on(host.stop());
    Ok(part)
}

/// Only starts it, and says where.
pub fn serve(runtime: &Runtime) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let host = start(runtime, &folder)?;
    println!(
        "bare {}\nnative {}\ncomponent {}",
        host.bare, host.native, host.region
    );
    until_enter()?;
    runtime.block_on(host.stop());
    Ok(())
}

/// Only calls the component.
pub fn calls(runtime: &Runtime) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let host = start(runtime, &folder)?;
    let nanos = runtime.block_on(host.nanoseconds_per_call())?;
    println!("one call of the get component for a hit, HTTP left out: {nanos:.0} ns");
    runtime.block_on(host.deploy(&fixture("tagged-a")?))?;
    let nanos = runtime.block_on(host.nanoseconds_per_call())?;
    println!("one call of a component that only asks for the key: {nanos:.0} ns");
    runtime.block_on(host.stop());
    Ok(())
}

/// Starts it, with the key that is read in every cache.
fn start(runtime: &Runtime, folder: &TempDir) -> Result<Host> {
    let host = runtime.block_on(Host::start(folder.path()))?;
    let plan = Plan::http(host.region, 1, |_, _| put(HIT, 0), created);
    let written = load::run(&plan, Duration::from_millis(100));
    if written.failures > 0 {
        return Err("the value to be read cannot be written".into());
    }
    runtime.block_on(caught_up(&host.app))?;
    Ok(host)
}

/// The host and what it is compared with.
struct Host {
    app: App,
    stop_native: watch::Sender<bool>,
    bare: SocketAddr,
    native: SocketAddr,
    region: SocketAddr,
}

impl Host {
    async fn start(data: &Path) -> Result<Host> {
        let mut settings = Settings {
            data: data.join("data"),
            ..Settings::default()
        };
        settings.admin.listen = ANY_PORT;
        settings
            .regions
            .iter_mut()
            .for_each(|region| region.listen = ANY_PORT);
        let app = App::dev(&settings).await?;
        let (native, stop_native) = native(&app.backends[0], &settings)?;
        Ok(Host {
            bare: bare_hyper().await?,
            native,
            region: app.regions[0].1,
            stop_native,
            app,
        })
    }

    /// Deploys a `get` component to all regions, over the admin plane.
    async fn deploy(&self, component: &Bytes) -> Result<()> {
        let uri = format!("http://{}/v1/handlers/get", self.app.admin);
        send(Request::post(uri).body(Full::new(component.clone()))?).await?;
        Ok(())
    }

    /// The time of a call of the `get` component for a hit, without HTTP.
    async fn nanoseconds_per_call(&self) -> Result<f64> {
        const CALLS: u32 = 1_000_000;
        let start = std::time::Instant::now();
        let key = Key::new("hit")?;
        for _ in 0..CALLS {
            let (parts, ()) = Request::new(()).into_parts();
            let request = types::Request {
                consistency: Consistency::Cached,
                condition: Condition::None,
                accept: None,
            };
            let incoming = Box::new(context::Incoming {
                key: key.clone(),
                parts,
                body: Bytes::new(),
                cached: match self.app.backends[0].cache.lookup_now(key.as_str(), None) {
                    Some(state) => Cached::Found(state),
                    None => Cached::Missing,
                },
            });
            let revision = self.app.registry.current(0, Operation::Get);
            match revision.request(request, incoming).await? {
                Ok(answer) => drop(answer),
                Err(failure) => return Err(format!("{failure:?}").into()),
            }
        }
        Ok(start.elapsed().as_nanos() as f64 / f64::from(CALLS))
    }

    /// Stops all of it.
    async fn stop(self) {
        self.stop_native.send_replace(true);
        self.app.stop().await;
    }
}

/// One of the tests' components.
fn fixture(name: &str) -> Result<Bytes> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../target/fixtures/{name}.wasm"));
    let bytes = std::fs::read(&path)
        .map_err(|error| format!("{}: {error}; run `make fixtures`", path.display()))?;
    Ok(Bytes::from(bytes))
}

/// The same component under a digest that the host has not seen: with a custom
/// section of its own. So each deployment compiles.
fn never_seen(component: &Bytes, n: usize) -> Bytes {
    let mut bytes = component.to_vec();
    // Section 0, ten bytes long, a name of one byte and eight bytes of content.
    bytes.extend_from_slice(&[0, 10, 1, b'n']);
    bytes.extend_from_slice(&(n as u64).to_le_bytes());
    Bytes::from(bytes)
}

/// Swaps the `get` component of one region while 64 connections read. Both
/// components answer every key with a tag and the key.
fn swaps(runtime: &Runtime, host: &Host, sizes: &Sizes, part: &mut Part) -> Result<()> {
    let components = [fixture("tagged-a")?, fixture("tagged-b")?];
    runtime.block_on(host.deploy(&components[0]))?;
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
    let mut plan = Plan::http(host.region, 64, request, right);
    let steady = load::run(&plan, sizes.turn);

    plan.stop = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&plan.stop);
    let loading = std::thread::spawn(move || load::run(&plan, Duration::from_secs(600)));
    let begun = Instant::now();
    let mut times = Vec::with_capacity(sizes.swaps);
    for n in 1..=sizes.swaps {
        let start = Instant::now();
        runtime.block_on(host.deploy(&never_seen(&components[n % 2], n)))?;
        times.push(start.elapsed());
    }
    let all = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    let during = loading.join().map_err(|_| "the load generator panicked")?;
    times.sort_unstable();
    let p99 = during.quantile(0.99, Duration::ZERO, all);
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    part.fact(
        "swaps of `get` under 64 connections",
        sizes.swaps as f64,
        "",
    );
    part.fact("requests meanwhile", during.samples.len() as f64, "");
    part.fact(
        "of them failed",
        (steady.failures + during.failures) as f64,
        "",
    );
    part.fact("requests per second before", steady.rate(), "/s");
    part.fact("requests per second meanwhile", during.rate(), "/s");
    part.fact("p99 before", steady.p(0.99) / 1e3, "ms");
    part.fact("p99 meanwhile", p99 / 1e3, "ms");
    part.fact(
        "a swap, upload to live, p50",
        millis(times[times.len() / 2]),
        "ms",
    );
    part.fact(
        "a swap, upload to live, p99",
        millis(times[times.len() * 99 / 100]),
        "ms",
    );
    Ok(())
}

/// Memory that different components leave behind, deployed one after another
/// with nothing else to do.
fn memory(runtime: &Runtime, host: &Host, sizes: &Sizes, part: &mut Part) -> Result<()> {
    let component = fixture("tagged-a")?;
    let (all, first) = (sizes.components, sizes.components / 10);
    let mut before = 0.0;
    for n in 1..=all {
        // Other numbers than the swaps had.
        let component = never_seen(&component, sizes.swaps + n);
        runtime.block_on(host.deploy(&component))?;
        if n == first {
            before = resident()?;
        }
    }
    part.bounds.push(Bound {
        what: format!("memory after {all} components / after {first}"),
        measured: resident()? / before,
        reach: Reach::Under(1.1),
    });
    part.fact("memory then", resident()?, "MiB");
    Ok(())
}

/// Memory of this process that is in use, in MiB.
fn resident() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: f64 = kib.ok_or("no VmRSS in /proc/self/status")?.parse()?;
    Ok(kib / 1024.0)
}
