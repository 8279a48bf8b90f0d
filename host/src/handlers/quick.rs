//! A GET that the cache at hand answers, without a wait: the component is called on
//! the thread that has the request, as a plain function. Whatever does not work out
//! like that (it asks for something that has to be waited for, runs for longer than
//! a moment, fails) is done again in the usual way: until its answer is sent, a
//! `get` component has changed nothing that anybody sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use wasmtime::component::{InstancePre, TypedFunc};
use wasmtime::{PoolConcurrencyLimitError, Store};

use super::answer::{self, Answer};
use super::engine::ServingEngine;
use super::instance::RESPONSE_SLACK_BYTES;
use super::load::Program;
use super::pool::Pool;
use crate::model::State;
use crate::wit_host::bindings::tidepool::kv::types::{Failure, Request};
use crate::wit_host::context::{CallBounds, Context, Incoming, Subject};
use crate::wit_host::wasi::HandlerOutput;
use crate::wit_host::worlds::{EXPORT, GetParams, RequestResult};

/// Ticks of the engine that such a call may run for: the thread does nothing else
/// meanwhile. The first may be over at once.
const TICKS: u64 = 2;

/// After so many that did not work out it is not tried any more: the component
/// always asks for more.
const MOST_FAILED: u32 = 100;

/// What an instance of its own is kept for.
struct Quick {
    store: Store<Context>,
    handle: TypedFunc<GetParams, RequestResult>,
    uses_left: u32,
}

/// The instances of a revision for such calls.
pub(super) struct QuickPool {
    pool: Pool<Quick>,
    failed: AtomicU32,
}

impl QuickPool {
    /// With no instance yet.
    pub fn new() -> QuickPool {
        QuickPool {
            // A call never waits, so a thread needs one.
            pool: Pool::new(1),
            failed: AtomicU32::new(0),
        }
    }

    /// Calls so far, whether or not they worked out.
    pub fn uses(&self) -> u64 {
        self.pool.uses()
    }

    /// Answers a request from what the cache has. `None`: it has to be done in the
    /// usual way; `incoming` is as it was.
    pub fn request(
        &self,
        engine: &ServingEngine,
        program: &Program,
        (request, state): (Request, State),
        incoming: &mut Option<Box<Incoming>>,
        make: impl FnOnce() -> (HandlerOutput, u32),
    ) -> Option<Result<Answer, Failure>> {
        let pre = program.loaded.quick.as_ref()?;
        if self.failed.load(Ordering::Relaxed) >= MOST_FAILED {
            return None;
        }
        let quick = match self.pool.take() {
            Some(quick) => Ok(quick),
            None => {
                let (output, uses) = make();
                Quick::new(engine, program, pre, output, uses)
            }
        };
        if let Err(error) = &quick
            && error.is::<PoolConcurrencyLimitError>()
        {
            // Which is no fault of the component's.
            return None;
        }
        let answered = quick.ok().and_then(|mut quick| {
            let result = quick.call(engine, request, state, incoming).ok()?;
            quick.uses_left = quick.uses_left.saturating_sub(1);
            let small = quick.store.data().memory_bytes() <= engine.limits().memory_bytes / 2;
            if quick.uses_left > 0 && small {
                self.pool.give_back(quick);
            }
            Some(result)
        });
        if answered.is_none() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        answered
    }
}

impl Quick {
    fn new(
        engine: &ServingEngine,
        program: &Program,
        pre: &InstancePre<Context>,
        output: HandlerOutput,
        uses: u32,
    ) -> wasmtime::Result<Quick> {
        let limits = engine.limits();
        let context = Context::new(CallBounds::of(limits), None, output)
            .with_config(Arc::clone(&program.config));
        let mut store = Store::new(engine.engine(), context);
        store.limiter(|context| context);
        store.set_hostcall_fuel(limits.response_bytes.saturating_add(RESPONSE_SLACK_BYTES));
        store.epoch_deadline_trap();
        store.set_epoch_deadline(TICKS);
        let instance = pre.instantiate(&mut store)?;
        Ok(Quick {
            handle: instance.get_typed_func(&mut store, EXPORT)?,
            store,
            uses_left: uses,
        })
    }

    /// After an error the instance must not be used again.
    fn call(
        &mut self,
        engine: &ServingEngine,
        request: Request,
        state: State,
        incoming: &mut Option<Box<Incoming>>,
    ) -> wasmtime::Result<Result<Answer, Failure>> {
        let data = self.store.data_mut();
        if let Some(incoming) = incoming.take() {
            data.begin(Subject::Request(incoming));
        }
        let called = data
            .give_state(state)
            .map_err(Into::into)
            .and_then(|state| {
                self.store.set_epoch_deadline(TICKS);
                self.handle.call(&mut self.store, (request, Some(state)))
            });
        let data = self.store.data_mut();
        let checked = called.and_then(|(result,)| match result {
            Ok(response) => {
                let limit = engine.limits().response_bytes;
                Ok(Ok(answer::check(response, data, limit)?))
            }
            Err(failure) => Ok(Err(failure)),
        });
        *incoming = data.take_incoming();
        data.end();
        checked
    }
}
