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
        let Some(canary) = self.registry.canary(self.region, Operation::Hydrate) else {
            return ask(
                &self.registry.current(self.region, Operation::Hydrate),
                rows,
            )
            .await;
        };
        let pick = |row: &Row| {
            let key = row.key.as_str();
            self.registry.pick(self.region, Operation::Hydrate, key)
        };
        let is_canarys = |row: &Row| Arc::ptr_eq(&pick(row), &canary.revision);
        let theirs: Vec<bool> = rows.iter().map(is_canarys).collect();
        let part = |canarys: bool| -> Arc<[Row]> {
            let rows = rows.iter().zip(&theirs);
            let rows = rows.filter(|(_, theirs)| **theirs == canarys);
            rows.map(|(row, _)| row.clone()).collect()
        };
        let active = self.registry.current(self.region, Operation::Hydrate);
        let mut canarys = some(&canary.revision, &part(true)).await?.into_iter();
        let mut others = some(&active, &part(false)).await?.into_iter();
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
        let (failing, other) = match self.registry.canary(self.region, Operation::Hydrate) {
            Some(canary) => (
                canary.revision,
                self.registry.current(self.region, Operation::Hydrate),
            ),
            None => (
                self.registry.current(self.region, Operation::Hydrate),
                self.registry.predecessor(self.region, Operation::Hydrate)?,
            ),
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
