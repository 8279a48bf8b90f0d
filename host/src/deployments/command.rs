//! What somebody wants, and the event that it becomes: pure. A command is decided
//! against a state, and is appended as the entry that follows it; when another
//! entry was first, it is decided again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::config::{Config, ConfigChange};
use super::digest::Digest;
use super::event::{Event, QuarantineChange, Share};
use super::plan::{Outline, Plan};
use super::refusal::Refusal;
use super::slot::{Component, SlotState};
use super::state::State;
use crate::model::Operation;
use crate::trust::token::TokenRecord;

/// What is to become the next revision of slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The operation.
    pub operation: Operation,
    /// The component.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What changes of the configuration.
    pub config: ConfigChange,
    /// What else there is to say.
    pub note: String,
    /// The signature that came with it, in base64.
    pub signature: Option<String>,
    /// The last entry before it was asked for: a slot that was changed after it is
    /// somebody else's by now.
    pub since: u64,
}

/// Something to be done. Without regions it is for all that have joined.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// A component is to become the next revision.
    Deploy {
        /// What.
        candidate: Candidate,
        /// The regions.
        regions: Option<Vec<String>>,
        /// The keys that it gets.
        share: Share,
    },
    /// A component is to become the next revision, step by step.
    Plan {
        /// What.
        candidate: Candidate,
        /// The steps.
        outline: Outline,
        /// The pause after each.
        pause: Duration,
    },
    /// A plan is to come to its next step.
    Advance {
        /// The operation.
        operation: Operation,
        /// The plan's number.
        plan: u64,
        /// The step, counted from 0.
        step: usize,
    },
    /// A canary is to get another share, or everything.
    Promote {
        /// The operation.
        operation: Operation,
        /// The regions; without, those that have a canary.
        regions: Option<Vec<String>>,
        /// The keys that it gets.
        share: Share,
    },
    /// A canary is to be withdrawn, and the plan that it is of.
    Abort {
        /// The operation.
        operation: Operation,
        /// The regions; without, those that have a canary.
        regions: Option<Vec<String>>,
    },
    /// Another revision is to run.
    Rollback {
        /// The operation.
        operation: Operation,
        /// The regions.
        regions: Option<Vec<String>>,
        /// Its number; without, the one before.
        to: Option<u64>,
    },
    /// Rows that were set aside are to be tried again, or forgotten: it is recorded.
    Quarantine {
        /// Which of the two.
        change: QuarantineChange,
        /// How many, by region.
        rows: BTreeMap<String, u64>,
    },
    /// A token is to be kept.
    CreateToken {
        /// What is kept of it.
        token: TokenRecord,
    },
    /// A token is to be taken back.
    RevokeToken {
        /// Its number.
        id: String,
    },
}

/// Most tokens that may hold at a time.
pub const MAX_TOKENS: usize = 1000;

impl State {
    /// The event that a command becomes now. `None`: all is as wanted already.
    /// `built_in` tells the digest of the handler inside this host.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn decide(
        &self,
        command: &Command,
        built_in: impl Fn(Operation) -> Digest,
    ) -> Result<Option<Event>, Refusal> {
        match command {
            Command::Deploy {
                candidate,
                regions,
                share,
            } => {
                let targets = self.targets(candidate.operation, regions.as_deref())?;
                let regions = self.changing(candidate, targets, built_in)?;
                let candidate = candidate.clone();
                Ok((!regions.is_empty()).then_some(Event::Deployed {
                    operation: candidate.operation,
                    regions,
                    digest: candidate.digest,
                    size: candidate.size,
                    share: *share,
                    note: candidate.note,
                    signature: candidate.signature,
                    config: candidate.config,
                }))
            }
            Command::Plan {
                candidate,
                outline,
                pause,
            } => {
                let targets = self.planned(candidate.operation, outline)?;
                // There is one for each operation.
                if let Some(plan) = self.plan(candidate.operation).filter(|plan| plan.runs()) {
                    return Err(plan_runs(candidate.operation, plan));
                }
                let regions = self.changing(candidate, targets, built_in)?;
                let candidate = candidate.clone();
                Ok((!regions.is_empty()).then(|| Event::Planned {
                    operation: candidate.operation,
                    digest: candidate.digest,
                    size: candidate.size,
                    note: candidate.note,
                    signature: candidate.signature,
                    config: candidate.config,
                    steps: outline.steps(&regions),
                    pause_ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                }))
            }
            Command::Advance {
                operation,
                plan,
                step,
            } => {
                let is_next = self
                    .plan(*operation)
                    .is_some_and(|it| it.number == *plan && it.runs() && it.step + 1 == *step);
                Ok(is_next.then_some(Event::Advanced {
                    operation: *operation,
                    plan: *plan,
                    step: *step,
                }))
            }
            Command::Promote {
                operation,
                regions,
                share,
            } => {
                let canaries = self.canaries(*operation, regions.as_deref())?;
                for (region, _, has) in &canaries {
                    self.no_plan_for(*operation, region)?;
                    if has > share {
                        return Err(Refusal::Shrinks {
                            operation: *operation,
                            region: (*region).to_owned(),
                            share: *has,
                        });
                    }
                }
                let growing = canaries.into_iter().filter(|(_, _, has)| has < share);
                let regions: Vec<_> = growing.map(|(region, ..)| region.to_owned()).collect();
                Ok((!regions.is_empty()).then_some(Event::Shared {
                    operation: *operation,
                    regions,
                    share: *share,
                }))
            }
            Command::Abort { operation, regions } => {
                let plan = self.plan(*operation).filter(|plan| plan.runs());
                let mut aborted = Vec::new();
                for (region, slot) in self.targets(*operation, regions.as_deref())? {
                    // Between two steps a plan may have no canary anywhere: its regions
                    // stand for it.
                    let planned = plan.is_some_and(|plan| plan.is_about(region));
                    if planned || slot.canary.is_some() {
                        aborted.push(region.to_owned());
                    } else if regions.is_some() {
                        return Err(no_canary(*operation, region));
                    }
                }
                match aborted.is_empty() {
                    true => Err(no_canary(*operation, "any region")),
                    false => Ok(Some(Event::Aborted {
                        operation: *operation,
                        regions: aborted,
                    })),
                }
            }
            Command::Rollback {
                operation,
                regions,
                to,
            } => {
                let mut targets = BTreeMap::new();
                for (region, slot) in self.targets(*operation, regions.as_deref())? {
                    let found = match to {
                        Some(to) => slot.revision(*to),
                        None => slot.before(),
                    };
                    let found = found.ok_or_else(|| Refusal::NoSuchRevision {
                        region: region.to_owned(),
                        operation: *operation,
                        wanted: to
                            .map_or_else(|| format!("before {}", slot.active), |to| to.to_string()),
                    })?;
                    if found.number != slot.active || slot.canary.is_some() {
                        targets.insert(region.to_owned(), found.number);
                    }
                }
                Ok((!targets.is_empty()).then_some(Event::RolledBack {
                    operation: *operation,
                    to: targets,
                }))
            }
            Command::Quarantine { change, rows } => {
                Ok((!rows.is_empty()).then(|| Event::Quarantine {
                    change: *change,
                    rows: rows.clone(),
                }))
            }
            Command::CreateToken { token } => {
                let id = token.id.clone();
                let hold = self.tokens().filter(|known| {
                    let ended = known.expires_at.is_some_and(|end| end <= token.created_at);
                    known.revoked_at.is_none() && !ended
                });
                match self.token(&id) {
                    Some(known) if known == token => Ok(None),
                    Some(_) => Err(Refusal::TokenExists { id }),
                    None if hold.count() >= MAX_TOKENS => Err(Refusal::TooManyTokens),
                    None => Ok(Some(Event::TokenCreated {
                        token: token.clone(),
                    })),
                }
            }
            Command::RevokeToken { id } => match self.token(id) {
                Some(token) => {
                    let event = Event::TokenRevoked { id: id.clone() };
                    Ok(token.revoked_at.is_none().then_some(event))
                }
                None => Err(Refusal::NoSuchToken { id: id.clone() }),
            },
        }
    }

    /// The slots that a plan is about.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownRegion`].
    pub fn planned(
        &self,
        operation: Operation,
        outline: &Outline,
    ) -> Result<Vec<(&str, &SlotState)>, Refusal> {
        let (named, rest) = outline.regions();
        let targets = self.targets(operation, Some(&named))?;
        match rest {
            true => self.targets(operation, None),
            false => Ok(targets),
        }
    }

    /// The configurations that a change makes of those of slots, each once.
    ///
    /// # Errors
    ///
    /// [`Refusal::Config`].
    pub fn configs(
        targets: &[(&str, &SlotState)],
        change: &ConfigChange,
    ) -> Result<Vec<Arc<Config>>, Refusal> {
        let mut configs = Vec::new();
        for (region, slot) in targets {
            let config = slot.config(change);
            config.check().map_err(|error| Refusal::Config {
                region: (*region).to_owned(),
                error,
            })?;
            if !configs.contains(&config) {
                configs.push(config);
            }
        }
        Ok(configs)
    }

    /// Those of the slots that do not run the candidate already, all of which may
    /// be changed.
    fn changing(
        &self,
        candidate: &Candidate,
        targets: Vec<(&str, &SlotState)>,
        built_in: impl Fn(Operation) -> Digest,
    ) -> Result<Vec<String>, Refusal> {
        let operation = candidate.operation;
        State::configs(&targets, &candidate.config)?;
        let mut changing = Vec::new();
        for (region, slot) in targets {
            // Whoever was first has done just that.
            let runs = slot.runs(candidate, built_in(operation));
            if slot.changed > candidate.since && !(runs && slot.canary.is_none()) {
                return Err(Refusal::Overtaken {
                    region: region.to_owned(),
                    operation,
                    active: slot.active,
                });
            }
            self.no_plan_for(operation, region)?;
            if let Some((canary, share)) = slot.canary {
                return Err(Refusal::CanaryRuns {
                    region: region.to_owned(),
                    operation,
                    canary,
                    share,
                });
            }
            if !runs {
                changing.push(region.to_owned());
            }
        }
        Ok(changing)
    }

    /// A region that a plan is about is the plan's, until it has ended.
    fn no_plan_for(&self, operation: Operation, region: &str) -> Result<(), Refusal> {
        let plan = self.plan(operation);
        match plan.filter(|plan| plan.runs() && plan.is_about(region)) {
            Some(plan) => Err(plan_runs(operation, plan)),
            None => Ok(()),
        }
    }

    /// The slots of the operation in these regions, or in all.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownRegion`].
    pub fn targets(
        &self,
        operation: Operation,
        regions: Option<&[String]>,
    ) -> Result<Vec<(&str, &SlotState)>, Refusal> {
        let all = self.slots().filter(|(_, other, _)| *other == operation);
        let all: Vec<_> = all.map(|(region, _, slot)| (region, slot)).collect();
        let Some(regions) = regions else {
            return Ok(all);
        };
        let find = |name: &String| {
            let found = all.iter().find(|(region, _)| region == name).copied();
            found.ok_or_else(|| Refusal::UnknownRegion {
                name: name.clone(),
                known: all.iter().map(|(region, _)| (*region).to_owned()).collect(),
            })
        };
        let mut targets = regions.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        targets.sort_by_key(|(region, _)| *region);
        targets.dedup_by_key(|(region, _)| *region);
        Ok(targets)
    }

    /// The canaries of the operation in these regions, or wherever there are some.
    fn canaries(
        &self,
        operation: Operation,
        regions: Option<&[String]>,
    ) -> Result<Vec<(&str, u64, Share)>, Refusal> {
        let targets = self.targets(operation, regions)?;
        let mut canaries = Vec::new();
        for (region, slot) in targets {
            match slot.canary {
                Some((number, share)) => canaries.push((region, number, share)),
                None if regions.is_some() => return Err(no_canary(operation, region)),
                None => {}
            }
        }
        match canaries.is_empty() {
            true => Err(no_canary(operation, "any region")),
            false => Ok(canaries),
        }
    }
}

fn no_canary(operation: Operation, region: &str) -> Refusal {
    Refusal::NoCanary {
        operation,
        region: region.to_owned(),
    }
}

fn plan_runs(operation: Operation, plan: &Plan) -> Refusal {
    Refusal::PlanRuns {
        operation,
        step: plan.step + 1,
        steps: plan.steps.len(),
    }
}

impl SlotState {
    fn runs(&self, candidate: &Candidate, built_in: Digest) -> bool {
        self.revision(self.active).is_some_and(|active| {
            // A host that refused what was unsigned takes what is signed now.
            let signed = candidate.signature.is_none() || active.signature == candidate.signature;
            let same = match active.component {
                Component::Deployed { digest, .. } => digest == candidate.digest && signed,
                Component::BuiltIn => built_in == candidate.digest,
            };
            same && active.config == self.config(&candidate.config)
        })
    }
}
