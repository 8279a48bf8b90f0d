//! A PostgreSQL for a test, with everything as in production: syncs to disk,
//! passwords, roles without special rights, TLS when it is asked for. It can be
//! killed and started again on the same port.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio_postgres::{Client, NoTls};

use super::{free_port, postgres_program};
use crate::{PATIENCE, within};

/// The role of tests: it may log in and nothing else.
pub const ROLE: &str = "tidepool";
/// Its password, with characters that a URL has to encode.
pub const PASSWORD: &str = "tide/pool secret@1";
/// As it stands in a URL.
pub const PASSWORD_ENCODED: &str = "tide%2Fpool%20secret%401";

const ADMIN: &str = "admin";
const ADMIN_PASSWORD: &str = "administrator";

/// A running server; killed on drop.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    port: u16,
    options: Vec<String>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Postgres {
    /// A new server with its defaults.
    ///
    /// # Panics
    ///
    /// It does not start; the message has what it said.
    pub async fn start() -> Postgres {
        Postgres::start_with(&[]).await
    }

    /// One that speaks TLS with this certificate and key (PEM).
    ///
    /// # Panics
    ///
    /// As for [`Postgres::start`].
    pub async fn start_with_tls(certificate: &str, key: &str) -> Postgres {
        let mut server = Postgres::prepare();
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let file = server.data().join(name);
            must("a file", fs::write(&file, text));
            // It refuses a key that others can read.
            must(
                "a file's mode",
                fs::set_permissions(&file, fs::Permissions::from_mode(0o600)),
            );
            if let Some((user, group)) = unprivileged() {
                must("a file's owner", chown(&file, Some(user), Some(group)));
            }
        }
        server.options = vec!["ssl=on".to_owned()];
        server.launch().await;
        server
    }

    /// One with these settings (`name=value`).
    ///
    /// # Panics
    ///
    /// As for [`Postgres::start`].
    pub async fn start_with(options: &[&str]) -> Postgres {
        let mut server = Postgres::prepare();
        server.options = options.iter().map(|option| (*option).to_owned()).collect();
        server.launch().await;
        server
    }

    fn prepare() -> Postgres {
        let folder = must(
            "a temporary folder",
            TempDir::with_prefix("tidepool-postgres-"),
        );
        let server = Postgres {
            folder,
            port: 0,
            options: Vec::new(),
            running: None,
        };
        let password = server.folder.path().join("password");
        must("a file", fs::write(&password, ADMIN_PASSWORD));
        if let Some((user, group)) = unprivileged() {
            for file in [server.folder.path(), &password] {
                must("a file's owner", chown(file, Some(user), Some(group)));
            }
        }
        let made = as_nobody("initdb")
            .arg("--pgdata")
            .arg(server.data())
            .args(["--no-sync", "--auth=scram-sha-256", "--encoding=UTF8"])
            .args(["--locale=C.UTF-8", "--username", ADMIN])
            .arg(format!("--pwfile={}", password.display()))
            .current_dir(server.folder.path())
            .stdin(Stdio::null())
            .output();
        match made {
            Ok(made) if made.status.success() => server,
            Ok(made) => panic!("initdb: {}", String::from_utf8_lossy(&made.stderr)),
            Err(error) => panic!("initdb cannot be run ({error}): `make init` installs PostgreSQL"),
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts it on a free port and makes the role.
    async fn launch(&mut self) {
        // Somebody else may take the port between finding and using it.
        for _ in 0..10 {
            self.port = free_port();
            match self.try_start().await {
                Ok(running) => {
                    self.running = Some(running);
                    let role = format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'");
                    self.admin("postgres", &role).await;
                    return;
                }
                Err(said) if said.contains("could not bind") => {}
                Err(said) => panic!("postgres did not start:\n{said}"),
            }
        }
        panic!("postgres found no port");
    }

    async fn try_start(&self) -> Result<Running, String> {
        let mut command = as_nobody("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-k"])
            .arg(self.folder.path());
        for option in [
            "listen_addresses=127.0.0.1",
            "fsync=on",
            "shared_buffers=32MB",
            "lc_messages=C",
        ] {
            command.args(["-c", option]);
        }
        for option in &self.options {
            command.args(["-c", option]);
        }
        let child = command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = must("postgres (`make init` installs it)", child);
        let said = Arc::new(Mutex::new(Vec::new()));
        let (ready, is_ready) = oneshot::channel();
        if let Some(stderr) = child.stderr.take() {
            let said = Arc::clone(&said);
            std::thread::spawn(move || listen(stderr, &said, ready));
        }
        let running = Running { child, said };
        match within("postgres to start", is_ready).await {
            Ok(()) => Ok(running),
            Err(_) => Err(running.said()),
        }
    }

    /// A database of its own for a test, owned by [`ROLE`], as a URL.
    ///
    /// # Panics
    ///
    /// It cannot be made.
    pub async fn database(&self, name: &str) -> String {
        let make = format!("CREATE DATABASE {name} OWNER {ROLE}");
        self.admin("postgres", &make).await;
        self.url(ROLE, name)
    }

    /// The URL of a database for a role; for one that is not [`ROLE`] with
    /// [`PASSWORD`] too.
    pub fn url(&self, role: &str, database: &str) -> String {
        let port = self.port;
        format!("postgresql://{role}:{PASSWORD_ENCODED}@127.0.0.1:{port}/{database}")
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection of an administrator; it ends with the client.
    ///
    /// # Panics
    ///
    /// There is none to be had.
    pub async fn admin_client(&self, database: &str) -> Client {
        let port = self.port;
        let url = format!("postgresql://{ADMIN}:{ADMIN_PASSWORD}@127.0.0.1:{port}/{database}");
        let connected = within("postgres to answer", tokio_postgres::connect(&url, NoTls)).await;
        let (client, connection) = must("a connection to postgres", connected);
        tokio::spawn(connection);
        client
    }

    /// Runs statements as an administrator.
    ///
    /// # Panics
    ///
    /// They fail.
    pub async fn admin(&self, database: &str, statements: &str) {
        let client = self.admin_client(database).await;
        let done = within(statements, client.batch_execute(statements)).await;
        must(statements, done);
    }

    /// Kills it and all its processes (`kill -9`): what was not on disk is lost.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            drop(running);
        }
    }

    /// Starts it again, on the same port.
    ///
    /// # Panics
    ///
    /// It does not start within [`PATIENCE`].
    pub async fn restart(&mut self) {
        self.kill();
        let start = Instant::now();
        loop {
            match self.try_start().await {
                Ok(running) => {
                    self.running = Some(running);
                    return;
                }
                // Processes of the killed one are still going.
                Err(said) => assert!(
                    start.elapsed() < PATIENCE,
                    "postgres did not start again:\n{said}"
                ),
            }
        }
    }
}

impl Running {
    fn said(&self) -> String {
        match self.said.lock() {
            Ok(said) => said.join("\n"),
            Err(_) => String::new(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its processes would go on for a moment, each with what it was doing.
        let server = self.child.id();
        let children = format!("/proc/{server}/task/{server}/children");
        let children = fs::read_to_string(children).unwrap_or_default();
        let _ = self.child.kill();
        let children: Vec<&str> = children.split_whitespace().collect();
        if !children.is_empty() {
            let _ = Command::new("kill")
                .arg("-9")
                .args(children)
                .stderr(Stdio::null())
                .status();
        }
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), self.said().as_bytes());
        }
    }
}

/// Keeps what it says, and tells when it serves.
fn listen(stderr: ChildStderr, said: &Mutex<Vec<String>>, ready: oneshot::Sender<()>) {
    let mut ready = Some(ready);
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if line.contains("ready to accept connections")
            && let Some(ready) = ready.take()
        {
            let _ = ready.send(());
        }
        if let Ok(mut said) = said.lock() {
            said.push(line);
        }
    }
}

/// A command that does not run as root, which PostgreSQL refuses.
fn as_nobody(program: &str) -> Command {
    let Some(file) = postgres_program(program) else {
        panic!("{program} is neither on PATH nor in /usr/lib/postgresql/*/bin: run `make init`");
    };
    let mut command = Command::new(file);
    if let Some((user, group)) = unprivileged() {
        command.uid(user).gid(group);
    }
    command
}

/// Who to be instead of root; `None` when we are not.
fn unprivileged() -> Option<(u32, u32)> {
    let root = fs::metadata("/proc/self").is_ok_and(|it| {
        use std::os::unix::fs::MetadataExt;
        it.uid() == 0
    });
    root.then(|| {
        let users = fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| ids(&users, name))
            .unwrap_or((65_534, 65_534))
    })
}

fn ids(users: &str, name: &str) -> Option<(u32, u32)> {
    let line = users
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    let mut numbers = line.split(':').skip(2).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn must<T, E: std::error::Error>(what: &str, result: Result<T, E>) -> T {
    match result {
        Ok(it) => it,
        Err(error) => match error.source() {
            Some(cause) => panic!("{what}: {error}: {cause}"),
            None => panic!("{what}: {error}"),
        },
    }
}
