//! What is missing on a server, what that costs, and the exact statement to run.
//!
//! - `cockroach.rs`, `postgres.rs`: facts in, findings out (pure)
//! - `tables.rs`: the same of the tables beside the log's (pure)
//! - `ask.rs`: the facts, asked of a server
//! - `probe.rs`: a changefeed, tried for real
//! - `tune.rs`: what makes a CockroachDB's feed fast, set where that is allowed
//!
//! A check must not change anything on the server; `tune` does, and nothing else.

mod ask;
mod cockroach;
mod postgres;
mod probe;
mod tables;
mod tune;

use crate::cache::redis::{RedisCacheSettings, inspect};
use crate::config::Settings;
use crate::sql::{ServerKind, SqlConfig, connect_dedicated};

pub use tune::tune;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It works, and would work better.
    Advice,
    /// It does not work, or what was acknowledged can be lost.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at: the name of a setting, for example.
    pub subject: String,
    /// What was found.
    pub what: String,
    /// What that costs.
    pub cost: Option<String>,
    /// The statement that changes it, or what else to do.
    pub fix: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn ok(subject: &str, what: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Ok,
            subject: subject.to_owned(),
            what: what.into(),
            cost: None,
            fix: None,
        }
    }

    /// It would work better.
    pub fn advice(subject: &str, what: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Advice,
            ..Finding::ok(subject, what)
        }
    }

    /// It does not work.
    pub fn problem(subject: &str, what: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Problem,
            ..Finding::ok(subject, what)
        }
    }

    /// With what it costs.
    #[must_use]
    pub fn costs(self, cost: impl Into<String>) -> Finding {
        Finding {
            cost: Some(cost.into()),
            ..self
        }
    }

    /// With what changes it.
    #[must_use]
    pub fn fixed_by(self, fix: impl Into<String>) -> Finding {
        Finding {
            fix: Some(fix.into()),
            ..self
        }
    }
}

/// Whether nothing is a problem.
pub fn is_healthy(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.severity != Severity::Problem)
}

/// Looks at a database. One that cannot be reached, or does not answer, is a
/// problem too.
pub async fn database(config: &SqlConfig) -> Vec<Finding> {
    let (client, _connection, kind) = match connect_dedicated(config).await {
        Ok(connected) => connected,
        Err(error) => return vec![Finding::problem("connection", error.to_string())],
    };
    let connected = format!("{} is {kind}", config.target());
    let mut findings = vec![Finding::ok("connection", connected)];
    match kind {
        ServerKind::Cockroach { .. } => {
            let facts = ask::cockroach(&client, kind, config.role()).await;
            let follow = facts.table && facts.may_select;
            findings.extend(cockroach::evaluate(&facts));
            if follow {
                findings.push(probe::changefeed(config).await);
            }
        }
        ServerKind::Postgres { .. } => {
            let facts = ask::postgres(&client, config).await;
            findings.extend(postgres::evaluate(&facts));
        }
    }
    findings
}

/// Looks at the Redis of these settings, as [`database`] does.
pub async fn redis(settings: &Settings) -> Vec<Finding> {
    match RedisCacheSettings::new(settings) {
        Ok(settings) => inspect(&settings).await,
        Err(error) => vec![Finding::problem("redis.url", error.to_string())],
    }
}

/// Makes the feed of a CockroachDB fast where that is allowed, and logs what
/// somebody else has to run.
pub async fn tune_feed(config: &SqlConfig) {
    let (client, _connection, kind) = match connect_dedicated(config).await {
        Ok(connected) => connected,
        Err(error) => {
            tracing::warn!(%error, "the settings of the feed were not looked at");
            return;
        }
    };
    let refused = tune(&client, kind, config.role()).await;
    log_what_could_be_better("the feed", &refused);
}

/// Logs what is not as it should be, with what to run.
pub fn log_what_could_be_better(what: &str, findings: &[Finding]) {
    for finding in findings {
        if finding.severity != Severity::Ok {
            tracing::warn!(
                setting = finding.subject,
                cost = finding.cost.as_deref(),
                run = finding.fix.as_deref(),
                "{what} could be better: {}",
                finding.what
            );
        }
    }
}
