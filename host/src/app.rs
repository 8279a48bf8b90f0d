//! From settings to running regions. The only place that names backends.

mod bounds;
pub mod look;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::Request;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use bounds::{
    cache_settings, cockroach_feed_settings, feed_settings, log_settings, postgres_feed_settings,
    server_limits,
};

use crate::background::Background;
use crate::cache::memory::MemoryCache;
use crate::cache::redis::{RedisCache, RedisCacheError, RedisCacheSettings, inspect};
use crate::clock::{Clock, Entropy, SystemClock, SystemEntropy};
use crate::config::{Admin, Settings};
use crate::defaults;
use crate::deployments::Ledger;
use crate::deployments::sql::SqlLedger;
use crate::deployments::sqlite::SqliteLedger;
use crate::doctor;
use crate::feed::FeedSource;
use crate::feed::cockroach::CockroachFeedSource;
use crate::feed::postgres::PostgresFeedSource;
use crate::feed::sqlite::SqliteFeedSource;
use crate::handlers::compile::Compiler;
use crate::handlers::compiled::CompiledCache;
use crate::handlers::engine::{EngineError, ServingEngine};
use crate::handlers::load::Loader;
use crate::handlers::load_error::LoadError;
use crate::handlers::registry::{OpenError as RegistryError, Registry, RegistryParts};
use crate::handlers::secrets::Secrets;
use crate::http::admin::AdminPlane;
use crate::http::data::DataPlane;
use crate::http::region::Region;
use crate::http::respond::Answer;
use crate::http::server::{BindError, BoxFuture, ConnectionLimits, Server};
use crate::http::tls::{Tls, TlsError};
use crate::hydrate::component::ComponentDecide;
use crate::hydrate::{Hydrator, HydratorSettings, HydratorStatus};
use crate::log::Log;
use crate::log::sql::{MigrateError, SqlLog};
use crate::log::sqlite::{OpenError, SqliteDatabase, SqliteLog};
use crate::model::Operation;
use crate::quarantine::sql::SqlQuarantine;
use crate::quarantine::sqlite::SqliteQuarantine;
use crate::quarantine::{Keeper, Quarantine};
use crate::sql::{ServerKind, SqlConfig, UrlError};
use crate::trust::signature::{KeysError, TrustedKeys};
use crate::watch::{self as folder, NoFolder, Watch};
use crate::wit_host::context::Backends;

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data folder.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The certificate of the admin plane.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The thread for what gives way to requests.
    #[error("the system gives no thread for deployments: {0}")]
    Background(std::io::Error),
    /// The keys that sign components.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The folder to watch.
    #[error(transparent)]
    Watch(#[from] NoFolder),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The interfaces.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The deployed handlers.
    #[error(transparent)]
    Deploy(#[from] RegistryError),
    /// The URL of the database.
    #[error(transparent)]
    DatabaseUrl(#[from] UrlError),
    /// The database, or its tables.
    #[error(transparent)]
    Database(#[from] MigrateError),
    /// The Redis, or its URL.
    #[error(transparent)]
    Redis(#[from] RedisCacheError),
}

/// What a feed that watches over its own silence is given on top of that, before
/// the hydrator takes it for lost.
const FEED_GRACE: Duration = Duration::from_secs(5);

/// What a region is made of.
struct Parts {
    name: Arc<str>,
    server: Server,
    feed: Arc<dyn FeedSource>,
    /// When a feed that says nothing is taken for lost.
    silence: Duration,
    backends: Arc<Backends>,
}

/// What is kept in the log's database beside the log.
struct Records {
    ledger: Arc<dyn Ledger>,
    quarantine: Arc<dyn Quarantine>,
}

/// A running host.
pub struct App {
    /// Each region with the address that it listens on.
    pub regions: Vec<(Arc<str>, SocketAddr)>,
    /// The address of the admin plane.
    pub admin: SocketAddr,
    /// Whether the admin plane is reached over TLS.
    pub admin_has_tls: bool,
    /// The handler table.
    pub registry: Arc<Registry>,
    /// What stands behind each region, in the order of `regions`.
    pub backends: Vec<Arc<Backends>>,
    /// The embedded one, if the log is in it.
    database: Option<Arc<SqliteDatabase>>,
    quarantine: Arc<Keeper>,
    stop_serving: watch::Sender<bool>,
    stop_following: watch::Sender<bool>,
    serving: JoinSet<()>,
    following: Vec<JoinHandle<()>>,
    background: Background,
}

impl App {
    /// Starts every region in this process, on the embedded log and caches.
    /// When it returns, all of them answer; a region is ready a little later,
    /// when it has caught up with the log (`/readyz`).
    ///
    /// # Errors
    ///
    /// See [`AppError`]; nothing is left running then.
    pub async fn dev(settings: &Settings) -> Result<App, AppError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        watched(settings)?;
        // Then the addresses: a port in use is the commonest mistake, and
        // costs nothing to find.
        let admin = admin_server(settings)?;
        let servers: Vec<Server> = settings
            .regions
            .iter()
            .map(|region| Server::bind(region.listen))
            .collect::<Result<_, _>>()?;

        let database =
            SqliteDatabase::open(&settings.data, Arc::clone(&clock), log_settings(settings))?;
        let log: Arc<dyn Log> = Arc::new(SqliteLog::new(Arc::clone(&database)));
        let feed: Arc<dyn FeedSource> = Arc::new(SqliteFeedSource::new(
            Arc::clone(&database),
            feed_settings(settings),
        ));
        let parts = servers.into_iter().zip(&settings.regions);
        let parts = parts.map(|(server, region)| Parts {
            name: Arc::from(&*region.name),
            server,
            feed: Arc::clone(&feed),
            silence: HydratorSettings::default().silence,
            backends: Arc::new(Backends {
                log: Arc::clone(&log),
                cache: Arc::new(MemoryCache::new(
                    cache_settings(settings),
                    Arc::clone(&clock),
                    Arc::clone(&entropy),
                )),
                clock: Arc::clone(&clock),
                max_value_bytes: settings.http.max_value_bytes,
            }),
        });
        let records = Records {
            ledger: Arc::new(SqliteLedger::new(Arc::clone(&database))),
            quarantine: Arc::new(SqliteQuarantine::new(Arc::clone(&database))),
        };
        let regions = parts.collect();
        App::run(
            settings,
            admin,
            Some(database),
            records,
            regions,
            clock,
            entropy,
        )
        .await
    }

    /// Reads the settings of [`App::serve`] to their end: the URLs, and the files
    /// that they name. It connects to nobody.
    ///
    /// # Errors
    ///
    /// See [`AppError`].
    pub fn check(settings: &Settings) -> Result<(SqlConfig, RedisCacheSettings), AppError> {
        let sql = SqlConfig::new(&settings.database)?;
        let redis = RedisCacheSettings::new(settings)?;
        redis.check()?;
        admin_tls(&settings.admin)?;
        TrustedKeys::open(&settings.trust)?;
        watched(settings)?;
        Ok((sql, redis))
    }

    /// Starts one region on a database and a Redis. The database must answer;
    /// a Redis that cannot be reached yet is waited for while the log answers.
    ///
    /// # Errors
    ///
    /// See [`AppError`]; nothing is left running then.
    pub async fn serve(settings: &Settings) -> Result<App, AppError> {
        let (sql, redis) = App::check(settings)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let admin = admin_server(settings)?;
        let server = Server::bind(settings.listen)?;
        // What needs a change of a setting is said before the log is opened, and so
        // before tables are made for a host that does not start.
        let cache = RedisCache::new(redis.clone(), Arc::clone(&clock), Arc::clone(&entropy))?;
        let unreachable = match cache.first_connection().await {
            Ok(()) => None,
            Err(error) if error.needs_a_change() => return Err(error.into()),
            Err(error) => Some(error),
        };
        let log = SqlLog::open(sql.clone(), &settings.log, Arc::clone(&entropy)).await?;
        let records = Records {
            ledger: Arc::new(SqlLedger::new(sql.clone())),
            quarantine: Arc::new(SqlQuarantine::new(sql.clone())),
        };
        let (feed, patience): (Arc<dyn FeedSource>, _) = match log.server() {
            ServerKind::Postgres { .. } => {
                let bounds = postgres_feed_settings(settings);
                let feed = PostgresFeedSource::new(sql, bounds);
                (Arc::new(feed), HydratorSettings::default().silence)
            }
            ServerKind::Cockroach { .. } => {
                doctor::tune_feed(&sql).await;
                let bounds = cockroach_feed_settings(settings);
                // Silence is the feed's own business first.
                let patience = bounds.longest_wait() + FEED_GRACE;
                (Arc::new(CockroachFeedSource::new(sql, bounds)), patience)
            }
        };
        match unreachable {
            None => doctor::log_what_could_be_better("Redis", &inspect(&redis).await),
            Some(error) => {
                tracing::warn!(%error, "Redis cannot be reached; the log answers until it can");
            }
        }
        let parts = Parts {
            name: Arc::from(&*settings.region),
            server,
            feed,
            silence: patience,
            backends: Arc::new(Backends {
                log: Arc::new(log),
                cache: Arc::new(cache),
                clock: Arc::clone(&clock),
                max_value_bytes: settings.http.max_value_bytes,
            }),
        };
        App::run(settings, admin, None, records, vec![parts], clock, entropy).await
    }

    /// Runs regions whose addresses are bound and whose backends are open.
    async fn run(
        settings: &Settings,
        admin: Server,
        database: Option<Arc<SqliteDatabase>>,
        records: Records,
        parts: Vec<Parts>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<App, AppError> {
        let trusted = Arc::new(TrustedKeys::open(&settings.trust)?);
        let Records { ledger, quarantine } = records;
        let quarantine = Arc::new(Keeper::new(quarantine, Arc::clone(&clock)));
        let registry = open_registry(settings, &parts, ledger, &trusted, clock, &entropy).await?;
        let (stop_serving, stop_rx) = watch::channel(false);
        let (stop_following, follow_rx) = watch::channel(false);
        // Whoever may use this machine may use what it keeps to itself.
        let embedded = database.is_some();
        let mut app = App {
            regions: Vec::new(),
            admin: admin.local_addr(),
            admin_has_tls: admin.has_tls(),
            registry: Arc::clone(&registry),
            backends: Vec::new(),
            database,
            quarantine: Arc::clone(&quarantine),
            stop_serving,
            stop_following,
            serving: JoinSet::new(),
            following: Vec::new(),
            background: Background::start().map_err(AppError::Background)?,
        };
        let judging = Arc::clone(&registry).judge(follow_rx.clone());
        app.following.push(tokio::spawn(judging));
        let following = Arc::clone(&registry).follow(follow_rx.clone());
        let background = app.background.handle().clone();
        app.following.push(background.spawn(following));
        let writing = Arc::clone(&quarantine).run(follow_rx.clone());
        app.following.push(tokio::spawn(writing));
        let limits = server_limits(settings);
        let mut regions = Vec::new();
        for (index, part) in parts.into_iter().enumerate() {
            let Parts {
                name,
                server,
                feed,
                silence,
                backends,
            } = part;
            let status = Arc::new(HydratorStatus::default());
            let hydrator = Hydrator {
                region: Arc::clone(&name),
                feed,
                cache: Arc::clone(&backends.cache),
                decide: Arc::new(ComponentDecide {
                    registry: Arc::clone(&registry),
                    region: index,
                }),
                quarantine: Arc::clone(&quarantine),
                status: Arc::clone(&status),
                entropy: Arc::clone(&entropy),
                settings: HydratorSettings {
                    silence,
                    ..HydratorSettings::default()
                },
            };
            app.following
                .push(tokio::spawn(hydrator.run(follow_rx.clone())));
            let region = Arc::new(Region {
                index,
                name: Arc::clone(&name),
                address: server.local_addr(),
                backends: Arc::clone(&backends),
                status,
                quarantine: Arc::clone(&quarantine),
                max_lag: settings.feed.max_lag,
                is_complete: {
                    let registry = Arc::clone(&registry);
                    Box::new(move || registry.is_complete(index))
                },
            });
            app.regions.push((name, server.local_addr()));
            app.backends.push(backends);
            regions.push(Arc::clone(&region));
            let plane = DataPlane::new(region, Arc::clone(&registry), settings);
            app.answer(
                server,
                Arc::new(move |request, _| plane.serve(request)),
                limits,
                stop_rx.clone(),
                &Handle::current(),
            );
        }
        let plane = AdminPlane::new(
            regions,
            registry,
            quarantine,
            trusted,
            settings,
            embedded,
            stop_rx.clone(),
        );
        let service = move |request, peer| -> BoxFuture<Answer> {
            let plane = plane.clone();
            Box::pin(async move { plane.serve(request, peer).await })
        };
        app.answer(admin, Arc::new(service), limits, stop_rx, &background);
        if let Some(folder) = &settings.watch {
            let watch = Watch::look(folder, settings.handlers.max_component_bytes).await;
            let watching = watch.run(Arc::clone(&app.registry), follow_rx);
            app.following.push(background.spawn(watching));
        }
        Ok(app)
    }

    /// One type for all planes, so that the server's code exists once.
    fn answer(
        &mut self,
        server: Server,
        service: Arc<dyn Fn(Request<Incoming>, SocketAddr) -> BoxFuture<Answer> + Send + Sync>,
        limits: ConnectionLimits,
        stop: watch::Receiver<bool>,
        on: &Handle,
    ) {
        let serving = async move {
            let cut = server
                .run(move |request, peer| service(request, peer), limits, stop)
                .await;
            if cut > 0 {
                tracing::warn!(
                    connections = cut,
                    "cut connections that did not finish in time (http.drain_timeout)"
                );
            }
        };
        self.serving.spawn_on(serving, on);
    }

    /// Drains and stops: first the servers, so that what they have begun is
    /// finished against a log and caches that still work; then the rest.
    pub async fn stop(mut self) {
        self.stop_serving.send_replace(true);
        while self.serving.join_next().await.is_some() {}
        self.stop_following.send_replace(true);
        for task in self.following {
            // One that panicked has said so in the log already.
            let _ = task.await;
        }
        self.quarantine.end().await;
        if let Some(database) = self.database {
            database.close().await;
        }
    }
}

/// Whether the folder to watch can be watched, if there is one.
fn watched(settings: &Settings) -> Result<(), NoFolder> {
    settings.watch.as_deref().map_or(Ok(()), folder::check)
}

/// The address of the admin plane, with its certificate if it has one.
fn admin_server(settings: &Settings) -> Result<Server, AppError> {
    let tls = admin_tls(&settings.admin)?;
    let server = Server::bind(settings.admin.listen)?;
    match tls {
        Some(tls) => Ok(server.with_tls(Arc::new(tls))),
        None => {
            if !server.local_addr().ip().is_loopback() {
                tracing::warn!(
                    address = %server.local_addr(),
                    "the admin plane is reached over a network without TLS: tokens travel in clear; set admin.tls_cert and admin.tls_key"
                );
            }
            Ok(server)
        }
    }
}

fn admin_tls(admin: &Admin) -> Result<Option<Tls>, TlsError> {
    match (&admin.tls_cert, &admin.tls_key) {
        (Some(cert), Some(key)) => Tls::open(cert, key).map(Some),
        _ => Ok(None),
    }
}

/// The variables of the environment that are texts.
pub fn texts() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

async fn open_registry(
    settings: &Settings,
    parts: &[Parts],
    ledger: Arc<dyn Ledger>,
    trusted: &Arc<TrustedKeys>,
    clock: Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Arc<Registry>, AppError> {
    let handlers = &settings.handlers;
    // Every slot full, its idle instances beside it, those that answer hits at hand
    // for a revision and its canary, and one in its self-test.
    let per_slot = handlers.concurrency + handlers.idle_instances;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let at_hand = parts.len() * 2 * threads;
    let instances = parts.len() * Operation::ALL.len() * per_slot + at_hand + 1;
    let instances = u32::try_from(instances).unwrap_or(u32::MAX);
    let engine = ServingEngine::new(settings.limits.clone(), instances)?;
    let compiled = CompiledCache::open(
        &settings.data,
        engine.engine(),
        handlers.compiled_cache_bytes,
    );
    let compiler = Compiler::process(handlers)?;
    let loader = Loader::new(engine, handlers.max_component_bytes, compiler, compiled)?;
    let registry = Registry::open(RegistryParts {
        regions: parts
            .iter()
            .map(|part| (Arc::clone(&part.name), Arc::clone(&part.backends)))
            .collect(),
        defaults: defaults::HANDLERS,
        loader,
        ledger,
        settings: handlers.clone(),
        trusted: Arc::clone(trusted),
        secrets: Secrets::new(texts(), handlers.secrets_dir.clone()),
        clock,
        entropy: Arc::clone(entropy),
    });
    Ok(Arc::new(registry.await?))
}
