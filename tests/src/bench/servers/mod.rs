//! The part on real servers: hosts on a PostgreSQL that syncs to disk and on
//! Redis, all started here, in temporary folders.

mod fill;
mod gets;
mod puts;
mod stages;
mod visible;

use std::net::SocketAddr;

use tempfile::TempDir;
use tidepool::app::App;
use tidepool::config::{Secret, Settings};
use tidepool_tests::server::ADMIN_TOKEN;
use tidepool_tests::servers::Redis;
use tidepool_tests::servers::postgres::Postgres;
use tidepool_tests::{REGIONS, Setup};
use tokio::runtime::Runtime;

use crate::beside::ANY_PORT;
use crate::deploys::{self, Admin};
use crate::report::Part;
use crate::{Result, Sizes, disk, until_enter};

/// More connections than the default for those that write one statement each,
/// and what a small server would have as memory.
const POSTGRES: [&str; 2] = ["max_connections=200", "shared_buffers=256MB"];

/// Measures it.
pub fn measure(runtime: &Runtime, sizes: &Sizes) -> Result<Part> {
    let cluster = runtime.block_on(Cluster::start())?;
    let mut part = Part {
        name: "servers",
        rows: Vec::new(),
        bounds: Vec::new(),
        facts: Vec::new(),
    };
    let syncs = disk::syncs_per_second(cluster.folder.path(), sizes.turn)?;
    part.fact("the disk alone, synced appends", syncs, "/s");
    let region = runtime.block_on(async {
        let url = cluster.postgres.database("one").await;
        cluster.region(0, &url).await
    })?;
    gets::measure(runtime, &cluster, &region, sizes, &mut part)?;
    puts::measure(runtime, &cluster, &region, sizes, &mut part)?;
    puts::single(runtime, &cluster, &region, sizes, &mut part)?;
    puts::log_alone(runtime, &region, sizes, &mut part)?;
    runtime.block_on(region.app.stop());
    runtime.block_on(fill::measure(&cluster, sizes, &mut part))?;
    runtime.block_on(stages::measure(&cluster, sizes, &mut part))?;
    visible::measure(runtime, &cluster, sizes, &mut part)?;
    runtime.block_on(deploy(&cluster, sizes, &mut part))?;
    Ok(part)
}

/// Deploys to three processes of the binary, asking each in turn.
async fn deploy(cluster: &Cluster, sizes: &Sizes, part: &mut Part) -> Result<()> {
    let url = cluster.postgres.database("deploys").await;
    let mut hosts = Vec::new();
    for (region, redis) in REGIONS.iter().zip(&cluster.redis) {
        let setup = Setup::new().over(region, &url, &redis.url());
        hosts.push(setup.start().await);
    }
    let admins = hosts.iter().map(|host| host.admin().address());
    let admins: Vec<_> = admins
        .map(|at| Admin::new(at).with_token(ADMIN_TOKEN))
        .collect();
    deploys::latencies(&admins, sizes, "three hosts on one PostgreSQL", part).await?;
    for host in hosts {
        host.stop().await;
    }
    Ok(())
}

/// Only starts a region, and says where.
pub fn serve(runtime: &Runtime) -> Result<()> {
    let cluster = runtime.block_on(Cluster::start())?;
    let region = runtime.block_on(async {
        let url = cluster.postgres.database("one").await;
        cluster.region(0, &url).await
    })?;
    let (native, stop_native) = gets::prepare(runtime, &region)?;
    println!(
        "Redis {}\nPostgreSQL {}\nnative {native}\ncomponent {}",
        cluster.redis[0].address(),
        cluster.postgres.port(),
        region.address
    );
    until_enter()?;
    stop_native.send_replace(true);
    runtime.block_on(region.app.stop());
    Ok(())
}

/// The servers.
struct Cluster {
    folder: TempDir,
    postgres: Postgres,
    redis: Vec<Redis>,
}

/// A running region.
struct Region {
    app: App,
    settings: Settings,
    address: SocketAddr,
}

impl Cluster {
    async fn start() -> Result<Cluster> {
        let mut redis = Vec::new();
        for _ in REGIONS {
            redis.push(Redis::start().await);
        }
        Ok(Cluster {
            folder: tempfile::tempdir()?,
            postgres: Postgres::start_with(&POSTGRES).await,
            redis,
        })
    }

    /// The settings of a region on a database.
    fn settings(&self, number: usize, database: &str) -> Settings {
        let mut settings = Settings {
            data: self.folder.path().join(REGIONS[number]),
            region: REGIONS[number].to_owned(),
            listen: ANY_PORT,
            ..Settings::default()
        };
        settings.admin.listen = ANY_PORT;
        settings.admin.token = Some(Secret::new(ADMIN_TOKEN));
        settings.database.url = Some(Secret::new(database));
        settings.redis.url = Some(Secret::new(self.redis[number].url()));
        settings
    }

    /// Starts a region, with an empty cache.
    async fn region(&self, number: usize, database: &str) -> Result<Region> {
        let () = self.redis[number].command(&["FLUSHALL"]).await;
        Region::start(self.settings(number, database)).await
    }
}

impl Region {
    async fn start(settings: Settings) -> Result<Region> {
        let app = App::serve(&settings).await?;
        Ok(Region {
            address: app.regions[0].1,
            settings,
            app,
        })
    }
}
