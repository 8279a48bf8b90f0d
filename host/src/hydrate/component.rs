//! The hydrator's decisions, made by the component that the region's
//! `hydrate` slot runs at that moment; of the keys that a canary gets, by the
//! canary.

use std::sync::Arc;

use async_trait::async_trait;

use super::Decide;
use crate::cache::Decision;
use crate::handlers::registry::Registry;
use crate::handlers::revision::Revision;
use crate::model::{Operation, Row};

/// Asks the region's `hydrate` component.
pub struct ComponentDecide {
    /// The handler table.
    pub registry: Arc<Registry>,
    /// The region's position in the registry.
    pub region: usize,
}

#[async_trait]
impl Decide for ComponentDecide {
    async fn decide(&self, rows: &Arc<[Row]>) -> Result<Vec<Decision>, String> {
        // Asked anew for each try: a swap in between takes effect.
        let running = self.registry.running(self.region, Operation::Hydrate);
        let Some(canary) = &running.canary else {
            return ask(&running.active, rows).await;
        };
        let picks = rows.iter().map(|row| running.of(row.key.as_str()));
        let theirs: Vec<bool> = picks.map(|it| Arc::ptr_eq(it, &canary.revision)).collect();
        let part = |canarys: bool| -> Arc<[Row]> {
            let rows = rows.iter().zip(&theirs);
            let rows = rows.filter(|(_, theirs)| **theirs == canarys);
            rows.map(|(row, _)| row.clone()).collect()
        };
        let mut canarys = some(&canary.revision, &part(true)).await?.into_iter();
        let mut others = some(&running.active, &part(false)).await?.into_iter();
        let merged = theirs.iter().map(|is_canarys| match is_canarys {
            true => canarys.next(),
            false => others.next(),
        });
        let merged: Option<Vec<Decision>> = merged.collect();
        merged.ok_or_else(|| "there are fewer decisions than rows".to_owned())
    }

    /// The revision that the failing one has replaced is asked. If it knows an
    /// answer, the failing one is taken back.
    async fn otherwise(&self, rows: &Arc<[Row]>, why: &str) -> Option<Vec<Decision>> {
        let running = self.registry.running(self.region, Operation::Hydrate);
        let (failing, other) = match running.canary {
            Some(canary) => (canary.revision, running.active),
            None => {
                let other = self.registry.predecessor(self.region, Operation::Hydrate)?;
                (running.active, other)
            }
        };
        if !failing.is_on_trial() {
            return None;
        }
        let decisions = ask(&other, rows).await.ok()?;
        let reason = format!("it decided nothing about {} rows: {why}", rows.len());
        failing.condemned(&reason);
        Some(decisions)
    }
}

async fn some(revision: &Revision, rows: &Arc<[Row]>) -> Result<Vec<Decision>, String> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    ask(revision, rows).await
}

async fn ask(revision: &Revision, rows: &Arc<[Row]>) -> Result<Vec<Decision>, String> {
    match revision.decide(rows).await {
        Ok(Ok(decisions)) => Ok(decisions),
        Ok(Err(failure)) => Err(format!(
            "revision {} answered {failure:?}",
            revision.info().number
        )),
        Err(error) => Err(format!("revision {}: {error}", revision.info().number)),
    }
}
