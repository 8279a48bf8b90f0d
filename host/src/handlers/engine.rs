//! The serving engine and the engines that compile for it.
//!
//! An engine that compiles keeps the compiler's memory, so each compilation
//! gets an engine of its own that ends with it; the serving engine only loads
//! what came out. Both are made from one configuration: code compiled under
//! another would be refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::{Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

use crate::config::Limits;

/// One tick of the epoch: how exactly a CPU deadline is met, and how long a
/// component may keep a worker thread before it must let others run.
pub const TICK: Duration = Duration::from_millis(5);

/// Stack for the host's functions, on top of the component's own.
const HOST_STACK_BYTES: usize = 1 << 20;

/// Address space per memory that lets wasm run without bounds checks.
const FULL_RESERVATION: u64 = 4 << 30;

/// Core instances and tables that the pool holds for each component instance,
/// on average. One written in Rust has three and one.
const CORE_PARTS: u32 = 4;

/// Bytes of a memory or a table that stay resident between instances.
const KEEP_RESIDENT: usize = 128 << 10;

/// Places of the pool that nobody uses and that keep what stays resident, for the
/// next instance of the same component. Each component that was ever deployed
/// would keep one, up to wasmtime's 100.
const WARM_PLACES: u32 = 16;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The machine does not give the address space.
    #[error(
        "cannot reserve address space for {instances} component instances: {reason}; \
         lower handlers.concurrency or limits.memory_bytes, or raise the limit on virtual memory (ulimit -v)"
    )]
    AddressSpace {
        /// Instances asked for.
        instances: u32,
        /// What the system said.
        reason: String,
    },
}

/// The engine that serves, and its clock of ticks.
#[derive(Clone)]
pub struct ServingEngine {
    engine: Engine,
    ticks: Arc<AtomicU64>,
    limits: Arc<Limits>,
    recipe: Recipe,
}

/// What code has to be compiled with to be loaded by a serving engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recipe {
    /// Bytes of address space that each memory of a component gets.
    pub reservation: u64,
    /// Bytes of stack that a call may use.
    pub stack_bytes: usize,
}

impl Recipe {
    /// Compiles a component in an engine of its own. Slow, and without a bound
    /// on memory; see [`super::compile`] for one that has it.
    ///
    /// # Errors
    ///
    /// The bytes are not a valid component.
    pub fn compile(&self, component: &[u8]) -> wasmtime::Result<Vec<u8>> {
        Engine::new(&self.config())?.precompile_component(component)
    }

    fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .concurrency_support(false)
            .epoch_interruption(true)
            .cranelift_opt_level(OptLevel::Speed)
            .memory_reservation(self.reservation)
            .max_wasm_stack(self.stack_bytes)
            .async_stack_size(self.stack_bytes + HOST_STACK_BYTES);
        config
    }
}

impl ServingEngine {
    /// Makes the engine for at most `instances` component instances.
    ///
    /// # Errors
    ///
    /// The machine gives too little address space even in the small layout.
    pub fn new(limits: Limits, instances: u32) -> Result<ServingEngine, EngineError> {
        let recipe = |reservation| Recipe {
            reservation,
            stack_bytes: limits.stack_bytes,
        };
        let fast = recipe(FULL_RESERVATION);
        let (engine, recipe) = match pooling(&limits, instances, &fast) {
            Ok(engine) => (engine, fast),
            Err(error) => {
                let small = recipe(limits.memory_bytes as u64);
                tracing::warn!(
                    %error,
                    "this machine gives too little address space for the fast layout; \
                     handlers will check memory bounds in software"
                );
                let engine = pooling(&limits, instances, &small).map_err(|error| {
                    EngineError::AddressSpace {
                        instances,
                        reason: format!("{error:#}"),
                    }
                })?;
                (engine, small)
            }
        };
        let ticks = Arc::new(AtomicU64::new(0));
        start_ticking(&engine, &ticks);
        Ok(ServingEngine {
            engine,
            ticks,
            limits: Arc::new(limits),
            recipe,
        })
    }

    /// The wasmtime engine. It must not compile.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Ticks since the start.
    pub fn now(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// The limits that the engine was made for.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// What code has to be compiled with to be loaded here.
    pub fn recipe(&self) -> Recipe {
        self.recipe
    }

    /// Loads what [`Recipe::compile`] made. Nothing else may be passed: it is
    /// code that will be run.
    ///
    /// # Errors
    ///
    /// It was made for another engine or another kind of processor, or the
    /// system gives no memory for it.
    pub fn load(&self, compiled: &[u8]) -> wasmtime::Result<wasmtime::component::Component> {
        // SAFETY: the bytes come straight from `compile`, in this process or in
        // one of the same program, or from a file with this host's proof that
        // they did.
        unsafe { wasmtime::component::Component::deserialize(&self.engine, compiled) }
    }
}

fn pooling(limits: &Limits, instances: u32, recipe: &Recipe) -> wasmtime::Result<Engine> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_PARTS))
        .total_memories(instances)
        .total_tables(instances.saturating_mul(CORE_PARTS))
        .total_stacks(instances)
        .max_memory_size(limits.memory_bytes)
        .table_elements(limits.table_elements)
        .max_core_instances_per_component(100)
        .max_memories_per_component(100)
        .max_tables_per_component(100)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT)
        .max_unused_warm_slots(WARM_PLACES);
    let mut config = recipe.config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// Advances the epoch for as long as the engine lives.
fn start_ticking(engine: &Engine, ticks: &Arc<AtomicU64>) {
    let engine = engine.weak();
    let ticks = Arc::clone(ticks);
    let tick = move || {
        while let Some(engine) = engine.upgrade() {
            ticks.fetch_add(1, Ordering::Relaxed);
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    };
    let started = std::thread::Builder::new().name("epoch".into()).spawn(tick);
    if let Err(error) = started {
        // Without it deadlines on processor time would not hold.
        tracing::error!(%error, "cannot start the epoch thread; only wall deadlines will hold");
    }
}
