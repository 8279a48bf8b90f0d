//! A running `tidepool dev` or `tidepool serve`: how it is started, what it is
//! asked, and how it ends.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use crate::log::{Banner, Log};
use crate::{PATIENCE, Plane, REGIONS, Ran, Running, built, command, within};

/// How a server is to be started.
#[derive(Clone, Debug)]
pub struct Setup {
    binary: PathBuf,
    folder: Arc<TempDir>,
    data: PathBuf,
    /// `name=address` of each region; of the only one, when there are servers.
    regions: Vec<String>,
    servers: Option<Servers>,
    admin: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// What has to live as long as a server of this set-up.
    kept: Vec<Arc<dyn Debug + Send + Sync>>,
}

/// The token of the admin planes of `tidepool serve`.
pub const ADMIN_TOKEN: &str = "the-token-of-the-tests";

/// What `tidepool serve` keeps a region on.
#[derive(Clone, Debug)]
struct Servers {
    database: String,
    redis: String,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup::new()
    }
}

impl Setup {
    /// Three regions, every port a free one, data in a folder of its own.
    ///
    /// # Panics
    ///
    /// There is no temporary folder to be had.
    pub fn new() -> Setup {
        let folder = match TempDir::with_prefix("tidepool-test-") {
            Ok(folder) => folder,
            Err(error) => panic!("no temporary folder: {error}"),
        };
        Setup {
            binary: built::binary(),
            data: folder.path().join("data"),
            folder: Arc::new(folder),
            regions: REGIONS.map(|name| format!("{name}=127.0.0.1:0")).to_vec(),
            servers: None,
            admin: "127.0.0.1:0".to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// One region on servers, which are named by their URLs, told in the
    /// variables of the environment that deployments have always used.
    #[must_use]
    pub fn over(mut self, region: &str, database: &str, redis: &str) -> Setup {
        self.regions = vec![format!("{region}=127.0.0.1:0")];
        self.servers = Some(Servers {
            database: database.to_owned(),
            redis: redis.to_owned(),
        });
        self
    }

    /// Keeps something alive for as long as this set-up and its servers: what
    /// they need to run.
    #[must_use]
    pub fn keep(mut self, it: impl Debug + Send + Sync + 'static) -> Setup {
        self.kept.push(Arc::new(it));
        self
    }

    /// Other regions.
    #[must_use]
    pub fn regions(mut self, names: &[&str]) -> Setup {
        self.regions = names
            .iter()
            .map(|name| format!("{name}=127.0.0.1:0"))
            .collect();
        self
    }

    /// One region, as `name=address`.
    #[must_use]
    pub fn region_at(mut self, region: &str) -> Setup {
        self.regions = vec![region.to_owned()];
        self
    }

    /// Another address for the admin plane.
    #[must_use]
    pub fn admin_at(mut self, address: &str) -> Setup {
        self.admin = address.to_owned();
        self
    }

    /// A setting, as `key=value`.
    #[must_use]
    pub fn set(self, setting: &str) -> Setup {
        self.arguments(&["--set", setting])
    }

    /// More of the command line.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Setup {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned());
        self.arguments.extend(arguments);
        self
    }

    /// A variable of the environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Setup {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another data folder.
    #[must_use]
    pub fn data_at(mut self, folder: &Path) -> Setup {
        self.data = folder.to_owned();
        self
    }

    /// Another binary, started in its own folder.
    #[must_use]
    pub fn binary(mut self, binary: &Path) -> Setup {
        self.binary = binary.to_owned();
        self
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A folder that lives as long as this set-up and its server: the data
    /// folder is in it, and files of the test may be.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it, and waits until it says where it listens.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn start(&self) -> Server {
        let mut command = self.command();
        let command = command.as_std_mut();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("{command:?} does not start: {error}"),
        };
        let log = Log::of(child.stderr.take());
        let banner = Banner::of(child.stdout.take());
        // From here on a panic kills the child and shows its log.
        let mut server = Server {
            setup: self.clone(),
            child: Some(child),
            regions: Vec::new(),
            admin: Plane::new(SocketAddr::from(([127, 0, 0, 1], 0))),
            log,
        };
        match within("the banner of tidepool", banner).await {
            Ok(Banner { regions, admin }) => {
                server.regions = regions;
                server.admin = match &self.servers {
                    // Only `tidepool dev` lets in who has no token.
                    Some(_) => admin.with_token(ADMIN_TOKEN),
                    None => admin,
                };
            }
            Err(_) => panic!("tidepool ended before it listened"),
        }
        server
    }

    /// Starts what is not to start: runs it to its end.
    ///
    /// # Panics
    ///
    /// It goes on running.
    pub async fn run(&self) -> Ran {
        command::run_to_end(&mut self.command()).await
    }

    fn command(&self) -> tokio::process::Command {
        let mut command = command::command(&self.binary);
        match &self.servers {
            None => {
                command.args(["dev", "--admin-listen", &self.admin]);
                for region in &self.regions {
                    command.args(["--region", region]);
                }
            }
            Some(Servers { database, redis }) => {
                let name = self.regions.first().and_then(|it| it.split('=').next());
                command.arg("serve");
                command.env("DATABASE_URL", database);
                command.env("REDIS_URL", redis);
                command.env("PORT", "0");
                command.env("TIDEPOOL_REGION", name.unwrap_or_default());
                command.env("TIDEPOOL_ADMIN_LISTEN", &self.admin);
                command.env("TIDEPOOL_ADMIN_TOKEN", ADMIN_TOKEN);
            }
        }
        command.arg("--data").arg(&self.data);
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // Not where the sources are: a server has to do without them.
        command.current_dir(self.folder.path());
        command
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    setup: Setup,
    child: Option<Child>,
    regions: Vec<(String, Plane)>,
    admin: Plane,
    log: Log,
}

impl Server {
    /// Starts one as [`Setup::new`] has it.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn start() -> Server {
        Setup::new().start().await
    }

    /// How it was started: to start it again.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The data plane of a region.
    ///
    /// # Panics
    ///
    /// There is no such region.
    pub fn region(&self, name: &str) -> &Plane {
        match self.regions.iter().find(|(region, _)| region == name) {
            Some((_, plane)) => plane,
            None => panic!("there is no region {name}"),
        }
    }

    /// All regions with their names.
    pub fn regions(&self) -> &[(String, Plane)] {
        &self.regions
    }

    /// The admin plane.
    pub fn admin(&self) -> &Plane {
        &self.admin
    }

    /// What it logs.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The process.
    ///
    /// # Panics
    ///
    /// It has ended.
    pub fn id(&self) -> u32 {
        match &self.child {
            Some(child) => child.id(),
            None => panic!("the server has ended already"),
        }
    }

    /// Waits until a region has applied everything up to a version.
    ///
    /// # Panics
    ///
    /// It does not.
    pub async fn caught_up(&self, region: &str, version: i64) {
        let patience = PATIENCE.as_millis();
        let path =
            format!("/v1/regions/{region}/caught-up?version={version}&timeout_ms={patience}");
        self.admin.get(&path).send().await.expect(200);
    }

    /// Waits until every region has applied everything up to a version.
    ///
    /// # Panics
    ///
    /// One does not.
    pub async fn all_caught_up(&self, version: i64) {
        for (name, _) in &self.regions {
            self.caught_up(name, version).await;
        }
    }

    /// Deploys a component over HTTP, to one region or to all; the answer's
    /// document.
    ///
    /// # Panics
    ///
    /// It is refused.
    pub async fn deploy(&self, operation: &str, component: &Path, region: Option<&str>) -> Value {
        let query = region.map_or(String::new(), |region| format!("?region={region}"));
        let path = format!("/v1/handlers/{operation}{query}");
        let call = self.admin.post(&path).body(built::bytes(component));
        call.send().await.expect(200).json()
    }

    /// The revisions of a slot as the admin plane lists them, newest first.
    ///
    /// # Panics
    ///
    /// It lists none.
    pub async fn revisions(&self, region: &str, operation: &str) -> Vec<Value> {
        let list = self.admin.get("/v1/handlers").send().await.expect(200);
        let list = list.json();
        let all = list["handlers"].as_array().cloned().unwrap_or_default();
        let wanted =
            |handler: &Value| handler["region"] == region && handler["operation"] == operation;
        let found: Vec<Value> = all.into_iter().filter(wanted).collect();
        assert!(!found.is_empty(), "no {operation} in {region}: {list:#}");
        found
    }

    /// The number of the revision that a slot runs.
    ///
    /// # Panics
    ///
    /// It does not run exactly one.
    pub async fn active(&self, region: &str, operation: &str) -> u64 {
        let revisions = self.revisions(region, operation).await;
        let mut active = revisions.iter().filter(|r| r["state"] == "active");
        match (active.next(), active.next()) {
            (Some(revision), None) => revision["revision"].as_u64().unwrap_or(0),
            _ => panic!("not one active {operation} in {region}: {revisions:#?}"),
        }
    }

    /// Runs a subcommand of the binary against this server.
    ///
    /// # Panics
    ///
    /// It does not end.
    pub async fn cli(&self, arguments: &[&str]) -> Ran {
        command::run_to_end(&mut self.command(arguments)).await
    }

    /// Starts a subcommand of the binary against this server.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub fn start_cli(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(arguments))
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = command::command(&self.setup.binary);
        if self.setup.servers.is_some() {
            command.env("TIDEPOOL_ADMIN_TOKEN", ADMIN_TOKEN);
        }
        let admin = format!("http://{}", self.admin.address());
        command.args(arguments).args(["--admin", &admin]);
        command
    }

    /// Tells it to stop, as a service manager does, and waits until it has.
    ///
    /// # Panics
    ///
    /// It does not stop.
    pub async fn stop(self) -> ExitStatus {
        self.signal("TERM").await;
        self.ended().await
    }

    /// Kills it (`kill -9`) and waits until it is gone.
    ///
    /// # Panics
    ///
    /// It cannot be killed.
    pub async fn kill(self) {
        self.signal("KILL").await;
        self.ended().await;
    }

    /// Sends a signal, by its name.
    ///
    /// # Panics
    ///
    /// It cannot be sent.
    pub async fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.id());
        let done = tokio::process::Command::new("sh")
            .args(["-c", &kill])
            .status();
        let sent = within("kill", done)
            .await
            .is_ok_and(|status| status.success());
        assert!(sent, "`{kill}` failed");
    }

    /// Waits until it has ended, by whatever was done to it before.
    ///
    /// # Panics
    ///
    /// It runs on.
    pub async fn ended(mut self) -> ExitStatus {
        self.log.ended().await;
        let Some(mut child) = self.child.take() else {
            panic!("the server has ended already");
        };
        // Its standard error is closed: it is gone, or about to be.
        match child.wait() {
            Ok(status) => status,
            Err(error) => panic!("no end of the server: {error}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- what tidepool logged:\n{}---", self.log.text());
        }
    }
}
