//! GET hits: through the component, by a native function on the same path and
//! the same cache, and by Redis alone.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::{Cluster, Region};
use crate::beside::{caught_up, native};
use crate::load::{self, Plan, redis_whole};
use crate::report::Part;
use crate::requests::{GET, HIT, created, found, put};
use crate::{Result, Sizes, in_turns};
use tidepool_tests::server::ADMIN_TOKEN;

const BARE: &str = "Redis alone, GET";
const NATIVE: &str = "GET hit, native function";
const COMPONENT: &str = "GET hit, component";

/// Writes the key that is read, and starts the native function.
pub fn prepare(runtime: &Runtime, region: &Region) -> Result<(SocketAddr, watch::Sender<bool>)> {
    let plan = Plan::http(region.address, 1, |_, _| put(HIT, 0), created);
    let written = load::run(&plan, Duration::from_millis(100));
    if written.failures > 0 {
        return Err("the value to be read cannot be written".into());
    }
    runtime.block_on(caught_up(&region.app, Some(ADMIN_TOKEN)))?;
    let _inside = runtime.enter();
    native(&region.app.backends[0], &region.settings)
}

/// Measures them.
pub fn measure(
    runtime: &Runtime,
    cluster: &Cluster,
    region: &Region,
    sizes: &Sizes,
    part: &mut Part,
) -> Result<()> {
    let (native, stop_native) = prepare(runtime, region)?;
    let bare: SocketAddr = cluster.redis[0].address().parse()?;
    // The very command that the cache sends.
    let key = format!("{}:e:{HIT}", region.settings.redis.key_prefix);
    let get = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len()).into_bytes();
    let live = |_: usize, answer: &[u8]| answer.starts_with(b"$") && !answer.starts_with(b"$-");
    for connections in [1, 64] {
        let http = |address| Plan::http(address, connections, |_, _| GET.to_vec(), found);
        let get = get.clone();
        let redis = Plan {
            whole: redis_whole,
            ..Plan::http(bare, connections, move |_, _| get.clone(), live)
        };
        let run =
            |plan: Plan| Box::new(move || load::run(&plan, sizes.turn)) as Box<dyn FnMut() -> _>;
        let variants = vec![
            (BARE, run(redis)),
            (NATIVE, run(http(native))),
            (COMPONENT, run(http(region.address))),
        ];
        part.rows.extend(in_turns(sizes, connections, variants));
    }
    for connections in [64, 1] {
        part.ratio(COMPONENT, NATIVE, connections, 0.85);
    }
    stop_native.send_replace(true);
    Ok(())
}
