//! The part of the admin plane that deploys: from a request to what
//! `handlers::rollout` does, and what came of it as a document.

use std::sync::Arc;
use std::time::{Duration, Instant as Stopwatch};

use http::{Request, StatusCode, Uri};
use hyper::body::{Body as _, Incoming as HttpBody};

use super::authority::Who;
use super::body::read_body;
use super::documents::{
    AuditEntry, AuditList, Deployed, DeployedSlot, HandlerList, HandlerRevision, PlanState,
    PlanStatus, RolledBack, RolledBackSlot, Timings,
};
use super::query::Query;
use super::respond::{self, Answer, Kind, Problem};
use super::stream::{self, Streams};
use super::upload::{known, said, share};
use super::{deploy_lines, signed};
use crate::deployments::plan::{Ending, Step};
use crate::deployments::{Command, LedgerError, Plan, Refusal, Share};
use crate::handlers::listing::Listed;
use crate::handlers::load_error::LoadError;
use crate::handlers::planned::Waits;
use crate::handlers::progress::Progress;
use crate::handlers::registry::Registry;
use crate::handlers::rollout::{self, DeployError, Swapped};
use crate::model::Operation;
use crate::trust::signature::TrustedKeys;
use crate::trust::token::CreateError;
use crate::wit_host::log::rfc3339;

/// Entries of the audit trail that one answer has at most, and unless asked.
const MAX_AUDIT: usize = 1000;
const USUAL_AUDIT: usize = 100;

/// What is changed without a component.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Promote,
    Abort,
    Rollback,
}

impl Change {
    /// By the last part of its path.
    pub fn parse(name: &str) -> Option<Change> {
        match name {
            "promote" => Some(Change::Promote),
            "abort" => Some(Change::Abort),
            "rollback" => Some(Change::Rollback),
            _ => None,
        }
    }
}

/// `GET /v1/handlers`
pub(super) async fn list(registry: &Registry) -> Result<Answer, Problem> {
    let listing = registry.list().await?;
    let plans = listing.plans.into_iter();
    let document = HandlerList {
        handlers: listing.revisions.into_iter().map(listed).collect(),
        plans: plans
            .map(|(operation, plan, waits)| planned(operation, &plan, waits))
            .collect(),
        problems: listing.problems,
    };
    Ok(respond::json(StatusCode::OK, &document))
}

/// `POST /v1/handlers/{operation}`
pub(super) async fn deploy(
    registry: &Arc<Registry>,
    operation: &str,
    request: Request<HttpBody>,
    trusted: &Arc<TrustedKeys>,
    who: &Who,
    streams: &Streams,
    (max_bytes, body_timeout): (usize, Duration),
) -> Result<Answer, Problem> {
    let unread = !request.body().is_end_stream();
    let said = said(operation, &request);
    let mut upload = said.map_err(|problem| problem.close(unread))?;
    let regions = upload.rollout.regions();
    who.may_deploy(upload.operation, regions.as_deref())
        .map_err(|problem| problem.close(unread))?;
    let signature = signed::of(request.headers(), trusted);
    let signature = signature.map_err(|error| Problem::from(error).close(unread))?;
    let lines = stream::is_wanted(request.headers());
    let start = Stopwatch::now();
    upload.component = read_body(request.into_body(), max_bytes, body_timeout).await?;
    let received = start.elapsed();
    upload.signature = signature.clone();
    let signer = signed::verify(trusted, upload.component.clone(), signature).await?;
    if let Some(signer) = signer {
        upload.note = format!("signed by {signer}");
    }
    if lines {
        return deploy_lines::deploy(registry, upload, who.actor.clone(), received, streams);
    }
    let operation = upload.operation;
    let untold = Progress::untold();
    let done = registry.deploy(upload, &who.actor, &untold);
    let document = deployed(operation, done.await?);
    Ok(respond::json(StatusCode::OK, &document))
}

/// What a deployment did, as a document.
pub(super) fn deployed(operation: Operation, done: rollout::Deployed) -> Deployed {
    Deployed {
        operation: operation.name().to_owned(),
        digest: done.digest.to_string(),
        size: done.size as u64,
        timings: Timings {
            verify_ms: millis(done.timings.verify),
            compile_ms: millis(done.timings.compile),
            self_test_ms: millis(done.timings.self_test),
            total_ms: millis(done.total),
        },
        slots: done.slots.into_iter().map(deployed_slot).collect(),
        plan: done.plan.map(|plan| planned(operation, &plan, None)),
        problems: done.problems,
    }
}

/// `POST /v1/handlers/{operation}/{change}`
pub(super) async fn change(
    registry: &Registry,
    change: Change,
    operation: &str,
    request: &Request<HttpBody>,
    who: &Who,
) -> Result<Answer, Problem> {
    let start = Stopwatch::now();
    let operation = known(operation)?;
    let names: &[&str] = match change {
        Change::Promote => &["region", "share"],
        Change::Abort => &["region"],
        Change::Rollback => &["region", "to"],
    };
    let query = Query::of(request.uri(), names)?;
    let regions = query.list("region");
    who.may_deploy(operation, regions.as_deref())?;
    let command = match change {
        Change::Promote => Command::Promote {
            operation,
            regions,
            share: share(&query, "share")?.unwrap_or(Share::ALL),
        },
        Change::Abort => Command::Abort { operation, regions },
        Change::Rollback => Command::Rollback {
            operation,
            regions,
            to: query.number("to")?,
        },
    };
    let untold = Progress::untold();
    if change == Change::Rollback {
        registry.has_secrets(&command).await?;
    }
    let done = registry.command(&command, &who.actor, start, &untold);
    let (slots, problems) = done.await?;
    let slots = slots.into_iter().map(|slot| RolledBackSlot {
        from: slot.from,
        slot: deployed_slot(slot),
    });
    let document = RolledBack {
        operation: operation.name().to_owned(),
        slots: slots.collect(),
        problems,
    };
    Ok(respond::json(StatusCode::OK, &document))
}

/// `GET /v1/audit`
pub(super) async fn audit(registry: &Registry, uri: &Uri) -> Result<Answer, Problem> {
    let query = Query::of(uri, &["limit"])?;
    let limit: usize = query.number("limit")?.unwrap_or(USUAL_AUDIT);
    let entries = registry.audit(limit.min(MAX_AUDIT)).await?;
    let entries = entries.into_iter().map(|entry| AuditEntry {
        number: entry.seq,
        at: rfc3339(entry.at),
        summary: match entry.event() {
            Some(event) => event.summary(),
            None => "something that a newer Tidepool knows".to_owned(),
        },
        event: shown(&entry.body),
        actor: entry.actor,
        source: entry.source,
    });
    let document = AuditList {
        entries: entries.collect(),
    };
    Ok(respond::json(StatusCode::OK, &document))
}

/// An event as it is kept, but for what proves a token.
fn shown(body: &str) -> serde_json::Value {
    let mut event: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    if let Some(token) = event
        .get_mut("token")
        .and_then(|token| token.as_object_mut())
    {
        token.remove("hash");
    }
    event
}

fn planned(operation: Operation, plan: &Plan, waits: Option<Waits>) -> PlanStatus {
    let state = match &plan.ended {
        None => PlanState::Running,
        Some(Ending::Done) => PlanState::Done,
        Some(Ending::Stopped(_)) => PlanState::Stopped,
    };
    let why = match (&plan.ended, &waits) {
        (Some(Ending::Stopped(why)), _) | (None, Some(Waits::ForHosts(why))) => Some(why.clone()),
        _ => None,
    };
    PlanStatus {
        operation: operation.name().to_owned(),
        plan: plan.number,
        state,
        step: plan.step + 1,
        steps: plan.steps.iter().map(Step::to_string).collect(),
        pause: humantime::format_duration(plan.pause).to_string(),
        next_at: plan.due_micros().map(rfc3339),
        why,
    }
}

fn deployed_slot(slot: Swapped) -> DeployedSlot {
    DeployedSlot {
        region: slot.region,
        revision: slot.revision,
        state: slot.state,
        share: slot.share.map(|share| share.to_string()),
        unchanged: slot.unchanged,
        live_ms: slot.live.map(millis),
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Problem {
        Problem::new(Kind::Unavailable, error.to_string())
    }
}

fn listed(listed: Listed) -> HandlerRevision {
    let recorded = listed.recorded;
    let (calls, failures) = listed.counts.unwrap_or_default();
    let taken_back = recorded
        .taken_back
        .map(|reason| format!("took itself back: {reason}"));
    let notes = [Some(recorded.note), taken_back, listed.problem];
    let notes: Vec<String> = notes
        .into_iter()
        .flatten()
        .filter(|note| !note.is_empty())
        .collect();
    let note = notes.join("; ");
    HandlerRevision {
        region: listed.region,
        operation: listed.operation.name().to_owned(),
        revision: recorded.number,
        digest: listed.digest.to_string(),
        size: listed.size,
        deployed_at: rfc3339(recorded.at),
        deployed_by: recorded.by,
        state: listed.state,
        share: listed.share.map(|share| share.to_string()),
        config: recorded
            .config
            .iter()
            .map(|(name, is)| (name.to_owned(), is.clone()))
            .collect(),
        calls,
        failures,
        note: Some(note).filter(|note| !note.is_empty()),
    }
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl From<DeployError> for Problem {
    fn from(error: DeployError) -> Problem {
        let detail = error.to_string();
        let kind = match &error {
            DeployError::Refused(Refusal::UnknownRegion { .. } | Refusal::NoSuchToken { .. }) => {
                Kind::NoSuchPath
            }
            DeployError::Token(CreateError::Randomness(_)) => Kind::Unavailable,
            DeployError::Token(_) => Kind::BadRequest,
            DeployError::Refused(Refusal::Config { .. }) => Kind::BadRequest,
            DeployError::Refused(_) | DeployError::TooOld(_) => Kind::Conflict,
            DeployError::DigestMismatch { .. } => Kind::BadRequest,
            DeployError::OutcomeUnknown(_) => Kind::OutcomeUnknown,
            DeployError::Ledger(_) | DeployError::Load(LoadError::Host(_)) => Kind::Unavailable,
            DeployError::Load(LoadError::TooLarge { .. }) => Kind::TooLarge,
            DeployError::Load(LoadError::SelfTest { detail, .. }) => {
                tracing::warn!("a component failed its self-test: {detail}");
                Kind::Unprocessable
            }
            DeployError::Load(_) => Kind::Unprocessable,
        };
        Problem::new(kind, detail)
    }
}
