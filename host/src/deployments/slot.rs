//! What one slot runs, and has run, and what may become its next revision: pure.

use std::sync::Arc;

use super::config::{Config, ConfigChange};
use super::digest::Digest;
use super::event::Share;

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
    /// When the active one took its place, microseconds by the database's clock.
    pub since: i64,
    /// The number of the last entry that changed the slot.
    pub changed: u64,
    pub(super) next: u64,
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

    pub(super) fn add(&mut self, added: Added, at: i64, keep: usize) -> u64 {
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

    pub(super) fn activate(&mut self, number: u64, at: i64) {
        self.replaced = None;
        self.since = at;
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
    pub(super) fn share(&mut self, number: u64, share: Share, at: i64) {
        match share.is_all() {
            true => self.replace(number, at),
            false => self.canary = Some((number, share)),
        }
    }

    fn replace(&mut self, number: u64, at: i64) {
        let replaced = self.active;
        self.activate(number, at);
        self.replaced = Some(replaced);
    }
}

/// What a plan brings to its regions, one after another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Brought {
    pub(super) component: Component,
    pub(super) config: ConfigChange,
    pub(super) by: String,
    pub(super) note: String,
    pub(super) signature: Option<String>,
}

impl Brought {
    pub(super) fn add(&self, slot: &mut SlotState, at: i64, keep: usize) -> u64 {
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
pub(super) struct Added {
    pub(super) component: Component,
    pub(super) config: Arc<Config>,
    pub(super) by: String,
    pub(super) note: String,
    pub(super) signature: Option<String>,
}
