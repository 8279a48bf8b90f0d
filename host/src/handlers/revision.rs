//! A revision at work: one component in one slot, its idle instances and its
//! counters. A request holds an `Arc` of the revision that it started with;
//! when the last goes after a swap, so does everything here.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::answer::Answer;
use super::engine::ServingEngine;
use super::error::CallError;
use super::instance::Instance;
use super::load::Loaded;
use super::pool::Pool;
use super::slot::Slot;
use crate::cache::Decision;
use crate::clock::{Clock, Entropy};
use crate::model::{Operation, Row};
use crate::wit_host::bindings::tidepool::kv::types::{Failure, Request};
use crate::wit_host::context::{Backends, Incoming};
use crate::wit_host::wasi::HandlerOutput;

/// Failures of one revision that are logged in full per second.
const LOGGED_FAILURES_PER_SECOND: u64 = 5;

/// What names a revision.
#[derive(Clone, Debug)]
pub struct RevisionInfo {
    /// The region.
    pub region: Arc<str>,
    /// The operation.
    pub operation: Operation,
    /// Number, counted per region and operation from 1.
    pub number: u64,
    /// When it was deployed, microseconds since the Unix epoch.
    pub deployed_at: i64,
    /// Who deployed it.
    pub deployed_by: String,
    /// What else there is to say of it; empty mostly.
    pub note: String,
}

/// See the head of this file.
pub struct Revision {
    info: RevisionInfo,
    loaded: Arc<Loaded>,
    slot: Arc<Slot>,
    backends: Arc<Backends>,
    engine: ServingEngine,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    pool: Pool<Instance>,
    failures: AtomicU64,
    log_second: AtomicI64,
    logged: AtomicU64,
}

impl Revision {
    /// A revision with no instance yet.
    pub fn new(
        info: RevisionInfo,
        loaded: Arc<Loaded>,
        slot: Arc<Slot>,
        backends: Arc<Backends>,
        engine: ServingEngine,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Revision {
        Revision {
            pool: Pool::new(slot.settings().idle_instances),
            info,
            loaded,
            slot,
            backends,
            engine,
            clock,
            entropy,
            failures: AtomicU64::new(0),
            log_second: AtomicI64::new(0),
            logged: AtomicU64::new(0),
        }
    }

    /// What names it.
    pub fn info(&self) -> &RevisionInfo {
        &self.info
    }

    /// Its component.
    pub fn loaded(&self) -> &Arc<Loaded> {
        &self.loaded
    }

    /// Calls so far, and how many of them failed through the component.
    pub fn counts(&self) -> (u64, u64) {
        (self.pool.uses(), self.failures.load(Ordering::Relaxed))
    }

    /// Answers a request.
    ///
    /// # Errors
    ///
    /// The inner one is the component's own answer.
    pub async fn request(
        &self,
        request: Request,
        incoming: Box<Incoming>,
    ) -> Result<Result<Answer, Failure>, CallError> {
        let _permit = self.slot.enter().await?;
        let mut instance = self.instance().await?;
        let result = instance.request(request, incoming).await;
        self.finish(instance, result)
    }

    /// Decides about a batch.
    ///
    /// # Errors
    ///
    /// The inner one is the component's own answer.
    pub async fn decide(
        &self,
        rows: &Arc<[Row]>,
    ) -> Result<Result<Vec<Decision>, Failure>, CallError> {
        let _permit = self.slot.enter().await?;
        let mut instance = self.instance().await?;
        let result = instance.decide(rows).await;
        self.finish(instance, result)
    }

    async fn instance(&self) -> Result<Instance, CallError> {
        match self.pool.take() {
            Some(instance) => Ok(instance),
            None => {
                let made = Instance::new(
                    &self.engine,
                    &self.loaded.pre,
                    self.info.operation,
                    Arc::clone(&self.backends),
                    self.output(),
                    self.uses(),
                );
                made.await.inspect_err(|error| self.failed(error))
            }
        }
    }

    /// Keeps the instance for the next call. After an error of the call it is
    /// dropped: what it left behind cannot be trusted.
    fn finish<T>(
        &self,
        mut instance: Instance,
        result: Result<T, CallError>,
    ) -> Result<T, CallError> {
        match result {
            Ok(value) => {
                if instance.reusable() {
                    self.pool.give_back(instance);
                }
                Ok(value)
            }
            Err(error) => {
                self.failed(&error);
                Err(error)
            }
        }
    }

    /// Calls that the next instance serves: half to all of the setting.
    fn uses(&self) -> u32 {
        let all = self.slot.settings().instance_uses.max(1);
        let half = all.div_ceil(2);
        let spread = u64::from(all - half) + 1;
        half + u32::try_from(self.entropy.next_u64() % spread).unwrap_or(0)
    }

    /// Printed lines become log lines.
    fn output(&self) -> HandlerOutput {
        let RevisionInfo {
            region,
            operation,
            number,
            ..
        } = self.info.clone();
        HandlerOutput::new(move |line| {
            tracing::info!(target: "handler", region = &*region, %operation, revision = number, "{line}");
        })
    }

    fn failed(&self, error: &CallError) {
        if !error.is_the_components() {
            return;
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        let second = self.clock.now_micros() / 1_000_000;
        if self.log_second.swap(second, Ordering::Relaxed) != second {
            self.logged.store(0, Ordering::Relaxed);
        }
        // One that fails every call would fill a disk; the counter has them all.
        let logged = self.logged.fetch_add(1, Ordering::Relaxed);
        if logged < LOGGED_FAILURES_PER_SECOND {
            let text = error.log_text();
            // The backtrace comes last: the first line has all to search for.
            let (what, backtrace) = match text.split_once('\n') {
                Some((what, backtrace)) => (what, Some(tracing::field::display(backtrace))),
                None => (&*text, None),
            };
            tracing::error!(
                region = &*self.info.region,
                operation = %self.info.operation,
                revision = self.info.number,
                digest = %self.loaded.digest,
                backtrace,
                "the handler failed: {what}"
            );
        } else if logged == LOGGED_FAILURES_PER_SECOND {
            tracing::error!(
                region = &*self.info.region,
                operation = %self.info.operation,
                revision = self.info.number,
                "the handler keeps failing; no more is logged in this second"
            );
        }
    }
}

impl Drop for Revision {
    fn drop(&mut self) {
        tracing::info!(
            region = &*self.info.region,
            operation = %self.info.operation,
            revision = self.info.number,
            calls = self.pool.uses(),
            "revision drained and dropped"
        );
    }
}
