//! What can happen to deployments, as it is kept. An event names regions and
//! numbers outright: what it means does not depend on who reads it, or when.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::ConfigChange;
use super::digest::Digest;
use super::plan::Step;
use crate::model::Operation;
use crate::trust::token::{Scope, TokenRecord};

/// Part of the keys of a region, in hundredths of a percent: 0 to 10000.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "u16")]
pub struct Share(u16);

impl TryFrom<u16> for Share {
    type Error = &'static str;

    fn try_from(hundredths: u16) -> Result<Share, &'static str> {
        Share::new(hundredths).ok_or("a share is more than none and at most all")
    }
}

impl Share {
    /// Every key.
    pub const ALL: Share = Share(10_000);

    /// A share of `hundredths` of a percent, if that is more than none and not
    /// more than all.
    pub fn new(hundredths: u16) -> Option<Share> {
        (1..=Share::ALL.0)
            .contains(&hundredths)
            .then_some(Share(hundredths))
    }

    /// From `5%`, `0.25%` or `5`: more than 0 and at most 100, with up to two
    /// decimals.
    pub fn parse(text: &str) -> Option<Share> {
        let text = text.strip_suffix('%').unwrap_or(text);
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || whole.len() > 3 || decimals.len() > 2 || text.ends_with('.') {
            return None;
        }
        if !digits(whole) || !digits(decimals) {
            return None;
        }
        Share::new(format!("{whole}{decimals:0<2}").parse().ok()?)
    }

    /// Whether it is every key.
    pub fn is_all(self) -> bool {
        self == Share::ALL
    }

    /// Whether the key with this hash is in it. A larger share has every key of
    /// a smaller one.
    pub fn has(self, hash: u64) -> bool {
        hash % u64::from(Share::ALL.0) < u64::from(self.0)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        match rest {
            0 => write!(f, "{whole}%"),
            _ => write!(f, "{whole}.{rest:02}%"),
        }
    }
}

/// What becomes of rows that were set aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuarantineChange {
    /// They are tried again.
    Replay,
    /// They are forgotten.
    Drop,
}

/// Something that has happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// A region has its first host.
    Joined {
        /// The region.
        region: String,
    },
    /// A component became the next revision of slots: for every key, or as a
    /// canary for some.
    Deployed {
        /// The operation.
        operation: Operation,
        /// The regions.
        regions: Vec<String>,
        /// The component.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
        /// The keys that it gets.
        share: Share,
        /// What else there is to say; mostly empty.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        note: String,
        /// The signature that came with it, in base64: every host judges it by
        /// the keys that it trusts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
        /// What it changes of the configuration of each slot's active revision.
        #[serde(default, skip_serializing_if = "ConfigChange::is_empty")]
        config: ConfigChange,
    },
    /// A plan began, with its first step.
    Planned {
        /// The operation.
        operation: Operation,
        /// The component.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
        /// As in [`Event::Deployed`].
        #[serde(default, skip_serializing_if = "String::is_empty")]
        note: String,
        /// As in [`Event::Deployed`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
        /// As in [`Event::Deployed`].
        #[serde(default, skip_serializing_if = "ConfigChange::is_empty")]
        config: ConfigChange,
        /// The steps. All their regions have joined.
        steps: Vec<Step>,
        /// The pause after each step, in milliseconds.
        pause_ms: u64,
    },
    /// A plan came to its next step.
    Advanced {
        /// The operation.
        operation: Operation,
        /// The number of the entry that the plan began with.
        plan: u64,
        /// The step, counted from 0.
        step: usize,
    },
    /// The canaries of slots got another share; all: they are now what runs.
    Shared {
        /// The operation.
        operation: Operation,
        /// The regions.
        regions: Vec<String>,
        /// The keys that they get.
        share: Share,
    },
    /// The canaries of slots were withdrawn, where there were some, and the plan that was
    /// about one of them.
    Aborted {
        /// The operation.
        operation: Operation,
        /// The regions.
        regions: Vec<String>,
    },
    /// Slots went to other revisions that they have had.
    RolledBack {
        /// The operation.
        operation: Operation,
        /// The revision of each region.
        to: BTreeMap<String, u64>,
    },
    /// A revision that did not do was taken out of its slot by a host.
    TakenBack {
        /// The operation.
        operation: Operation,
        /// The region.
        region: String,
        /// The revision.
        revision: u64,
        /// What was wrong with it.
        reason: String,
    },
    /// Rows that were set aside are tried again, or forgotten.
    Quarantine {
        /// Which of the two.
        change: QuarantineChange,
        /// How many there were, by region.
        rows: BTreeMap<String, u64>,
    },
    /// A token for the admin plane was made.
    TokenCreated {
        /// What is kept of it.
        token: TokenRecord,
    },
    /// A token was taken back.
    TokenRevoked {
        /// Its number.
        id: String,
    },
}

impl Event {
    /// In a few words, for people.
    pub fn summary(&self) -> String {
        match self {
            Event::Joined { region } => format!("region {region} joined"),
            Event::Deployed {
                operation,
                regions,
                digest,
                share,
                signature,
                config,
                ..
            } => format!(
                "deployed {operation} {digest} to {} at {share}{}",
                regions.join(", "),
                with(signature.as_deref(), config)
            ),
            Event::Planned {
                operation,
                digest,
                steps,
                pause_ms,
                signature,
                config,
                ..
            } => {
                let pause = humantime::format_duration(Duration::from_millis(*pause_ms));
                let steps: Vec<_> = steps.iter().map(Step::to_string).collect();
                format!(
                    "planned {operation} {digest}, {pause} after each step: {}{}",
                    steps.join("; "),
                    with(signature.as_deref(), config)
                )
            }
            Event::Advanced {
                operation,
                plan,
                step,
            } => format!("the plan {plan} of {operation} to step {}", step + 1),
            Event::Shared {
                operation,
                regions,
                share,
            } => format!(
                "the canary of {operation} in {} to {share}",
                regions.join(", ")
            ),
            Event::Aborted { operation, regions } => {
                format!(
                    "withdrew the canary of {operation}, or its plan, in {}",
                    regions.join(", ")
                )
            }
            Event::RolledBack { operation, to } => {
                let to: Vec<_> = to
                    .iter()
                    .map(|(region, number)| format!("{region} to revision {number}"))
                    .collect();
                format!("rolled {operation} back in {}", to.join(", "))
            }
            Event::TakenBack {
                operation,
                region,
                revision,
                reason,
            } => format!("{operation} revision {revision} took itself back in {region}: {reason}"),
            Event::Quarantine { change, rows } => {
                let what = match change {
                    QuarantineChange::Replay => "replays",
                    QuarantineChange::Drop => "forgets",
                };
                let rows: Vec<_> = rows
                    .iter()
                    .map(|(region, rows)| format!("{rows} of {region}"))
                    .collect();
                format!("{what} rows that were set aside: {}", rows.join(", "))
            }
            Event::TokenCreated { token } => {
                let scopes: Vec<String> = token.scopes.iter().map(Scope::to_string).collect();
                let (id, name) = (&token.id, &token.name);
                format!("made the token {id} for {name}: {}", scopes.join(", "))
            }
            Event::TokenRevoked { id } => format!("revoked the token {id}"),
        }
    }
}

/// What else came with a component.
fn with(signature: Option<&str>, config: &ConfigChange) -> String {
    let mut text = String::new();
    if signature.is_some() {
        text.push_str(", signed");
    }
    if !config.is_empty() {
        text.push_str(&format!(", {config}"));
    }
    text
}

/// An event that is to be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewEntry {
    /// Random: tells whether an entry with the same number is this one.
    pub id: i64,
    /// Who did it.
    pub actor: String,
    /// From where: an address, or `host` for what a host did by itself.
    pub source: String,
    /// What.
    pub event: Event,
}

/// An event as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its number. They have no gaps, and begin with 1.
    pub seq: u64,
    /// When, by the database's clock, microseconds since the Unix epoch.
    pub at: i64,
    /// As in [`NewEntry`].
    pub id: i64,
    /// As in [`NewEntry`].
    pub actor: String,
    /// As in [`NewEntry`].
    pub source: String,
    /// The event as it was written: JSON.
    pub body: String,
}

impl Entry {
    /// The event. `None`: a newer release has written it, or somebody else.
    pub fn event(&self) -> Option<Event> {
        serde_json::from_str(&self.body).ok()
    }
}

/// The event as it is kept.
pub fn encode(event: &Event) -> String {
    // Names, numbers and texts only: there is nothing in it that JSON has not.
    serde_json::to_string(event).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages_with_two_decimals() {
        for (text, shown) in [
            ("5%", "5%"),
            ("0.25%", "0.25%"),
            ("100", "100%"),
            ("12.5", "12.50%"),
        ] {
            assert_eq!(Share::parse(text).unwrap().to_string(), shown);
        }
        for wrong in [
            "0", "0%", "100.01", "-1", "5.", ".5", "1.234", "%", "+5", "1e1", "5 %",
        ] {
            assert_eq!(Share::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_larger_share_has_every_key_of_a_smaller_one() {
        for hash in (0..200_000u64).step_by(7) {
            let mut had = false;
            for hundredths in [1, 500, 2_500, 9_999, 10_000] {
                let has = Share::new(hundredths).unwrap().has(hash);
                assert!(has || !had, "{hash} {hundredths}");
                had = has;
            }
            assert!(had);
        }
    }

    #[test]
    fn an_event_reads_back_and_one_of_the_future_does_not() {
        let event = Event::Aborted {
            operation: Operation::Get,
            regions: vec!["a".to_owned()],
        };
        let text = encode(&event);
        assert_eq!(
            text,
            r#"{"type":"aborted","operation":"get","regions":["a"]}"#
        );
        let entry = |body: &str| Entry {
            seq: 1,
            at: 0,
            id: 0,
            actor: String::new(),
            source: String::new(),
            body: body.to_owned(),
        };
        assert_eq!(entry(&text).event(), Some(event));
        assert_eq!(entry(r#"{"type":"teleported"}"#).event(), None);
        // A member that this release does not know may change what it means.
        let more = r#"{"type":"aborted","operation":"get","regions":["a"],"gently":true}"#;
        assert_eq!(entry(more).event(), None);
        for (share, known) in [(0, false), (10_000, true), (10_001, false)] {
            let shared =
                format!(r#"{{"type":"shared","operation":"get","regions":[],"share":{share}}}"#);
            assert_eq!(entry(&shared).event().is_some(), known);
        }
    }
}
