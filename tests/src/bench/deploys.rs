//! Deployments: how long one takes to be live everywhere, what swaps cost those who
//! read meanwhile, how soon a bad revision is gone, and what many leave behind.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::beside::send;
use crate::load::{self, Measured, Plan, find};
use crate::report::{Bound, Part, Reach};
use crate::requests::{self, created};
use crate::{Result, Sizes};

/// Bounds, in milliseconds.
const COMPILED: f64 = 100.0;
const KNOWN: f64 = 20.0;
const ROLLED_BACK: f64 = 50.0;
const ON_SERVERS: f64 = 250.0;

/// How much longer nearly all requests may take while handlers are swapped.
const WHILE_SWAPPING: f64 = 1.5;

/// Calls before a revision on trial is judged, and the failures that a bad one may
/// have: twice as many.
const JUDGED_AFTER: f64 = 20.0;

/// How long traffic may go to a bad revision, in milliseconds.
const TAKEN_BACK: f64 = 1000.0;

/// Readers.
const CONNECTIONS: usize = 64;

/// An admin plane.
#[derive(Clone)]
pub struct Admin {
    address: SocketAddr,
    token: Option<&'static str>,
}

impl Admin {
    /// At this address.
    pub fn new(address: SocketAddr) -> Admin {
        let token = None;
        Admin { address, token }
    }

    /// That wants a token.
    pub fn with_token(mut self, token: &'static str) -> Admin {
        self.token = Some(token);
        self
    }

    /// Deploys a `get` component, with a query and a text of its configuration.
    pub async fn deploy(
        &self,
        component: &Bytes,
        query: &str,
        greeting: Option<u64>,
    ) -> Result<Value> {
        let mut headers = Vec::new();
        if let Some(greeting) = greeting {
            let config = serde_json::json!({ "greeting": greeting.to_string() });
            headers.push(("tidepool-config", BASE64.encode(config.to_string())));
        }
        self.post(&format!("get{query}"), component.clone(), headers)
            .await
    }

    async fn change(&self, path: &str) -> Result<Value> {
        self.post(path, Bytes::new(), Vec::new()).await
    }

    async fn post(&self, path: &str, body: Bytes, headers: Vec<(&str, String)>) -> Result<Value> {
        let uri = format!("http://{}/v1/handlers/{path}", self.address);
        let mut request = Request::post(uri);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(token) = self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = send(request.body(Full::new(body))?).await?;
        Ok(serde_json::from_slice(&answer)?)
    }
}

/// One of the tests' components.
pub fn fixture(name: &str) -> Result<Bytes> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../target/fixtures/{name}.wasm"));
    let bytes = std::fs::read(&path)
        .map_err(|error| format!("{}: {error}; run `make fixtures`", path.display()))?;
    Ok(Bytes::from(bytes))
}

/// The same component under a digest that the host has not seen: with a custom
/// section of its own. So each deployment compiles.
fn never_seen(component: &Bytes, n: u64) -> Bytes {
    let mut bytes = component.to_vec();
    // Section 0, ten bytes long, a name of one byte and eight bytes of content.
    bytes.extend_from_slice(&[0, 10, 1, b'n']);
    bytes.extend_from_slice(&n.to_le_bytes());
    Bytes::from(bytes)
}

/// Measures all of it on an embedded host.
pub fn measure(
    runtime: &Runtime,
    admin: SocketAddr,
    region: SocketAddr,
    sizes: &Sizes,
    part: &mut Part,
) -> Result<()> {
    let admin = Admin::new(admin);
    swaps(runtime, &admin, region, sizes, part)?;
    bad_canary(runtime, &admin, region, sizes, part)?;
    runtime.block_on(async {
        memory(&admin, sizes, part).await?;
        latencies(std::slice::from_ref(&admin), sizes, "dev", part).await
    })
}

/// Milliseconds of some steps, in order.
struct Times(Vec<f64>);

impl Times {
    fn new() -> Times {
        Times(Vec::new())
    }

    fn add(&mut self, since: Instant) {
        self.0.push(since.elapsed().as_secs_f64() * 1e3);
    }

    fn quantile(&mut self, q: f64) -> f64 {
        self.0.sort_by(f64::total_cmp);
        let at = ((self.0.len().saturating_sub(1)) as f64 * q).round() as usize;
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }

    fn report(mut self, what: &str, bound: f64, part: &mut Part) {
        part.fact(format!("{what}, p50"), self.quantile(0.5), "ms");
        part.bounds.push(Bound {
            what: format!("{what}, p99, ms"),
            measured: self.quantile(0.99),
            reach: Reach::Under(bound),
        });
    }
}

/// From the upload to the answer, which comes when every host of every region has
/// said that it runs it; with nothing else to do.
pub async fn latencies(
    admins: &[Admin],
    sizes: &Sizes,
    where_: &str,
    part: &mut Part,
) -> Result<()> {
    let component = fixture("tagged-b")?;
    let others: Vec<_> = (0..sizes.deploys as u64)
        .map(|n| never_seen(&component, 1 << 32 | n))
        .collect();
    let asked = |n: usize| &admins[n % admins.len()];
    let (compiled, known, back) = match admins.len() {
        1 => (COMPILED, KNOWN, ROLLED_BACK),
        _ => (ON_SERVERS, ON_SERVERS, ON_SERVERS),
    };
    for (what, bound) in [("compile included", compiled), ("compiled before", known)] {
        let mut times = Times::new();
        for (n, other) in others.iter().enumerate() {
            let start = Instant::now();
            let done = asked(n).deploy(other, "", None).await?;
            times.add(start);
            everywhere(&done)?;
        }
        let what = format!("{where_}: upload to live in three regions, {what}");
        times.report(&what, bound, part);
    }
    let last = asked(0).deploy(&others[0], "", None).await?;
    let last = last["slots"][0]["revision"].as_u64().unwrap_or_default();
    // Further back than what a host keeps at hand, if as many were deployed.
    let far = [
        last.saturating_sub(10).max(1),
        last.saturating_sub(30).max(2),
    ];
    let mut times = Times::new();
    for n in 0..sizes.deploys {
        let path = format!("get/rollback?to={}", far[n % 2]);
        let start = Instant::now();
        let done = asked(n).change(&path).await?;
        times.add(start);
        everywhere(&done)?;
    }
    let what = format!("{where_}: rollback to live in three regions");
    times.report(&what, back, part);
    Ok(())
}

/// That all regions have said that they run it.
fn everywhere(done: &Value) -> Result<()> {
    let slots = done["slots"].as_array().ok_or("no slots")?;
    let live = |slot: &Value| slot["live_ms"].is_number() || slot["unchanged"] == true;
    match slots.len() == 3 && slots.iter().all(live) {
        true => Ok(()),
        false => Err(format!("not live everywhere: {done}").into()),
    }
}

/// What the readers have seen of the swaps: each answer is the number of one.
#[derive(Default)]
struct Seen {
    acknowledged: AtomicU64,
    /// By connection: what it must not fall behind.
    least: Vec<AtomicU64>,
}

impl Seen {
    fn begin(&self, connection: usize) {
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        self.least[connection].fetch_max(acknowledged, Ordering::Relaxed);
    }

    /// Whether an answer is a number that is not older than what the connection has
    /// seen, and than what was acknowledged before it asked.
    fn is_right(&self, connection: usize, answer: &[u8]) -> bool {
        let body = find(answer, b"\r\n\r\n").map(|at| &answer[at + 4..]);
        let number = body.and_then(|body| std::str::from_utf8(body).ok()?.parse().ok());
        let is = |number| self.least[connection].fetch_max(number, Ordering::Relaxed) <= number;
        answer.starts_with(b"HTTP/1.1 200") && number.is_some_and(is)
    }
}

/// Swaps the `get` component of all regions while 64 connections read in one.
fn swaps(
    runtime: &Runtime,
    admin: &Admin,
    region: SocketAddr,
    sizes: &Sizes,
    part: &mut Part,
) -> Result<()> {
    let component = fixture("configured")?;
    let (one, other) = (never_seen(&component, 0), never_seen(&component, 1));
    let seen = Arc::new(Seen {
        least: (0..CONNECTIONS).map(|_| AtomicU64::new(0)).collect(),
        ..Seen::default()
    });
    let (asking, judging) = (Arc::clone(&seen), Arc::clone(&seen));
    let mut plan = Plan::http(
        region,
        CONNECTIONS,
        move |connection, _| {
            asking.begin(connection);
            b"GET /kv/greeting HTTP/1.1\r\nhost: bench\r\n\r\n".to_vec()
        },
        move |connection, answer| judging.is_right(connection, answer),
    );
    // So that it is a hit.
    let put = Plan::http(region, 1, |_, _| requests::put("greeting", 0), created);
    load::run(&put, Duration::from_millis(50));
    runtime.block_on(admin.deploy(&other, "", Some(0)))?;
    runtime.block_on(admin.deploy(&one, "", Some(0)))?;
    let mut number = 0;
    for (count, what) in [
        (sizes.swaps, "compiled before"),
        (sizes.swaps / 10, "compile included"),
    ] {
        plan.stop = Arc::default();
        let steady = load::run(&plan, sizes.turn * 2);
        let stop = Arc::clone(&plan.stop);
        let loading = {
            let plan = plan.clone();
            std::thread::spawn(move || load::run(&plan, Duration::from_secs(600)))
        };
        let begun = Instant::now();
        let mut times = Times::new();
        for n in 0..count {
            number += 1;
            let next = match what {
                "compiled before" if n % 2 == 0 => other.clone(),
                "compiled before" => one.clone(),
                _ => never_seen(&component, 2 + number),
            };
            let start = Instant::now();
            runtime.block_on(admin.deploy(&next, "", Some(number)))?;
            times.add(start);
            seen.acknowledged.store(number, Ordering::SeqCst);
        }
        let all = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        let during = loading.join().map_err(|_| "the load generator panicked")?;
        report_swaps(&steady, &during, all, (count, what), part);
        part.fact(format!("a swap, {what}, p50"), times.quantile(0.5), "ms");
        part.fact(format!("a swap, {what}, p99"), times.quantile(0.99), "ms");
    }
    Ok(())
}

fn report_swaps(
    steady: &Measured,
    during: &Measured,
    all: Duration,
    (count, what): (usize, &str),
    part: &mut Part,
) {
    let swaps = format!("{count} swaps under {CONNECTIONS} connections, {what}");
    let p99 = during.quantile(0.99, Duration::ZERO, all);
    part.bounds.push(Bound {
        what: format!("{swaps}: p99 meanwhile / before"),
        measured: p99 / steady.p(0.99),
        reach: Reach::Under(WHILE_SWAPPING),
    });
    part.bounds.push(Bound {
        what: format!("{swaps}: requests failed or older than seen"),
        measured: (steady.failures + during.failures) as f64,
        reach: Reach::Under(1.0),
    });
    part.fact(
        format!("{swaps}: requests"),
        during.samples.len() as f64,
        "",
    );
    part.fact(
        format!("{swaps}: requests per second before"),
        steady.rate(),
        "/s",
    );
    part.fact(format!("{swaps}: requests per second"), during.rate(), "/s");
    part.fact(format!("{swaps}: p99 before"), steady.p(0.99) / 1e3, "ms");
    part.fact(format!("{swaps}: p99 meanwhile"), p99 / 1e3, "ms");
}

/// A canary of 5 % that traps on every call.
fn bad_canary(
    runtime: &Runtime,
    admin: &Admin,
    region: SocketAddr,
    sizes: &Sizes,
    part: &mut Part,
) -> Result<()> {
    runtime.block_on(admin.deploy(&fixture("tagged-a")?, "", None))?;
    // Many keys, so that the canary has its share of them.
    let request = |connection: usize, turn: u64| {
        let key = connection as u64 * 1_000_003 + turn;
        format!("GET /kv/key{key} HTTP/1.1\r\nhost: bench\r\n\r\n").into_bytes()
    };
    let last_bad = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let noted = Arc::clone(&last_bad);
    let right = move |_: usize, answer: &[u8]| {
        let right = answer.starts_with(b"HTTP/1.1 200");
        if !right {
            let now = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            noted.fetch_max(now, Ordering::Relaxed);
        }
        right
    };
    let mut plan = Plan::http(region, CONNECTIONS, request, right);
    plan.stop = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&plan.stop);
    let loading = std::thread::spawn(move || load::run(&plan, Duration::from_secs(60)));
    std::thread::sleep(sizes.turn / 4);
    let trap = fixture("trap")?;
    let start = begun.elapsed();
    // In the region that is read: what nobody asks cannot be judged.
    runtime.block_on(admin.deploy(&trap, "?canary=5%25&region=us-east-1", None))?;
    std::thread::sleep(Duration::from_secs(2));
    stop.store(true, Ordering::Relaxed);
    let measured = loading.join().map_err(|_| "the load generator panicked")?;
    let last = Duration::from_micros(last_bad.load(Ordering::Relaxed));
    part.bounds.push(Bound {
        what: "a canary of 5 % that traps: from its upload to its last answer, ms".to_owned(),
        measured: last.saturating_sub(start).as_secs_f64() * 1e3,
        reach: Reach::Under(TAKEN_BACK),
    });
    part.bounds.push(Bound {
        what: "a canary of 5 % that traps: failures".to_owned(),
        measured: measured.failures as f64,
        reach: Reach::Under(2.0 * JUDGED_AFTER),
    });
    Ok(())
}

/// Memory that different components leave behind, deployed one after another
/// with nothing else to do.
async fn memory(admin: &Admin, sizes: &Sizes, part: &mut Part) -> Result<()> {
    let component = fixture("tagged-a")?;
    let (all, first) = (sizes.components, sizes.components / 10);
    let mut before = 0.0;
    for n in 1..=all {
        // Other numbers than the swaps had.
        let component = never_seen(&component, 1 << 33 | n as u64);
        admin.deploy(&component, "", None).await?;
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
