//! A deployment that is told as it happens: a line for each step, and a last one
//! that says what has become of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::deploying::{deployed, millis};
use super::documents::{DeployLine, DeployStep};
use super::respond::{Answer, Problem};
use super::stream::{Streams, line};
use crate::handlers::progress::Progress;
use crate::handlers::registry::Registry;
use crate::handlers::rollout::{Actor, Upload};

/// Lines that may wait for the client: more than a deployment has in most hosts.
/// A client that takes none misses steps, and holds nothing up.
const QUEUE: usize = 64;

/// Deploys, and answers with the steps. A client that goes away ends what is not
/// in the ledger yet, as it does when it waits for the whole answer; what is, is
/// deployed.
pub(super) fn deploy(
    registry: &Arc<Registry>,
    upload: Upload,
    by: Actor,
    received: Duration,
    streams: &Streams,
) -> Result<Answer, Problem> {
    let (lines, answer) = streams.open(QUEUE)?;
    lines.try_send(told("received", None, received));
    let steps = lines.clone();
    let progress = Progress::new(move |step, took| {
        steps.try_send(told(step.name(), step.slot(), took));
    });
    let (registry, operation) = (Arc::clone(registry), upload.operation);
    // Not by the connection: a client that takes no more bytes would stop it
    // where it holds what others wait for.
    tokio::spawn(async move {
        let done = tokio::select! {
            done = registry.deploy(upload, &by, &progress) => done,
            () = lines.closed() => {
                tracing::info!(%operation, by = by.name, "a client went away during its deployment");
                return;
            }
        };
        let last = match done {
            Ok(done) => DeployLine::Done {
                done: Box::new(deployed(operation, done)),
            },
            Err(error) => DeployLine::Problem {
                problem: Problem::from(error).document(),
            },
        };
        lines.send(line(&last)).await;
    });
    Ok(answer)
}

fn told(step: &str, slot: Option<(&str, u64)>, took: Duration) -> Bytes {
    let (region, revision) = slot.unzip();
    line(&DeployLine::Step(DeployStep {
        step: step.to_owned(),
        region: region.map(str::to_owned),
        revision,
        ms: millis(took),
    }))
}
