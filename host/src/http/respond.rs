//! Answers: the one table of errors, and the few shapes that every answer has.
//!
//! An error is a problem document (RFC 9457). Its `type` is a reference
//! relative to the server, `/problems/<kind>`: a name to compare with, not a
//! page to fetch. `title` and `status` are fixed by the kind, `detail` says
//! what happened and what to do, and further members (`operation`, `revision`,
//! `region`, `version`) say where. What an operator needs beyond that, such as
//! a trap's backtrace, goes to the log and never into an answer.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Body;
use serde::Serialize;
use serde_json::{Map, Value};

use super::body::BodyError;
use super::route::RouteError;
use super::stream::OutBody;
use crate::model::Version;

/// An answer.
pub type Answer = Response<OutBody>;

/// When a client that was refused for now should come back, unless something
/// better is known. Queues here are shorter than a second.
pub const RETRY: Duration = Duration::from_secs(1);

/// Declares the kinds of problems once, as a table.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $name:literal, $status:ident, $title:literal;)+) => {
        /// The kinds of problems that a client can meet.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Kind {
            $($(#[doc = $doc])+ $kind,)+
        }

        impl Kind {
            /// All of them, in the order of their status.
            pub const ALL: &[Kind] = &[$(Kind::$kind),+];

            /// The name: the last part of the problem's `type`.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name),+ }
            }

            /// The status it is sent with.
            pub fn status(self) -> StatusCode {
                match self { $(Kind::$kind => StatusCode::$status),+ }
            }

            /// The same few words for every problem of the kind.
            pub fn title(self) -> &'static str {
                match self { $(Kind::$kind => $title),+ }
            }
        }
    };
}

kinds! {
    /// The request cannot be read.
    BadRequest = "bad-request", BAD_REQUEST, "The request cannot be read";
    /// No token, or not the right one.
    Unauthorized = "unauthorized", UNAUTHORIZED, "The admin token is missing or wrong";
    /// Understood, and not allowed here.
    Forbidden = "forbidden", FORBIDDEN, "This is not allowed";
    /// The key has no value.
    NotFound = "not-found", NOT_FOUND, "The key has no value";
    /// There is nothing at the path, or no region, operation or token of that name.
    NoSuchPath = "no-such-path", NOT_FOUND, "What the request names is not there";
    /// The path does not answer the method.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "The path does not answer this method";
    /// No form of the value is what `Accept` asks for.
    NotAcceptable = "not-acceptable", NOT_ACCEPTABLE, "The value has no acceptable form";
    /// The body did not arrive in time.
    BodyTimeout = "body-timeout", REQUEST_TIMEOUT, "The body did not arrive in time";
    /// It does not fit what is there now.
    Conflict = "conflict", CONFLICT, "This does not fit the current state";
    /// `If-Match` or `If-None-Match` does not hold.
    PreconditionFailed = "precondition-failed", PRECONDITION_FAILED, "The precondition does not hold";
    /// A value or a component over its limit.
    TooLarge = "too-large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// A key over its limit.
    KeyTooLong = "key-too-long", URI_TOO_LONG, "The key is too long";
    /// A body with a coding; the `put` handler says so.
    UnsupportedMediaType = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "The body has a coding that is not taken";
    /// An `Idempotency-Key` with another change than the first time.
    IdempotencyKeyReused = "idempotency-key-reused", UNPROCESSABLE_ENTITY, "The Idempotency-Key belongs to another change";
    /// A component that cannot be deployed.
    Unprocessable = "unprocessable", UNPROCESSABLE_ENTITY, "The component cannot be deployed";
    /// Too many attempts with wrong credentials.
    TooManyFailures = "too-many-failures", TOO_MANY_REQUESTS, "Too many attempts have failed";
    /// A fault of the host.
    Internal = "internal", INTERNAL_SERVER_ERROR, "The server failed";
    /// A component trapped, or used more than it may.
    HandlerFailed = "handler-failed", INTERNAL_SERVER_ERROR, "The handler failed";
    /// Too many requests for now; nothing has happened.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "Too many requests are waiting";
    /// The log or the cache is not there for now; nothing has happened.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "The store is not available";
    /// A component used up its time.
    HandlerDeadline = "handler-deadline", GATEWAY_TIMEOUT, "The handler used up its time";
    /// A write that may or may not have happened.
    OutcomeUnknown = "outcome-unknown", GATEWAY_TIMEOUT, "The outcome of the write is not known";
}

/// One problem: a kind, and what this case adds to it.
#[derive(Clone, PartialEq, Debug)]
pub struct Problem {
    kind: Kind,
    detail: Cow<'static, str>,
    members: Map<String, Value>,
    version: Option<Version>,
    allow: Option<&'static str>,
    retry_after: Option<Duration>,
    close: bool,
}

impl Problem {
    /// A problem, and what the client is told: what happened, and what to do.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Problem {
        let retry_after = match kind {
            Kind::Overloaded | Kind::Unavailable => Some(RETRY),
            _ => None,
        };
        Problem {
            kind,
            detail: detail.into(),
            members: Map::new(),
            version: None,
            allow: None,
            retry_after,
            close: false,
        }
    }

    /// Adds a member, such as `operation`.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Problem {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Adds the version that the key has: a member, and the `ETag`.
    #[must_use]
    pub fn version(mut self, version: Option<Version>) -> Problem {
        self.version = version;
        self
    }

    /// Says which methods the path answers.
    #[must_use]
    pub fn allow(mut self, methods: &'static str) -> Problem {
        self.allow = Some(methods);
        self
    }

    /// Says when to come back; rounded up to whole seconds, at least one.
    #[must_use]
    pub fn retry_after(mut self, time: Duration) -> Problem {
        self.retry_after = Some(time);
        self
    }

    /// Says that the connection ends with this answer: of the request's body
    /// some is unread, and what comes next would be taken for a request.
    #[must_use]
    pub fn close(mut self, unread: bool) -> Problem {
        self.close = unread;
        self
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The status it is sent with.
    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// What the client is told.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What is sent of it.
    pub fn document(&self) -> Value {
        let mut document = Map::new();
        document.insert(
            "type".to_owned(),
            format!("/problems/{}", self.kind.name()).into(),
        );
        document.insert("title".to_owned(), self.kind.title().into());
        document.insert("status".to_owned(), self.kind.status().as_u16().into());
        document.insert("detail".to_owned(), self.detail.as_ref().into());
        if let Some(version) = self.version {
            document.insert("version".to_owned(), version.0.into());
        }
        for (name, value) in &self.members {
            document.entry(name).or_insert_with(|| value.clone());
        }
        Value::Object(document)
    }

    /// The answer.
    pub fn into_answer(self) -> Answer {
        let body = Bytes::from(self.document().to_string());
        let mut answer = answer(
            self.kind.status(),
            HeaderValue::from_static("application/problem+json"),
            body,
        );
        let headers = answer.headers_mut();
        if let Some(version) = self.version {
            headers.insert(ETAG, etag(version));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(time) = self.retry_after {
            headers.insert(
                RETRY_AFTER,
                HeaderValue::from(time.as_millis().div_ceil(1000).clamp(1, 86_400) as u32),
            );
        }
        if self.kind == Kind::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // RFC 9112, section 9.6. A client that is not told would send its next
        // request into a connection that is about to end.
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

impl From<RouteError> for Problem {
    fn from(error: RouteError) -> Problem {
        let detail = error.to_string();
        match error {
            RouteError::NotFound => Problem::new(Kind::NoSuchPath, detail),
            RouteError::MethodNotAllowed { allow } => {
                Problem::new(Kind::MethodNotAllowed, detail).allow(allow)
            }
            RouteError::EmptyKey
            | RouteError::MalformedKey
            | RouteError::BadHeader { .. }
            | RouteError::NotText { .. } => Problem::new(Kind::BadRequest, detail),
            RouteError::KeyTooLong => Problem::new(Kind::KeyTooLong, detail),
        }
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Problem {
        let kind = match error {
            BodyError::TooLarge { .. } => Kind::TooLarge,
            BodyError::Timeout { .. } => Kind::BodyTimeout,
            BodyError::Cut { .. } => Kind::BadRequest,
        };
        Problem::new(kind, error.to_string()).close(true)
    }
}

/// An answer with a body.
pub fn answer(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Answer {
    let mut answer = Response::new(OutBody::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(OutBody::from(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

/// An answer of JSON that is written already.
pub fn json_bytes(status: StatusCode, body: Bytes) -> Answer {
    answer(status, HeaderValue::from_static("application/json"), body)
}

/// An answer of JSON.
pub fn json(status: StatusCode, document: &impl Serialize) -> Answer {
    match serde_json::to_vec(document) {
        Ok(body) => json_bytes(status, body.into()),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            Problem::new(
                Kind::Internal,
                "the answer cannot be written; please report this",
            )
            .into_answer()
        }
    }
}

/// The answer to HEAD: what GET would get, without the body but with its
/// length.
pub fn without_body(mut answer: Answer) -> Answer {
    let length = answer.body().size_hint().lower();
    answer
        .headers_mut()
        .entry(CONTENT_LENGTH)
        .or_insert_with(|| HeaderValue::from(length));
    answer.map(|_| OutBody::from(Bytes::new()))
}

/// A version as an entity tag: `"17"`.
pub fn etag(version: Version) -> HeaderValue {
    use std::io::Write;
    // Two quotes and the longest i64, which has 20 characters.
    let mut text = [0u8; 22];
    let room = text.len();
    let mut left = &mut text[..];
    // Neither can fail: there is room, and the text is visible ASCII.
    let _ = write!(left, "\"{}\"", version.0);
    let used = room - left.len();
    HeaderValue::from_bytes(&text[..used]).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

#[cfg(test)]
#[path = "respond_tests.rs"]
mod tests;
