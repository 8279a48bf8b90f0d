//! From bytes to a component that a slot can run: size and kind, compilation
//! ([`super::compile`]) or what there is of an earlier one
//! ([`super::compiled`]), imports and exports, and a call to see that it works.
//! A component that passes is shared by every slot that runs it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant as Stopwatch};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use wasmtime::component::{Component, InstancePre, Linker};

use super::compile::{Compiler, one_line};
use super::compiled::CompiledCache;
use super::engine::ServingEngine;
use super::error::CallError;
use super::load_error::LoadError;
use super::program::{Loaded, Program};
use super::progress::{Progress, Step};
use super::selftest;
use super::verify::{check_kind, check_world};
use crate::deployments::Digest;
use crate::model::Operation;
use crate::wit_host::config::Values;
use crate::wit_host::context::Context;
use crate::wit_host::worlds;

/// Components kept ready though no slot may run them.
const RECENT: usize = 8;

/// The most stack that a component may use (`limits.stack_bytes`) and be called on the
/// stack of a thread: half of what threads have.
const AT_HAND_STACK: usize = 1 << 20;

/// How long each step took. Zero for one that was not needed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Imports and exports.
    pub verify: Duration,
    /// Compilation with the wait for its turn, or finding it compiled.
    pub compile: Duration,
    /// The self-test.
    pub self_test: Duration,
}

/// A component that is being compiled, or how that has ended: all who ask for
/// it meanwhile share it.
type Flight = OnceCell<Result<Component, LoadError>>;

/// Loads components: finds what is loaded, or else what is compiled, or else
/// compiles it.
pub struct Loader {
    engine: ServingEngine,
    linkers: HashMap<Operation, Linker<Context>>,
    max_bytes: usize,
    compiler: Compiler,
    compiled: Option<Arc<CompiledCache>>,
    loaded: Mutex<HashMap<(Digest, Operation), Weak<Loaded>>>,
    /// Kept for a while though no slot runs them: what is rolled back to is
    /// mostly what ran before.
    recent: Mutex<VecDeque<Arc<Loaded>>>,
    flights: Mutex<HashMap<Digest, Weak<Flight>>>,
    /// One compilation at a time: two would take both cores from requests.
    compiling: tokio::sync::Mutex<()>,
    /// Where requests are served.
    serving: Handle,
    /// One self-test at a time: the engine has room for one beside what serves.
    testing: tokio::sync::Mutex<()>,
}

impl Loader {
    /// A loader for `engine` of components of at most `max_bytes`. What is in
    /// `compiled` need not be compiled. It has to be called on the runtime that serves.
    ///
    /// # Errors
    ///
    /// An interface has no implementation: a defect of the host.
    pub fn new(
        engine: ServingEngine,
        max_bytes: usize,
        compiler: Compiler,
        compiled: Option<CompiledCache>,
    ) -> Result<Loader, LoadError> {
        let mut linkers = HashMap::new();
        for operation in Operation::ALL {
            let linker = worlds::linker(engine.engine(), operation)
                .map_err(|error| LoadError::Host(format!("{error:#}")))?;
            linkers.insert(operation, linker);
        }
        Ok(Loader {
            engine,
            linkers,
            max_bytes,
            compiler,
            compiled: compiled.map(Arc::new),
            loaded: Mutex::default(),
            recent: Mutex::default(),
            flights: Mutex::default(),
            compiling: tokio::sync::Mutex::default(),
            serving: Handle::current(),
            testing: tokio::sync::Mutex::default(),
        })
    }

    /// The engine that it loads for.
    pub fn engine(&self) -> &ServingEngine {
        &self.engine
    }

    /// A component that is loaded for an operation and has passed its self-test with
    /// a configuration.
    pub fn ready(
        &self,
        operation: Operation,
        digest: Digest,
        config: &Arc<Values>,
    ) -> Option<Program> {
        let loaded = self.loaded(operation, digest)?;
        loaded.has_passed(config).then(|| Program {
            loaded,
            config: Arc::clone(config),
        })
    }

    fn loaded(&self, operation: Operation, digest: Digest) -> Option<Arc<Loaded>> {
        let loaded = self.loaded.lock().get(&(digest, operation))?.upgrade()?;
        self.keep(&loaded);
        Some(loaded)
    }

    /// Loads a component for an operation with a configuration, or finds it loaded.
    ///
    /// # Errors
    ///
    /// See [`LoadError`]; nothing has changed then.
    pub async fn load(
        &self,
        operation: Operation,
        bytes: Bytes,
        config: &Arc<Values>,
    ) -> Result<(Program, Timings), LoadError> {
        let mut timings = Timings::default();
        let untold = Progress::untold();
        let loading = self.load_timed(operation, bytes, config, &mut timings, &untold);
        Ok((loading.await?, timings))
    }

    /// As [`Loader::load`]; the times of the steps are known even when one of
    /// them fails, and each is told when it is done.
    ///
    /// # Errors
    ///
    /// See [`LoadError`].
    pub async fn load_timed(
        &self,
        operation: Operation,
        bytes: Bytes,
        config: &Arc<Values>,
        timings: &mut Timings,
        progress: &Progress,
    ) -> Result<Program, LoadError> {
        check_kind(&bytes, self.max_bytes)?;
        let digest = Digest::of(&bytes);
        if let Some(program) = self.ready(operation, digest, config) {
            return Ok(program);
        }
        let made = match self.loaded(operation, digest) {
            Some(loaded) => loaded,
            None => {
                let linking = self.link_timed(operation, digest, bytes, timings, progress);
                linking.await?
            }
        };
        let one_at_a_time = self.testing.lock().await;
        // One who asked for the same at the same time may have got here first.
        let loaded = self.loaded(operation, digest).unwrap_or(made);
        let program = Program {
            loaded: Arc::clone(&loaded),
            config: Arc::clone(config),
        };
        if loaded.has_passed(config) {
            return Ok(program);
        }
        let start = Stopwatch::now();
        let passed = self.self_test(&program).await;
        timings.self_test = start.elapsed();
        passed?;
        loaded.passes(config);
        progress.done(Step::SelfTest, timings.self_test);

        let mut all = self.loaded.lock();
        all.retain(|_, loaded| loaded.strong_count() > 0);
        all.insert((digest, operation), Arc::downgrade(&loaded));
        drop(all);
        drop(one_at_a_time);
        self.keep(&loaded);
        Ok(program)
    }

    /// A component that is compiled, or was, and linked.
    async fn link_timed(
        &self,
        operation: Operation,
        digest: Digest,
        bytes: Bytes,
        timings: &mut Timings,
        progress: &Progress,
    ) -> Result<Arc<Loaded>, LoadError> {
        let size = bytes.len();
        let start = Stopwatch::now();
        let component = self.component(digest, bytes).await;
        timings.compile = start.elapsed();
        let component = component?;
        progress.done(Step::Compile, timings.compile);

        let start = Stopwatch::now();
        let pre = self.link(operation, &component);
        let quick = self.link_quick(operation, &component);
        timings.verify = start.elapsed();
        let pre = pre?;
        progress.done(Step::Verify, timings.verify);
        Ok(Arc::new(Loaded {
            digest,
            size,
            operation,
            pre,
            quick,
            passed: Mutex::default(),
        }))
    }

    /// Moves a component to the front of the recent ones.
    fn keep(&self, loaded: &Arc<Loaded>) {
        let mut recent = self.recent.lock();
        recent.retain(|other| !Arc::ptr_eq(other, loaded));
        recent.push_front(Arc::clone(loaded));
        recent.truncate(RECENT);
    }

    /// The component as it can be linked; made once, however many ask.
    async fn component(&self, digest: Digest, bytes: Bytes) -> Result<Component, LoadError> {
        let flight = {
            let mut flights = self.flights.lock();
            flights.retain(|_, flight| flight.strong_count() > 0);
            let flying = flights.get(&digest).and_then(Weak::upgrade);
            flying.unwrap_or_else(|| {
                let flight = Arc::default();
                flights.insert(digest, Arc::downgrade(&flight));
                flight
            })
        };
        // Should who flies it go away, another goes on.
        let made = flight.get_or_init(|| self.make(digest, bytes)).await;
        made.clone()
    }

    async fn make(&self, digest: Digest, bytes: Bytes) -> Result<Component, LoadError> {
        let engine = self.engine.clone();
        let compiled = self.compiled.clone();
        let find = move || find_compiled(&engine, compiled.as_deref()?, digest);
        if let Some(component) = blocking(find).await? {
            tracing::debug!(%digest, "found compiled on disk");
            return Ok(component);
        }
        let one_at_a_time = self.compiling.lock().await;
        let start = Stopwatch::now();
        let recipe = self.engine.recipe();
        let code = self.compiler.compile(recipe, bytes).await?;
        let took = humantime::format_duration(Duration::from_millis(millis(start.elapsed())));
        tracing::info!(%digest, bytes = code.len(), %took, "compiled a component");
        drop(one_at_a_time);
        let engine = self.engine.clone();
        let compiled = self.compiled.clone();
        let load = move || {
            let component = engine
                .load(&code)
                .map_err(|error| LoadError::Host(one_line(&format!("{error:#}"))))?;
            if let Some(compiled) = compiled {
                compiled.put(digest, &code);
            }
            Ok(component)
        };
        blocking(load).await?
    }

    /// Checks the component against the operation's world.
    fn link(
        &self,
        operation: Operation,
        component: &Component,
    ) -> Result<InstancePre<Context>, LoadError> {
        check_world(self.engine.engine(), operation, component)?;
        let linker = self
            .linkers
            .get(&operation)
            .ok_or_else(|| LoadError::Host("no linker".into()))?;
        linker
            .instantiate_pre(component)
            .map_err(|error| LoadError::ImportMismatch(one_line(&format!("{error:#}"))))
    }

    /// What cannot be linked like that is always called in the usual way.
    fn link_quick(
        &self,
        operation: Operation,
        component: &Component,
    ) -> Option<InstancePre<Context>> {
        // Such a call runs on the stack of a thread that serves.
        if operation != Operation::Get || self.engine.recipe().stack_bytes > AT_HAND_STACK {
            return None;
        }
        let linker = worlds::linker_at_hand(self.engine.engine(), component);
        let linked = linker.and_then(|linker| match linker {
            Some(linker) => linker.instantiate_pre(component).map(Some),
            None => Ok(None),
        });
        linked.unwrap_or_else(|error| {
            let error = one_line(&format!("{error:#}"));
            tracing::debug!(error, "hits of a component are answered in the usual way");
            None
        })
    }

    /// As a request is served: on a thread that loads components at a low priority,
    /// the bound on its processor time would be met too soon.
    async fn self_test(&self, program: &Program) -> Result<(), LoadError> {
        let operation = program.loaded.operation;
        let (engine, program) = (self.engine.clone(), program.clone());
        let testing = async move { selftest::run(&engine, &program).await };
        let tested = self.serving.spawn(testing).await;
        let broke = |error| LoadError::Host(format!("its self-test broke off: {error}"));
        tested.map_err(broke)?.map_err(|error| match error {
            CallError::Overloaded => LoadError::Host(error.to_string()),
            error => LoadError::SelfTest {
                operation,
                reason: error.to_string(),
                detail: error.log_text(),
            },
        })
    }
}

/// A component that has been compiled before. What the engine refuses was
/// compiled on another kind of processor.
fn find_compiled(
    engine: &ServingEngine,
    compiled: &CompiledCache,
    digest: Digest,
) -> Option<Component> {
    let code = compiled.get(digest)?;
    let component = engine.load(&code);
    component
        .inspect_err(|error| {
            let error = one_line(&format!("{error:#}"));
            tracing::warn!(%digest, %error, "a compiled component does not fit; compiling it again");
        })
        .ok()
}

/// Runs what takes its time off the threads that serve.
async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, LoadError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| LoadError::Host(format!("loading it broke off: {error}")))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
