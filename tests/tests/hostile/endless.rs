//! A wait for the host that never ends: the log is asked and does not answer.
//! No log of the binary does that, so here the library is driven by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use tidepool::cache::Lookup;
use tidepool::cache::memory::{MemoryCache, MemoryCacheSettings};
use tidepool::clock::{SystemClock, SystemEntropy};
use tidepool::config::Limits;
use tidepool::handlers::answer::{Answer, AnswerBody};
use tidepool::handlers::compile::Compiler;
use tidepool::handlers::engine::ServingEngine;
use tidepool::handlers::error::CallError;
use tidepool::handlers::instance::Instance;
use tidepool::handlers::load::Loader;
use tidepool::handlers::program::Program;
use tidepool::log::{AppendError, Change, Log, ReadError, Receipt, WriteId};
use tidepool::model::{Condition, Key, Operation, State, Value, Version};
use tidepool::wit_host::bindings::tidepool::kv::types::{self, Failure};
use tidepool::wit_host::context::{Backends, Cached, Incoming};
use tidepool::wit_host::wasi::HandlerOutput;
use tidepool_tests::{built, within};

/// Time on the processor that a call may use; less than it waits.
const CPU: Duration = Duration::from_millis(50);

/// Time by the clock that a call may take.
const WALL: Duration = Duration::from_millis(300);

/// How late the end of a call may be seen on a busy machine.
const LATE: Duration = Duration::from_secs(5);

/// A log that never answers, and knows how many wait for it.
#[derive(Default)]
struct Silent(Arc<AtomicUsize>);

struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Silent {
    async fn wait(&self) -> std::convert::Infallible {
        self.0.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(Arc::clone(&self.0));
        std::future::pending().await
    }
}

#[async_trait]
impl Log for Silent {
    async fn append(
        &self,
        _key: Key,
        _change: Change,
        _condition: Condition,
        _id: Option<WriteId>,
    ) -> Result<Receipt, AppendError> {
        match self.wait().await {}
    }

    async fn read(&self, _key: &Key) -> Result<State, ReadError> {
        match self.wait().await {}
    }
}

/// A log that has one value for every key.
struct Talking;

#[async_trait]
impl Log for Talking {
    async fn append(
        &self,
        _key: Key,
        _change: Change,
        _condition: Condition,
        _id: Option<WriteId>,
    ) -> Result<Receipt, AppendError> {
        Err(AppendError::Unavailable("it only talks".to_owned()))
    }

    async fn read(&self, _key: &Key) -> Result<State, ReadError> {
        Ok(State::Live {
            version: Version(7),
            value: Value {
                bytes: Bytes::from_static(b"said"),
                content_type: None,
                expires_at: None,
            },
        })
    }
}

fn backends(log: impl Log + 'static) -> Arc<Backends> {
    let clock = Arc::new(SystemClock);
    let settings = MemoryCacheSettings::default();
    let cache = MemoryCache::new(settings, clock.clone(), Arc::new(SystemEntropy));
    Arc::new(Backends {
        log: Arc::new(log),
        cache: Arc::new(cache),
        clock,
        max_value_bytes: 1 << 20,
    })
}

/// One engine for all calls of a test, as all regions of a process have.
struct Host {
    engine: ServingEngine,
    loader: Loader,
}

impl Host {
    fn new() -> Host {
        let limits = Limits {
            cpu: CPU,
            wall: WALL,
            ..Limits::default()
        };
        let engine = ServingEngine::new(limits, 8).unwrap();
        let loader = Loader::new(engine.clone(), 1 << 20, Compiler::InProcess, None).unwrap();
        Host { engine, loader }
    }

    async fn load(&self, operation: Operation, component: std::path::PathBuf) -> Program {
        let bytes = Bytes::from(built::bytes(&component));
        let config = Arc::default();
        let loading = self.loader.load(operation, bytes, &config);
        loading.await.unwrap().0
    }

    async fn instance(&self, program: &Program, backends: &Arc<Backends>) -> Instance {
        let output = HandlerOutput::discard();
        let backends = Arc::clone(backends);
        Instance::new(&self.engine, program, backends, output, 1000)
            .await
            .unwrap()
    }
}

fn key() -> Key {
    Key::new("k").unwrap()
}

/// One call about the key, with a body that a PUT can use.
async fn call(
    instance: &mut Instance,
    method: Method,
) -> Result<Result<Answer, Failure>, CallError> {
    let request = types::Request {
        consistency: types::Consistency::Cached,
        condition: types::Condition::None,
        accept: None,
    };
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method;
    let incoming = Box::new(Incoming {
        key: key(),
        parts,
        body: Bytes::from_static(br#"{"value":"v"}"#),
        cached: Cached::Missing,
        max_staleness: None,
    });
    instance.request(request, incoming).await
}

/// Asserts that a call into a silent log is ended within its bound; the error.
/// `waiting`: how many wait for that log.
async fn is_ended(mut instance: Instance, method: Method, waiting: Arc<AtomicUsize>) -> CallError {
    let start = Instant::now();
    let result = within("the end of the call", call(&mut instance, method));
    let error = result.await.unwrap_err();
    let took = start.elapsed();
    assert!(took >= WALL && took < WALL + LATE, "{took:?}");
    // Nobody waits for the log any more.
    drop(instance);
    assert_eq!(waiting.load(Ordering::SeqCst), 0);
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_never_returns_ends_at_the_wall_deadline() {
    let host = Host::new();
    let hostile = host
        .load(Operation::Get, built::fixture("never-returns"))
        .await;
    let good = host.load(Operation::Get, built::guest("get")).await;
    let log = Silent::default();
    let waiting = Arc::clone(&log.0);
    let hostile = host.instance(&hostile, &backends(log)).await;
    let ending = tokio::spawn(is_ended(hostile, Method::GET, Arc::clone(&waiting)));

    // A good one of the same engine answers all the while.
    let mut instance = host.instance(&good, &backends(Talking)).await;
    let mut meanwhile = 0;
    while !ending.is_finished() {
        let was_waiting = waiting.load(Ordering::SeqCst) == 1;
        let answer = call(&mut instance, Method::GET).await;
        let answer = answer.unwrap().unwrap();
        assert_eq!(answer.version, Some(Version(7)));
        assert!(
            matches!(&answer.body, AnswerBody::Envelope(value) if value.bytes == "said"),
            "{answer:?}"
        );
        meanwhile += u32::from(was_waiting);
    }
    assert!(meanwhile > 0);
    let error = ending.await.unwrap();
    // Waiting is not processor time, though it is longer than that may be.
    assert!(matches!(error, CallError::WallDeadline(300)), "{error:?}");
    assert!(error.to_string().contains("limits.wall"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_is_cut_off_gives_its_lease_back() {
    let host = Host::new();
    let get = host.load(Operation::Get, built::guest("get")).await;
    let log = Silent::default();
    let waiting = Arc::clone(&log.0);
    let backends = backends(log);
    let instance = host.instance(&get, &backends).await;
    let error = is_ended(instance, Method::GET, waiting).await;
    assert!(matches!(error, CallError::WallDeadline(300)), "{error:?}");
    // The next reader need not wait for it.
    let lookup = backends.cache.lookup(&key(), None).await.unwrap();
    assert!(matches!(lookup, Lookup::Miss(Some(_))), "{lookup:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_cut_off_may_have_happened() {
    let host = Host::new();
    for (operation, method) in [
        (Operation::Put, Method::PUT),
        (Operation::Delete, Method::DELETE),
    ] {
        let loaded = host.load(operation, built::guest(operation.name())).await;
        let log = Silent::default();
        let waiting = Arc::clone(&log.0);
        let instance = host.instance(&loaded, &backends(log)).await;
        let error = is_ended(instance, method, waiting).await;
        let CallError::AfterWrite(cause) = &error else {
            panic!("{error:?}");
        };
        assert!(matches!(**cause, CallError::WallDeadline(300)), "{error:?}");
    }
}
