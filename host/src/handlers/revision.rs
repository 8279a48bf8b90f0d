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
/// trial, besides the first of each tick of the engine: enough to compare the next
/// one with.
const SAMPLE: u64 = 16;

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
    /// The tick of the last call that was counted.
    counted_at: AtomicU64,
    /// The tick in which it was judged last without a failure.
    judged_at: AtomicU64,
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
            counted_at: AtomicU64::new(0),
            judged_at: AtomicU64::new(0),
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
        let counted = uses.is_multiple_of(SAMPLE)
            || self.counted_at.load(Ordering::Relaxed) != self.engine.now()
            || self.trial.load().is_some();
        counted.then(Stopwatch::now)
    }

    /// Counts a call, and judges. One that could not be answered because of what stands
    /// behind the component tells nothing of it.
    fn watched(&self, since: Stopwatch, how: How) {
        let bad = match how {
            How::Good => false,
            How::Bad => true,
            How::NotItsOwn => return,
        };
        let tick = self.engine.now();
        // Most ticks count several: threads that only read it share it.
        if self.counted_at.load(Ordering::Relaxed) != tick {
            self.counted_at.store(tick, Ordering::Relaxed);
        }
        let second = seconds(tick);
        self.health.record(second, bad, since.elapsed());
        let trial = self.trial.load();
        let Some(trial) = trial.as_ref() else { return };
        // A failure at once, what is slow by and by.
        if !bad && self.judged_at.swap(tick, Ordering::Relaxed) == tick {
            return;
        }
        if tick > trial.until {
            self.trial.store(None);
            return;
        }
        let settings = self.slot.settings();
        let new = self.health.summary(second);
        let old = trial.against.to_compare(second, settings);
        if let Some(reason) = health::judge(new, old, settings) {
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
            self.watched(since, how_answered(&answered));
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
            self.watched(since, how(&result));
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
            self.watched(since, How::Good);
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

/// What a call tells of a component.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Good,
    /// It failed by the component's fault.
    Bad,
    /// It failed, and not by the component's fault.
    NotItsOwn,
}

fn how(result: &Result<Result<Answer, Failure>, CallError>) -> How {
    match result {
        Ok(answered) => how_answered(answered),
        Err(error) if error.is_a_wait() || !error.is_the_components() => How::NotItsOwn,
        Err(_) => How::Bad,
    }
}

/// 503 and 504 speak of what stands behind it.
fn how_answered(answered: &Result<Answer, Failure>) -> How {
    match answered {
        Ok(answer) => match answer.status.as_u16() {
            503 | 504 => How::NotItsOwn,
            500.. => How::Bad,
            _ => How::Good,
        },
        Err(Failure::Internal(_)) => How::Bad,
        Err(Failure::Unavailable(_) | Failure::OutcomeUnknown(_)) => How::NotItsOwn,
        Err(_) => How::Good,
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
