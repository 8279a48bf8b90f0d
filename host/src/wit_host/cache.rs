//! `wit/cache.wit`: looking up and filling the region's cache.

use std::sync::Arc;

use wasmtime::Result;
use wasmtime::component::Resource;

use super::bindings::tidepool::kv::cache::{Host, HostLease, LookupResult};
use super::context::{Backends, Cached, Context};
use crate::cache::{Lease, Lookup};
use crate::model::{State, Version};

impl Host for Context {
    async fn lookup(&mut self, at_least: Option<i64>) -> Result<LookupResult> {
        self.charge(0)?;
        let at_least = at_least.map(Version);
        let incoming = self.incoming()?;
        if let Cached::Down = incoming.cached {
            return Ok(LookupResult::Miss(None));
        }
        let (key, stale) = (incoming.key.clone(), incoming.max_staleness.is_some());
        let backends = Arc::clone(self.backends()?);
        let looked_up = match stale {
            // No lease: what the log will say may be older than what the feed has
            // brought and the cache has forgotten since.
            true => {
                let peeked = backends.cache.peek(&key, at_least).await;
                peeked.map(|state| state.map_or(Lookup::Miss(None), Lookup::Found))
            }
            false => backends.cache.lookup(&key, at_least).await,
        };
        match looked_up {
            Ok(Lookup::Found(state)) => Ok(LookupResult::Found(self.give_state(state)?)),
            Ok(Lookup::Miss(None)) => Ok(LookupResult::Miss(None)),
            Ok(Lookup::Miss(Some(lease))) => {
                let handle = self.leases.push(lease)?;
                Ok(LookupResult::Miss(Some(Resource::new_own(handle))))
            }
            Err(error) => {
                // The log can answer what the cache cannot. The cache itself has
                // said once that it is away.
                tracing::debug!(%error, "cache lookup failed; reading the log instead");
                Ok(LookupResult::Miss(None))
            }
        }
    }
}

async fn fill(backends: &Backends, lease: Lease, state: &State) -> bool {
    backends
        .cache
        .fill(lease, state)
        .await
        .unwrap_or_else(|error| {
            // The answer is in hand; the next reader will try again.
            tracing::debug!(%error, "cache fill failed");
            false
        })
}

impl HostLease for Context {
    async fn fill(&mut self, lease: Resource<Lease>, latest: Resource<State>) -> Result<bool> {
        self.charge(0)?;
        let lease = self.leases.take(lease.rep())?;
        let state = self.readings.get(latest.rep())?.clone();
        let backends = Arc::clone(self.backends()?);
        Ok(fill(&backends, lease, &state).await)
    }

    fn drop(&mut self, lease: Resource<Lease>) -> Result<()> {
        if let Ok(lease) = self.leases.take(lease.rep()) {
            self.backends()?.cache.release(lease);
        }
        Ok(())
    }
}
