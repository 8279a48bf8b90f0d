//! Makes true in this process what the ledger says: reads it, loads what is new,
//! and swaps the table.
//!
//! A revision that cannot be loaded here (this host may be older than its world)
//! leaves the slot with what it runs; the host says why.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant as Stopwatch};

use tokio::sync::watch;
use tokio::time::timeout;

use super::registry::{Registry, info};
use super::revision::{Revision, ticks};
use super::table::{Canary, Running};
use crate::deployments::{
    AppendError, Event, HostProblem, HostReport, LedgerError, NewEntry, SlotState, State,
};
use crate::model::Operation;

/// Old revisions that are watched while they drain, per slot.
const MAX_DRAINING: usize = 64;

/// How often a host says that it is there. Several times in
/// [`ALIVE`](crate::deployments::ledger::ALIVE).
const SAY_EVERY: Duration = Duration::from_secs(10);

/// How long after a component could not be loaded it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// How often it is looked whether other hosts have done what was asked, unless
/// they are heard before.
const LOOK_AT_HOSTS: Duration = Duration::from_millis(100);

/// How long a host that stops tries to say so: with a database that hangs it must not
/// stop for longer than it has to.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Who does what a host does by itself.
pub(super) const HOST: &str = "host";

/// What was made true last.
pub(super) struct Applied {
    /// The number of the last entry.
    seq: u64,
    /// When.
    at: Stopwatch,
    /// What was said of it.
    said: Option<HostReport>,
    /// When.
    said_at: Stopwatch,
}

impl Default for Applied {
    fn default() -> Applied {
        Applied {
            seq: 0,
            at: Stopwatch::now(),
            said: None,
            said_at: Stopwatch::now(),
        }
    }
}

impl Registry {
    /// Follows the ledger until `stop` says so or its sender is gone.
    pub async fn follow(self: Arc<Registry>, mut stop: watch::Receiver<bool>) {
        let stopped = pin!(async move {
            // What the wait gives is a lock; an end of the sender stops it too.
            drop(stop.wait_for(|stop| *stop).await);
        });
        let reading = pin!(async {
            loop {
                tokio::select! {
                    () = self.untold.notified() => {}
                    () = self.ledger.changed() => self.moved.notify_waiters(),
                }
                if let Err(error) = self.catch_up().await {
                    tracing::warn!(%error, "deployments of other hosts are not seen now");
                }
            }
        });
        tokio::select! {
            () = stopped => {}
            () = reading => {}
        }
        // Nobody has to wait for this host any more.
        let gone = HostReport {
            host: self.host.clone(),
            regions: Vec::new(),
            applied: 0,
            problems: Vec::new(),
        };
        if let Ok(Ok(())) = timeout(LAST_WORD, self.ledger.report(gone)).await {
            return;
        }
        tracing::debug!("other hosts do not hear that this one stops");
    }

    /// Reads what is new, and makes it true here.
    ///
    /// # Errors
    ///
    /// The ledger cannot be read or written.
    pub async fn catch_up(&self) -> Result<(), LedgerError> {
        let told = {
            let mut state = self.known.lock().await;
            let told = self.tell_verdicts(&mut state).await?;
            let stuck = self.read(&mut state).await?;
            let mut known = self.stuck.lock();
            if let Some(why) = stuck.as_ref().filter(|_| *known != stuck) {
                tracing::error!(why, "what is deployed cannot be read any further");
            }
            *known = stuck;
            told
        };
        self.apply().await;
        // Only now: until here they kept what runs again from being swapped out.
        self.condemned
            .lock()
            .retain(|verdict| !told.contains(verdict));
        if !told.is_empty() {
            // What the ledger did not take is not so: it is made true again.
            self.applied.lock().await.seq = 0;
            self.apply().await;
        }
        self.advance_plans().await
    }

    /// Every region of this host is in the ledger after it.
    pub(super) async fn join(&self) -> Result<(), LedgerError> {
        let mut state = self.known.lock().await;
        loop {
            if self.read(&mut state).await?.is_some() {
                return Ok(());
            }
            let joined = state.regions();
            let missing = self.regions().iter().find(|it| !joined.contains(&***it));
            let Some(region) = missing else { return Ok(()) };
            let event = Event::Joined {
                region: region.to_string(),
            };
            match self.ledger.append(state.seq + 1, self.own(event)).await {
                Ok(()) | Err(AppendError::Taken | AppendError::OutcomeUnknown(_)) => {}
                Err(AppendError::Unavailable(error)) => return Err(error),
            }
        }
    }

    /// An entry of what this host does by itself.
    pub(super) fn own(&self, event: Event) -> NewEntry {
        NewEntry {
            id: self.entropy.next_u64().cast_signed(),
            actor: HOST.to_owned(),
            source: HOST.to_owned(),
            event,
        }
    }

    /// Reads what the ledger has in addition. Gives why it cannot be understood, if
    /// so.
    pub(super) async fn read(&self, state: &mut State) -> Result<Option<String>, LedgerError> {
        loop {
            let entries = self.ledger.after(state.seq).await?;
            if entries.is_empty() {
                return Ok(None);
            }
            for entry in &entries {
                if let Err(error) = state.apply(entry) {
                    return Ok(Some(error.to_string()));
                }
            }
        }
    }

    /// Makes true what was read, and tells the other hosts how far this one is. One
    /// at a time; what is known stays free meanwhile, for whoever only looks.
    pub(super) async fn apply(&self) {
        let mut applied = self.applied.lock().await;
        let state = self.known.lock().await.clone();
        let again = !self.problems.lock().is_empty() && applied.at.elapsed() >= TRY_AGAIN;
        let condemned = !self.condemned.lock().is_empty();
        if applied.seq != state.seq || again || condemned {
            self.make_true(&state).await;
            applied.seq = state.seq;
            applied.at = Stopwatch::now();
        }
        let report = HostReport {
            host: self.host.clone(),
            regions: self.regions().iter().map(|it| it.to_string()).collect(),
            applied: state.seq,
            problems: self.problems(),
        };
        // A report wakes all hosts, this one too.
        let is_new = applied.said.as_ref() != Some(&report);
        if is_new || applied.said_at.elapsed() >= SAY_EVERY {
            applied.said_at = Stopwatch::now();
            match self.ledger.report(report.clone()).await {
                Ok(()) => applied.said = Some(report),
                Err(error) => {
                    tracing::debug!(%error, "other hosts do not hear how far this one is");
                }
            }
        }
        self.moved.notify_waiters();
    }

    /// What this host cannot do.
    fn problems(&self) -> Vec<HostProblem> {
        let stuck = self.stuck.lock().clone();
        let stuck = stuck.map(|text| HostProblem { slot: None, text });
        let problems = self.problems.lock();
        let problems = problems.iter().map(|(slot, text)| {
            let (region, operation) = self.name(*slot);
            HostProblem {
                slot: Some((region.to_owned(), operation)),
                text: text.clone(),
            }
        });
        stuck.into_iter().chain(problems).collect()
    }

    /// Ends when hosts may have done something.
    pub(super) async fn hosts_changed(&self) {
        let moved = self.moved.notified();
        let _ = timeout(LOOK_AT_HOSTS, moved).await;
    }

    /// Loads and swaps in what slots should run and do not.
    async fn make_true(&self, state: &State) {
        let mut changes = Vec::new();
        for (slot, running) in self.table.all().into_iter().enumerate() {
            let (region, operation) = self.name(slot);
            let Some(wanted) = state.slot(region, operation) else {
                continue;
            };
            let mut unloaded = None;
            match self.wanted(slot, wanted, &running, &mut unloaded).await {
                Ok(then) => {
                    match unloaded {
                        Some((number, why)) => self.problem(slot, number, &why),
                        None => drop(self.problems.lock().remove(&slot)),
                    }
                    changes.extend(then.map(|then| (slot, running, then)));
                }
                Err((number, why)) => self.problem(slot, number, &why),
            }
        }
        let (old, new) = self.table.change(|slots| {
            let (mut old, mut new) = (Vec::new(), Vec::new());
            for (slot, was, then) in changes {
                // Unless something was taken back meanwhile: then it is looked at
                // again as soon as the ledger has that.
                if let Some(place) = slots.get_mut(slot).filter(|place| place.is(&was)) {
                    old.extend(was.revisions().filter(|it| !then.has(it)).cloned());
                    new.extend(then.new_in_place(&was).cloned());
                    *place = then;
                }
            }
            (old, new)
        });
        // Not before the next request gets it.
        for revision in &new {
            let info = revision.info();
            tracing::info!(
                region = &*info.region, operation = %info.operation, revision = info.number,
                digest = %revision.loaded().digest, by = info.deployed_by, "now serving"
            );
        }
        let mut draining = self.draining.lock();
        draining.retain(|revision| revision.strong_count() > 0);
        let most = MAX_DRAINING * self.regions().len() * Operation::ALL.len();
        let room = most.saturating_sub(draining.len());
        draining.extend(old.iter().take(room).map(Arc::downgrade));
    }

    /// What a slot is to run, if that is something else than it does. A canary that
    /// cannot be loaded is `unloaded` then.
    async fn wanted(
        &self,
        slot: usize,
        wanted: &SlotState,
        running: &Running,
        unloaded: &mut Option<(u64, String)>,
    ) -> Result<Option<Running>, (u64, String)> {
        let condemned = |number: u64| {
            let (region, operation) = self.name(slot);
            let condemned = self.condemned.lock();
            condemned.iter().any(|verdict| {
                *verdict.region == *region
                    && verdict.operation == operation
                    && verdict.number == number
            })
        };
        let canary = wanted.canary.filter(|(number, _)| !condemned(*number));
        let runs = running.canary.as_ref();
        let runs = runs.map(|it| (it.revision.info().number, it.share));
        if running.active.info().number == wanted.active && runs == canary
            || condemned(wanted.active)
        {
            return Ok(None);
        }
        let active = self.one(slot, wanted, wanted.active, running).await?;
        let changed = !Arc::ptr_eq(&active, &running.active);
        let canary = match canary {
            Some((number, share)) => match self.one(slot, wanted, number, running).await {
                Ok(revision) => Some(Canary { revision, share }),
                // Which must not keep the active one from being swapped.
                Err(problem) if changed => {
                    *unloaded = Some(problem);
                    None
                }
                Err(problem) => return Err(problem),
            },
            None => None,
        };
        let ran = || {
            let active = &running.active;
            (active.info().clone(), active.program().clone())
        };
        let before = match (changed, wanted.replaced) {
            (false, Some(replaced)) => running
                .before
                .clone()
                .filter(|(info, _)| info.number == replaced),
            (_, None) => None,
            (true, Some(replaced)) if replaced == running.active.info().number => Some(ran()),
            // It never ran here: this host was away, or could not load it.
            (true, Some(_)) if self.is_new(wanted) => match self.replaced(slot, wanted).await {
                None if !running.active.info().stands_in() => Some(ran()),
                replaced => replaced,
            },
            (true, Some(_)) => None,
        };
        if changed {
            let until = ticks(self.settings.trial);
            let trial = before.as_ref().and_then(|(info, _)| {
                let ran = info.number == running.active.info().number;
                let health = ran.then(|| Arc::clone(running.active.health()));
                self.trial(health.unwrap_or_default(), until)
            });
            active.try_out(trial);
        } else if before.is_none() {
            // There is nothing to take it back to.
            active.try_out(None);
        }
        if let Some(canary) = &canary {
            // For as long as it is one.
            let against = Arc::clone(active.health());
            canary.revision.try_out(self.trial(against, u64::MAX / 2));
        }
        Ok(Some(Running {
            active,
            canary,
            before,
        }))
    }

    /// A revision of a slot: as it runs, or made anew.
    async fn one(
        &self,
        slot: usize,
        state: &SlotState,
        number: u64,
        running: &Running,
    ) -> Result<Arc<Revision>, (u64, String)> {
        let is = |revision: &&Arc<Revision>| revision.info().number == number;
        if let Some(revision) = running.revisions().find(is) {
            return Ok(Arc::clone(revision));
        }
        let (_, operation) = self.name(slot);
        let region = slot / Operation::ALL.len();
        let wanted = state.revision(number);
        let wanted = wanted.ok_or((number, "it is not recorded".to_owned()))?;
        let program = match &running.before {
            // Without compiling again.
            Some((info, program)) if info.number == number => Ok(program.clone()),
            _ => self.load(operation, wanted).await,
        };
        let program = program.map_err(|why| (number, why))?;
        let info = info(&self.regions()[region], operation, wanted);
        Ok(self.revision(region, info, program))
    }
}
