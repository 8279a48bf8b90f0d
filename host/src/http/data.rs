//! The data plane of one region: from a routed request through the slot's
//! revision to an answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, StatusCode};
use hyper::body::{Body as _, Incoming as HttpBody};

use super::body::read_body;
use super::envelope::envelope;
use super::region::Region;
use super::respond::{self, Kind, Problem};
use super::route::{self, KvRequest, Route};
use super::server::BoxFuture;
use crate::config::{Settings, max_envelope_bytes};
use crate::handlers::answer::{Answer, AnswerBody};
use crate::handlers::error::CallError;
use crate::handlers::registry::Registry;
use crate::handlers::revision::Revision;
use crate::model::{Condition, Consistency, Operation, State, Tags, Version};
use crate::wit_host::bindings::tidepool::kv::types::{self as wit, CacheStatus, Failure};
use crate::wit_host::context::{Cached, Incoming};

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The data plane of a region. Cheap to clone.
#[derive(Clone)]
pub struct DataPlane(Arc<Inner>);

struct Inner {
    region: Arc<Region>,
    registry: Arc<Registry>,
    max_body_bytes: usize,
    body_timeout: Duration,
}

impl DataPlane {
    /// The data plane of `region`.
    pub fn new(region: Arc<Region>, registry: Arc<Registry>, settings: &Settings) -> DataPlane {
        DataPlane(Arc::new(Inner {
            region,
            registry,
            max_body_bytes: max_envelope_bytes(settings.http.max_value_bytes),
            body_timeout: settings.http.body_timeout,
        }))
    }

    /// Answers a request.
    ///
    /// The future is on the heap: it is some kilobytes of a component's call,
    /// and whoever holds it would move it a few times before it starts.
    pub fn serve(&self, request: Request<HttpBody>) -> BoxFuture<respond::Answer> {
        // What is answered at once takes no share of it: two threads that count the
        // shares of one thing wait for each other.
        let inner = &self.0;
        let (parts, body) = request.into_parts();
        match route::parse(&parts.method, &parts.uri, &parts.headers) {
            Ok(Route::Kv(mut kv)) if kv.operation == Operation::Get => {
                if let Some(most) = kv.max_staleness
                    && !inner.region.is_within(most)
                {
                    // Whatever its cache has may be older.
                    kv.consistency = Consistency::Log;
                }
                let incoming = Box::new(Incoming {
                    key: kv.key.clone(),
                    parts,
                    body: Bytes::new(),
                    cached: Cached::Missing,
                    max_staleness: kv.max_staleness,
                });
                // A hit in process memory needs no waiting.
                let Some(state) = inner.at_hand(&kv) else {
                    return Box::pin(Arc::clone(inner).look_and_read(kv, incoming));
                };
                match inner.read_at_hand(&kv, state, incoming) {
                    Ok(answer) => ready(answer),
                    Err(incoming) => Box::pin(Arc::clone(inner).read_again(kv, incoming)),
                }
            }
            Ok(Route::Kv(kv)) => Box::pin(Arc::clone(inner).write(kv, parts, body)),
            Ok(Route::Healthz) => {
                let alive = serde_json::json!({"status": "alive"});
                ready(probed(&parts, respond::json(StatusCode::OK, &alive)))
            }
            Ok(Route::Readyz) => {
                let report = inner.region.report();
                let status = if report.ready {
                    StatusCode::OK
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                };
                ready(probed(&parts, respond::json(status, &report)))
            }
            Err(error) => {
                let unread = !body.is_end_stream();
                ready(Problem::from(error).close(unread).into_answer())
            }
        }
    }
}

/// The answer to a probe: HEAD or GET.
fn probed(parts: &Parts, answer: respond::Answer) -> respond::Answer {
    match parts.method == Method::HEAD {
        true => respond::without_body(answer),
        false => answer,
    }
}

fn ready(answer: respond::Answer) -> BoxFuture<respond::Answer> {
    Box::pin(std::future::ready(answer))
}

impl Inner {
    /// Writes run to their end in a task of their own: a client that hangs up
    /// cannot cut one between its steps.
    async fn write(
        self: Arc<Self>,
        kv: KvRequest,
        parts: Parts,
        body: HttpBody,
    ) -> respond::Answer {
        let body = match read_body(body, self.max_body_bytes, self.body_timeout).await {
            Ok(body) => body,
            Err(error) => return Problem::from(error).into_answer(),
        };
        let incoming = Box::new(Incoming {
            key: kv.key.clone(),
            parts,
            body,
            cached: Cached::Missing,
            max_staleness: None,
        });
        let writing = tokio::spawn(async move { self.call(kv, incoming).await });
        writing.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a write panicked");
            let detail = "the host failed in the middle of the write; read the key to see whether it happened";
            Problem::new(Kind::OutcomeUnknown, detail).into_answer()
        })
    }

    /// GET and HEAD that have to wait for the cache. It is asked before the
    /// component is called, so that no instance waits for it.
    async fn look_and_read(
        self: Arc<Self>,
        kv: KvRequest,
        mut incoming: Box<Incoming>,
    ) -> respond::Answer {
        let mut down = false;
        if let Some(at_least) = freshness(&kv) {
            match self.region.backends.cache.peek(&kv.key, at_least).await {
                Ok(Some(state)) => match self.read_at_hand(&kv, state, incoming) {
                    Ok(answer) => return answer,
                    Err(incoming) => return self.read_again(kv, incoming).await,
                },
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "the cache is away; the log answers");
                    incoming.cached = Cached::Down;
                    down = true;
                }
            }
        }
        let mut answer = self.read(kv, incoming).await;
        if down && let Some(status) = answer.headers_mut().get_mut(X_CACHE) {
            *status = HeaderValue::from_static("DOWN");
        }
        answer
    }

    /// GET and HEAD that could not be answered at hand.
    async fn read_again(
        self: Arc<Self>,
        kv: KvRequest,
        mut incoming: Box<Incoming>,
    ) -> respond::Answer {
        // What the cache had may be gone with the call that has failed. That is rare:
        // a copy for each call would cost more.
        if let (Cached::Missing, Some(at_least)) = (&incoming.cached, freshness(&kv))
            && let Ok(Some(state)) = self.region.backends.cache.peek(&kv.key, at_least).await
        {
            incoming.cached = Cached::Found(state);
        }
        self.read(kv, incoming).await
    }

    /// GET and HEAD, with what the cache has.
    async fn read(self: Arc<Self>, kv: KvRequest, incoming: Box<Incoming>) -> respond::Answer {
        let head = kv.head;
        let answer = self.call(kv, incoming).await;
        if head {
            respond::without_body(answer)
        } else {
            answer
        }
    }

    /// GET and HEAD of what the cache has, without a wait. What cannot be done like
    /// that is given back, to be read again.
    fn read_at_hand(
        &self,
        kv: &KvRequest,
        state: State,
        incoming: Box<Incoming>,
    ) -> Result<respond::Answer, Box<Incoming>> {
        let (region, key) = (self.region.index, kv.key.as_str());
        let at_hand = |revision: &Revision| match revision.info().stands_in() {
            true => Err(incoming),
            false => revision.request_at_hand(request(kv), state, incoming),
        };
        let answered = self.registry.with(region, kv.operation, key, at_hand)?;
        let answer = match answered {
            Ok(answer) => self::answered(answer, key),
            Err(failure) => failed(failure).into_answer(),
        };
        Ok(match kv.head {
            true => respond::without_body(answer),
            false => answer,
        })
    }

    /// What the cache has at hand, as fresh as the request asks.
    fn at_hand(&self, kv: &KvRequest) -> Option<State> {
        let cache = &self.region.backends.cache;
        cache.lookup_now(kv.key.as_str(), freshness(kv)?)
    }

    async fn call(&self, kv: KvRequest, incoming: Box<Incoming>) -> respond::Answer {
        let (region, operation) = (self.region.index, kv.operation);
        let revision = self.registry.pick(region, operation, incoming.key.as_str());
        // For the envelope; the component has the other one.
        let key = incoming.key.clone();
        if revision.info().stands_in() {
            return missing(&revision).into_answer();
        }
        match revision.request(request(&kv), incoming).await {
            Ok(Ok(answer)) => answered(answer, key.as_str()),
            Ok(Err(failure)) => failed(failure).into_answer(),
            Err(error) => broken(&error, &revision).into_answer(),
        }
    }
}

/// The version that a cached answer must have at least, if any; `None`: the
/// request is for the log.
fn freshness(kv: &KvRequest) -> Option<Option<Version>> {
    match kv.consistency {
        Consistency::Cached => Some(None),
        Consistency::AtLeast(version) => Some(Some(version)),
        Consistency::Log => None,
    }
}

/// A routed request as components see it.
fn request(kv: &KvRequest) -> wit::Request {
    wit::Request {
        consistency: match kv.consistency {
            Consistency::Cached => wit::Consistency::Cached,
            Consistency::AtLeast(version) => wit::Consistency::AtLeast(version.0),
            Consistency::Log => wit::Consistency::Log,
        },
        condition: match &kv.condition {
            Condition::None => wit::Condition::None,
            Condition::IfMatch(tags) => wit::Condition::IfMatch(wit_tags(tags)),
            Condition::IfNoneMatch(tags) => wit::Condition::IfNoneMatch(wit_tags(tags)),
        },
        accept: kv.accept.clone(),
    }
}

fn wit_tags(tags: &Tags) -> wit::Tags {
    match tags {
        Tags::Any => wit::Tags::Any,
        Tags::Versions(list) => wit::Tags::Versions(list.iter().map(|version| version.0).collect()),
    }
}

/// A component's answer as HTTP.
pub fn answered(answer: Answer, key: &str) -> respond::Answer {
    let Answer {
        status,
        version,
        cache,
        content_type,
        headers,
        body,
    } = answer;
    let (default_type, bytes) = match body {
        AnswerBody::Empty => (None, Bytes::new()),
        AnswerBody::Bytes(bytes) => (Some(OCTETS), bytes),
        AnswerBody::Stored(value) => {
            let stored = value
                .content_type
                .and_then(|text| HeaderValue::try_from(&*text).ok());
            (Some(stored.unwrap_or(OCTETS)), value.bytes)
        }
        AnswerBody::Envelope(value) => (Some(JSON), envelope(key, &value.bytes)),
    };
    let mut response = match content_type.or(default_type) {
        Some(content_type) => respond::answer(status, content_type, bytes),
        None => respond::empty(status),
    };
    let out = response.headers_mut();
    if let Some(version) = version {
        out.insert(http::header::ETAG, respond::etag(version));
    }
    if let Some(cache) = cache {
        out.insert(X_CACHE, cache_status(cache));
    }
    for (name, value) in headers {
        out.append(name, value);
    }
    response
}

fn cache_status(status: CacheStatus) -> HeaderValue {
    HeaderValue::from_static(match status {
        CacheStatus::Hit => "HIT",
        CacheStatus::Miss => "MISS",
        CacheStatus::Bypass => "BYPASS",
    })
}

/// A component's refusal as a problem.
fn failed(failure: Failure) -> Problem {
    match failure {
        Failure::BadRequest(text) => Problem::new(Kind::BadRequest, text),
        Failure::NotFound(version) => {
            let detail = if version.is_some() {
                "the key was deleted"
            } else {
                "the key has never been written"
            };
            Problem::new(Kind::NotFound, detail).version(version.map(Version))
        }
        Failure::NotAcceptable(text) => Problem::new(Kind::NotAcceptable, text),
        Failure::PreconditionFailed(version) => {
            let detail = match version {
                Some(version) => format!("the key has version {version}; read it and decide again"),
                None => "the key has no value; read it and decide again".to_owned(),
            };
            Problem::new(Kind::PreconditionFailed, detail).version(version.map(Version))
        }
        Failure::TooLarge(text) => Problem::new(Kind::TooLarge, text),
        Failure::Unavailable(text) => Problem::new(Kind::Unavailable, text),
        Failure::OutcomeUnknown(text) => Problem::new(Kind::OutcomeUnknown, text),
        Failure::Internal(text) => Problem::new(Kind::Internal, text),
    }
}

/// The handler that was deployed cannot be loaded on this host.
fn missing(revision: &Revision) -> Problem {
    let info = revision.info();
    let detail = format!(
        "the `{}` handler that is deployed cannot be loaded on this host; `tidepool handlers` says why",
        info.operation
    );
    Problem::new(Kind::Unavailable, detail)
        .with("region", &*info.region)
        .with("operation", info.operation.name())
}

/// A call without an answer as a problem; it names operation and revision.
fn broken(error: &CallError, revision: &Revision) -> Problem {
    let kind = match error {
        CallError::Trap { .. } | CallError::Exceeded(_) | CallError::BadAnswer(_) => {
            Kind::HandlerFailed
        }
        CallError::AfterWrite(_) => Kind::OutcomeUnknown,
        CallError::IdReused => Kind::IdempotencyKeyReused,
        CallError::CpuDeadline(_) | CallError::WallDeadline(_) => Kind::HandlerDeadline,
        CallError::Overloaded | CallError::Instantiate(_) => Kind::Overloaded,
    };
    let info = revision.info();
    Problem::new(kind, error.to_string())
        .with("region", &*info.region)
        .with("operation", info.operation.name())
        .with("revision", info.number)
}
