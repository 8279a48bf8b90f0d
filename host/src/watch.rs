//! Deploys what is built into a folder: `get.wasm`, `put.wasm`, `delete.wasm`
//! and `hydrate.wasm` there, in every region, as soon as a file has changed
//! and has stopped changing. What lay there already at the start is deployed only if
//! it never was before: a rollback outlives a restart.
//!
//! It looks instead of asking the system to be told: four files a few times a
//! second cost nothing, and it works on every file system.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;

use crate::component_file::{self, FileError};
use crate::deployments::{ConfigChange, Digest, LedgerError, Share};
use crate::handlers::listing::Listed;
use crate::handlers::progress::Progress;
use crate::handlers::registry::Registry;
use crate::handlers::rollout::{Actor, Rollout, Upload};
use crate::model::Operation;

/// How often the folder is looked at. A file is deployed when two looks agree.
const INTERVAL: Duration = Duration::from_millis(150);

/// What tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stamp {
    File {
        modified: SystemTime,
        length: u64,
    },
    /// What is no file, and is refused once: that it is written to changes nothing.
    Other,
}

struct Watched {
    operation: Operation,
    path: PathBuf,
    /// What was there at the start.
    found: Option<Stamp>,
    seen: Option<Stamp>,
    handled: Option<Stamp>,
}

/// There is no such folder to watch, or its files are out of reach.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {} ({source}); make it a folder, or name another with --watch", .folder.display())]
pub struct NoFolder {
    folder: PathBuf,
    source: io::Error,
}

/// Whether a folder can be watched now. One that goes away later (`cargo clean`) is
/// looked for until it is back.
///
/// # Errors
///
/// It cannot.
pub fn check(folder: &Path) -> Result<(), NoFolder> {
    // To reach something in it is all that watching needs.
    let reached = std::fs::metadata(folder.join("."));
    reached.map(drop).map_err(|source| NoFolder {
        folder: folder.to_owned(),
        source,
    })
}

/// A folder that is watched.
pub struct Watch {
    files: Vec<Watched>,
    /// Most bytes of a component.
    max_bytes: usize,
}

impl Watch {
    /// Looks at the folder for the first time: what is there now is what was there at
    /// the start. A component has at most `max_bytes`.
    pub async fn look(folder: &Path, max_bytes: usize) -> Watch {
        let mut files = Vec::new();
        for operation in Operation::ALL {
            let path = folder.join(format!("{operation}.wasm"));
            files.push(Watched {
                operation,
                found: stamp(&path).await,
                path,
                seen: None,
                handled: None,
            });
        }
        Watch { files, max_bytes }
    }

    /// Watches it until `stop` is true or its sender is gone, whatever it is about
    /// then: a deployment that is not in the ledger yet changes nothing.
    pub async fn run(mut self, registry: Arc<Registry>, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.watch(&registry) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn watch(&mut self, registry: &Registry) {
        let mut looks = tokio::time::interval(INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            for file in &mut self.files {
                let now = stamp(&file.path).await;
                let settled = now.is_some() && now == file.seen && now != file.handled;
                file.seen = now;
                if settled {
                    file.handled = now;
                    deploy(file, self.max_bytes, registry).await;
                }
            }
        }
    }
}

async fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    if !metadata.is_file() {
        return Some(Stamp::Other);
    }
    Some(Stamp::File {
        modified: metadata.modified().ok()?,
        length: metadata.len(),
    })
}

async fn deploy(file: &Watched, max_bytes: usize, registry: &Registry) {
    let path = file.path.display();
    let bytes = match read(&file.path, max_bytes).await {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) => {
            tracing::error!(%path, "not deployed, nothing has changed: it {error}");
            return;
        }
    };
    // Somebody may have rolled it back since, or deployed another one.
    if file.handled == file.found {
        match was_deployed(file.operation, &bytes, registry).await {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(%path, "was deployed before, and is left alone until it changes");
                return;
            }
            Err(error) => {
                tracing::error!(%path, "not deployed, nothing has changed: {error}");
                return;
            }
        }
    }
    let upload = Upload {
        operation: file.operation,
        rollout: Rollout::Now {
            regions: None,
            share: Share::ALL,
        },
        config: ConfigChange::default(),
        component: bytes,
        announced: None,
        note: String::new(),
        signature: None,
    };
    let by = Actor {
        name: "watch".to_owned(),
        source: file.path.display().to_string(),
    };
    match registry.deploy(upload, &by, &steps(&file.path)).await {
        Ok(deployed) if deployed.slots.iter().all(|slot| slot.unchanged) => {
            tracing::info!(%path, digest = %deployed.digest, "already serving this component");
        }
        Ok(deployed) => {
            let total_ms = deployed.total.as_secs_f64() * 1e3;
            tracing::info!(%path, digest = %deployed.digest, total_ms, "deployed a rebuilt component");
        }
        Err(error) => tracing::error!(%path, "not deployed, nothing has changed: {error}"),
    }
}

/// Reads a component where waiting for a disk stops nobody else.
async fn read(path: &Path, max_bytes: usize) -> Result<Vec<u8>, FileError> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || component_file::read(&path, max_bytes));
    read.await.map_err(io::Error::other)?
}

/// Whether a revision of this operation, in any region, is this component.
async fn was_deployed(
    operation: Operation,
    component: &[u8],
    registry: &Registry,
) -> Result<bool, LedgerError> {
    let digest = Digest::of(component);
    let recorded = registry.list().await?.revisions;
    let is_it = |known: &Listed| known.operation == operation && known.digest == digest;
    Ok(recorded.iter().any(is_it))
}

/// Logs each step of a file's deployment.
fn steps(path: &Path) -> Progress {
    let path = path.display().to_string();
    Progress::new(move |step, took| {
        let (region, revision) = step.slot().unzip();
        let ms = took.as_secs_f64() * 1e3;
        tracing::info!(path, region, revision, ms, "{}", step.name());
    })
}
