//! What is deployed, for operators: every revision of every slot, and who did
//! what.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use super::planned::{Waits, waits};
use super::registry::Registry;
use super::revision::Revision;
use super::table::index;
use crate::deployments::{Component, Digest, Entry, LedgerError, Plan, Recorded, Share};
use crate::model::{Operation, RevisionState};

/// A revision, for operators.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The region.
    pub region: String,
    /// The operation.
    pub operation: Operation,
    /// As recorded.
    pub recorded: Recorded,
    /// Digest of what it runs.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What it does now.
    pub state: RevisionState,
    /// The keys that it gets, as a canary.
    pub share: Option<Share>,
    /// Calls and failures since this process began, if it has run here.
    pub counts: Option<(u64, u64)>,
    /// Why this host does not run it though it should.
    pub problem: Option<String>,
}

/// What is deployed, for operators.
pub struct Listing {
    /// All recorded revisions.
    pub revisions: Vec<Listed>,
    /// The last plan of each operation that has had one, and what it waits for.
    pub plans: Vec<(Operation, Plan, Option<Waits>)>,
    /// What hosts cannot do.
    pub problems: Vec<String>,
}

impl Registry {
    /// The last entries of the ledger, newest first; at most `limit`.
    ///
    /// # Errors
    ///
    /// The ledger cannot be read.
    pub async fn audit(&self, limit: usize) -> Result<Vec<Entry>, LedgerError> {
        self.catch_up().await?;
        let last = self.known.lock().await.seq;
        let mut seq = last.saturating_sub(limit as u64);
        let mut entries = Vec::new();
        loop {
            let page = self.ledger.after(seq).await?;
            match page.last() {
                Some(entry) => seq = entry.seq,
                None => break,
            }
            entries.extend(page);
        }
        entries.reverse();
        entries.truncate(limit);
        Ok(entries)
    }

    /// What is deployed, and what it does.
    ///
    /// # Errors
    ///
    /// The ledger cannot be read.
    pub async fn list(&self) -> Result<Listing, LedgerError> {
        self.catch_up().await?;
        let hosts = self.ledger.hosts().await?;
        let now = self.ledger.now_micros().await?;
        let state = self.known.lock().await.clone();
        let running = self.table.all();
        let draining = self.draining.lock();
        let draining: Vec<_> = draining.iter().filter_map(Weak::upgrade).collect();
        let problems = self.problems.lock().clone();
        let mut listed = Vec::new();
        for (region, operation, slot) in state.slots() {
            let here = self.regions().iter().position(|it| **it == *region);
            let place = here.map(|region| index(region, operation));
            let running = place.and_then(|place| running.get(place));
            for recorded in slot.revisions.iter().rev() {
                let is = |revision: &&Arc<Revision>| {
                    let info = revision.info();
                    *info.region == *region
                        && info.operation == operation
                        && info.number == recorded.number
                };
                let live = running.and_then(|running| running.revisions().find(is));
                let old = draining.iter().find(is);
                let share = slot.canary.filter(|(number, _)| *number == recorded.number);
                let state = if recorded.number == slot.active {
                    RevisionState::Active
                } else if share.is_some() {
                    RevisionState::Canary
                } else if old.is_some() {
                    RevisionState::Draining
                } else {
                    RevisionState::Retired
                };
                let (digest, size) = match recorded.component {
                    Component::BuiltIn => {
                        let size = self.defaults[operation as usize].len() as u64;
                        (self.built_in(operation), size)
                    }
                    Component::Deployed { digest, size } => (digest, size),
                };
                let problem = place.and_then(|place| problems.get(&place));
                listed.push(Listed {
                    region: region.to_owned(),
                    operation,
                    recorded: recorded.clone(),
                    digest,
                    size,
                    state,
                    share: share.map(|(_, share)| share),
                    counts: live.or(old).map(|revision| revision.counts()),
                    problem: problem.filter(|_| recorded.number == slot.active).cloned(),
                });
            }
        }
        let plans = state.plans().map(|(operation, plan)| {
            let waits = waits(operation, plan, &hosts, now);
            (operation, plan.clone(), waits)
        });
        let problems = hosts.iter().flat_map(|host| &host.problems);
        let problems: BTreeSet<_> = problems.map(|problem| &problem.text).collect();
        Ok(Listing {
            revisions: listed,
            plans: plans.collect(),
            problems: problems.into_iter().cloned().collect(),
        })
    }
}
