//! Several hosts as a company runs them: `tidepool serve` for each region, on a
//! Redis of its own and one PostgreSQL for all.

use std::path::Path;
use std::sync::Arc;
use std::sync::Weak;

use tokio::sync::Mutex;

use crate::servers::Redis;
use crate::servers::postgres::Postgres;
use crate::{Plane, REGIONS, Server, Setup};

/// The PostgreSQL of tests that do nothing to it, for as long as one of them runs:
/// making one takes longer than most of them.
static SHARED: Mutex<Weak<Postgres>> = Mutex::const_new(Weak::new());

/// A database of its own on a PostgreSQL that tests share.
#[derive(Clone, Debug)]
pub struct Database {
    postgres: Arc<Postgres>,
    name: String,
    url: String,
}

impl Database {
    /// A new, empty one.
    ///
    /// # Panics
    ///
    /// There is no PostgreSQL to be had.
    pub async fn new() -> Database {
        let postgres = {
            let mut shared = SHARED.lock().await;
            match shared.upgrade() {
                Some(postgres) => postgres,
                None => {
                    let postgres = Postgres::start_with(&["max_connections=1000"]).await;
                    let postgres = Arc::new(postgres);
                    *shared = Arc::downgrade(&postgres);
                    postgres
                }
            }
        };
        let name = format!("kv_{:08x}", crate::servers::chance());
        let url = postgres.database(&name).await;
        Database {
            postgres,
            name,
            url,
        }
    }

    /// Its URL, with everything that is needed to log in.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its name on the server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }
}

/// A region of a cluster: its host, and the Redis under it.
#[derive(Debug)]
pub struct Member {
    /// The host. Before the Redis, so that it goes first.
    pub host: Server,
    /// The Redis.
    pub redis: Redis,
}

/// Running hosts, one for each region.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    planes: Vec<(String, Plane)>,
    database: Database,
}

impl Cluster {
    /// The three [`REGIONS`], started at the same moment on an empty database.
    ///
    /// # Panics
    ///
    /// One does not start.
    pub async fn start() -> Cluster {
        Cluster::with(|setup| setup).await
    }

    /// The same with more settings for each host.
    ///
    /// # Panics
    ///
    /// One does not start.
    pub async fn with(settings: impl Fn(Setup) -> Setup) -> Cluster {
        let database = Database::new().await;
        let mut starting = Vec::new();
        for region in REGIONS {
            let redis = Redis::start().await;
            let setup = Setup::new().over(region, database.url(), &redis.url());
            let setup = settings(setup);
            let host = tokio::spawn(async move { setup.start().await });
            starting.push((host, redis));
        }
        let mut members = Vec::new();
        for (host, redis) in starting {
            match host.await {
                Ok(host) => members.push(Member { host, redis }),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        let planes = members.iter().flat_map(|it| it.host.regions().to_vec());
        Cluster {
            planes: planes.collect(),
            members,
            database,
        }
    }

    /// The database of all.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// A region's host and its Redis.
    ///
    /// # Panics
    ///
    /// There is no such region.
    pub fn member(&self, region: &str) -> &Member {
        let has = |member: &&Member| member.host.regions().iter().any(|(name, _)| name == region);
        match self.members.iter().find(has) {
            Some(member) => member,
            None => panic!("there is no region {region}"),
        }
    }

    /// The data plane of a region.
    ///
    /// # Panics
    ///
    /// There is no such region.
    pub fn region(&self, name: &str) -> &Plane {
        self.member(name).host.region(name)
    }

    /// All regions with their names.
    pub fn regions(&self) -> &[(String, Plane)] {
        &self.planes
    }

    /// Waits until a region has applied everything up to a version.
    ///
    /// # Panics
    ///
    /// It does not.
    pub async fn caught_up(&self, region: &str, version: i64) {
        self.member(region).host.caught_up(region, version).await;
    }

    /// Waits until every region has applied everything up to a version.
    ///
    /// # Panics
    ///
    /// One does not.
    pub async fn all_caught_up(&self, version: i64) {
        for member in &self.members {
            member.host.all_caught_up(version).await;
        }
    }

    /// Deploys a component to one region or to all.
    ///
    /// # Panics
    ///
    /// It is refused.
    pub async fn deploy(&self, operation: &str, component: &Path, region: Option<&str>) {
        // Whichever is asked tells the others.
        if let Some(member) = self.members.first() {
            member.host.deploy(operation, component, region).await;
        }
    }
}
