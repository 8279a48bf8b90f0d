//! Takes a revision back that does badly: here at once, whatever is being loaded
//! meanwhile, and everywhere by saying so in the ledger. What it replaced is kept ready
//! for that.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::watch;

use super::health::Health;
use super::program::Program;
use super::registry::{Registry, info};
use super::revision::{Revision, RevisionInfo, Trial, Verdict};
use super::table::index;
use crate::deployments::{AppendError, Event, LedgerError, SlotState, State};
use crate::model::Operation;

impl Registry {
    /// Takes back what does worse than the revision before, as soon as it is known:
    /// until `stop` says so or its sender is gone. It may be called once. It must not
    /// wait for what loads components.
    pub async fn judge(self: Arc<Registry>, mut stop: watch::Receiver<bool>) {
        let Some(mut verdicts) = self.verdicts.lock().take() else {
            return;
        };
        let judging = async {
            // It has no end: this registry keeps a sender.
            while let Some(verdict) = verdicts.recv().await {
                self.take_back(verdict);
                self.untold.notify_one();
            }
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = judging => {}
        }
    }

    /// Whether the active revision of a slot took its place so short a time ago that it
    /// is on trial, wherever it runs.
    pub(super) fn is_new(&self, wanted: &SlotState) -> bool {
        let since = self.now_micros().saturating_sub(wanted.since);
        i128::from(since) < self.settings.trial.as_micros().cast_signed()
    }

    /// What the active revision of a slot replaced, if that can be made ready to run
    /// again.
    pub(super) async fn replaced(
        &self,
        slot: usize,
        wanted: &SlotState,
    ) -> Option<(RevisionInfo, Program)> {
        let recorded = wanted.revision(wanted.replaced?)?;
        let (region, operation) = self.name(slot);
        match self.load(operation, recorded).await {
            Ok(program) => {
                let region = &self.regions()[slot / Operation::ALL.len()];
                Some((info(region, operation, recorded), program))
            }
            Err(why) => {
                tracing::warn!(
                    region, %operation, revision = recorded.number, why,
                    "what was replaced cannot be loaded, and cannot run again by itself"
                );
                None
            }
        }
    }

    /// A trial against how another revision does.
    pub(super) fn trial(&self, against: Arc<Health>, ticks: u64) -> Option<Trial> {
        let trial = Trial {
            against,
            until: self.loader.engine().now() + ticks,
            judged: self.judged.clone(),
            over: AtomicBool::new(false),
        };
        (!self.settings.trial.is_zero()).then_some(trial)
    }

    /// Takes a revision out of its slot here, at once; the ledger is told next.
    fn take_back(&self, verdict: Verdict) {
        let region = self.regions().iter().position(|it| *it == verdict.region);
        let Some(region) = region else { return };
        let number = verdict.number;
        let is = |revision: &Arc<Revision>| revision.info().number == number;
        let taken = self.table.change(|slots| {
            let Some(running) = slots.get_mut(index(region, verdict.operation)) else {
                return false;
            };
            if running.canary.as_ref().is_some_and(|it| is(&it.revision)) {
                running.canary = None;
            } else if is(&running.active)
                && let Some((info, program)) = running.before.take()
            {
                running.active = self.revision(region, info, program);
                if let Some(canary) = &running.canary {
                    let against = Arc::clone(running.active.health());
                    let trial = self.trial(against, u64::MAX / 2);
                    canary.revision.try_out(trial);
                }
            } else {
                return false;
            }
            // Before the table: what runs again must not be swapped out again.
            self.condemned.lock().push(verdict.clone());
            true
        });
        if taken {
            tracing::error!(
                region = &*verdict.region, operation = %verdict.operation,
                revision = verdict.number, reason = verdict.reason,
                "a handler does worse than the one before, and is taken back"
            );
        }
    }

    /// Appends the verdicts that the ledger does not have. Gives those that it has.
    pub(super) async fn tell_verdicts(
        &self,
        state: &mut State,
    ) -> Result<Vec<Verdict>, LedgerError> {
        let verdicts = self.condemned.lock().clone();
        for verdict in &verdicts {
            loop {
                if self.read(state).await?.is_some() {
                    return Ok(Vec::new());
                }
                let slot = state.slot(&verdict.region, verdict.operation);
                let runs = slot.is_some_and(|slot| {
                    let canary = slot.canary.map(|(number, _)| number);
                    canary == Some(verdict.number)
                        || slot.active == verdict.number && slot.replaced.is_some()
                });
                if !runs {
                    break;
                }
                let event = Event::TakenBack {
                    operation: verdict.operation,
                    region: verdict.region.to_string(),
                    revision: verdict.number,
                    reason: verdict.reason.clone(),
                };
                match self.ledger.append(state.seq + 1, self.own(event)).await {
                    Ok(()) | Err(AppendError::Taken | AppendError::OutcomeUnknown(_)) => {}
                    Err(AppendError::Unavailable(error)) => return Err(error),
                }
            }
        }
        Ok(verdicts)
    }
}
