//! A revision at work: one component in one slot, its idle instances and its
//! counters. A request holds an `Arc` of the revision that it started with;
//! when the last goes after a swap, so does everything here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant as Stopwatch};

use arc_swap::ArcSwapOption;
use tokio::sync::mpsc;

use super::answer::Answer;
use super::brake::PerSecond;
use super::engine::{ServingEngine, TICK};
use super::error::CallError;
use super::health::{self, Health};
use super::instance::Instance;
use super::logs::{Line, LineKind};
use super::pool::Pool;
use super::program::{Loaded, Program};
use super::quick::QuickPool;
use super::slot::Slot;
use crate::cache::Decision;
use crate::clock::{Clock, Entropy};
use crate::model::{Operation, Row, State};
use crate::wit_host::bindings::tidepool::kv::types::{Failure, Request};
use crate::wit_host::context::{Backends, Incoming};
use crate::wit_host::wasi::HandlerOutput;

/// Failures of one revision that are logged in full per second.
const LOGGED_FAILURES_PER_SECOND: u64 = 5;

/// Printed lines of one revision that are logged per second.
const LOGGED_LINES_PER_SECOND: u64 = 100;

/// Of how many calls one is counted in the health of a revision that is not on
/// trial: enough to compare the next one with.
const SAMPLE: u64 = 16;

/// Calls on trial after which latencies are looked at once more.
const JUDGE_EVERY: u64 = 64;

/// That a revision does worse than the one that it replaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The region.
    pub region: Arc<str>,
    /// The operation.
    pub operation: Operation,
    /// The revision.
    pub number: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// A revision is compared with the one that it replaces.
pub struct Trial {
    /// How that one does.
    pub against: Arc<Health>,
    /// The tick of the engine at which it ends.
    pub until: u64,
    /// Where the verdict goes.
    pub judged: mpsc::UnboundedSender<Verdict>,
    /// There is one.
    pub over: AtomicBool,
}

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
}

impl RevisionInfo {
    /// The number of the handler that comes with the host where the one that should
    /// run cannot be loaded.
    pub const STAND_IN: u64 = 0;

    /// Whether it only stands in: it must not answer requests, since it does not
    /// check what the other may have checked.
    pub fn stands_in(&self) -> bool {
        self.number == RevisionInfo::STAND_IN
    }
}

/// See the head of this file.
pub struct Revision {
    info: RevisionInfo,
    program: Program,
    slot: Arc<Slot>,
    backends: Arc<Backends>,
    engine: ServingEngine,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    pool: Pool<Instance>,
    quick: QuickPool,
    health: Arc<Health>,
    trial: ArcSwapOption<Trial>,
    failures: AtomicU64,
    failing: PerSecond,
    printing: Arc<PerSecond>,
}

impl Revision {
    /// A revision with no instance yet.
    pub fn new(
        info: RevisionInfo,
        program: Program,
        slot: Arc<Slot>,
        backends: Arc<Backends>,
        engine: ServingEngine,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Revision {
        Revision {
            pool: Pool::new(slot.settings().idle_instances),
            quick: QuickPool::new(),
            info,
            program,
            slot,
            backends,
            engine,
            clock,
            entropy,
            health: Arc::default(),
            trial: ArcSwapOption::empty(),
            failures: AtomicU64::new(0),
            failing: PerSecond::default(),
            printing: Arc::default(),
        }
    }

    /// What names it.
    pub fn info(&self) -> &RevisionInfo {
        &self.info
    }

    /// Its component.
    pub fn loaded(&self) -> &Arc<Loaded> {
        &self.program.loaded
    }

    /// Its component and configuration.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Calls so far, and how many of them failed through the component.
    pub fn counts(&self) -> (u64, u64) {
        (self.uses_so_far(), self.failures.load(Ordering::Relaxed))
    }

    /// How it does.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Begins or ends a trial.
    pub fn try_out(&self, trial: Option<Trial>) {
        self.trial.store(trial.map(Arc::new));
    }

    /// Whether and since when a call is counted.
    fn watch(&self) -> Option<Stopwatch> {
        let uses = self.pool.own_uses() + self.quick.own_uses();
        let counted = self.trial.load().is_some() || uses.is_multiple_of(SAMPLE);
        counted.then(Stopwatch::now)
    }

    /// Counts a call, and judges.
    fn watched(&self, since: Stopwatch, bad: bool) {
        let tick = self.engine.now();
        let second = seconds(tick);
        self.health.record(second, bad, since.elapsed());
        let trial = self.trial.load();
        let Some(trial) = trial.as_ref() else { return };
        if !bad && !self.uses_so_far().is_multiple_of(JUDGE_EVERY) {
            return;
        }
        if tick > trial.until {
            self.trial.store(None);
            return;
        }
        let (new, old) = (self.health.summary(second), trial.against.summary(second));
        if let Some(reason) = health::judge(new, old, self.slot.settings()) {
            self.condemn(trial, reason);
        }
    }

    /// Whether it is compared with the one that it replaces.
    pub fn is_on_trial(&self) -> bool {
        let trial = self.trial.load();
        trial
            .as_ref()
            .is_some_and(|trial| self.engine.now() <= trial.until)
    }

    /// Ends the trial badly, if there is one.
    pub fn condemned(&self, reason: &str) {
        if let Some(trial) = self.trial.load().as_ref() {
            self.condemn(trial, reason.to_owned());
        }
    }

    fn condemn(&self, trial: &Trial, reason: String) {
        // Whoever is first says it.
        if !trial.over.swap(true, Ordering::Relaxed) {
            // Nobody listens any more when the host stops.
            let _ = trial.judged.send(Verdict {
                region: Arc::clone(&self.info.region),
                operation: self.info.operation,
                number: self.info.number,
                reason,
            });
        }
    }

    fn uses_so_far(&self) -> u64 {
        self.pool.uses() + self.quick.answered()
    }

    /// Answers a GET from what the cache has, here and now. It takes no place in the
    /// slot: it ends before its thread does anything else. One that cannot be is given
    /// back, to be answered by [`Revision::request`].
    pub fn request_at_hand(
        &self,
        request: Request,
        state: State,
        incoming: Box<Incoming>,
    ) -> Result<Result<Answer, Failure>, Box<Incoming>> {
        let since = self.watch();
        let make = || (self.output(), self.instance_uses());
        let asked = (request, state);
        let answered = self
            .quick
            .request(&self.engine, &self.program, asked, incoming, make)?;
        if let Some(since) = since {
            self.watched(since, is_bad_answer(&answered));
        }
        Ok(answered)
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
        let since = self.watch();
        let result = match self.instance().await {
            Ok(mut instance) => {
                let result = instance.request(request, incoming).await;
                self.finish(instance, result)
            }
            Err(error) => Err(error),
        };
        if let Some(since) = since {
            self.watched(since, is_bad(&result));
        }
        result
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
        let since = self.watch();
        let result = match self.instance().await {
            Ok(mut instance) => {
                let result = instance.decide(rows).await;
                self.finish(instance, result)
            }
            Err(error) => Err(error),
        };
        // One that fails is compared on the very rows (`Decide::otherwise`): a row that
        // nobody can decide about is not this revision's fault.
        if let Some(since) = since.filter(|_| matches!(result, Ok(Ok(_)))) {
            self.watched(since, false);
        }
        result
    }

    async fn instance(&self) -> Result<Instance, CallError> {
        match self.pool.take() {
            Some(instance) => Ok(instance),
            None => {
                let made = Instance::new(
                    &self.engine,
                    &self.program,
                    Arc::clone(&self.backends),
                    self.output(),
                    self.instance_uses(),
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
    fn instance_uses(&self) -> u32 {
        let all = self.slot.settings().instance_uses.max(1);
        let half = all.div_ceil(2);
        let spread = u64::from(all - half) + 1;
        half + u32::try_from(self.entropy.next_u64() % spread).unwrap_or(0)
    }

    /// Printed lines become log lines, and are kept for who asks for them.
    fn output(&self) -> HandlerOutput {
        let RevisionInfo {
            region,
            operation,
            number,
            ..
        } = self.info.clone();
        let (slot, clock) = (Arc::clone(&self.slot), Arc::clone(&self.clock));
        let printing = Arc::clone(&self.printing);
        HandlerOutput::new(move |line| {
            let now = clock.now_micros();
            match printing.before(now) {
                ..LOGGED_LINES_PER_SECOND => {
                    tracing::info!(target: "handler", region = &*region, %operation, revision = number, "{line}");
                }
                LOGGED_LINES_PER_SECOND => {
                    let logs = "the handler prints more; for this second see `tidepool logs`";
                    tracing::warn!(target: "handler", region = &*region, %operation, revision = number, "{logs}");
                }
                _ => {}
            }
            let line = Line::new(now, number, LineKind::Printed, line);
            slot.log().add(line);
        })
    }

    fn failed(&self, error: &CallError) {
        if !error.is_the_components() {
            return;
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        let now = self.clock.now_micros();
        // The counter has them all.
        let logged = self.failing.before(now);
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
                digest = %self.program.loaded.digest,
                backtrace,
                "the handler failed: {what}"
            );
            self.keep(now, &format!("the handler failed: {text}"));
        } else if logged == LOGGED_FAILURES_PER_SECOND {
            const NO_MORE: &str = "the handler keeps failing; no more is logged in this second";
            tracing::error!(
                region = &*self.info.region,
                operation = %self.info.operation,
                revision = self.info.number,
                "{NO_MORE}"
            );
            self.keep(now, NO_MORE);
        }
    }

    /// Keeps what is said of a failure, for who asks for it.
    fn keep(&self, at: i64, text: &str) {
        let line = Line::new(at, self.info.number, LineKind::Failed, text);
        self.slot.log().add(line);
    }
}

/// Whether a call failed by the component's fault. 503 and 504 speak of what
/// stands behind it.
fn is_bad(result: &Result<Result<Answer, Failure>, CallError>) -> bool {
    match result {
        Ok(answered) => is_bad_answer(answered),
        Err(error) => error.is_the_components(),
    }
}

fn is_bad_answer(answered: &Result<Answer, Failure>) -> bool {
    match answered {
        Ok(answer) => {
            answer.status.is_server_error() && !matches!(answer.status.as_u16(), 503 | 504)
        }
        Err(failure) => matches!(failure, Failure::Internal(_)),
    }
}

/// The engine's clock in seconds.
fn seconds(tick: u64) -> u64 {
    tick.saturating_mul(TICK.as_millis() as u64) / 1000
}

/// A time in ticks of the engine.
pub fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX)
}

impl Drop for Revision {
    fn drop(&mut self) {
        tracing::info!(
            region = &*self.info.region,
            operation = %self.info.operation,
            revision = self.info.number,
            calls = self.uses_so_far(),
            "revision drained and dropped"
        );
    }
}
