//! What all that has happened amounts to: pure. Every host that has read the same
//! entries has the same state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::config::{Config, ConfigChange};
use super::digest::Digest;
use super::event::{Entry, Event, Share};
use super::plan::{Plan, Step};
use crate::model::Operation;
use crate::trust::token::TokenRecord;

/// Who deployed the handlers that come with the host.
pub const BUILT_IN: &str = "built-in";

/// What a revision runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Component {
    /// The handler inside the binary: each host its own.
    BuiltIn,
    /// The component with this digest.
    Deployed {
        /// Its digest.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
    },
}

/// A revision of a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// Its number: they count from 1 in each slot.
    pub number: u64,
    /// What it runs.
    pub component: Component,
    /// With which configuration.
    pub config: Arc<Config>,
    /// When it was deployed, microseconds since the Unix epoch.
    pub at: i64,
    /// By whom.
    pub by: String,
    /// What else there is to say: mostly nothing.
    pub note: String,
    /// The signature that came with it, in base64.
    pub signature: Option<String>,
    /// Why it was taken back, if it was and has not run since.
    pub taken_back: Option<String>,
    /// Whether it was active ever: a canary may never have been.
    pub ran: bool,
}

/// What a slot runs, and has run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotState {
    /// Oldest first. What runs is always among them.
    pub revisions: Vec<Recorded>,
    /// The number of the one that every key gets but those of the canary.
    pub active: u64,
    /// The number of the canary, and the keys that get it.
    pub canary: Option<(u64, Share)>,
    /// The number of the one that a deployment put the active one in place of: what
    /// runs again if the active one does worse. None after that, and after a
    /// rollback.
    pub replaced: Option<u64>,
    /// The number of the last entry that changed the slot.
    pub changed: u64,
    next: u64,
}

impl SlotState {
    /// A revision that is remembered.
    pub fn revision(&self, number: u64) -> Option<&Recorded> {
        self.revisions.iter().find(|known| known.number == number)
    }

    /// The revision to go back to from the active one: the one that it was put in
    /// place of; after that the newest older one that was active, and was not taken
    /// back.
    pub fn before(&self) -> Option<&Recorded> {
        let replaced = self.replaced.and_then(|number| self.revision(number));
        let mut older = self.revisions.iter().rev();
        replaced.or_else(|| {
            older
                .find(|known| known.number < self.active && known.ran && known.taken_back.is_none())
        })
    }

    /// The configuration of the active revision with a change.
    pub fn config(&self, change: &ConfigChange) -> Arc<Config> {
        let active = self.revision(self.active);
        match active.map(|known| &known.config) {
            Some(config) if change.is_empty() => Arc::clone(config),
            Some(config) => Arc::new(config.with(change)),
            None => Arc::new(Config::default().with(change)),
        }
    }

    fn add(&mut self, added: Added, at: i64, keep: usize) -> u64 {
        let number = self.next;
        self.next += 1;
        self.revisions.push(Recorded {
            number,
            component: added.component,
            config: added.config,
            at,
            by: added.by,
            note: added.note,
            signature: added.signature,
            taken_back: None,
            ran: false,
        });
        while self.revisions.len() > keep {
            let runs = |known: &Recorded| {
                known.number == self.active
                    || known.number == number
                    || self.replaced == Some(known.number)
                    || self
                        .canary
                        .is_some_and(|(canary, _)| known.number == canary)
            };
            match self.revisions.iter().position(|known| !runs(known)) {
                Some(oldest) => drop(self.revisions.remove(oldest)),
                None => break,
            }
        }
        number
    }

    fn activate(&mut self, number: u64) {
        self.replaced = None;
        self.active = number;
        self.canary = None;
        if let Some(known) = self
            .revisions
            .iter_mut()
            .find(|known| known.number == number)
        {
            known.taken_back = None;
            known.ran = true;
        }
    }

    /// Gives a revision that is new, or the canary, a share of the keys.
    fn share(&mut self, number: u64, share: Share) {
        match share.is_all() {
            true => self.replace(number),
            false => self.canary = Some((number, share)),
        }
    }

    fn replace(&mut self, number: u64) {
        let replaced = self.active;
        self.activate(number);
        self.replaced = Some(replaced);
    }
}

/// What a plan brings to its regions, one after another.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Brought {
    component: Component,
    config: ConfigChange,
    by: String,
    note: String,
    signature: Option<String>,
}

impl Brought {
    fn add(&self, slot: &mut SlotState, at: i64, keep: usize) -> u64 {
        let added = Added {
            component: self.component,
            config: slot.config(&self.config),
            by: self.by.clone(),
            note: self.note.clone(),
            signature: self.signature.clone(),
        };
        slot.add(added, at, keep)
    }
}

/// What a revision is to be.
struct Added {
    component: Component,
    config: Arc<Config>,
    by: String,
    note: String,
    signature: Option<String>,
}

/// See the head of this file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// The number of the last entry.
    pub seq: u64,
    slots: BTreeMap<(String, Operation), SlotState>,
    /// The last plan of each operation, and what it brings.
    plans: BTreeMap<Operation, (Plan, Arc<Brought>)>,
    /// By their numbers.
    tokens: BTreeMap<String, TokenRecord>,
    /// Revisions that a slot remembers.
    keep: usize,
}

/// An entry that this release does not know: what comes after it cannot be
/// understood either.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "entry {seq} of the record of deployments is from a newer Tidepool; upgrade this host, it keeps what it runs until then"
)]
pub struct FromTheFuture {
    /// Its number.
    pub seq: u64,
}

impl State {
    /// Nothing has happened. Each slot will remember `keep` revisions, at least 2.
    pub fn new(keep: usize) -> State {
        State {
            seq: 0,
            slots: BTreeMap::new(),
            plans: BTreeMap::new(),
            tokens: BTreeMap::new(),
            keep: keep.max(2),
        }
    }

    /// What a slot runs. `None`: its region has not joined.
    pub fn slot(&self, region: &str, operation: Operation) -> Option<&SlotState> {
        // A map of pairs cannot be asked with borrowed parts of one.
        self.slots.get(&(region.to_owned(), operation))
    }

    /// All slots, in the order of regions and operations.
    pub fn slots(&self) -> impl Iterator<Item = (&str, Operation, &SlotState)> {
        let slots = self.slots.iter();
        slots.map(|((region, operation), slot)| (region.as_str(), *operation, slot))
    }

    /// The regions that have joined.
    pub fn regions(&self) -> BTreeSet<&str> {
        self.slots
            .keys()
            .map(|(region, _)| region.as_str())
            .collect()
    }

    /// The last plan of an operation.
    pub fn plan(&self, operation: Operation) -> Option<&Plan> {
        self.plans.get(&operation).map(|(plan, _)| plan)
    }

    /// The last plan of each operation that has had one.
    pub fn plans(&self) -> impl Iterator<Item = (Operation, &Plan)> {
        self.plans
            .iter()
            .map(|(operation, (plan, _))| (*operation, plan))
    }

    /// The token with this number, whether or not it holds.
    pub fn token(&self, id: &str) -> Option<&TokenRecord> {
        self.tokens.get(id)
    }

    /// All tokens.
    pub fn tokens(&self) -> impl Iterator<Item = &TokenRecord> {
        self.tokens.values()
    }

    /// The components that some slot may run again.
    pub fn components(&self) -> BTreeSet<Digest> {
        let revisions = self.slots.values().flat_map(|slot| &slot.revisions);
        revisions
            .filter_map(|known| match known.component {
                Component::BuiltIn => None,
                Component::Deployed { digest, .. } => Some(digest),
            })
            .collect()
    }

    /// Takes the next entry in. What it says of a slot or a revision that is not
    /// there is passed over: whoever wrote it has checked that it was.
    ///
    /// # Errors
    ///
    /// [`FromTheFuture`]: the state is as it was before.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), FromTheFuture> {
        let event = entry.event().ok_or(FromTheFuture { seq: entry.seq })?;
        self.seq = entry.seq;
        let keep = self.keep;
        match event {
            Event::Joined { region } => self.join(&region, entry),
            Event::Deployed {
                operation,
                regions,
                digest,
                size,
                share,
                note,
                signature,
                config,
            } => {
                let brought = Brought {
                    component: Component::Deployed { digest, size },
                    config,
                    by: entry.actor.clone(),
                    note,
                    signature,
                };
                self.each(entry, operation, &regions, |slot| {
                    let number = brought.add(slot, entry.at, keep);
                    slot.share(number, share);
                });
            }
            Event::Planned {
                operation,
                digest,
                size,
                note,
                signature,
                config,
                steps,
                pause_ms,
            } => {
                let brought = Brought {
                    component: Component::Deployed { digest, size },
                    config,
                    by: entry.actor.clone(),
                    note,
                    signature,
                };
                let plan = Plan {
                    number: entry.seq,
                    steps,
                    pause: Duration::from_millis(pause_ms),
                    step: 0,
                    since: entry.seq,
                    since_micros: entry.at,
                    revisions: BTreeMap::new(),
                    ended: None,
                };
                self.plans.insert(operation, (plan, Arc::new(brought)));
                self.come_to(operation, 0, entry);
            }
            Event::Advanced {
                operation,
                plan,
                step,
            } => {
                if self.plan(operation).is_some_and(|it| it.number == plan) {
                    self.come_to(operation, step, entry);
                }
            }
            Event::Shared {
                operation,
                regions,
                share,
            } => self.each(entry, operation, &regions, |slot| {
                if let Some((number, _)) = slot.canary {
                    slot.share(number, share);
                }
            }),
            Event::Aborted { operation, regions } => {
                self.stop_plan(operation, "it was aborted", |plan| {
                    regions.is_empty() || regions.iter().any(|it| plan.is_about(it))
                });
                self.each(entry, operation, &regions, |slot| slot.canary = None);
            }
            Event::RolledBack { operation, to } => {
                self.stop_plan(operation, "it was rolled back", |plan| {
                    to.keys().any(|it| plan.is_about(it))
                });
                for (region, number) in to {
                    self.each(entry, operation, &[region], |slot| {
                        if slot.revision(number).is_some() {
                            slot.activate(number);
                        }
                    });
                }
            }
            Event::TakenBack {
                operation,
                region,
                revision,
                reason,
            } => {
                let why = format!("it took itself back in {region}: {reason}");
                self.stop_plan(operation, &why, |plan| {
                    plan.revisions.get(&region) == Some(&revision)
                });
                self.each(entry, operation, &[region], |slot| {
                    if slot.canary.is_some_and(|(number, _)| number == revision) {
                        slot.canary = None;
                    } else if slot.active == revision
                        && let Some(replaced) = slot.replaced.take()
                    {
                        slot.active = replaced;
                    }
                    let mut known = slot.revisions.iter_mut();
                    if let Some(known) = known.find(|known| known.number == revision) {
                        known.taken_back = Some(reason.clone());
                    }
                });
            }
            Event::TokenCreated { token } => {
                self.tokens.insert(token.id.clone(), token);
            }
            Event::TokenRevoked { id } => {
                if let Some(token) = self.tokens.get_mut(&id) {
                    token.revoked_at.get_or_insert(entry.at);
                }
            }
        }
        Ok(())
    }

    /// The plan of an operation begins a step.
    fn come_to(&mut self, operation: Operation, step: usize, entry: &Entry) {
        let keep = self.keep;
        let Some((plan, brought)) = self.plans.get_mut(&operation) else {
            return;
        };
        let brought = Arc::clone(brought);
        let Some(Step { regions, share }) = plan.steps.get(step).cloned() else {
            return;
        };
        plan.came_to(step, entry.seq, entry.at);
        let mut revisions = std::mem::take(&mut plan.revisions);
        for region in regions {
            self.each(entry, operation, std::slice::from_ref(&region), |slot| {
                let number = *revisions
                    .entry(region.clone())
                    .or_insert_with(|| brought.add(slot, entry.at, keep));
                slot.share(number, share);
            });
        }
        if let Some((plan, _)) = self.plans.get_mut(&operation) {
            plan.revisions = revisions;
        }
    }

    /// Stops the plan of an operation, if it runs and is the one.
    fn stop_plan(&mut self, operation: Operation, why: &str, is: impl Fn(&Plan) -> bool) {
        if let Some((plan, _)) = self.plans.get_mut(&operation)
            && is(plan)
        {
            plan.stop(why.to_owned());
        }
    }

    fn each(
        &mut self,
        entry: &Entry,
        operation: Operation,
        regions: &[String],
        mut change: impl FnMut(&mut SlotState),
    ) {
        for region in regions {
            if let Some(slot) = self.slots.get_mut(&(region.clone(), operation)) {
                change(slot);
                slot.changed = entry.seq;
            }
        }
    }

    /// A region that joins runs what all others agree on, and otherwise what comes
    /// with the host.
    fn join(&mut self, region: &str, entry: &Entry) {
        if self.regions().contains(region) {
            return;
        }
        for operation in Operation::ALL {
            let others = self
                .slots
                .iter()
                .filter(|((_, other), _)| *other == operation);
            // With whichever signature was last in their order: any of them was taken.
            let agreed: BTreeMap<(Component, Arc<Config>), Option<String>> = others
                .filter_map(|(_, slot)| {
                    let active = slot.revision(slot.active)?;
                    let runs = (active.component, Arc::clone(&active.config));
                    Some((runs, active.signature.clone()))
                })
                .collect();
            let mut slot = SlotState {
                revisions: Vec::new(),
                active: 1,
                canary: None,
                replaced: None,
                changed: entry.seq,
                next: 1,
            };
            let built_in = Added {
                component: Component::BuiltIn,
                config: Arc::default(),
                by: BUILT_IN.to_owned(),
                note: String::new(),
                signature: None,
            };
            slot.add(built_in, entry.at, self.keep);
            slot.activate(1);
            if let (1, Some(((component @ Component::Deployed { .. }, config), signature))) =
                (agreed.len(), agreed.first_key_value())
            {
                let added = Added {
                    component: *component,
                    config: Arc::clone(config),
                    by: entry.actor.clone(),
                    note: "as in all other regions".to_owned(),
                    signature: signature.clone(),
                };
                let number = slot.add(added, entry.at, self.keep);
                slot.activate(number);
            }
            self.slots.insert((region.to_owned(), operation), slot);
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
