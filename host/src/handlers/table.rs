//! What every slot of this host runs: one value behind one atomic pointer. A
//! request takes the revision that it finds and keeps it; whoever changes
//! something builds the next table and puts it in place in one step.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::program::Program;
use super::revision::{Revision, RevisionInfo};
use crate::deployments::{Digest, Share};
use crate::model::Operation;

/// A revision that some of the keys get.
#[derive(Clone)]
pub struct Canary {
    /// The revision.
    pub revision: Arc<Revision>,
    /// The keys.
    pub share: Share,
}

/// What a slot runs.
#[derive(Clone)]
pub struct Running {
    /// What every key gets that the canary does not.
    pub active: Arc<Revision>,
    /// The canary.
    pub canary: Option<Canary>,
    /// What ran before the active one, in this process: ready to run again.
    pub before: Option<(RevisionInfo, Program)>,
}

impl Running {
    /// Its revisions that requests go to.
    pub fn revisions(&self) -> impl Iterator<Item = &Arc<Revision>> {
        let canary = self.canary.as_ref().map(|canary| &canary.revision);
        std::iter::once(&self.active).chain(canary)
    }

    /// Whether requests go to a revision.
    pub fn has(&self, revision: &Arc<Revision>) -> bool {
        self.revisions().any(|it| Arc::ptr_eq(it, revision))
    }

    /// Whether requests go to the same revisions.
    pub fn is(&self, other: &Running) -> bool {
        self.revisions().count() == other.revisions().count()
            && self.revisions().all(|it| other.has(it))
    }

    /// Its revisions that were not in their place before: as the active one, or as
    /// the canary.
    pub fn new_in_place<'a>(&'a self, was: &Running) -> impl Iterator<Item = &'a Arc<Revision>> {
        let active = Some(&self.active).filter(|it| !Arc::ptr_eq(it, &was.active));
        let before = was.canary.as_ref().map(|canary| &canary.revision);
        let canary = self.canary.as_ref().map(|canary| &canary.revision);
        let canary = canary.filter(|it| before.is_none_or(|before| !Arc::ptr_eq(it, before)));
        active.into_iter().chain(canary)
    }

    /// The revision for a key.
    pub fn of(&self, key: &str) -> &Arc<Revision> {
        match &self.canary {
            Some(canary) if canary.share.has(hash(canary.revision.loaded().digest, key)) => {
                &canary.revision
            }
            _ => &self.active,
        }
    }
}

/// Where a key is among those of a region. The same on every host, for as long as
/// the component is a canary; another component gets others first.
pub fn hash(digest: Digest, key: &str) -> u64 {
    let hash = Sha256::new()
        .chain_update(digest.as_bytes())
        .chain_update(key)
        .finalize();
    let (first, _) = hash.split_first_chunk().unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*first)
}

/// See the head of this file.
pub struct Table {
    slots: ArcSwap<Vec<Running>>,
    /// Of two changes at once none is lost.
    changing: Mutex<()>,
}

impl Table {
    /// A table of all slots: by region, then by operation.
    pub fn new(slots: Vec<Running>) -> Table {
        Table {
            slots: ArcSwap::from_pointee(slots),
            changing: Mutex::default(),
        }
    }

    /// The revision that a slot runs for a key.
    pub fn pick(&self, slot: usize, key: &str) -> Arc<Revision> {
        Arc::clone(self.slots.load()[slot].of(key))
    }

    /// Does something at once with the revision that a slot runs for a key.
    pub fn with<R>(&self, slot: usize, key: &str, then: impl FnOnce(&Revision) -> R) -> R {
        then(self.slots.load()[slot].of(key))
    }

    /// The revision that a slot runs for what has no key.
    pub fn active(&self, slot: usize) -> Arc<Revision> {
        Arc::clone(&self.slots.load()[slot].active)
    }

    /// A slot as it is now.
    pub fn slot(&self, slot: usize) -> Running {
        self.slots.load()[slot].clone()
    }

    /// All slots as they are now.
    pub fn all(&self) -> Vec<Running> {
        Vec::clone(&self.slots.load())
    }

    /// Changes slots, all in one step.
    pub fn change<R>(&self, change: impl FnOnce(&mut [Running]) -> R) -> R {
        let _one_at_a_time = self.changing.lock();
        let mut slots = self.all();
        let done = change(&mut slots);
        self.slots.store(Arc::new(slots));
        done
    }
}

/// The place of a slot in the table.
pub fn index(region: usize, operation: Operation) -> usize {
    region * Operation::ALL.len() + operation as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_keys_is_about_that_many_and_another_component_gets_others() {
        let five = Share::parse("5%").unwrap();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let keys: Vec<String> = (0..20_000).map(|n| format!("key-{n}")).collect();
        let has = |digest| keys.iter().filter(move |key| five.has(hash(digest, key)));
        let count = has(one).count();
        assert!((800..1200).contains(&count), "{count}");
        let both = has(one).filter(|key| five.has(hash(two, key))).count();
        assert!(both < 200, "{both}");
    }

    #[test]
    fn where_a_key_is_never_changes() {
        assert_eq!(hash(Digest::of(b""), "key"), 8_137_443_912_865_251_938);
    }
}
