//! One instance of a component: its store and its `handle`, and how a call
//! into it is driven within its deadlines.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use wasmtime::component::TypedFunc;
use wasmtime::{Store, UpdateDeadline};

use super::answer::{self, Answer, BadAnswer};
use super::engine::{ServingEngine, TICK};
use super::error::CallError;
use super::program::Program;
use crate::cache::Decision;
use crate::model::{Operation, Row};
use crate::wit_host::bindings::tidepool::kv::types::{Failure, Request};
use crate::wit_host::context::{
    Backends, Cached, CallBounds, Context, CpuMeter, Exceeded, Incoming, Subject,
};
use crate::wit_host::feed;
use crate::wit_host::wasi::HandlerOutput;
use crate::wit_host::worlds::{
    EXPORT, GetParams, HydrateParams, HydrateResult, RequestParams, RequestResult,
};

/// What the host lets an answer exceed `limits.response_bytes` by before the
/// copy out of the component is refused: headers and the like.
const RESPONSE_SLACK_BYTES: usize = 1 << 20;

enum Handle {
    Get(TypedFunc<GetParams, RequestResult>),
    Request(TypedFunc<RequestParams, RequestResult>),
    Hydrate(TypedFunc<HydrateParams, HydrateResult>),
}

/// An instance. It serves one call at a time.
pub struct Instance {
    store: Store<Context>,
    handle: Handle,
    engine: ServingEngine,
    meter: Arc<CpuMeter>,
    /// Calls until it is replaced.
    uses_left: u32,
}

impl Instance {
    /// Makes an instance for `uses` calls.
    ///
    /// # Errors
    ///
    /// There is no room, the component traps while it starts or takes longer
    /// than `limits.wall`, or its `handle` has another signature.
    pub async fn new(
        engine: &ServingEngine,
        program: &Program,
        backends: Arc<Backends>,
        output: HandlerOutput,
        uses: u32,
    ) -> Result<Instance, CallError> {
        let limits = Arc::clone(engine.limits());
        let mut store = store(engine, program, Some(backends), output);
        let meter = Arc::clone(store.data().meter());
        // A language's runtime may take its time to start, so here the bound
        // on processor time is the wall deadline too.
        bound_processor_time(&mut store, engine, limits.wall.as_millis());
        meter.reset(engine.now());
        let made = {
            let making = Metered {
                call: pin!(program.loaded.pre.instantiate_async(&mut store)),
                meter: &meter,
                engine,
            };
            tokio::time::timeout(limits.wall, making).await
        };
        let instance = match made {
            Ok(Ok(instance)) => instance,
            Ok(Err(error)) => {
                let error = match CallError::from_wasmtime(
                    &error,
                    &limits,
                    store.data().growth_refused(),
                ) {
                    CallError::Trap { summary, .. }
                        if error
                            .downcast_ref::<wasmtime::PoolConcurrencyLimitError>()
                            .is_some() =>
                    {
                        CallError::Instantiate(summary)
                    }
                    other => other,
                };
                return Err(error);
            }
            Err(_) => return Err(CallError::WallDeadline(limits.wall.as_millis())),
        };
        let handle = match program.loaded.operation {
            Operation::Get => instance.get_typed_func(&mut store, EXPORT).map(Handle::Get),
            Operation::Put | Operation::Delete => instance
                .get_typed_func(&mut store, EXPORT)
                .map(Handle::Request),
            Operation::Hydrate => instance
                .get_typed_func(&mut store, EXPORT)
                .map(Handle::Hydrate),
        };
        let handle = handle.map_err(|error| CallError::Instantiate(format!("{error:#}")))?;
        bound_processor_time(&mut store, engine, limits.cpu.as_millis());
        Ok(Instance {
            store,
            handle,
            engine: engine.clone(),
            meter,
            uses_left: uses,
        })
    }

    /// Calls `handle` of a `get`, `put` or `delete` component.
    ///
    /// # Errors
    ///
    /// The inner one is the component's own answer. After an outer one the
    /// instance must not be used again.
    pub async fn request(
        &mut self,
        request: Request,
        incoming: Box<Incoming>,
    ) -> Result<Result<Answer, Failure>, CallError> {
        let result = self.try_request(request, incoming).await;
        result.map_err(|error| match self.store.data().may_have_written() {
            true => CallError::AfterWrite(Box::new(error)),
            false => error,
        })
    }

    async fn try_request(
        &mut self,
        request: Request,
        mut incoming: Box<Incoming>,
    ) -> Result<Result<Answer, Failure>, CallError> {
        let cached = match std::mem::replace(&mut incoming.cached, Cached::Missing) {
            Cached::Found(state) => Some(state),
            Cached::Missing => None,
            Cached::Down => {
                incoming.cached = Cached::Down;
                None
            }
        };
        self.begin(Subject::Request(incoming));
        let result = match &self.handle {
            Handle::Get(handle) => {
                let data = self.store.data_mut();
                let cached = cached.map(|state| data.give_state(state)).transpose();
                let cached = cached.map_err(|error| CallError::Exceeded(error.to_string()))?;
                let call = handle.call_async(&mut self.store, (request, cached));
                drive(call, &self.meter, &self.engine).await
            }
            Handle::Request(handle) => {
                let call = handle.call_async(&mut self.store, (request,));
                drive(call, &self.meter, &self.engine).await
            }
            Handle::Hydrate(_) => {
                return Err(CallError::Instantiate(
                    "a hydrate component cannot answer requests".into(),
                ));
            }
        };
        let (result,) = self.settle(result)?;
        let limits = self.engine.limits();
        let checked = match result {
            Ok(response) => {
                answer::check(response, self.store.data_mut(), limits.response_bytes).map(Ok)?
            }
            Err(failure) => Err(failure),
        };
        self.store.data_mut().end();
        Ok(checked)
    }

    /// Calls `handle` of a `hydrate` component.
    ///
    /// # Errors
    ///
    /// As [`Instance::request`].
    pub async fn decide(
        &mut self,
        rows: &Arc<[Row]>,
    ) -> Result<Result<Vec<Decision>, Failure>, CallError> {
        self.begin(Subject::Batch(Arc::clone(rows)));
        let Handle::Hydrate(handle) = &self.handle else {
            return Err(CallError::Instantiate(
                "only a hydrate component can decide about a batch".into(),
            ));
        };
        let changes = rows.iter().map(feed::change).collect();
        let call = handle.call_async(&mut self.store, (changes,));
        let result = drive(call, &self.meter, &self.engine).await;
        let (result,) = self.settle(result)?;
        self.store.data_mut().end();
        match result {
            Ok(decisions) if decisions.len() != rows.len() => {
                Err(BadAnswer::Decisions(decisions.len(), rows.len()).into())
            }
            Ok(decisions) => Ok(Ok(decisions.into_iter().map(feed::decision).collect())),
            Err(failure) => Ok(Err(failure)),
        }
    }

    fn begin(&mut self, subject: Subject) {
        self.store.data_mut().begin(subject);
        self.store.set_epoch_deadline(1);
    }

    fn settle<R>(&self, result: Driven<R>) -> Result<R, CallError> {
        let limits = self.engine.limits();
        match result {
            Driven::Done(Ok(result)) => Ok(result),
            Driven::Done(Err(error)) => Err(CallError::from_wasmtime(
                &error,
                limits,
                self.store.data().growth_refused(),
            )),
            Driven::TimedOut => Err(CallError::WallDeadline(limits.wall.as_millis())),
        }
    }

    /// Counts a use; `true` when the instance may serve again.
    pub fn reusable(&mut self) -> bool {
        is_reusable(&self.store, &self.engine, &mut self.uses_left)
    }
}

/// A store for one instance of a program. Without `backends` every call out of it
/// that needs them is refused.
pub(super) fn store(
    engine: &ServingEngine,
    program: &Program,
    backends: Option<Arc<Backends>>,
    output: HandlerOutput,
) -> Store<Context> {
    let limits = engine.limits();
    let context = Context::new(CallBounds::of(limits), backends, output)
        .with_config(Arc::clone(&program.config));
    let mut store = Store::new(engine.engine(), context);
    store.limiter(|context| context);
    store.set_hostcall_fuel(limits.response_bytes.saturating_add(RESPONSE_SLACK_BYTES));
    store
}

/// Counts a use of an instance; `true` when it may serve again. One whose memory
/// has grown far is let go, since linear memory never shrinks.
pub(super) fn is_reusable(
    store: &Store<Context>,
    engine: &ServingEngine,
    uses_left: &mut u32,
) -> bool {
    *uses_left = uses_left.saturating_sub(1);
    *uses_left > 0 && store.data().memory_bytes() <= engine.limits().memory_bytes / 2
}

enum Driven<R> {
    Done(wasmtime::Result<R>),
    TimedOut,
}

/// Drives a call. Most end in their first poll, before a timer is needed.
async fn drive<R>(
    call: impl Future<Output = wasmtime::Result<R>>,
    meter: &CpuMeter,
    engine: &ServingEngine,
) -> Driven<R> {
    meter.reset(engine.now());
    let mut call = Metered {
        call: pin!(call),
        meter,
        engine,
    };
    let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut call).poll(cx))).await;
    if let Poll::Ready(result) = first {
        return Driven::Done(result);
    }
    match tokio::time::timeout(engine.limits().wall, call).await {
        Ok(result) => Driven::Done(result),
        Err(_) => Driven::TimedOut,
    }
}

/// Tells the meter when a call runs and when it waits.
struct Metered<'a, F> {
    call: Pin<&'a mut F>,
    meter: &'a CpuMeter,
    engine: &'a ServingEngine,
}

impl<F: Future> Future for Metered<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<F::Output> {
        self.meter.resume(self.engine.now());
        let result = self.call.as_mut().poll(cx);
        self.meter.pause(self.engine.now());
        result
    }
}

/// Ends a call whose meter passes the bound; until then it lets others run
/// once per tick.
fn bound_processor_time(store: &mut Store<Context>, engine: &ServingEngine, bound_ms: u128) {
    let ticks = engine.clone();
    let bound = u64::try_from(bound_ms.div_ceil(TICK.as_millis())).unwrap_or(u64::MAX);
    store.epoch_deadline_callback(move |context| {
        if context.data().meter().ticks(ticks.now()) > bound {
            let bound_ms = u64::try_from(bound_ms).unwrap_or(u64::MAX);
            return Err(Exceeded::Cpu(bound_ms).into());
        }
        Ok(UpdateDeadline::Yield(1))
    });
    store.set_epoch_deadline(1);
}
