//! What all that has happened amounts to: pure. Every host that has read the same
//! entries has the same state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::config::Config;
use super::digest::Digest;
use super::event::{Entry, Event};
use super::plan::{Plan, Step};
use super::slot::{Added, BUILT_IN, Brought, Component, SlotState};
use crate::model::Operation;
use crate::trust::token::TokenRecord;

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
                let by = entry.actor.clone();
                let component = Component::Deployed { digest, size };
                let brought = Brought {
                    component,
                    config,
                    by,
                    note,
                    signature,
                };
                self.each(entry, operation, &regions, |slot| {
                    let number = brought.add(slot, entry.at, keep);
                    slot.share(number, share, entry.at);
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
                let by = entry.actor.clone();
                let component = Component::Deployed { digest, size };
                let brought = Brought {
                    component,
                    config,
                    by,
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
                    slot.share(number, share, entry.at);
                }
            }),
            Event::Aborted { operation, regions } => {
                self.stop_plan(operation, "it was aborted", |plan| {
                    regions.iter().any(|it| plan.is_about(it))
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
                            slot.activate(number, entry.at);
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
            // It is for the record alone.
            Event::Quarantine { .. } => {}
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
                slot.share(number, share, entry.at);
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
                since: entry.at,
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
            slot.activate(1, entry.at);
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
                slot.activate(number, entry.at);
            }
            self.slots.insert((region.to_owned(), operation), slot);
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
