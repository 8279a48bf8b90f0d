//! A CockroachDB for a test: one that somebody runs (`TIDEPOOL_TEST_COCKROACH_URL`),
//! or one started here from a `cockroach` on `PATH`. It is the only server that a
//! test may do without, and then the run says so.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{free_port, program};
use crate::{PATIENCE, within};

/// A running CockroachDB; killed on drop when it was started here.
#[derive(Debug)]
pub struct Cockroach {
    url: String,
    _started: Option<(Started, TempDir)>,
}

#[derive(Debug)]
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Cockroach {
    /// One to test with; without one, says on standard error what was not covered.
    ///
    /// # Panics
    ///
    /// There is one and it does not work.
    pub async fn find(what: &str) -> Option<Cockroach> {
        if let Ok(url) = std::env::var("TIDEPOOL_TEST_COCKROACH_URL") {
            return Some(Cockroach {
                url,
                _started: None,
            });
        }
        let Some(program) = program("cockroach") else {
            // Not `eprintln!`: the test harness would keep that to itself.
            let line = format!(
                "\n*** NOT COVERED: {what} on CockroachDB. There is no `cockroach` on PATH; put one there, or set TIDEPOOL_TEST_COCKROACH_URL. ***\n"
            );
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
            return None;
        };
        Some(Cockroach::start(&program).await)
    }

    async fn start(program: &Path) -> Cockroach {
        let folder = match TempDir::with_prefix("tidepool-cockroach-") {
            Ok(folder) => folder,
            Err(error) => panic!("no temporary folder: {error}"),
        };
        let (port, http) = (free_port(), free_port());
        let child = Command::new(program)
            .args([
                "start-single-node",
                "--insecure",
                "--store=type=mem,size=512MiB",
            ])
            .arg(format!("--listen-addr=127.0.0.1:{port}"))
            .arg(format!("--http-addr=127.0.0.1:{http}"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) => panic!("{}: {error}", program.display()),
        };
        let cockroach = Cockroach {
            url: format!("postgresql://root@127.0.0.1:{port}/defaultdb?sslmode=disable"),
            _started: Some((Started(child), folder)),
        };
        within("cockroach to answer", async {
            while tokio_postgres::connect(&cockroach.url, tokio_postgres::NoTls)
                .await
                .is_err()
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
        cockroach
    }

    /// A database of its own for a test, as a URL.
    ///
    /// # Panics
    ///
    /// It cannot be made within [`PATIENCE`].
    pub async fn database(&self, name: &str) -> String {
        let make = async {
            let (client, connection) =
                tokio_postgres::connect(&self.url, tokio_postgres::NoTls).await?;
            let connection = tokio::spawn(connection);
            client
                .batch_execute(&format!(
                    "DROP DATABASE IF EXISTS {name} CASCADE; CREATE DATABASE {name}"
                ))
                .await?;
            connection.abort();
            Ok::<(), tokio_postgres::Error>(())
        };
        match tokio::time::timeout(PATIENCE, make).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("CockroachDB, database {name}: {error}"),
            Err(_) => panic!("CockroachDB, database {name}: no answer"),
        }
        let (server, rest) = self.url.split_at(self.url.rfind('/').unwrap_or_default());
        let parameters = rest.split_once('?').map(|(_, parameters)| parameters);
        format!("{server}/{name}?{}", parameters.unwrap_or_default())
    }
}
