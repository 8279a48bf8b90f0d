//! A GET that the cache at hand answers, without a wait: the component is called on
//! the thread that has the request, as a plain function. Whatever does not work out
//! like that (it asks for something that has to be waited for, runs for longer than
//! a moment, fails) is done again in the usual way: until its answer is sent, a
//! `get` component has changed nothing that anybody sees.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use wasmtime::Store;
use wasmtime::component::{InstancePre, TypedFunc};

use super::answer::{self, Answer};
use super::engine::ServingEngine;
use super::instance::{is_reusable, store};
use super::pool::Pool;
use super::program::Program;
use crate::model::State;
use crate::wit_host::bindings::tidepool::kv::types::{Failure, Request};
use crate::wit_host::context::{Cached, Context, Incoming, Subject};
use crate::wit_host::wasi::HandlerOutput;
use crate::wit_host::worlds::{EXPORT, GetParams, RequestResult};

/// Ticks of the engine that such a call may run for: the thread does nothing else
/// meanwhile. The first may be over at once.
const TICKS: u64 = 2;

/// After so many in a row that did not work out it is not tried any more: the
/// component always asks for more.
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
    failed: AtomicU64,
    in_a_row: AtomicU32,
}

impl QuickPool {
    /// With no instance yet.
    pub fn new() -> QuickPool {
        QuickPool {
            // A call never waits, so a thread needs one.
            pool: Pool::new(1),
            failed: AtomicU64::new(0),
            in_a_row: AtomicU32::new(0),
        }
    }

    /// Calls by this thread so far, whether or not they worked out.
    pub fn own_uses(&self) -> u64 {
        self.pool.own_uses()
    }

    /// Calls so far that worked out.
    pub fn answered(&self) -> u64 {
        let failed = self.failed.load(Ordering::Relaxed);
        self.pool.uses().saturating_sub(failed)
    }

    /// Answers a request from what the cache has, or gives it back, to be done in the
    /// usual way: with that, unless a call that has failed has used it up.
    pub fn request(
        &self,
        engine: &ServingEngine,
        program: &Program,
        (request, state): (Request, State),
        mut incoming: Box<Incoming>,
        make: impl FnOnce() -> (HandlerOutput, u32),
    ) -> Result<Result<Answer, Failure>, Box<Incoming>> {
        let pre = program.loaded.quick.as_ref();
        let tried = pre.filter(|_| self.in_a_row.load(Ordering::Relaxed) < MOST_FAILED);
        let Some(pre) = tried else {
            incoming.cached = Cached::Found(state);
            return Err(incoming);
        };
        let quick = self.pool.take().or_else(|| {
            let (output, uses) = make();
            Quick::new(engine, program, pre, output, uses).ok()
        });
        let given_back = match quick {
            Some(mut quick) => match quick.call(engine, request, state, incoming) {
                Ok(answered) => {
                    // Mostly it is: a store would take the line from other threads.
                    if self.in_a_row.load(Ordering::Relaxed) != 0 {
                        self.in_a_row.store(0, Ordering::Relaxed);
                    }
                    if is_reusable(&quick.store, engine, &mut quick.uses_left) {
                        self.pool.give_back(quick);
                    }
                    return Ok(answered);
                }
                Err(incoming) => incoming,
            },
            None => {
                incoming.cached = Cached::Found(state);
                incoming
            }
        };
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.in_a_row.fetch_add(1, Ordering::Relaxed);
        Err(given_back)
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
        let mut store = store(engine, program, None, output);
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
        incoming: Box<Incoming>,
    ) -> Result<Result<Answer, Failure>, Box<Incoming>> {
        let data = self.store.data_mut();
        data.begin(Subject::Request(incoming));
        let given = data.give_state(state);
        let called = given.map_err(Into::into).and_then(|given| {
            self.store.set_epoch_deadline(TICKS);
            self.handle.call(&mut self.store, (request, Some(given)))
        });
        let data = self.store.data_mut();
        let checked: wasmtime::Result<_> = called.and_then(|(result,)| match result {
            Ok(response) => {
                let limit = engine.limits().response_bytes;
                Ok(Ok(answer::check(response, data, limit)?))
            }
            Err(failure) => Ok(Err(failure)),
        });
        match (checked, data.take_incoming()) {
            (Err(error), Some(incoming)) => {
                tracing::debug!(%error, "a hit is answered in the usual way");
                data.end();
                Err(incoming)
            }
            // Nobody takes the request but this.
            (Err(error), None) => {
                data.end();
                Ok(Err(Failure::Internal(error.to_string())))
            }
            (Ok(answered), _) => {
                data.end();
                Ok(answered)
            }
        }
    }
}
