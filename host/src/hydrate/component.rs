//! The hydrator's decisions, made by the component that the region's
//! `hydrate` slot runs at that moment.

use std::sync::Arc;

use async_trait::async_trait;

use super::Decide;
use crate::cache::Decision;
use crate::handlers::registry::Registry;
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
        let revision = self.registry.current(self.region, Operation::Hydrate);
        match revision.decide(rows).await {
            Ok(Ok(decisions)) => Ok(decisions),
            Ok(Err(failure)) => Err(format!(
                "revision {} answered {failure:?}",
                revision.info().number
            )),
            Err(error) => Err(format!("revision {}: {error}", revision.info().number)),
        }
    }
}
