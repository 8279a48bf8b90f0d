//! A Redis of a test: `redis-server` on a free port, its data in a folder of its
//! own. It can be stopped and started again on the same port.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidepool::cache::redis::{RedisCache, RedisCacheSettings};
use tidepool::clock::{SystemClock, SystemEntropy};
use tidepool::config::Secret;
use tokio::time::Instant;

use crate::PATIENCE;

/// How often a port that was free and then was not is replaced.
const PORT_TRIES: usize = 20;

/// Between two looks at whether it answers.
const LOOK: Duration = Duration::from_millis(5);

/// A running, or stopped, Redis.
#[derive(Debug)]
pub struct Redis {
    folder: TempDir,
    port: u16,
    /// Its other ports, each with the argument that sets it.
    ports: Vec<(&'static str, u16)>,
    arguments: Vec<String>,
    tls: bool,
    process: Option<Child>,
}

impl Redis {
    /// Starts one that keeps nothing on disk.
    ///
    /// # Panics
    ///
    /// As [`Redis::start_with`].
    pub async fn start() -> Redis {
        Redis::start_with(&[]).await
    }

    /// Starts one with more of its configuration, as `["--appendonly", "yes"]`.
    ///
    /// # Panics
    ///
    /// There is no `redis-server`, or it does not answer.
    pub async fn start_with(arguments: &[&str]) -> Redis {
        Redis::start_in(folder(), arguments, &[], false).await
    }

    /// Starts a node of a cluster that has no other nodes yet and no slots. With a
    /// certificate and its key (PEM) it also speaks TLS, on a port of its own, and
    /// with its cluster nothing else.
    ///
    /// # Panics
    ///
    /// As [`Redis::start_with`].
    pub async fn start_node(tls: Option<(&str, &str)>) -> Redis {
        let folder = folder();
        let mut arguments = vec!["--cluster-enabled".to_owned(), "yes".to_owned()];
        let mut ports = vec!["--cluster-port"];
        if let Some((certificate, key)) = tls {
            arguments.extend(tls_arguments(&folder, certificate, key));
            let ca = folder.path().join("tls.crt").display().to_string();
            arguments.extend(["--tls-ca-cert-file".to_owned(), ca]);
            arguments.extend(["--tls-cluster", "yes"].map(str::to_owned));
            ports.push("--tls-port");
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Redis::start_in(folder, &arguments, &ports, false).await
    }

    /// Starts one that speaks TLS only, with the certificate and key of `certificate`
    /// and `key` (PEM).
    ///
    /// # Panics
    ///
    /// As [`Redis::start_with`].
    pub async fn start_tls(certificate: &str, key: &str) -> Redis {
        let folder = folder();
        let arguments = tls_arguments(&folder, certificate, key);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Redis::start_in(folder, &arguments, &[], true).await
    }

    /// Starts a Sentinel that watches `primary` as `service`.
    ///
    /// # Panics
    ///
    /// As [`Redis::start_with`].
    pub async fn sentinel(primary: &Redis, service: &str) -> Redis {
        let folder = folder();
        let file = folder.path().join("sentinel.conf");
        let text = format!(
            "sentinel monitor {service} 127.0.0.1 {} 1\nsentinel down-after-milliseconds {service} 500\n",
            primary.port
        );
        if let Err(error) = std::fs::write(&file, text) {
            panic!("{}: {error}", file.display());
        }
        let file = file.display().to_string();
        Redis::start_in(folder, &[&file, "--sentinel"], &[], false).await
    }

    async fn start_in(
        folder: TempDir,
        arguments: &[&str],
        ports: &[&'static str],
        tls: bool,
    ) -> Redis {
        let mut redis = Redis {
            folder,
            port: 0,
            ports: Vec::new(),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            tls,
            process: None,
        };
        for _ in 0..PORT_TRIES {
            redis.port = free_port();
            redis.ports = ports.iter().map(|name| (*name, free_port())).collect();
            if redis.run().await {
                return redis;
            }
        }
        panic!("redis-server finds no port:\n{}", redis.log());
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port that this argument sets.
    ///
    /// # Panics
    ///
    /// It was started without.
    pub fn port_of(&self, argument: &str) -> u16 {
        let found = self.ports.iter().find(|(name, _)| *name == argument);
        found.unwrap_or_else(|| panic!("no {argument}")).1
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        format!("{scheme}://{}", self.address())
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts it again, on its port and with what it has on disk.
    ///
    /// # Panics
    ///
    /// It does not answer.
    pub async fn start_again(&mut self) {
        self.kill();
        let deadline = Instant::now() + PATIENCE;
        while !self.run().await {
            let log = self.log();
            assert!(Instant::now() < deadline, "redis-server:\n{log}");
        }
    }

    /// The settings of a cache there. Waits are long, so that a busy machine is not
    /// taken for a broken one; those that a test sits through are short.
    pub fn cache_settings(&self) -> RedisCacheSettings {
        RedisCacheSettings {
            url: Secret::new(self.url()),
            ca_file: None,
            key_prefix: "test".to_owned(),
            connections: 2,
            connect_timeout: PATIENCE,
            command_timeout: PATIENCE,
            batch_timeout: PATIENCE,
            reconnect_backoff_max: Duration::from_millis(100),
            entry_ttl: Duration::from_secs(3600),
            tombstone_ttl: Duration::from_secs(600),
            negative_ttl: Duration::from_secs(600),
            lease_ttl: Duration::from_secs(60),
            lease_wait: Duration::from_millis(500),
        }
    }

    /// A cache there, connected.
    ///
    /// # Panics
    ///
    /// It does not connect.
    pub async fn cache(&self) -> RedisCache {
        self.cache_with(self.cache_settings()).await
    }

    /// The same with other settings.
    ///
    /// # Panics
    ///
    /// It does not connect.
    pub async fn cache_with(&self, settings: RedisCacheSettings) -> RedisCache {
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let cache = match RedisCache::new(settings, clock, entropy) {
            Ok(cache) => cache,
            Err(error) => panic!("{error}"),
        };
        if let Err(error) = cache.first_connection().await {
            panic!("{error}");
        }
        cache
    }

    /// Runs one command.
    ///
    /// # Panics
    ///
    /// It does not answer, or with an error.
    pub async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        match self.try_command(words).await {
            Ok(answer) => answer,
            Err(error) => panic!("{words:?}: {error}"),
        }
    }

    /// Runs one command.
    ///
    /// # Errors
    ///
    /// What it says.
    pub async fn try_command<T: redis::FromRedisValue>(
        &self,
        words: &[&str],
    ) -> redis::RedisResult<T> {
        let client = redis::Client::open(format!("redis://{}", self.address()))?;
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let (name, arguments) = words.split_first().unwrap_or((&"PING", &[]));
        let mut command = redis::cmd(name);
        command.arg(arguments);
        command.query_async(&mut connection).await
    }

    /// Whether it answers; not when the port was taken by somebody else.
    async fn run(&mut self) -> bool {
        let log = match std::fs::File::create(self.folder.path().join("log")) {
            Ok(log) => log,
            Err(error) => panic!("{}: {error}", self.folder.path().display()),
        };
        let mut command = Command::new("redis-server");
        let port = self.port.to_string();
        // A file of configuration has to come first.
        command.args(&self.arguments);
        match self.tls {
            true => command.args(["--port", "0", "--tls-port", &port]),
            false => command.args(["--port", &port]),
        };
        for (name, port) in &self.ports {
            command.args([*name, &port.to_string()]);
        }
        command.args(["--bind", "127.0.0.1", "--save", ""]);
        command.args(["--dir", &self.folder.path().display().to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null());
        match command.spawn() {
            Ok(process) => self.process = Some(process),
            Err(error) => panic!("redis-server does not start ({error}); run `make init`"),
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(process) = &mut self.process
                && !matches!(process.try_wait(), Ok(None))
            {
                self.process = None;
                return false;
            }
            if self.answers().await {
                return true;
            }
            let log = self.log();
            assert!(Instant::now() < deadline, "redis-server is silent:\n{log}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether this very process is there and has loaded its data; somebody else's
    /// may be at the port.
    async fn answers(&self) -> bool {
        let Some(process) = &self.process else {
            return false;
        };
        if self.tls {
            return self.log().contains("Ready to accept connections");
        }
        let info = self.try_command::<String>(&["INFO", "server"]).await;
        info.is_ok_and(|info| info.contains(&format!("process_id:{}\r", process.id())))
            && self.try_command::<redis::Value>(&["PING"]).await.is_ok()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn folder() -> TempDir {
    match TempDir::with_prefix("tidepool-redis-") {
        Ok(folder) => folder,
        Err(error) => panic!("no temporary folder: {error}"),
    }
}

/// Writes certificate and key to files, and names them.
fn tls_arguments(folder: &TempDir, certificate: &str, key: &str) -> Vec<String> {
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        if let Err(error) = std::fs::write(&path, text) {
            panic!("{}: {error}", path.display());
        }
        path.display().to_string()
    };
    let (certificate, key) = (write("tls.crt", certificate), write("tls.key", key));
    let arguments = ["--tls-cert-file", &certificate, "--tls-key-file", &key];
    let arguments = arguments.into_iter().chain(["--tls-auth-clients", "no"]);
    arguments.map(str::to_owned).collect()
}

fn free_port() -> u16 {
    let bound = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    match bound {
        Ok(address) => address.port(),
        Err(error) => panic!("no free port: {error}"),
    }
}
