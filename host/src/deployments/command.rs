//! What somebody wants, and the event that it becomes: pure. A command is decided
//! against a state, and is appended as the entry that follows it; when another
//! entry was first, it is decided again.

use std::collections::BTreeMap;

use super::digest::Digest;
use super::event::{Event, Share};
use super::state::{Component, SlotState, State};
use crate::model::Operation;
use crate::trust::token::TokenRecord;

/// Something to be done. Without regions it is for all that have joined.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// A component is to become the next revision.
    Deploy {
        /// The operation.
        operation: Operation,
        /// The regions.
        regions: Option<Vec<String>>,
        /// The component.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
        /// The keys that it gets.
        share: Share,
        /// What else there is to say.
        note: String,
        /// The signature that came with it, in base64.
        signature: Option<String>,
        /// The last entry before it was asked for: a slot that was changed after
        /// it is somebody else's by now.
        since: u64,
    },
    /// A canary is to get another share, or everything.
    Promote {
        /// The operation.
        operation: Operation,
        /// The regions; without, those that have a canary.
        regions: Option<Vec<String>>,
        /// The keys that it gets.
        share: Share,
    },
    /// A canary is to be withdrawn.
    Abort {
        /// The operation.
        operation: Operation,
        /// The regions; without, those that have a canary.
        regions: Option<Vec<String>>,
    },
    /// Another revision is to run.
    Rollback {
        /// The operation.
        operation: Operation,
        /// The regions.
        regions: Option<Vec<String>>,
        /// Its number; without, the one before.
        to: Option<u64>,
    },
    /// A token is to be kept.
    CreateToken {
        /// What is kept of it.
        token: TokenRecord,
    },
    /// A token is to be taken back.
    RevokeToken {
        /// Its number.
        id: String,
    },
}

/// Why a command cannot be done. Nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// No such region.
    #[error("there is no region {name:?}; there are {}", known.join(", "))]
    UnknownRegion {
        /// As asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// Somebody else has changed a slot.
    #[error(
        "somebody else has deployed `{operation}` in {region} at the same time: it runs revision {active} now; look at `tidepool handlers` and deploy again if yours is still wanted"
    )]
    Overtaken {
        /// The region.
        region: String,
        /// The operation.
        operation: Operation,
        /// What it runs.
        active: u64,
    },
    /// There is a canary.
    #[error(
        "`{operation}` in {region} has a canary, revision {canary} at {share}; `tidepool promote {operation}` or `tidepool abort {operation}` first"
    )]
    CanaryRuns {
        /// The region.
        region: String,
        /// The operation.
        operation: Operation,
        /// Its revision.
        canary: u64,
        /// Its share.
        share: Share,
    },
    /// There is no canary.
    #[error(
        "`{operation}` has no canary in {region}; `tidepool deploy {operation} FILE --canary 5%` starts one"
    )]
    NoCanary {
        /// The operation.
        operation: Operation,
        /// Where.
        region: String,
    },
    /// A canary only grows.
    #[error(
        "the canary of `{operation}` in {region} has {share} already; a key that got it does not go back: name more, or `tidepool abort {operation}`"
    )]
    Shrinks {
        /// The operation.
        operation: Operation,
        /// Where.
        region: String,
        /// What it has.
        share: Share,
    },
    /// There is nothing to go back to.
    #[error(
        "`{operation}` in {region} has no revision {wanted}; `tidepool handlers --all` lists them"
    )]
    NoSuchRevision {
        /// The region.
        region: String,
        /// The operation.
        operation: Operation,
        /// As asked for.
        wanted: String,
    },
    /// A token has this number.
    #[error("there is a token {id} already; try again, and it gets another number")]
    TokenExists {
        /// The number.
        id: String,
    },
    /// No token has this number.
    #[error("there is no token {id:?}; `tidepool token list` has them")]
    NoSuchToken {
        /// As asked for.
        id: String,
    },
    /// There are as many as may be.
    #[error("there are {MAX_TOKENS} tokens that hold; revoke some that are no longer used")]
    TooManyTokens,
}

/// Most tokens that may hold at a time.
pub const MAX_TOKENS: usize = 1000;

impl State {
    /// The event that a command becomes now. `None`: all is as wanted already.
    /// `built_in` tells the digest of the handler inside this host.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn decide(
        &self,
        command: &Command,
        built_in: impl Fn(Operation) -> Digest,
    ) -> Result<Option<Event>, Refusal> {
        match command {
            Command::Deploy {
                operation,
                regions,
                digest,
                size,
                share,
                note,
                signature,
                since,
            } => {
                let mut changing = Vec::new();
                for (region, slot) in self.targets(*operation, regions.as_deref())? {
                    if slot.changed > *since {
                        return Err(Refusal::Overtaken {
                            region: region.to_owned(),
                            operation: *operation,
                            active: slot.active,
                        });
                    }
                    if let Some((canary, share)) = slot.canary {
                        return Err(Refusal::CanaryRuns {
                            region: region.to_owned(),
                            operation: *operation,
                            canary,
                            share,
                        });
                    }
                    if slot.runs(*digest, built_in(*operation)) {
                        continue;
                    }
                    changing.push(region.to_owned());
                }
                Ok((!changing.is_empty()).then(|| Event::Deployed {
                    operation: *operation,
                    regions: changing,
                    digest: *digest,
                    size: *size,
                    share: *share,
                    note: note.clone(),
                    signature: signature.clone(),
                }))
            }
            Command::Promote {
                operation,
                regions,
                share,
            } => {
                let canaries = self.canaries(*operation, regions.as_deref())?;
                for (region, _, has) in &canaries {
                    if has > share {
                        return Err(Refusal::Shrinks {
                            operation: *operation,
                            region: (*region).to_owned(),
                            share: *has,
                        });
                    }
                }
                let growing = canaries.into_iter().filter(|(_, _, has)| has < share);
                let regions: Vec<_> = growing.map(|(region, ..)| region.to_owned()).collect();
                Ok((!regions.is_empty()).then_some(Event::Shared {
                    operation: *operation,
                    regions,
                    share: *share,
                }))
            }
            Command::Abort { operation, regions } => {
                let canaries = self.canaries(*operation, regions.as_deref())?;
                let regions = canaries.into_iter().map(|(region, ..)| region.to_owned());
                Ok(Some(Event::Aborted {
                    operation: *operation,
                    regions: regions.collect(),
                }))
            }
            Command::Rollback {
                operation,
                regions,
                to,
            } => {
                let mut targets = BTreeMap::new();
                for (region, slot) in self.targets(*operation, regions.as_deref())? {
                    let found = match to {
                        Some(to) => slot.revision(*to),
                        None => slot.before(),
                    };
                    let found = found.ok_or_else(|| Refusal::NoSuchRevision {
                        region: region.to_owned(),
                        operation: *operation,
                        wanted: to
                            .map_or_else(|| format!("before {}", slot.active), |to| to.to_string()),
                    })?;
                    if found.number != slot.active || slot.canary.is_some() {
                        targets.insert(region.to_owned(), found.number);
                    }
                }
                Ok((!targets.is_empty()).then_some(Event::RolledBack {
                    operation: *operation,
                    to: targets,
                }))
            }
            Command::CreateToken { token } => {
                let id = token.id.clone();
                let hold = self.tokens().filter(|known| {
                    let ended = known.expires_at.is_some_and(|end| end <= token.created_at);
                    known.revoked_at.is_none() && !ended
                });
                match self.token(&id) {
                    Some(known) if known == token => Ok(None),
                    Some(_) => Err(Refusal::TokenExists { id }),
                    None if hold.count() >= MAX_TOKENS => Err(Refusal::TooManyTokens),
                    None => Ok(Some(Event::TokenCreated {
                        token: token.clone(),
                    })),
                }
            }
            Command::RevokeToken { id } => match self.token(id) {
                Some(token) => {
                    let event = Event::TokenRevoked { id: id.clone() };
                    Ok(token.revoked_at.is_none().then_some(event))
                }
                None => Err(Refusal::NoSuchToken { id: id.clone() }),
            },
        }
    }

    /// The slots of the operation in these regions, or in all.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownRegion`].
    pub fn targets(
        &self,
        operation: Operation,
        regions: Option<&[String]>,
    ) -> Result<Vec<(&str, &SlotState)>, Refusal> {
        let all = self.slots().filter(|(_, other, _)| *other == operation);
        let all: Vec<_> = all.map(|(region, _, slot)| (region, slot)).collect();
        let Some(regions) = regions else {
            return Ok(all);
        };
        let find = |name: &String| {
            let found = all.iter().find(|(region, _)| region == name).copied();
            found.ok_or_else(|| Refusal::UnknownRegion {
                name: name.clone(),
                known: all.iter().map(|(region, _)| (*region).to_owned()).collect(),
            })
        };
        let mut targets = regions.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        targets.sort_by_key(|(region, _)| *region);
        targets.dedup_by_key(|(region, _)| *region);
        Ok(targets)
    }

    /// The canaries of the operation in these regions, or wherever there are some.
    fn canaries(
        &self,
        operation: Operation,
        regions: Option<&[String]>,
    ) -> Result<Vec<(&str, u64, Share)>, Refusal> {
        let targets = self.targets(operation, regions)?;
        let none = |region: &str| Refusal::NoCanary {
            operation,
            region: region.to_owned(),
        };
        let mut canaries = Vec::new();
        for (region, slot) in targets {
            match slot.canary {
                Some((number, share)) => canaries.push((region, number, share)),
                None if regions.is_some() => return Err(none(region)),
                None => {}
            }
        }
        match canaries.is_empty() {
            true => Err(none("any region")),
            false => Ok(canaries),
        }
    }
}

impl SlotState {
    fn runs(&self, digest: Digest, built_in: Digest) -> bool {
        match self.revision(self.active).map(|known| known.component) {
            Some(Component::Deployed { digest: runs, .. }) => runs == digest,
            Some(Component::BuiltIn) => built_in == digest,
            None => false,
        }
    }
}
