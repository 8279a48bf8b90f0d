//! Makes true in this process what the ledger says: reads it, loads what is new,
//! and swaps the table. It also takes a revision back that does badly: here at
//! once, and everywhere by saying so in the ledger.
//!
//! A revision that cannot be loaded here (this host may be older than its world)
//! leaves the slot with what it runs; the host says why.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant as Stopwatch};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use super::load::{LoadError, Loaded, Loader};
use super::revision::{Revision, RevisionInfo, Trial, Verdict, ticks};
use super::slot::Slot;
use super::table::{Canary, Running, Table, index};
use crate::clock::{Clock, Entropy};
use crate::config::Handlers;
use crate::deployments::{
    AppendError, Component, Digest, Entry, Event, HostReport, Ledger, LedgerError, NewEntry,
    Recorded, Share, State,
};
use crate::model::{Operation, RevisionState};
use crate::trust::signature::TrustedKeys;
use crate::wit_host::context::Backends;

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

/// Who does what a host does by itself.
pub(super) const HOST: &str = "host";

/// The handlers inside the binary, in the order of [`Operation::ALL`].
pub type Defaults = [&'static [u8]; Operation::ALL.len()];

/// Why the registry cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A handler that comes with the host: a defect of the host.
    #[error(transparent)]
    Load(#[from] LoadError),
}

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

/// See the head of this file.
pub struct Registry {
    regions: Vec<Arc<str>>,
    /// Of each region, in the same order.
    backends: Vec<Arc<Backends>>,
    pub(super) table: Table,
    slots: Vec<Arc<Slot>>,
    defaults: Defaults,
    pub(super) loader: Loader,
    pub(super) ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    settings: Handlers,
    trusted: Arc<TrustedKeys>,
    /// What the ledger says, as far as it was read.
    pub(super) known: tokio::sync::Mutex<State>,
    /// Why a slot does not run what it should, by slot.
    problems: Mutex<BTreeMap<usize, String>>,
    /// Verdicts that the ledger does not have yet.
    condemned: Mutex<Vec<Verdict>>,
    judged: mpsc::UnboundedSender<Verdict>,
    verdicts: Mutex<Option<mpsc::UnboundedReceiver<Verdict>>>,
    draining: Mutex<Vec<Weak<Revision>>>,
    /// The ledger, or a host, has moved.
    moved: Notify,
    host: String,
    /// What was said last.
    said: Mutex<Option<HostReport>>,
    /// When what could not be loaded was tried again last.
    tried: Mutex<Stopwatch>,
}

/// What a registry is made of.
pub struct RegistryParts {
    /// The regions of this host, and what stands behind each.
    pub regions: Vec<(Arc<str>, Arc<Backends>)>,
    /// The handlers that come with it.
    pub defaults: Defaults,
    /// Loads components.
    pub loader: Loader,
    /// What is deployed.
    pub ledger: Arc<dyn Ledger>,
    /// Bounds.
    pub settings: Handlers,
    /// Whose components are taken.
    pub trusted: Arc<TrustedKeys>,
    /// The time of failures.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
}

impl Registry {
    /// Reads the ledger, has regions join that are new, and loads what their slots
    /// run. What cannot be loaded is replaced by the handler that comes with the
    /// host, loudly.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub async fn open(parts: RegistryParts) -> Result<Registry, OpenError> {
        let RegistryParts {
            regions,
            defaults,
            loader,
            ledger,
            settings,
            trusted,
            clock,
            entropy,
        } = parts;
        let slots: Vec<_> = (0..regions.len() * Operation::ALL.len())
            .map(|_| Arc::new(Slot::new(settings.clone())))
            .collect();
        let (regions, backends) = regions.into_iter().unzip();
        let (judged, verdicts) = mpsc::unbounded_channel();
        let mut registry = Registry {
            regions,
            backends,
            table: Table::new(Vec::new()),
            slots,
            defaults,
            loader,
            ledger,
            clock,
            host: format!("{:016x}", entropy.next_u64()),
            entropy,
            known: tokio::sync::Mutex::new(State::new(settings.keep_revisions)),
            settings,
            trusted,
            problems: Mutex::default(),
            condemned: Mutex::default(),
            judged,
            verdicts: Mutex::new(Some(verdicts)),
            draining: Mutex::default(),
            moved: Notify::new(),
            said: Mutex::default(),
            tried: Mutex::new(Stopwatch::now()),
        };
        registry.join().await?;
        let mut running = Vec::with_capacity(registry.slots.len());
        for region in 0..registry.regions.len() {
            for operation in Operation::ALL {
                running.push(registry.first(region, operation).await?);
            }
        }
        registry.table = Table::new(running);
        let state = registry.known.lock().await;
        // Canaries, and what could not be loaded.
        registry.make_true(&state).await;
        registry.say(&state).await;
        drop(state);
        Ok(registry)
    }

    /// Every region of this host is in the ledger after it.
    async fn join(&self) -> Result<(), LedgerError> {
        let mut state = self.known.lock().await;
        loop {
            if self.read(&mut state).await?.is_some() {
                return Ok(());
            }
            let missing = self
                .regions
                .iter()
                .find(|region| !state.regions().contains(&***region));
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
    fn own(&self, event: Event) -> NewEntry {
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

    /// What a slot runs at first.
    async fn first(&self, region: usize, operation: Operation) -> Result<Running, OpenError> {
        let state = self.known.lock().await;
        let slot = state.slot(&self.regions[region], operation);
        let wanted = slot.and_then(|slot| slot.revision(slot.active));
        let found = match wanted {
            Some(wanted) => match self.load(operation, wanted).await {
                Ok(loaded) => Some((info(&self.regions[region], operation, wanted), loaded)),
                Err(why) => {
                    self.problem(index(region, operation), wanted.number, &why);
                    None
                }
            },
            None => None,
        };
        let (info, loaded) = match found {
            Some(found) => found,
            None => {
                let built_in = Bytes::from_static(self.defaults[operation as usize]);
                let (loaded, _) = self.loader.load(operation, built_in).await?;
                let info = RevisionInfo {
                    region: Arc::clone(&self.regions[region]),
                    operation,
                    number: 0,
                    deployed_at: 0,
                    deployed_by: HOST.to_owned(),
                };
                (info, loaded)
            }
        };
        Ok(Running {
            active: self.revision(region, info, loaded),
            canary: None,
            before: None,
        })
    }

    /// The clock by which tokens end.
    pub(super) fn now_micros(&self) -> i64 {
        self.clock.now_micros()
    }

    async fn load(&self, operation: Operation, wanted: &Recorded) -> Result<Arc<Loaded>, String> {
        let bytes = match wanted.component {
            Component::BuiltIn => Bytes::from_static(self.defaults[operation as usize]),
            Component::Deployed { digest, .. } => {
                // Where nobody's signature matters it need not be fetched.
                if !self.trusted.required()
                    && let Some(loaded) = self.loader.loaded(operation, digest)
                {
                    return Ok(loaded);
                }
                let bytes = self.ledger.component(digest).await;
                let bytes = bytes.map_err(|error| error.to_string())?;
                self.judge_signature(wanted, bytes.clone()).await?;
                bytes
            }
        };
        let loaded = self.loader.load(operation, bytes).await;
        Ok(loaded.map_err(|error| error.to_string())?.0)
    }

    /// Whoever took the component in has other keys than this host, perhaps.
    async fn judge_signature(&self, wanted: &Recorded, bytes: Bytes) -> Result<(), String> {
        let trusted = Arc::clone(&self.trusted);
        let signature = wanted.signature.as_ref().map(|text| BASE64.decode(text));
        let judging = move || match signature.transpose() {
            Ok(signature) => {
                let judged = trusted.verify(&bytes, signature.as_deref());
                judged.map(drop).map_err(|error| error.to_string())
            }
            Err(error) => Err(format!("its signature is not base64: {error}")),
        };
        let judged = tokio::task::spawn_blocking(judging).await;
        judged.unwrap_or_else(|error| Err(format!("its signature cannot be judged: {error}")))
    }

    fn problem(&self, slot: usize, number: u64, why: &str) {
        let text = format!("revision {number} cannot be loaded on this host: {why}");
        let before = self.problems.lock().insert(slot, text.clone());
        // It is tried again and again.
        if before.as_ref() != Some(&text) {
            let (region, operation) = self.name(slot);
            tracing::error!(
                region, %operation, revision = number, why,
                "a deployed handler cannot be loaded; the slot keeps what it runs"
            );
        }
    }

    fn name(&self, slot: usize) -> (&str, Operation) {
        let operations = Operation::ALL.len();
        (
            &self.regions[slot / operations],
            Operation::ALL[slot % operations],
        )
    }

    fn revision(&self, region: usize, info: RevisionInfo, loaded: Arc<Loaded>) -> Arc<Revision> {
        Arc::new(Revision::new(
            info.clone(),
            loaded,
            Arc::clone(&self.slots[index(region, info.operation)]),
            Arc::clone(&self.backends[region]),
            self.loader.engine().clone(),
            Arc::clone(&self.clock),
            Arc::clone(&self.entropy),
        ))
    }

    /// The names of the regions of this host, in their order.
    pub fn regions(&self) -> &[Arc<str>] {
        &self.regions
    }

    /// The revision that a slot runs for a key. `region` is a position in
    /// [`Registry::regions`].
    pub fn pick(&self, region: usize, operation: Operation, key: &str) -> Arc<Revision> {
        self.table.pick(index(region, operation), key)
    }

    /// The revision that a slot runs for every key that a canary does not get.
    pub fn current(&self, region: usize, operation: Operation) -> Arc<Revision> {
        self.table.active(index(region, operation))
    }

    /// The canary of a slot and its share, and what it replaces if it does well.
    pub fn canary(&self, region: usize, operation: Operation) -> Option<Canary> {
        self.table
            .all()
            .swap_remove(index(region, operation))
            .canary
    }

    /// What ran before the active revision, to ask it for another opinion.
    pub fn predecessor(&self, region: usize, operation: Operation) -> Option<Arc<Revision>> {
        let running = self.table.all().swap_remove(index(region, operation));
        let (info, loaded) = running.before?;
        Some(self.revision(region, info, loaded))
    }

    /// The digest of the handler that comes with this host.
    pub(super) fn built_in(&self, operation: Operation) -> Digest {
        Digest::of(self.defaults[operation as usize])
    }

    /// Follows the ledger until `stop` says so or its sender is gone. It may be
    /// called once.
    pub async fn follow(self: Arc<Registry>, mut stop: watch::Receiver<bool>) {
        let Some(mut verdicts) = self.verdicts.lock().take() else {
            return;
        };
        let mut said = Stopwatch::now();
        let mut stopped = pin!(async move {
            // What the wait gives is a lock; an end of the sender stops it too.
            drop(stop.wait_for(|stop| *stop).await);
        });
        loop {
            tokio::select! {
                biased;
                () = &mut stopped => return,
                Some(verdict) = verdicts.recv() => self.take_back(verdict).await,
                () = self.ledger.changed() => self.moved.notify_waiters(),
            }
            if let Err(error) = self.catch_up().await {
                tracing::warn!(%error, "deployments of other hosts are not seen now");
            } else if said.elapsed() >= SAY_EVERY {
                said = Stopwatch::now();
                let state = self.known.lock().await;
                self.say(&state).await;
            }
        }
    }

    /// Reads what is new, and makes it true here.
    ///
    /// # Errors
    ///
    /// The ledger cannot be read.
    pub async fn catch_up(&self) -> Result<(), LedgerError> {
        let mut state = self.known.lock().await;
        self.settle(&mut state).await
    }

    /// As [`Registry::catch_up`], for who has the state.
    pub(super) async fn settle(&self, state: &mut State) -> Result<(), LedgerError> {
        self.say_verdicts(state).await?;
        let before = state.seq;
        if let Some(why) = self.read(state).await? {
            tracing::error!(why, "what is deployed cannot be read any further");
        }
        if state.seq != before || self.is_time_to_try_again() {
            self.make_true(state).await;
            self.say_if_new(state).await;
        }
        Ok(())
    }

    /// Whether what could not be loaded is to be tried once more.
    fn is_time_to_try_again(&self) -> bool {
        let mut tried = self.tried.lock();
        let again = !self.problems.lock().is_empty() && tried.elapsed() >= TRY_AGAIN;
        if again {
            *tried = Stopwatch::now();
        }
        again
    }

    /// Makes true what was just read, and says so.
    pub(super) async fn settle_own(&self, state: &mut State) {
        self.make_true(state).await;
        self.say_if_new(state).await;
        self.moved.notify_waiters();
    }

    fn report(&self, state: &State) -> HostReport {
        HostReport {
            host: self.host.clone(),
            regions: self
                .regions
                .iter()
                .map(|region| region.to_string())
                .collect(),
            applied: state.seq,
            problems: self.problems.lock().values().cloned().collect(),
        }
    }

    /// As [`Registry::say`]: what all hear wakes them all.
    async fn say_if_new(&self, state: &State) {
        if self.said.lock().as_ref() != Some(&self.report(state)) {
            self.say(state).await;
        }
    }

    /// Ends when hosts may have done something.
    pub(super) async fn hosts_changed(&self) {
        let moved = self.moved.notified();
        let _ = tokio::time::timeout(LOOK_AT_HOSTS, moved).await;
    }

    /// Tells the others how far this host is.
    async fn say(&self, state: &State) {
        let report = self.report(state);
        *self.said.lock() = Some(report.clone());
        if let Err(error) = self.ledger.report(report).await {
            tracing::debug!(%error, "other hosts do not hear how far this one is");
        }
    }

    /// Loads and swaps in what slots should run and do not.
    async fn make_true(&self, state: &State) {
        let mut next = self.table.all();
        let mut old = Vec::new();
        for (slot, place) in next.iter_mut().enumerate() {
            let (region, operation) = self.name(slot);
            let Some(wanted) = state.slot(region, operation) else {
                continue;
            };
            let running = place.clone();
            match self.wanted(slot, wanted, &running).await {
                Ok(None) => drop(self.problems.lock().remove(&slot)),
                Ok(Some(then)) => {
                    self.problems.lock().remove(&slot);
                    for gone in [Some(running.active), running.canary.map(|it| it.revision)] {
                        let stays = |it: &Arc<Revision>| {
                            let canary = then.canary.as_ref().map(|canary| &canary.revision);
                            Arc::ptr_eq(it, &then.active)
                                || canary.is_some_and(|canary| Arc::ptr_eq(it, canary))
                        };
                        old.extend(gone.filter(|gone| !stays(gone)));
                    }
                    *place = then;
                }
                Err((number, why)) => self.problem(slot, number, &why),
            }
        }
        self.table.store(next);
        let mut draining = self.draining.lock();
        draining.retain(|revision| revision.strong_count() > 0);
        let room = (MAX_DRAINING * self.slots.len()).saturating_sub(draining.len());
        draining.extend(old.iter().take(room).map(Arc::downgrade));
    }

    /// What a slot is to run, if that is something else than it does.
    async fn wanted(
        &self,
        slot: usize,
        wanted: &crate::deployments::SlotState,
        running: &Running,
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
        let runs = running
            .canary
            .as_ref()
            .map(|it| (it.revision.info().number, it.share));
        if running.active.info().number == wanted.active && runs == canary
            || condemned(wanted.active)
        {
            return Ok(None);
        }
        let active = self.one(slot, wanted, wanted.active, running).await?;
        let canary = match canary {
            Some((number, share)) => {
                let revision = self.one(slot, wanted, number, running).await?;
                Some(Canary { revision, share })
            }
            None => None,
        };
        let changed = !Arc::ptr_eq(&active, &running.active);
        let before = match (changed, wanted.replaced) {
            (false, _) => running.before.clone(),
            (true, Some(replaced)) if replaced == running.active.info().number => Some((
                running.active.info().clone(),
                Arc::clone(running.active.loaded()),
            )),
            (true, _) => None,
        };
        if changed {
            self.swapped(&active);
            let until = ticks(self.settings.trial);
            active.try_out(before.as_ref().and_then(|_| self.trial(running, until)));
        }
        if let Some(canary) = &canary {
            if runs.is_none_or(|(number, _)| number != canary.revision.info().number) {
                self.swapped(&canary.revision);
            }
            // For as long as it is one.
            canary.revision.try_out(self.trial(running, u64::MAX / 2));
        }
        Ok(Some(Running {
            active,
            canary,
            before,
        }))
    }

    fn trial(&self, running: &Running, ticks: u64) -> Option<Trial> {
        let trial = Trial {
            against: Arc::clone(running.active.health()),
            until: self.loader.engine().now() + ticks,
            judged: self.judged.clone(),
            over: AtomicBool::new(false),
        };
        (!self.settings.trial.is_zero()).then_some(trial)
    }

    fn swapped(&self, revision: &Revision) {
        let info = revision.info();
        tracing::info!(
            region = &*info.region, operation = %info.operation, revision = info.number,
            digest = %revision.loaded().digest, by = info.deployed_by, "now serving"
        );
    }

    /// A revision of a slot: as it runs, or made anew.
    async fn one(
        &self,
        slot: usize,
        state: &crate::deployments::SlotState,
        number: u64,
        running: &Running,
    ) -> Result<Arc<Revision>, (u64, String)> {
        let canary = running.canary.as_ref().map(|canary| &canary.revision);
        let mut run = std::iter::once(&running.active).chain(canary);
        if let Some(revision) = run.find(|revision| revision.info().number == number) {
            return Ok(Arc::clone(revision));
        }
        let (_, operation) = self.name(slot);
        let region = slot / Operation::ALL.len();
        let wanted = state.revision(number);
        let wanted = wanted.ok_or((number, "it is not recorded".to_owned()))?;
        let loaded = match &running.before {
            // Without compiling again.
            Some((info, loaded)) if info.number == number => Ok(Arc::clone(loaded)),
            _ => self.load(operation, wanted).await,
        };
        let loaded = loaded.map_err(|why| (number, why))?;
        let info = info(&self.regions[region], operation, wanted);
        Ok(self.revision(region, info, loaded))
    }

    /// Takes a revision out of its slot here, at once; the ledger is told next.
    async fn take_back(&self, verdict: Verdict) {
        let mut next = self.table.all();
        let region = self.regions.iter().position(|it| *it == verdict.region);
        let Some(region) = region else { return };
        let running = &mut next[index(region, verdict.operation)];
        let is = |revision: &Arc<Revision>| revision.info().number == verdict.number;
        if running.canary.as_ref().is_some_and(|it| is(&it.revision)) {
            running.canary = None;
        } else if is(&running.active)
            && let Some((info, loaded)) = running.before.take()
        {
            running.active = self.revision(region, info, loaded);
        } else {
            return;
        }
        tracing::error!(
            region = &*verdict.region, operation = %verdict.operation, revision = verdict.number,
            reason = verdict.reason, "a handler does worse than the one before, and is taken back"
        );
        // Before the table: what runs again must not be swapped out again.
        self.condemned.lock().push(verdict);
        self.table.store(next);
    }

    /// Appends the verdicts that the ledger does not have.
    async fn say_verdicts(&self, state: &mut State) -> Result<(), LedgerError> {
        loop {
            let Some(verdict) = self.condemned.lock().first().cloned() else {
                return Ok(());
            };
            if self.read(state).await?.is_some() {
                return Ok(());
            }
            let slot = state.slot(&verdict.region, verdict.operation);
            let runs = slot.is_some_and(|slot| {
                slot.active == verdict.number && slot.replaced.is_some()
                    || slot
                        .canary
                        .is_some_and(|(number, _)| number == verdict.number)
            });
            if runs {
                let event = Event::TakenBack {
                    operation: verdict.operation,
                    region: verdict.region.to_string(),
                    revision: verdict.number,
                    reason: verdict.reason.clone(),
                };
                match self.ledger.append(state.seq + 1, self.own(event)).await {
                    Ok(()) | Err(AppendError::Taken | AppendError::OutcomeUnknown(_)) => continue,
                    Err(AppendError::Unavailable(error)) => return Err(error),
                }
            }
            self.make_true(state).await;
            self.condemned.lock().retain(|other| *other != verdict);
            self.say_if_new(state).await;
        }
    }

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

    /// All recorded revisions and what they are doing.
    ///
    /// # Errors
    ///
    /// The ledger cannot be read.
    pub async fn list(&self) -> Result<Vec<Listed>, LedgerError> {
        self.catch_up().await?;
        let state = self.known.lock().await.clone();
        let running = self.table.all();
        let draining = self.draining.lock();
        let draining: Vec<_> = draining.iter().filter_map(Weak::upgrade).collect();
        let problems = self.problems.lock().clone();
        let mut listed = Vec::new();
        for (region, operation, slot) in state.slots() {
            let here = self.regions.iter().position(|it| **it == *region);
            let place = here.map(|region| index(region, operation));
            let runs: Vec<&Arc<Revision>> = match place.and_then(|place| running.get(place)) {
                Some(running) => {
                    let canary = running.canary.as_ref().map(|canary| &canary.revision);
                    std::iter::once(&running.active).chain(canary).collect()
                }
                None => Vec::new(),
            };
            for recorded in slot.revisions.iter().rev() {
                let is = |revision: &&Arc<Revision>| {
                    let info = revision.info();
                    *info.region == *region
                        && info.operation == operation
                        && info.number == recorded.number
                };
                let live = runs.iter().copied().find(is);
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
        Ok(listed)
    }
}

fn info(region: &Arc<str>, operation: Operation, recorded: &Recorded) -> RevisionInfo {
    RevisionInfo {
        region: Arc::clone(region),
        operation,
        number: recorded.number,
        deployed_at: recorded.at,
        deployed_by: recorded.by.clone(),
    }
}
