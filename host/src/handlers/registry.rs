//! The handler table: which revision each slot runs, and how that changes.
//!
//! The table is one value behind one atomic pointer. A request takes the
//! revision that it finds and keeps it; a deployment builds the next table and
//! puts it in place in one step, for as many regions as it names. Deployments
//! go one after another.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant as Stopwatch};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;

use super::load::{Digest, LoadError, Loaded, Loader, Timings};
use super::revision::{Revision, RevisionInfo};
use super::slot::Slot;
use super::store::{DeploymentStore, NewRevision, StoreError, StoredRevision};
use crate::clock::{Clock, Entropy};
use crate::config::Handlers;
use crate::model::{Operation, RevisionState};
use crate::wit_host::context::Backends;

/// Who deployed the handlers that come with the host.
pub const BUILT_IN: &str = "built-in";

/// Old revisions that are watched while they drain, per slot.
const MAX_DRAINING: usize = 64;

/// The handlers inside the binary, in the order of [`Operation::ALL`].
pub type Defaults = [&'static [u8]; Operation::ALL.len()];

/// Why a deployment or a rollback did not happen. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// No such region here.
    #[error("there is no region {name:?}; there are {}", known.join(", "))]
    UnknownRegion {
        /// As asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The bytes are not those that were announced.
    #[error("the digest sent is {announced}, but the bytes received are {received}; upload again")]
    DigestMismatch {
        /// By the client.
        announced: Digest,
        /// By the host.
        received: Digest,
    },
    /// The component cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The record refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is nothing to go back to.
    #[error(
        "`{operation}` in {region} has no revision {wanted}; `tidepool handlers --all` lists them"
    )]
    NoSuchRevision {
        /// The region.
        region: Arc<str>,
        /// The operation.
        operation: Operation,
        /// As asked for.
        wanted: String,
    },
}

/// What a deployment or rollback did in one region.
#[derive(Clone, Debug)]
pub struct Swapped {
    /// The region.
    pub region: Arc<str>,
    /// The revision that was active before.
    pub from: u64,
    /// The revision that is active now.
    pub revision: u64,
    /// It was active already.
    pub unchanged: bool,
}

/// What a deployment did.
#[derive(Clone, Debug)]
pub struct Deployed {
    /// Digest of the component.
    pub digest: Digest,
    /// Its length.
    pub size: usize,
    /// How long the steps took.
    pub timings: Timings,
    /// From the bytes being here to being live everywhere asked.
    pub total: Duration,
    /// Region by region.
    pub slots: Vec<Swapped>,
}

/// A revision, for operators.
#[derive(Clone, Debug)]
pub struct Listed {
    /// As recorded.
    pub stored: StoredRevision,
    /// What it does now.
    pub state: RevisionState,
    /// Calls and failures since this process began, if it has run here.
    pub counts: Option<(u64, u64)>,
}

struct Table {
    /// By region, then by operation.
    revisions: Vec<Arc<Revision>>,
}

/// See the head of this file.
pub struct Registry {
    regions: Vec<Arc<str>>,
    /// Of each region, in the same order.
    backends: Vec<Arc<Backends>>,
    table: ArcSwap<Table>,
    slots: Vec<Arc<Slot>>,
    loader: Loader,
    store: DeploymentStore,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    deploying: tokio::sync::Mutex<()>,
    draining: Mutex<Vec<Weak<Revision>>>,
}

impl Registry {
    /// Brings back what was deployed; slots that have nothing get the built-in
    /// handlers. A recorded component that can no longer be loaded is replaced
    /// by the built-in one, loudly.
    ///
    /// # Errors
    ///
    /// The record cannot be used, or a built-in handler cannot be loaded.
    pub async fn open(
        regions: Vec<(Arc<str>, Arc<Backends>)>,
        defaults: Defaults,
        loader: Loader,
        store: DeploymentStore,
        pool: Handlers,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Registry, DeployError> {
        let slots: Vec<_> = (0..regions.len() * Operation::ALL.len())
            .map(|_| Arc::new(Slot::new(pool.clone())))
            .collect();
        let (regions, backends) = regions.into_iter().unzip();
        let mut registry = Registry {
            regions,
            backends,
            table: ArcSwap::from_pointee(Table {
                revisions: Vec::new(),
            }),
            slots,
            loader,
            store,
            clock,
            entropy,
            deploying: tokio::sync::Mutex::default(),
            draining: Mutex::default(),
        };
        let stored = registry.store.list().await?;
        let mut revisions = Vec::with_capacity(registry.slots.len());
        for region in 0..registry.regions.len() {
            for operation in Operation::ALL {
                let built_in = defaults[operation as usize];
                let name = Arc::clone(&registry.regions[region]);
                let active = stored
                    .iter()
                    .find(|s| s.active && *s.region == *name && s.operation == operation);
                revisions.push(
                    registry
                        .restore(region, operation, active, built_in)
                        .await?,
                );
            }
        }
        registry.table = ArcSwap::from_pointee(Table { revisions });
        Ok(registry)
    }

    async fn restore(
        &self,
        region: usize,
        operation: Operation,
        active: Option<&StoredRevision>,
        built_in: &'static [u8],
    ) -> Result<Arc<Revision>, DeployError> {
        let built_in = Bytes::from_static(built_in);
        let mut note = String::new();
        match active {
            // A newer binary brings newer built-in handlers.
            Some(stored)
                if stored.deployed_by == BUILT_IN && stored.digest != Digest::of(&built_in) => {}
            Some(stored) => match self.load_stored(stored).await {
                Ok(loaded) => {
                    let info = RevisionInfo {
                        region: Arc::clone(&self.regions[region]),
                        operation,
                        number: stored.number,
                        deployed_at: stored.deployed_at,
                        deployed_by: stored.deployed_by.clone(),
                        note: stored.note.clone(),
                    };
                    return Ok(self.revision(region, info, loaded));
                }
                Err(error) => {
                    note = format!("revision {} could not be loaded: {error}", stored.number);
                    tracing::error!(
                        region = &*self.regions[region], %operation, revision = stored.number, %error,
                        "a deployed handler cannot be loaded; serving the built-in one instead"
                    );
                }
            },
            None => {}
        }
        let (loaded, _) = self.loader.load(operation, built_in.clone()).await?;
        let new = NewRevision {
            operation,
            regions: vec![Arc::clone(&self.regions[region])],
            digest: loaded.digest,
            component: built_in,
            at: self.clock.now_micros(),
            by: BUILT_IN.to_owned(),
            note,
        };
        let numbers = self.store.deploy(new.clone()).await?;
        let number = numbers.first().copied().unwrap_or(1);
        Ok(self.revision(
            region,
            info(&new, Arc::clone(&self.regions[region]), number),
            loaded,
        ))
    }

    async fn load_stored(&self, stored: &StoredRevision) -> Result<Arc<Loaded>, DeployError> {
        let bytes = self.store.component(stored.digest).await?;
        Ok(self.loader.load(stored.operation, bytes).await?.0)
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

    /// The names of the regions, in their order.
    pub fn regions(&self) -> &[Arc<str>] {
        &self.regions
    }

    /// The revision that a slot runs now. `region` is a position in
    /// [`Registry::regions`].
    pub fn current(&self, region: usize, operation: Operation) -> Arc<Revision> {
        Arc::clone(&self.table.load().revisions[index(region, operation)])
    }

    /// Deploys a component to one region, or to all. `by` and `note` are recorded.
    ///
    /// # Errors
    ///
    /// See [`DeployError`].
    pub async fn deploy(
        &self,
        operation: Operation,
        region: Option<&str>,
        component: Bytes,
        announced: Option<Digest>,
        by: &str,
        note: &str,
    ) -> Result<Deployed, DeployError> {
        let start = Stopwatch::now();
        let targets = self.targets(region)?;
        let received = Digest::of(&component);
        if let Some(announced) = announced.filter(|a| *a != received) {
            return Err(DeployError::DigestMismatch {
                announced,
                received,
            });
        }
        let _one_at_a_time = self.deploying.lock().await;
        let size = component.len();
        let (loaded, timings) = self.loader.load(operation, component.clone()).await?;
        let changing: Vec<usize> = targets
            .iter()
            .copied()
            .filter(|region| self.current(*region, operation).loaded().digest != received)
            .collect();
        let before: Vec<u64> = targets
            .iter()
            .map(|r| self.current(*r, operation).info().number)
            .collect();
        if !changing.is_empty() {
            let new = NewRevision {
                operation,
                regions: changing
                    .iter()
                    .map(|r| Arc::clone(&self.regions[*r]))
                    .collect(),
                digest: received,
                component,
                at: self.clock.now_micros(),
                by: by.to_owned(),
                note: note.to_owned(),
            };
            let numbers = self.store.deploy(new.clone()).await?;
            let next = changing.iter().zip(&numbers).map(|(region, number)| {
                let info = info(&new, Arc::clone(&self.regions[*region]), *number);
                (*region, self.revision(*region, info, Arc::clone(&loaded)))
            });
            self.swap(operation, next.collect());
        }
        let slots = targets
            .into_iter()
            .zip(before)
            .map(|(region, from)| Swapped {
                region: Arc::clone(&self.regions[region]),
                from,
                revision: self.current(region, operation).info().number,
                unchanged: !changing.contains(&region),
            });
        let slots: Vec<_> = slots.collect();
        Ok(Deployed {
            digest: received,
            size,
            timings,
            total: start.elapsed(),
            slots,
        })
    }

    /// Goes back to an earlier revision: `to`, or the newest one older than
    /// the active one. In one region, or in all.
    ///
    /// # Errors
    ///
    /// See [`DeployError`].
    pub async fn rollback(
        &self,
        operation: Operation,
        region: Option<&str>,
        to: Option<u64>,
        by: &str,
    ) -> Result<Vec<Swapped>, DeployError> {
        let targets = self.targets(region)?;
        let _one_at_a_time = self.deploying.lock().await;
        let stored = self.store.list().await?;
        // All are found and loaded before any is swapped.
        let mut next = Vec::with_capacity(targets.len());
        let mut swapped = Vec::with_capacity(targets.len());
        for region in targets {
            let name = &self.regions[region];
            let from = self.current(region, operation).info().number;
            let wanted = stored
                .iter()
                .filter(|s| s.operation == operation && *s.region == **name)
                .find(|s| to.map_or(s.number < from, |to| s.number == to))
                .ok_or_else(|| DeployError::NoSuchRevision {
                    region: Arc::clone(name),
                    operation,
                    wanted: to.map_or_else(|| format!("before {from}"), |to| to.to_string()),
                })?;
            swapped.push(Swapped {
                region: Arc::clone(name),
                from,
                revision: wanted.number,
                unchanged: wanted.number == from,
            });
            if wanted.number == from {
                continue;
            }
            let loaded = self.load_stored(wanted).await?;
            let info = RevisionInfo {
                region: Arc::clone(name),
                operation,
                number: wanted.number,
                deployed_at: wanted.deployed_at,
                deployed_by: wanted.deployed_by.clone(),
                note: wanted.note.clone(),
            };
            next.push((region, self.revision(region, info, loaded)));
        }
        let numbers = next
            .iter()
            .map(|(_, r)| (Arc::clone(&r.info().region), r.info().number))
            .collect();
        self.store.activate(operation, numbers).await?;
        tracing::info!(%operation, by, "rolling back");
        self.swap(operation, next);
        Ok(swapped)
    }

    /// All recorded revisions and what they are doing.
    ///
    /// # Errors
    ///
    /// The record cannot be read.
    pub async fn list(&self) -> Result<Vec<Listed>, DeployError> {
        let stored = self.store.list().await?;
        let table = self.table.load_full();
        let draining: Vec<Arc<Revision>> = self
            .draining
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let running = |stored: &StoredRevision, revision: &Arc<Revision>| {
            let info = revision.info();
            *info.region == *stored.region
                && info.operation == stored.operation
                && info.number == stored.number
        };
        let listed = stored.into_iter().map(|stored| {
            let active = table.revisions.iter().find(|r| running(&stored, r));
            let old = draining.iter().find(|r| running(&stored, r));
            let (state, counts) = match (active, old) {
                (Some(revision), _) => (RevisionState::Active, Some(revision.counts())),
                (None, Some(revision)) => (RevisionState::Draining, Some(revision.counts())),
                (None, None) => (RevisionState::Retired, None),
            };
            Listed {
                stored,
                state,
                counts,
            }
        });
        Ok(listed.collect())
    }

    fn targets(&self, region: Option<&str>) -> Result<Vec<usize>, DeployError> {
        match region {
            None => Ok((0..self.regions.len()).collect()),
            Some(name) => match self.regions.iter().position(|r| **r == *name) {
                Some(region) => Ok(vec![region]),
                None => Err(DeployError::UnknownRegion {
                    name: name.to_owned(),
                    known: self.regions.iter().map(|r| r.to_string()).collect(),
                }),
            },
        }
    }

    /// Puts revisions in place, all in one step. Called with `deploying` held.
    fn swap(&self, operation: Operation, next: Vec<(usize, Arc<Revision>)>) {
        let mut revisions = self.table.load().revisions.clone();
        let mut draining = self.draining.lock();
        draining.retain(|revision| revision.strong_count() > 0);
        for (region, revision) in next {
            let info = revision.info();
            tracing::info!(
                region = &*info.region, %operation, revision = info.number,
                digest = %revision.loaded().digest, by = info.deployed_by, "now serving"
            );
            let old = std::mem::replace(&mut revisions[index(region, operation)], revision);
            if draining.len() < MAX_DRAINING * self.slots.len() {
                draining.push(Arc::downgrade(&old));
            }
        }
        self.table.store(Arc::new(Table { revisions }));
    }
}

fn info(new: &NewRevision, region: Arc<str>, number: u64) -> RevisionInfo {
    RevisionInfo {
        region,
        operation: new.operation,
        number,
        deployed_at: new.at,
        deployed_by: new.by.clone(),
        note: new.note.clone(),
    }
}

fn index(region: usize, operation: Operation) -> usize {
    region * Operation::ALL.len() + operation as usize
}
