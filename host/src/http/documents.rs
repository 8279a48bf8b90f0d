//! The documents of the admin API, as both sides see them: the admin plane
//! writes them and the command line reads them. A reader passes over members
//! that it does not know, so that they may be added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::deployments::config::Setting;
pub use crate::model::RevisionState;

/// What a cache holds: `GET /v1/regions/{region}/cache`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CacheList {
    /// The region, or the server.
    pub cache: String,
    /// In the order of their keys.
    pub entries: Vec<CachedEntry>,
    /// Whether there are more than were asked for.
    pub more: bool,
}

/// What a cache holds of a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CachedEntry {
    /// The key.
    pub key: String,
    /// What is there.
    pub kind: CachedKind,
    /// Its version, if it has one.
    pub version: Option<i64>,
    /// The media type of a value that has one.
    pub content_type: Option<String>,
    /// The beginning of a value, as text.
    pub value: Option<String>,
    /// Whether the value is longer.
    pub cut: bool,
    /// How long it will be there, in milliseconds, unless it is evicted. None: no end.
    pub left_ms: Option<u64>,
}

/// What stands in a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CachedKind {
    /// A value.
    Value,
    /// The key was deleted.
    Tombstone,
    /// The log had nothing of it.
    Absent,
    /// Somebody reads the log for it.
    Lease,
    /// Nothing that an entry can be.
    Damaged,
}

impl CachedKind {
    /// Its name in the document.
    pub fn name(self) -> &'static str {
        match self {
            CachedKind::Value => "value",
            CachedKind::Tombstone => "tombstone",
            CachedKind::Absent => "absent",
            CachedKind::Lease => "lease",
            CachedKind::Damaged => "damaged",
        }
    }
}

/// The answer to a deployment: `POST /v1/handlers/{operation}`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Deployed {
    /// `get`, `put`, `delete` or `hydrate`.
    pub operation: String,
    /// `sha256:<hex>` of the component.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// How long each step took.
    pub timings: Timings,
    /// What the slots run now.
    pub slots: Vec<DeployedSlot>,
    /// The plan that goes on with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// What hosts say of what they cannot run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// How long the steps of a deployment took, in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Timings {
    /// Digest and shape.
    pub verify_ms: f64,
    /// To machine code.
    pub compile_ms: f64,
    /// The call before the swap.
    pub self_test_ms: f64,
    /// From the upload's last byte to the last swap.
    pub total_ms: f64,
}

/// A slot after a deployment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DeployedSlot {
    /// The region.
    pub region: String,
    /// The revision that it runs.
    pub revision: u64,
    /// Its state.
    pub state: RevisionState,
    /// The keys that it gets, as a canary: a percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// It was so before; nothing was swapped.
    pub unchanged: bool,
    /// From the request's end to all hosts of the region having done it, in
    /// milliseconds. Absent when no host is there, or one has not in 5 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_ms: Option<f64>,
}

/// A line of the answer to a deployment that asks for lines (`Accept:
/// application/x-ndjson`). The last one is `Done` or `Problem`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DeployLine {
    /// It is done.
    Done {
        /// As the answer to one that does not ask for lines.
        done: Box<Deployed>,
    },
    /// It is not done.
    Problem {
        /// A problem document.
        problem: serde_json::Value,
    },
    /// A step is done.
    Step(DeployStep),
    /// Something that a newer Tidepool knows.
    Other(serde_json::Value),
}

/// A step of a deployment that is done.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DeployStep {
    /// `received`, `compile`, `verify`, `self-test`, `store` and, for each region,
    /// `live`. One that was not needed is not there.
    pub step: String,
    /// The region that is live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Its revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// How long it took, in milliseconds; `live`: from the request's end.
    pub ms: f64,
}

/// A line of the answer to `GET /v1/logs/{operation}`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogEntry {
    /// A handler printed it, or failed.
    Line(LogLine),
    /// The reader was too slow for what came.
    Missed {
        /// So many lines are gone.
        missed: u64,
        /// The region that they were of.
        region: String,
    },
    /// Why nothing more comes.
    Problem {
        /// A problem document.
        problem: serde_json::Value,
    },
    /// Something that a newer Tidepool knows.
    Other(serde_json::Value),
}

/// What a handler printed, or how it failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// When, as RFC 3339 in UTC.
    pub at: String,
    /// The region.
    pub region: String,
    /// The operation.
    pub operation: String,
    /// The revision.
    pub revision: u64,
    /// `printed` or `failed`.
    pub kind: String,
    /// What it says; a failure may have several lines.
    pub text: String,
}

/// The answer to a change without a component: `POST
/// /v1/handlers/{operation}/rollback`, `/promote` and `/abort`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RolledBack {
    /// The operation.
    pub operation: String,
    /// What the slots run now.
    pub slots: Vec<RolledBackSlot>,
    /// What hosts say of what they cannot run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A slot after such a change.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RolledBackSlot {
    /// The revision that was active before.
    pub from: u64,
    /// What it is now.
    #[serde(flatten)]
    pub slot: DeployedSlot,
}

/// The answer to `GET /v1/audit`: newest first.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AuditList {
    /// What has happened.
    pub entries: Vec<AuditEntry>,
}

/// Something that has happened.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AuditEntry {
    /// They count from 1.
    pub number: u64,
    /// When, as RFC 3339 in UTC, by the database's clock.
    pub at: String,
    /// Who.
    pub actor: String,
    /// From where.
    pub source: String,
    /// What, in words.
    pub summary: String,
    /// What, as it is kept.
    pub event: serde_json::Value,
}

/// The answer to `GET /v1/feed/quarantine`: the newest first, at most 1000.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct QuarantineList {
    /// Rows that were set aside.
    pub entries: Vec<QuarantinedRow>,
    /// How many there are.
    pub total: u64,
}

/// A row that no `hydrate` handler could decide about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QuarantinedRow {
    /// The region.
    pub region: String,
    /// The key.
    pub key: String,
    /// The version.
    pub version: i64,
    /// When it was set aside, as RFC 3339 in UTC.
    pub at: String,
    /// Why.
    pub why: String,
}

/// The answer to `POST /v1/feed/quarantine/replay`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Replayed {
    /// Rows that have left the quarantine.
    pub replayed: u64,
    /// Rows that stay, with why.
    pub failed: Vec<QuarantinedRow>,
    /// Rows that were not tried in time.
    pub left: u64,
    /// Regions whose rows have to be replayed at one of their hosts.
    pub elsewhere: Vec<String>,
}

/// The answer to `DELETE /v1/feed/quarantine`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dropped {
    /// Rows that were forgotten.
    pub dropped: u64,
}

/// What `POST /v1/tokens` asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What it is for.
    pub name: String,
    /// What it may do: `read`, `deploy`, `deploy:REGION`, `deploy:*:OPERATION`,
    /// `deploy:REGION:OPERATION`, `admin`.
    pub scopes: Vec<String>,
    /// When it ends; never when left out.
    #[serde(default)]
    pub expires_in_seconds: Option<u64>,
}

/// The answer to `POST /v1/tokens`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenMade {
    /// The token. It is not to be had again.
    pub token: String,
    /// What is kept of it.
    #[serde(flatten)]
    pub made: Token,
}

/// The answer to `GET /v1/tokens`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenList {
    /// All that were made and not forgotten.
    pub tokens: Vec<Token>,
}

/// What is kept of a token. Times are RFC 3339 in UTC.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Token {
    /// What it is revoked by.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: String,
    /// By whom.
    pub created_by: String,
    /// When it ends.
    pub expires_at: Option<String>,
    /// When it was taken back.
    pub revoked_at: Option<String>,
}

/// The answer to `GET /v1/handlers`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HandlerList {
    /// All revisions of all slots.
    pub handlers: Vec<HandlerRevision>,
    /// The last plan of each operation that has had one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plans: Vec<PlanStatus>,
    /// What hosts say of what they cannot do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A plan, as far as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlanStatus {
    /// The operation.
    pub operation: String,
    /// The number of the entry in the audit trail that it began with.
    pub plan: u64,
    /// Whether it goes on.
    pub state: PlanState,
    /// The step that it has come to, counted from 1.
    pub step: usize,
    /// All its steps, in words.
    pub steps: Vec<String>,
    /// The pause after each, as in `5m`.
    pub pause: String,
    /// When the next may begin: RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<String>,
    /// Why it was stopped, or what it waits for beside its pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Whether a plan goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlanState {
    /// It does.
    Running,
    /// Its last step has begun.
    Done,
    /// It was stopped.
    Stopped,
}

/// One revision of one slot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HandlerRevision {
    /// The region.
    pub region: String,
    /// The operation.
    pub operation: String,
    /// Its number in the slot.
    pub revision: u64,
    /// `sha256:<hex>` of the component.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// When, as RFC 3339 in UTC.
    pub deployed_at: String,
    /// By whom, as `user@host`.
    pub deployed_by: String,
    /// What it does now.
    pub state: RevisionState,
    /// The keys that it gets, as a canary: a percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// Its configuration; of a secret only where it is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, Setting>,
    /// Calls on the host that answers, since it last began to run there.
    pub calls: u64,
    /// How many of them trapped or went over a limit.
    pub failures: u64,
    /// Why it is there, if there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
