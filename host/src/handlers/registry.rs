//! The handlers of this process: what each slot runs, and what it takes to run
//! something else. `follow.rs` keeps it as the ledger says.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::follow::{Applied, HOST};
use super::load::Loader;
use super::load_error::LoadError;
use super::program::Program;
use super::revision::{Revision, RevisionInfo, Verdict, ticks};
use super::secrets::Secrets;
use super::slot::Slot;
use super::table::{Running, Table, index};
use crate::clock::{Clock, Entropy};
use crate::config::Handlers;
use crate::deployments::{Component, Config, Digest, Ledger, LedgerError, Recorded, State};
use crate::model::Operation;
use crate::trust::signature::TrustedKeys;
use crate::wit_host::config::Values;
use crate::wit_host::context::Backends;

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

/// See the head of this file.
pub struct Registry {
    regions: Vec<Arc<str>>,
    /// Of each region, in the same order.
    backends: Vec<Arc<Backends>>,
    pub(super) table: Table,
    slots: Vec<Arc<Slot>>,
    pub(super) defaults: Defaults,
    pub(super) loader: Loader,
    pub(super) ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) settings: Handlers,
    trusted: Arc<TrustedKeys>,
    secrets: Arc<Secrets>,
    /// What the ledger says, as far as it was read.
    pub(super) known: tokio::sync::Mutex<State>,
    /// Why a slot does not run what it should, by slot.
    pub(super) problems: Mutex<BTreeMap<usize, String>>,
    /// Why the ledger cannot be read any further.
    pub(super) stuck: Mutex<Option<String>>,
    /// Verdicts that the ledger does not have yet.
    pub(super) condemned: Mutex<Vec<Verdict>>,
    /// At most one for each revision on trial.
    pub(super) judged: mpsc::UnboundedSender<Verdict>,
    pub(super) verdicts: Mutex<Option<mpsc::UnboundedReceiver<Verdict>>>,
    pub(super) draining: Mutex<Vec<Weak<Revision>>>,
    /// What this process does of it.
    pub(super) applied: tokio::sync::Mutex<Applied>,
    /// The ledger, or a host, has moved.
    pub(super) moved: Notify,
    /// There are verdicts that the ledger does not have.
    pub(super) untold: Notify,
    pub(super) host: String,
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
    /// What handlers may be given.
    pub secrets: Secrets,
    /// The time of failures.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
}

impl Registry {
    /// Reads the ledger, has regions join that are new, and loads what their slots
    /// run. For what cannot be loaded the handler that comes with the host stands in,
    /// loudly: it hydrates, and answers no requests.
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
            secrets,
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
            secrets: Arc::new(secrets),
            problems: Mutex::default(),
            stuck: Mutex::default(),
            condemned: Mutex::default(),
            judged,
            verdicts: Mutex::new(Some(verdicts)),
            draining: Mutex::default(),
            applied: tokio::sync::Mutex::default(),
            moved: Notify::new(),
            untold: Notify::new(),
        };
        registry.join().await?;
        let mut running = Vec::with_capacity(registry.slots.len());
        for region in 0..registry.regions.len() {
            for operation in Operation::ALL {
                running.push(registry.first(region, operation).await?);
            }
        }
        registry.table = Table::new(running);
        // Canaries, and what could not be loaded.
        registry.apply().await;
        Ok(registry)
    }

    /// What a slot runs at first.
    async fn first(&self, region: usize, operation: Operation) -> Result<Running, OpenError> {
        let state = self.known.lock().await;
        let slot = state.slot(&self.regions[region], operation);
        let wanted = slot.and_then(|slot| slot.revision(slot.active));
        let found = match wanted {
            Some(wanted) => match self.load(operation, wanted).await {
                Ok(program) => Some((info(&self.regions[region], operation, wanted), program)),
                Err(why) => {
                    self.problem(index(region, operation), wanted.number, &why);
                    None
                }
            },
            None => None,
        };
        let (info, program) = match found {
            Some(found) => found,
            None => {
                let built_in = Bytes::from_static(self.defaults[operation as usize]);
                let config = Arc::default();
                let (program, _) = self.loader.load(operation, built_in, &config).await?;
                let info = RevisionInfo {
                    region: Arc::clone(&self.regions[region]),
                    operation,
                    number: RevisionInfo::STAND_IN,
                    deployed_at: 0,
                    deployed_by: HOST.to_owned(),
                };
                (info, program)
            }
        };
        let active = self.revision(region, info, program);
        // A restart does not end a trial.
        let before = match slot.filter(|slot| self.is_new(slot) && !active.info().stands_in()) {
            Some(slot) => self.replaced(index(region, operation), slot).await,
            None => None,
        };
        if before.is_some() {
            let until = self.loader.engine().now() + ticks(self.settings.trial);
            active.try_out(self.trial(Arc::default(), until));
        }
        Ok(Running {
            active,
            canary: None,
            before,
        })
    }

    /// The clock by which tokens end.
    pub(super) fn now_micros(&self) -> i64 {
        self.clock.now_micros()
    }

    pub(super) async fn load(
        &self,
        operation: Operation,
        wanted: &Recorded,
    ) -> Result<Program, String> {
        let config = self.resolve(&wanted.config).await;
        let config = Arc::new(config.map_err(|error| error.to_string())?);
        let bytes = match wanted.component {
            Component::BuiltIn => Bytes::from_static(self.defaults[operation as usize]),
            Component::Deployed { digest, .. } => {
                // Where nobody's signature matters it need not be fetched.
                if !self.trusted.required()
                    && let Some(program) = self.loader.ready(operation, digest, &config)
                {
                    return Ok(program);
                }
                let bytes = self.ledger.component(digest).await;
                let bytes = bytes.map_err(|error| error.to_string())?;
                self.judge_signature(wanted, bytes.clone()).await?;
                bytes
            }
        };
        let loaded = self.loader.load(operation, bytes, &config).await;
        Ok(loaded.map_err(|error| error.to_string())?.0)
    }

    /// What a component reads of a configuration.
    pub(super) async fn resolve(&self, config: &Arc<Config>) -> Result<Values, LoadError> {
        if config.iter().next().is_none() {
            return Ok(Values::default());
        }
        let (secrets, config) = (Arc::clone(&self.secrets), Arc::clone(config));
        let reading = move || secrets.resolve(&config);
        let read = tokio::task::spawn_blocking(reading).await;
        let broke = |error| LoadError::Host(format!("reading secrets broke off: {error}"));
        Ok(read.map_err(broke)??)
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

    pub(super) fn problem(&self, slot: usize, number: u64, why: &str) {
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

    pub(super) fn name(&self, slot: usize) -> (&str, Operation) {
        let operations = Operation::ALL.len();
        (
            &self.regions[slot / operations],
            Operation::ALL[slot % operations],
        )
    }

    pub(super) fn revision(
        &self,
        region: usize,
        info: RevisionInfo,
        program: Program,
    ) -> Arc<Revision> {
        Arc::new(Revision::new(
            info.clone(),
            program,
            Arc::clone(&self.slots[index(region, info.operation)]),
            Arc::clone(&self.backends[region]),
            self.loader.engine().clone(),
            Arc::clone(&self.clock),
            Arc::clone(&self.entropy),
        ))
    }

    /// Whether every slot of a region runs something that was deployed.
    pub fn is_complete(&self, region: usize) -> bool {
        let slots = Operation::ALL.map(|operation| index(region, operation));
        slots
            .iter()
            .all(|slot| !self.table.active(*slot).info().stands_in())
    }

    /// The names of the regions of this host, in their order.
    pub fn regions(&self) -> &[Arc<str>] {
        &self.regions
    }

    /// The slot of an operation. `region` is a position in [`Registry::regions`].
    pub fn slot(&self, region: usize, operation: Operation) -> &Arc<Slot> {
        &self.slots[index(region, operation)]
    }

    /// The revision that a slot runs for a key. `region` is a position in
    /// [`Registry::regions`].
    pub fn pick(&self, region: usize, operation: Operation, key: &str) -> Arc<Revision> {
        self.table.pick(index(region, operation), key)
    }

    /// Does something at once with the revision that [`Registry::pick`] would give.
    pub fn with<R>(
        &self,
        region: usize,
        operation: Operation,
        key: &str,
        then: impl FnOnce(&Revision) -> R,
    ) -> R {
        self.table.with(index(region, operation), key, then)
    }

    /// The revision that a slot runs for every key that a canary does not get.
    pub fn current(&self, region: usize, operation: Operation) -> Arc<Revision> {
        self.table.active(index(region, operation))
    }

    /// What a slot runs, its canary too.
    pub fn running(&self, region: usize, operation: Operation) -> Running {
        self.table.slot(index(region, operation))
    }

    /// What ran before the active revision, to ask it for another opinion.
    pub fn predecessor(&self, region: usize, operation: Operation) -> Option<Arc<Revision>> {
        let (info, program) = self.running(region, operation).before?;
        Some(self.revision(region, info, program))
    }

    /// The digest of the handler that comes with this host.
    pub(super) fn built_in(&self, operation: Operation) -> Digest {
        Digest::of(self.defaults[operation as usize])
    }
}

pub(super) fn info(region: &Arc<str>, operation: Operation, recorded: &Recorded) -> RevisionInfo {
    RevisionInfo {
        region: Arc::clone(region),
        operation,
        number: recorded.number,
        deployed_at: recorded.at,
        deployed_by: recorded.by.clone(),
    }
}
