//! Deploys what is built into a folder: `get.wasm`, `put.wasm`, `delete.wasm`
//! and `hydrate.wasm` there, in every region, as soon as a file has changed
//! and has stopped changing.
//!
//! It looks instead of asking the system to be told: four files a few times a
//! second cost nothing, and it works on every file system.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;

use crate::deployments::{ConfigChange, Share};
use crate::handlers::progress::Progress;
use crate::handlers::registry::Registry;
use crate::handlers::rollout::{Actor, Rollout, Upload};
use crate::model::Operation;

/// How often the folder is looked at. A file is deployed when two looks agree.
const INTERVAL: Duration = Duration::from_millis(150);

/// What tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    length: u64,
}

struct Watched {
    operation: Operation,
    path: PathBuf,
    seen: Option<Stamp>,
    handled: Option<Stamp>,
}

/// Watches `folder` until `stop` is true or its sender is gone.
pub async fn run(folder: PathBuf, registry: Arc<Registry>, mut stop: watch::Receiver<bool>) {
    let mut files: Vec<Watched> = Operation::ALL
        .into_iter()
        .map(|operation| Watched {
            operation,
            path: folder.join(format!("{operation}.wasm")),
            seen: None,
            handled: None,
        })
        .collect();
    let mut looks = tokio::time::interval(INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        for file in &mut files {
            let now = stamp(&file.path).await;
            let settled = now.is_some() && now == file.seen && now != file.handled;
            file.seen = now;
            if settled {
                file.handled = now;
                deploy(file, &registry).await;
            }
        }
    }
}

async fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    Some(Stamp {
        modified: metadata.modified().ok()?,
        length: metadata.len(),
    })
}

async fn deploy(file: &Watched, registry: &Registry) {
    let path = file.path.display();
    let bytes = match tokio::fs::read(&file.path).await {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) => {
            tracing::error!(%path, %error, "cannot read a rebuilt component; nothing has changed");
            return;
        }
    };
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

/// Logs each step of a file's deployment.
fn steps(path: &Path) -> Progress {
    let path = path.display().to_string();
    Progress::new(move |step, took| {
        let (region, revision) = step.slot().unzip();
        let ms = took.as_secs_f64() * 1e3;
        tracing::info!(path, region, revision, ms, "{}", step.name());
    })
}
