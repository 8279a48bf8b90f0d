//! The call that a component must pass before it may serve: against a log and
//! a cache of its own that hold one key, so that nothing of the region is
//! touched.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use parking_lot::Mutex;

use super::engine::ServingEngine;
use super::error::CallError;
use super::instance::Instance;
use super::program::Program;
use crate::cache::memory::{MemoryCache, MemoryCacheSettings};
use crate::clock::{Clock, SystemClock, SystemEntropy};
use crate::log::{AppendError, Change, Log, ReadError, Receipt, WriteId};
use crate::model::{Condition, Key, Operation, Row, State, Value, Version};
use crate::wit_host::bindings::tidepool::kv::types::{self, Consistency, Failure, Request};
use crate::wit_host::context::{Backends, Cached, Incoming};
use crate::wit_host::wasi::HandlerOutput;

/// The key that a self-test uses. A handler may know it.
pub const KEY: &str = "tidepool-self-test";

/// Runs the self-test of a component.
///
/// # Errors
///
/// It trapped, passed a limit, or answered `internal` or something that
/// cannot be sent.
pub async fn run(engine: &ServingEngine, program: &Program) -> Result<(), CallError> {
    let backends = backends()?;
    let mut instance = instance(engine, program, Arc::clone(&backends)).await?;
    let failure = match program.loaded.operation {
        // The first finds the key in the log, the second in the cache.
        Operation::Get => match get(&mut instance, &backends).await? {
            None => get(&mut instance, &backends).await?,
            failed => failed,
        },
        Operation::Put => {
            request(
                &mut instance,
                Method::PUT,
                br#"{"value":"self-test"}"#,
                Cached::Missing,
            )
            .await?
        }
        Operation::Delete => request(&mut instance, Method::DELETE, b"", Cached::Missing).await?,
        Operation::Hydrate => instance.decide(&batch()?).await?.err(),
    };
    match failure {
        Some(Failure::Internal(text)) => {
            let summary = format!("it answered `internal`: {text}");
            Err(CallError::Trap {
                detail: summary.clone(),
                summary,
            })
        }
        _ => Ok(()),
    }
}

async fn instance(
    engine: &ServingEngine,
    program: &Program,
    backends: Arc<Backends>,
) -> Result<Instance, CallError> {
    Instance::new(
        engine,
        program,
        backends,
        HandlerOutput::new(|line| tracing::info!(target: "handler", "self-test: {line}")),
        u32::MAX,
    )
    .await
}

async fn get(
    instance: &mut Instance,
    backends: &Arc<Backends>,
) -> Result<Option<Failure>, CallError> {
    let cached = match backends.cache.lookup_now(KEY, None) {
        Some(state) => Cached::Found(state),
        None => Cached::Missing,
    };
    request(instance, Method::GET, b"", cached).await
}

async fn request(
    instance: &mut Instance,
    method: Method,
    body: &'static [u8],
    cached: Cached,
) -> Result<Option<Failure>, CallError> {
    let request = Request {
        consistency: Consistency::Cached,
        condition: types::Condition::None,
        accept: None,
    };
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method;
    let incoming = Box::new(Incoming {
        key: key()?,
        parts,
        body: Bytes::from_static(body),
        cached,
        max_staleness: None,
    });
    Ok(instance.request(request, incoming).await?.err())
}

fn key() -> Result<Key, CallError> {
    Key::new(KEY).map_err(|error| CallError::Instantiate(error.to_string()))
}

fn value() -> Value {
    Value {
        bytes: Bytes::from_static(b"self-test"),
        content_type: None,
        expires_at: None,
    }
}

/// One value and one tombstone.
fn batch() -> Result<Arc<[Row]>, CallError> {
    let key = key()?;
    Ok(Arc::from([
        Row {
            key: key.clone(),
            version: Version(1),
            value: Some(value()),
        },
        Row {
            key,
            version: Version(2),
            value: None,
        },
    ]))
}

fn backends() -> Result<Arc<Backends>, CallError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let log = ScratchLog::default();
    log.0.lock().insert(
        key()?,
        State::Live {
            version: Version(1),
            value: value(),
        },
    );
    let settings = MemoryCacheSettings {
        max_bytes: 1 << 20,
        ..MemoryCacheSettings::default()
    };
    let cache = MemoryCache::new(settings, Arc::clone(&clock), Arc::new(SystemEntropy));
    Ok(Arc::new(Backends {
        log: Arc::new(log),
        cache: Arc::new(cache),
        clock,
        max_value_bytes: 1 << 20,
    }))
}

/// A log that lasts for one self-test and promises nothing.
#[derive(Default)]
struct ScratchLog(Mutex<HashMap<Key, State>>);

#[async_trait]
impl Log for ScratchLog {
    async fn append(
        &self,
        key: Key,
        change: Change,
        condition: Condition,
        _id: Option<WriteId>,
    ) -> Result<Receipt, AppendError> {
        let mut keys = self.0.lock();
        let latest = keys.get(&key).cloned().unwrap_or(State::Absent);
        let live = if let State::Live { version, .. } = latest {
            Some(version)
        } else {
            None
        };
        if !condition.holds(live) {
            return Err(AppendError::PreconditionFailed { current: live });
        }
        let now = SystemClock.now_micros();
        let version = Version::next(latest.version(), now);
        let state = match change {
            Change::Put {
                value,
                content_type,
                ..
            } => State::Live {
                version,
                value: Value {
                    bytes: value,
                    content_type,
                    expires_at: None,
                },
            },
            Change::Delete => State::Deleted { version },
        };
        keys.insert(key, state);
        Ok(Receipt {
            version,
            timestamp_micros: now,
        })
    }

    async fn read(&self, key: &Key) -> Result<State, ReadError> {
        Ok(self.0.lock().get(key).cloned().unwrap_or(State::Absent))
    }
}
