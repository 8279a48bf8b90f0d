//! What a component's store carries: the handles of the call in progress, its
//! meters, and the backends behind the interfaces.
//!
//! An instance is reused, a call is not: [`Context::begin`] gives the store a
//! call, [`Context::end`] takes everything of it away again, and a handle kept
//! from an earlier call finds nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::cache::{Cache, Lease};
use crate::clock::Clock;
use crate::config::Limits;
use crate::log::Log;
use crate::model::{Key, Row, State};

use super::config::Values;
use super::wasi::HandlerOutput;

/// Handles of one kind that a component may hold at a time.
const MAX_HANDLES: usize = 1024;

/// What stands behind the interfaces in one region.
pub struct Backends {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The region's cache.
    pub cache: Arc<dyn Cache>,
    /// The clock by which values expire.
    pub clock: Arc<dyn Clock>,
    /// Largest value that may be appended, in bytes.
    pub max_value_bytes: usize,
}

/// A value that a component has a handle of.
#[derive(Clone, Debug)]
pub struct StoredValue {
    /// The bytes.
    pub bytes: Bytes,
    /// The media type it is stored with.
    pub content_type: Option<Arc<str>>,
    /// When it stops existing, microseconds since the Unix epoch.
    pub expires_at: Option<i64>,
}

/// An HTTP request, body included.
pub struct Incoming {
    /// The key that it is for.
    pub key: Key,
    /// Method, target and headers.
    pub parts: Parts,
    /// The whole body.
    pub body: Bytes,
    /// What the cache has for the key, for a `get` component.
    pub cached: Cached,
    /// How old the answer may be, where the request allows that: then it is read from
    /// wherever that is near, and not put into the cache.
    pub max_staleness: Option<Duration>,
}

/// What a look at the cache before the call has found.
#[derive(Debug)]
pub enum Cached {
    /// This, and it is as fresh as asked.
    Found(State),
    /// Nothing that answers, or nobody has looked.
    Missing,
    /// The cache cannot be reached: the call is not to wait for it once more.
    Down,
}

/// What a call is about.
pub enum Subject {
    /// Nothing: the instance is being made, or is idle.
    None,
    /// A request.
    Request(Box<Incoming>),
    /// A batch of the feed.
    Batch(Arc<[Row]>),
}

/// A bound of a call that was passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Exceeded {
    /// `limits.host_calls`.
    #[error("more than {0} host calls (limits.host_calls)")]
    HostCalls(u64),
    /// `limits.host_bytes`.
    #[error("more than {0} bytes to and from the host (limits.host_bytes)")]
    HostBytes(u64),
    /// `limits.cpu`.
    #[error("more than {0} ms of processor time (limits.cpu)")]
    Cpu(u64),
    /// More than 1024 handles.
    #[error("more than {MAX_HANDLES} handles at a time; drop them when they are no longer needed")]
    Handles,
}

/// The bounds of one call that the store enforces while it runs.
#[derive(Clone, Copy, Debug)]
pub struct CallBounds {
    /// Calls to the host.
    pub host_calls: u64,
    /// Bytes copied to and from the host, results included.
    pub host_bytes: u64,
    /// Memory of the instance in bytes, all linear memories together.
    pub memory_bytes: usize,
    /// Elements of all tables together.
    pub table_elements: usize,
}

impl CallBounds {
    /// Those of the configuration.
    pub fn of(limits: &Limits) -> CallBounds {
        CallBounds {
            host_calls: limits.host_calls,
            host_bytes: limits.host_bytes as u64,
            memory_bytes: limits.memory_bytes,
            table_elements: limits.table_elements,
        }
    }
}

/// How long a call has run, in ticks of the epoch. Shared between the future
/// that drives the call and the callback that ends it.
#[derive(Debug, Default)]
pub struct CpuMeter {
    /// Ticks of the polls that are over.
    spent: AtomicU64,
    /// Tick at which the current poll began.
    poll_began: AtomicU64,
}

impl CpuMeter {
    /// A new call.
    pub fn reset(&self, now: u64) {
        self.spent.store(0, Ordering::Relaxed);
        self.poll_began.store(now, Ordering::Relaxed);
    }

    /// The call starts to run.
    pub fn resume(&self, now: u64) {
        self.poll_began.store(now, Ordering::Relaxed);
    }

    /// The call waits.
    pub fn pause(&self, now: u64) {
        self.spent.store(self.ticks(now), Ordering::Relaxed);
        self.poll_began.store(now, Ordering::Relaxed);
    }

    /// Ticks so far, waiting not counted.
    pub fn ticks(&self, now: u64) -> u64 {
        let poll = now.saturating_sub(self.poll_began.load(Ordering::Relaxed));
        self.spent.load(Ordering::Relaxed).saturating_add(poll)
    }
}

/// A handle that names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the handle is not of this call; get a new one in each call")]
pub struct StaleHandle;

/// A component calls out while it is being made, or about a request that it
/// does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the host was called outside a call; move the work into `handle`")]
pub struct OutsideCall;

/// Handles of one kind, few at a time. Numbers are never used twice in the
/// life of a store, so a handle from an earlier call cannot name a later
/// call's resource.
#[derive(Debug)]
pub(super) struct Handles<T> {
    next: u32,
    live: Vec<(u32, T)>,
}

impl<T> Handles<T> {
    const fn new() -> Self {
        Handles {
            next: 0,
            live: Vec::new(),
        }
    }

    /// Gives out a handle.
    pub(super) fn push(&mut self, value: T) -> Result<u32, Exceeded> {
        if self.live.len() >= MAX_HANDLES {
            return Err(Exceeded::Handles);
        }
        let handle = self.next;
        self.next = handle.checked_add(1).ok_or(Exceeded::Handles)?;
        self.live.push((handle, value));
        Ok(handle)
    }

    /// What a handle names.
    pub(super) fn get(&self, handle: u32) -> Result<&T, StaleHandle> {
        let found = self.live.iter().rev().find(|(h, _)| *h == handle);
        found.map(|(_, value)| value).ok_or(StaleHandle)
    }

    /// Takes a handle back.
    pub(super) fn take(&mut self, handle: u32) -> Result<T, StaleHandle> {
        let at = self
            .live
            .iter()
            .rposition(|(h, _)| *h == handle)
            .ok_or(StaleHandle)?;
        Ok(self.live.swap_remove(at).1)
    }
}

/// The data of a component's store.
pub struct Context {
    pub(super) values: Handles<StoredValue>,
    pub(super) leases: Handles<Lease>,
    pub(super) readings: Handles<State>,
    pub(super) subject: Subject,
    backends: Option<Arc<Backends>>,
    config: Arc<Values>,
    bounds: CallBounds,
    host_calls: u64,
    host_bytes: u64,
    /// Memory and table elements that the instance has grown to.
    pub(super) memory_bytes: usize,
    pub(super) table_elements: usize,
    /// An append has been asked for in this call and was not refused.
    pub(super) may_have_written: bool,
    /// Appends of this call that have a receipt.
    pub(super) written: u32,
    /// A growth was refused: what follows is the component's way of dying.
    pub(super) growth_refused: bool,
    meter: Arc<CpuMeter>,
    output: HandlerOutput,
    wasi: Option<Box<(WasiCtx, ResourceTable)>>,
}

impl Context {
    /// The data of a new store. `output` receives what the component prints.
    /// Without `backends` every call out is refused.
    pub fn new(
        bounds: CallBounds,
        backends: Option<Arc<Backends>>,
        output: HandlerOutput,
    ) -> Context {
        Context {
            values: Handles::new(),
            leases: Handles::new(),
            readings: Handles::new(),
            subject: Subject::None,
            backends,
            config: Arc::default(),
            bounds,
            host_calls: 0,
            host_bytes: 0,
            memory_bytes: 0,
            table_elements: 0,
            may_have_written: false,
            written: 0,
            growth_refused: false,
            meter: Arc::default(),
            output,
            wasi: None,
        }
    }

    /// With the configuration of a revision; without, there is none.
    pub fn with_config(mut self, config: Arc<Values>) -> Context {
        self.config = config;
        self
    }

    /// Starts a call.
    pub fn begin(&mut self, subject: Subject) {
        self.subject = subject;
        self.host_calls = 0;
        self.host_bytes = 0;
        self.may_have_written = false;
        self.written = 0;
    }

    /// Ends a call: every handle is void, leases go back.
    pub fn end(&mut self) {
        self.values.live.clear();
        self.readings.live.clear();
        for (_, lease) in self.leases.live.drain(..) {
            if let Some(backends) = &self.backends {
                backends.cache.release(lease);
            }
        }
        self.subject = Subject::None;
    }

    /// Takes the request of the call in progress back, to be tried again elsewhere.
    pub fn take_incoming(&mut self) -> Option<Box<Incoming>> {
        match std::mem::replace(&mut self.subject, Subject::None) {
            Subject::Request(incoming) => Some(incoming),
            Subject::None | Subject::Batch(_) => None,
        }
    }

    /// The meter of the call in progress.
    pub fn meter(&self) -> &Arc<CpuMeter> {
        &self.meter
    }

    /// Whether the call in progress may have written to the log.
    pub fn may_have_written(&self) -> bool {
        self.may_have_written
    }

    /// Whether a growth of memory or tables was refused.
    pub fn growth_refused(&self) -> bool {
        self.growth_refused
    }

    /// Linear memory of the instance in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    pub(super) fn values_of_config(&self) -> &Values {
        &self.config
    }

    pub(super) fn bounds(&self) -> &CallBounds {
        &self.bounds
    }

    /// The backends of the call in progress.
    ///
    /// # Errors
    ///
    /// A component that calls out while it is being made, outside any call.
    pub(super) fn backends(&self) -> wasmtime::Result<&Arc<Backends>> {
        match self.subject {
            Subject::None => Err(OutsideCall.into()),
            Subject::Request(_) | Subject::Batch(_) => {
                Ok(self.backends.as_ref().ok_or(OutsideCall)?)
            }
        }
    }

    /// Counts one call to the host that moves `bytes`.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), Exceeded> {
        self.host_calls += 1;
        if self.host_calls > self.bounds.host_calls {
            return Err(Exceeded::HostCalls(self.bounds.host_calls));
        }
        self.charge_bytes(bytes)
    }

    /// Counts bytes of a call already counted.
    pub(super) fn charge_bytes(&mut self, bytes: usize) -> Result<(), Exceeded> {
        self.host_bytes = self.host_bytes.saturating_add(bytes as u64);
        if self.host_bytes > self.bounds.host_bytes {
            return Err(Exceeded::HostBytes(self.bounds.host_bytes));
        }
        Ok(())
    }

    /// Takes the value that a component put into its answer.
    pub fn take_value(&mut self, handle: u32) -> Result<StoredValue, StaleHandle> {
        self.values.take(handle)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // A call that was cut short gives its leases back at once, not after
        // their time.
        self.end();
    }
}

impl WasiView for Context {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let output = &self.output;
        // Most components never ask: make it at the first call.
        let wasi = self
            .wasi
            .get_or_insert_with(|| Box::new((super::wasi::sandbox(output), ResourceTable::new())));
        WasiCtxView {
            ctx: &mut wasi.0,
            table: &mut wasi.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_never_given_twice() {
        let mut handles = Handles::new();
        let first = handles.push("a").unwrap();
        assert_eq!(handles.take(first), Ok("a"));
        let second = handles.push("b").unwrap();
        assert_ne!(first, second);
        assert_eq!(handles.get(first), Err(StaleHandle));
        assert_eq!(handles.get(second), Ok(&"b"));
    }

    #[test]
    fn handles_are_bounded() {
        let mut handles = Handles::new();
        for i in 0..MAX_HANDLES {
            handles.push(i).unwrap();
        }
        assert_eq!(handles.push(0), Err(Exceeded::Handles));
        handles.take(7).unwrap();
        assert!(handles.push(0).is_ok());
    }

    #[test]
    fn waiting_is_not_processor_time() {
        let meter = CpuMeter::default();
        meter.reset(100);
        meter.pause(103);
        assert_eq!(meter.ticks(103), 3);
        meter.resume(500);
        assert_eq!(meter.ticks(504), 7);
        meter.pause(504);
        meter.reset(900);
        assert_eq!(meter.ticks(900), 0);
    }

    #[test]
    fn the_last_allowed_host_call_and_byte_pass() {
        let bounds = CallBounds {
            host_calls: 2,
            host_bytes: 10,
            memory_bytes: 0,
            table_elements: 0,
        };
        let mut context = Context::new(bounds, None, HandlerOutput::discard());
        assert_eq!(context.charge(4), Ok(()));
        assert_eq!(context.charge(6), Ok(()));
        assert_eq!(context.charge(0), Err(Exceeded::HostCalls(2)));
        assert_eq!(context.charge_bytes(1), Err(Exceeded::HostBytes(10)));
    }
}
