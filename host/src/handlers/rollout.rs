//! What is asked of deployments, from the bytes of a component to every region
//! running it: checked and loaded here, kept in the ledger, decided against what
//! the ledger says at that moment, and waited for until all hosts have done it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant as Stopwatch};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

use super::arrival::WAIT_FOR_HOSTS;
use super::load::Timings;
use super::load_error::LoadError;
use super::progress::{Progress, Step};
use super::registry::Registry;
use crate::deployments::{
    AppendError, Candidate, Command, Config, ConfigChange, Digest, Event, LedgerError, NewEntry,
    Outline, Plan, QuarantineChange, Refusal, Share, State,
};
use crate::model::{Operation, RevisionState};
use crate::trust::token::CreateError;

/// How often an entry is decided anew because another host was first.
const TRIES: usize = 50;

/// Who asks, and from where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actor {
    /// Who.
    pub name: String,
    /// An address, or what else tells where.
    pub source: String,
}

/// Where a component is to go, and for which keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rollout {
    /// At once.
    Now {
        /// The regions; without, all.
        regions: Option<Vec<String>>,
        /// The keys that it gets.
        share: Share,
    },
    /// Step by step.
    Planned {
        /// The steps.
        outline: Outline,
        /// The pause after each.
        pause: Duration,
    },
}

impl Rollout {
    /// The regions that it is for, now or later; without, all.
    pub fn regions(&self) -> Option<Vec<String>> {
        match self {
            Rollout::Now { regions, .. } => regions.clone(),
            Rollout::Planned { outline, .. } => outline.wanted(),
        }
    }
}

/// A component that is to be deployed.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The operation.
    pub operation: Operation,
    /// Where, and for which keys.
    pub rollout: Rollout,
    /// What changes of the configuration.
    pub config: ConfigChange,
    /// The component.
    pub component: Bytes,
    /// The digest that the client has sent, if it has.
    pub announced: Option<Digest>,
    /// What else there is to say.
    pub note: String,
    /// The signature that came with it: a file of `ssh-keygen -Y sign`.
    pub signature: Option<Vec<u8>>,
}

/// Why something was not done. Nothing has changed then, but after
/// [`DeployError::OutcomeUnknown`].
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
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
    /// What is deployed does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no token to be made like that.
    #[error(transparent)]
    Token(#[from] CreateError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What is deployed was written by a newer release.
    #[error("{0}")]
    TooOld(String),
    /// It may have been done.
    #[error("{0}; look at `tidepool handlers`")]
    OutcomeUnknown(String),
}

/// A slot after a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Swapped {
    /// The region.
    pub region: String,
    /// The revision that was active before.
    pub from: u64,
    /// The revision that the command was about.
    pub revision: u64,
    /// What it does.
    pub state: RevisionState,
    /// The keys that it gets, as a canary.
    pub share: Option<Share>,
    /// The slot was so already.
    pub unchanged: bool,
    /// From the command's acceptance to all hosts of the region having done it.
    /// `None`: none is there, or one has not in time.
    pub live: Option<Duration>,
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
    /// The plan that goes on with it, if there is one.
    pub plan: Option<Plan>,
    /// What hosts say of what they cannot do.
    pub problems: Vec<String>,
}

impl Registry {
    /// Deploys a component, and tells its steps.
    ///
    /// # Errors
    ///
    /// See [`DeployError`].
    pub async fn deploy(
        &self,
        upload: Upload,
        by: &Actor,
        progress: &Progress,
    ) -> Result<Deployed, DeployError> {
        let start = Stopwatch::now();
        let Upload {
            operation,
            rollout,
            config,
            component,
            announced,
            note,
            signature,
        } = upload;
        let digest = Digest::of(&component);
        if let Some(announced) = announced.filter(|announced| *announced != digest) {
            return Err(DeployError::DigestMismatch {
                announced,
                received: digest,
            });
        }
        self.catch_up().await?;
        let (since, configs) = {
            let state = self.known.lock().await;
            // What does not exist is said before anything is compiled.
            let targets = match &rollout {
                Rollout::Now { regions, .. } => state.targets(operation, regions.as_deref())?,
                Rollout::Planned { outline, .. } => state.planned(operation, outline)?,
            };
            (state.seq, State::configs(&targets, &config)?)
        };
        let size = component.len();
        let mut timings = Timings::default();
        for config in configs {
            let config = Arc::new(self.resolve(&config).await?);
            let bytes = component.clone();
            let loading = self
                .loader
                .load_timed(operation, bytes, &config, &mut timings, progress);
            loading.await?;
        }
        let storing = Stopwatch::now();
        // The handler that comes with this host too: others come with another.
        self.ledger.put_component(digest, component).await?;
        progress.done(Step::Store, storing.elapsed());
        let candidate = Candidate {
            operation,
            digest,
            size: size as u64,
            config,
            note,
            signature: signature.map(|signature| BASE64.encode(signature)),
            since,
        };
        let command = match rollout {
            Rollout::Now { regions, share } => Command::Deploy {
                candidate,
                regions,
                share,
            },
            Rollout::Planned { outline, pause } => Command::Plan {
                candidate,
                outline,
                pause,
            },
        };
        let (slots, problems) = self.command(&command, by, start, progress).await?;
        Ok(Deployed {
            digest,
            size,
            timings,
            total: start.elapsed(),
            slots,
            plan: match command {
                Command::Plan { .. } => {
                    let state = self.known.lock().await;
                    state
                        .plan(operation)
                        .filter(|it| it.number > since)
                        .cloned()
                }
                _ => None,
            },
            problems,
        })
    }

    /// Does what a command says, and waits until all hosts have. Gives the slots that
    /// it is about, and what hosts say of what they cannot do.
    ///
    /// # Errors
    ///
    /// See [`DeployError`].
    pub async fn command(
        &self,
        command: &Command,
        by: &Actor,
        start: Stopwatch,
        progress: &Progress,
    ) -> Result<(Vec<Swapped>, Vec<String>), DeployError> {
        let (before, after) = self.append(command, by).await?;
        let Some((operation, regions)) = command.subject(&after) else {
            return Ok((Vec::new(), Vec::new()));
        };
        let mut slots = Vec::new();
        for (region, slot) in after.targets(operation, regions.as_deref())? {
            let was = before.slot(region, operation);
            let (revision, share) = match slot.canary {
                Some((number, share)) => (number, Some(share)),
                None => (slot.active, None),
            };
            let unchanged = slot.changed <= before.seq;
            if unchanged && command.is_about_canaries() && regions.is_none() {
                continue;
            }
            slots.push(Swapped {
                region: region.to_owned(),
                from: was.map_or(slot.active, |was| was.active),
                revision,
                state: match share {
                    Some(_) => RevisionState::Canary,
                    None => RevisionState::Active,
                },
                share,
                unchanged,
                live: None,
            });
        }
        // Where nothing has changed a look is enough: it may be that a host cannot do
        // what was asked before.
        let wait = match after.seq == before.seq {
            true => Duration::ZERO,
            false => WAIT_FOR_HOSTS,
        };
        let problems = self
            .wait_for_hosts(operation, after.seq, wait, &mut slots, start, progress)
            .await;
        Ok((slots, problems))
    }

    /// Records that rows which were set aside are tried again, or forgotten.
    ///
    /// # Errors
    ///
    /// See [`DeployError`]: it must not be done then.
    pub async fn record_quarantine(
        &self,
        change: QuarantineChange,
        rows: BTreeMap<String, u64>,
        by: &Actor,
    ) -> Result<(), DeployError> {
        let command = Command::Quarantine { change, rows };
        self.append(&command, by).await.map(drop)
    }

    /// Looks whether this host has the secrets of what a command would roll back to,
    /// so that it can be refused before anything changes.
    ///
    /// # Errors
    ///
    /// See [`DeployError`].
    pub async fn has_secrets(&self, command: &Command) -> Result<(), DeployError> {
        self.catch_up().await?;
        let configs: Vec<Arc<Config>> = {
            let state = self.known.lock().await;
            match state.decide(command, |operation| self.built_in(operation))? {
                Some(Event::RolledBack { operation, to }) => {
                    let targets = to.iter().filter_map(|(region, number)| {
                        state.slot(region, operation)?.revision(*number)
                    });
                    targets.map(|target| Arc::clone(&target.config)).collect()
                }
                _ => Vec::new(),
            }
        };
        for config in configs {
            self.resolve(&config).await?;
        }
        Ok(())
    }

    /// Appends what a command becomes, if anything, and makes it true here. Gives the
    /// state before and after.
    pub(super) async fn append(
        &self,
        command: &Command,
        by: &Actor,
    ) -> Result<(State, State), DeployError> {
        let states = self.decide_and_append(command, by).await?;
        self.apply().await;
        Ok(states)
    }

    async fn decide_and_append(
        &self,
        command: &Command,
        by: &Actor,
    ) -> Result<(State, State), DeployError> {
        let mut state = self.known.lock().await;
        let id = self.entropy.next_u64().cast_signed();
        // Since it was sent, its outcome may have been unknown: a copy can turn up
        // in the ledger after its number was read as free.
        let mut unclear: Option<(State, String)> = None;
        for _ in 0..TRIES {
            if let Some(why) = self.read(&mut state).await? {
                return Err(DeployError::TooOld(why));
            }
            if let Some((before, _)) = &unclear
                && self.has(before.seq, id).await?
            {
                return Ok((before.clone(), state.clone()));
            }
            let built_in = |operation| self.built_in(operation);
            let Some(event) = state.decide(command, built_in)? else {
                return Ok((state.clone(), state.clone()));
            };
            let entry = NewEntry {
                id,
                actor: by.name.clone(),
                source: by.source.clone(),
                event,
            };
            let before = state.clone();
            match self.ledger.append(state.seq + 1, entry).await {
                Ok(()) => {
                    if let Some(why) = self.read(&mut state).await? {
                        return Err(DeployError::OutcomeUnknown(why));
                    }
                    let used = state.components().into_iter().collect();
                    if let Err(error) = self.ledger.keep_components(used).await {
                        tracing::warn!(%error, "components that are no longer used are kept");
                    }
                    return Ok((before, state.clone()));
                }
                Err(AppendError::Taken) => {}
                Err(AppendError::OutcomeUnknown(why)) => {
                    tracing::warn!(why, "an entry is looked for, and else decided again");
                    unclear.get_or_insert((before, why));
                }
                Err(AppendError::Unavailable(error)) => return Err(error.into()),
            }
        }
        let why = unclear.map_or_else(
            || "other hosts deploy without a pause; try again".to_owned(),
            |(_, why)| why,
        );
        Err(DeployError::OutcomeUnknown(why))
    }

    /// Whether an entry with this id comes after a number.
    async fn has(&self, mut seq: u64, id: i64) -> Result<bool, LedgerError> {
        loop {
            let entries = self.ledger.after(seq).await?;
            let Some(last) = entries.last() else {
                return Ok(false);
            };
            if entries.iter().any(|entry| entry.id == id) {
                return Ok(true);
            }
            seq = last.seq;
        }
    }
}

impl Command {
    /// What it was about, by what has come of it.
    fn subject(&self, after: &State) -> Option<(Operation, Option<Vec<String>>)> {
        match self {
            // What a plan comes to is looked at by whoever waits for it.
            Command::CreateToken { .. }
            | Command::RevokeToken { .. }
            | Command::Quarantine { .. }
            | Command::Advance { .. } => None,
            Command::Plan {
                candidate, outline, ..
            } => {
                let plan = after.plan(candidate.operation);
                let begun = plan.filter(|plan| plan.number > candidate.since);
                let regions = match begun.and_then(Plan::current) {
                    Some(step) => Some(step.regions.clone()),
                    // All of it was so already.
                    None => outline.wanted(),
                };
                Some((candidate.operation, regions))
            }
            Command::Deploy {
                candidate, regions, ..
            } => Some((candidate.operation, regions.clone())),
            Command::Promote {
                operation, regions, ..
            }
            | Command::Abort { operation, regions }
            | Command::Rollback {
                operation, regions, ..
            } => Some((*operation, regions.clone())),
        }
    }

    fn is_about_canaries(&self) -> bool {
        matches!(self, Command::Promote { .. } | Command::Abort { .. })
    }
}
