//! The embedded part: a whole host on the embedded log and caches.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tempfile::TempDir;
use tidepool::app::App;
use tidepool::config::Settings;
use tidepool::model::{Key, Operation};
use tidepool::wit_host::bindings::tidepool::kv::types::{self, Condition, Consistency};
use tidepool::wit_host::context::{self, Cached};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::beside::{ANY_PORT, bare_hyper, caught_up, native};
use crate::deploys::{self, Admin};
use crate::load::{self, Plan};
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
    deploys::measure(runtime, host.app.admin, host.region, sizes, &mut part)?;
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
    let tagged = deploys::fixture("tagged-a")?;
    runtime.block_on(Admin::new(host.app.admin).deploy(&tagged, "", None))?;
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
    runtime.block_on(caught_up(&host.app, None))?;
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
                max_staleness: None,
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
