//! The part of the admin plane that shows what the feed's hydrators have set aside,
//! replays it and forgets it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::{StatusCode, Uri};
use tokio::time::Instant;

use super::authority::Who;
use super::documents::{Dropped, QuarantineList, QuarantinedRow, Replayed};
use super::query::Query;
use super::region::Region;
use super::respond::{self, Answer, Kind, Problem};
use crate::deployments::{QuarantineChange, Refusal};
use crate::handlers::registry::Registry;
use crate::hydrate::component::ComponentDecide;
use crate::hydrate::replay::{Replay, ReplayError};
use crate::model::Operation;
use crate::quarantine::{Entry, Keeper, MOST_PER_REGION, QuarantineError};
use crate::wit_host::log::rfc3339;

/// How long one request may replay: less than the command line waits for an answer.
const REPLAY_WAIT: Duration = Duration::from_secs(15);

/// What the requests work on.
pub(super) struct Quarantined<'a> {
    pub regions: &'a [Arc<Region>],
    pub registry: &'a Arc<Registry>,
    pub keeper: &'a Keeper,
}

/// Which entries a request is for.
struct Filter {
    regions: Option<Vec<String>>,
    key: Option<String>,
}

impl Filter {
    fn of(uri: &Uri) -> Result<Filter, Problem> {
        let query = Query::of(uri, &["region", "key"])?;
        Ok(Filter {
            regions: query.list("region"),
            key: query.text("key").map(str::to_owned),
        })
    }

    /// Asks for what it takes to change what its regions hydrate with.
    fn may_change(&self, who: &Who) -> Result<(), Problem> {
        who.may_deploy(Operation::Hydrate, self.regions.as_deref())
    }
}

impl Quarantined<'_> {
    /// `GET /v1/feed/quarantine`
    pub async fn list(&self, uri: &Uri) -> Result<Answer, Problem> {
        let mut entries = Vec::new();
        for (region, of_region) in self.selected(&Filter::of(uri)?).await? {
            entries.extend(of_region.into_iter().map(|entry| (region.clone(), entry)));
        }
        entries.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.at));
        let total = entries.len() as u64;
        entries.truncate(MOST_PER_REGION);
        let entries = entries.iter().map(|(region, entry)| shown(region, entry));
        let document = QuarantineList {
            entries: entries.collect(),
            total,
        };
        Ok(respond::json(StatusCode::OK, &document))
    }

    /// `POST /v1/feed/quarantine/replay`
    pub async fn replay(&self, uri: &Uri, who: &Who) -> Result<Answer, Problem> {
        let filter = Filter::of(uri)?;
        filter.may_change(who)?;
        let until = Instant::now() + REPLAY_WAIT;
        let mut done = Replayed::default();
        let selected = self.selected(&filter).await?;
        let here = |name: &str| self.regions.iter().any(|it| *it.name == *name);
        let rows = selected.iter().filter(|(name, _)| here(name));
        self.record(QuarantineChange::Replay, rows, who).await?;
        for (name, mut entries) in selected {
            // Those first that were not tried for longest.
            entries.reverse();
            let Some(region) = self.regions.iter().find(|it| *it.name == *name) else {
                if !entries.is_empty() {
                    done.elsewhere.push(name);
                }
                continue;
            };
            let replay = Replay {
                region: &region.name,
                decide: &ComponentDecide {
                    registry: Arc::clone(self.registry),
                    region: region.index,
                },
                log: &*region.backends.log,
                cache: &*region.backends.cache,
                keeper: self.keeper,
            };
            for mut entry in entries {
                if Instant::now() >= until {
                    done.left += 1;
                    continue;
                }
                match replay.run(&entry).await {
                    Ok(()) => done.replayed += 1,
                    Err(ReplayError::Undecided(why)) => {
                        entry.why = why;
                        done.failed.push(shown(&name, &entry));
                    }
                    Err(error @ ReplayError::Unavailable(_)) => {
                        return Err(Problem::new(Kind::Unavailable, error.to_string()));
                    }
                }
            }
        }
        tracing::info!(
            actor = who.actor.name,
            replayed = done.replayed,
            failed = done.failed.len(),
            "rows of the quarantine were replayed"
        );
        Ok(respond::json(StatusCode::OK, &done))
    }

    /// `DELETE /v1/feed/quarantine`
    pub async fn drop_entries(&self, uri: &Uri, who: &Who) -> Result<Answer, Problem> {
        let filter = Filter::of(uri)?;
        filter.may_change(who)?;
        let mut dropped = 0;
        let selected = self.selected(&filter).await?;
        self.record(QuarantineChange::Drop, selected.iter(), who)
            .await?;
        for (region, entries) in selected {
            let keys: Vec<_> = entries
                .into_iter()
                .map(|entry| (entry.key, entry.version))
                .collect();
            dropped += keys.len() as u64;
            if !keys.is_empty() {
                self.keeper.remove(&region, keys).await?;
            }
        }
        tracing::info!(
            actor = who.actor.name,
            dropped,
            "rows of the quarantine were forgotten"
        );
        Ok(respond::json(StatusCode::OK, &Dropped { dropped }))
    }

    /// Puts on record what is about to be done to entries, if there are some.
    async fn record<'a>(
        &self,
        change: QuarantineChange,
        selected: impl Iterator<Item = &'a (String, Vec<Entry>)>,
        who: &Who,
    ) -> Result<(), Problem> {
        let some = selected.filter(|(_, entries)| !entries.is_empty());
        let rows = some.map(|(name, entries)| (name.clone(), entries.len() as u64));
        let recording = self
            .registry
            .record_quarantine(change, rows.collect(), &who.actor);
        Ok(recording.await?)
    }

    /// The entries that a request is for, by region, the newest first.
    async fn selected(&self, filter: &Filter) -> Result<Vec<(String, Vec<Entry>)>, Problem> {
        let having = self.keeper.regions().await?;
        let names = match &filter.regions {
            Some(names) => self.known(names, &having).await?,
            None => having,
        };
        let mut selected = Vec::new();
        for name in names {
            let mut entries = self.keeper.list(&name).await?;
            if let Some(key) = &filter.key {
                entries.retain(|entry| entry.key.as_str() == key);
            }
            selected.push((name, entries));
        }
        Ok(selected)
    }

    /// The names, if all are of regions: a misspelt one must not look empty.
    async fn known(
        &self,
        names: &[String],
        having: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, Problem> {
        let handlers = self.registry.list().await?;
        let mut known: BTreeSet<String> =
            handlers.revisions.into_iter().map(|it| it.region).collect();
        known.extend(having.iter().cloned());
        match names.iter().find(|name| !known.contains(*name)) {
            None => Ok(names.iter().cloned().collect()),
            Some(name) => {
                let refusal = Refusal::UnknownRegion {
                    name: name.clone(),
                    known: known.into_iter().collect(),
                };
                Err(Problem::new(Kind::NoSuchPath, refusal.to_string()))
            }
        }
    }
}

fn shown(region: &str, entry: &Entry) -> QuarantinedRow {
    QuarantinedRow {
        region: region.to_owned(),
        key: entry.key.as_str().to_owned(),
        version: entry.version.0,
        at: rfc3339(entry.at),
        why: entry.why.clone(),
    }
}

impl From<QuarantineError> for Problem {
    fn from(error: QuarantineError) -> Problem {
        Problem::new(Kind::Unavailable, error.to_string())
    }
}
