//! From a request's head to a closed set of routes. Pure: no I/O, no state,
//! and on the hot path (a plain key, none of our headers) no allocation but
//! the key itself.
//!
//! Dates (`If-Modified-Since`, ...) are not read: versions are finer than the
//! seconds that they have, and RFC 9110 lets a server ignore them.

use std::time::Duration;

use http::header::{ACCEPT, HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH};
use http::{Method, Uri};

use crate::log::write_id::{self, BadWriteId, WriteId};
use crate::model::{
    Condition, Consistency, Key, KeyError, MAX_KEY_BYTES, MAX_STALENESS, Operation, Tags, Version,
};

/// Says how fresh an answer has to be: `cached`, `at-least=<version>`,
/// `max-staleness=<seconds>`, `log`.
pub const CONSISTENCY: HeaderName = HeaderName::from_static("tidepool-consistency");

/// Most entity tags in one request's condition.
pub const MAX_TAGS: usize = 100;

/// Longest `Accept`, in bytes, all of its lines together.
pub const MAX_ACCEPT_BYTES: usize = 4096;

/// What a request asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// A key.
    Kv(KvRequest),
    /// Whether the process is alive.
    Healthz,
    /// Whether the region has caught up with the log.
    Readyz,
}

/// A request for a key, as far as its head says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KvRequest {
    /// Which component answers.
    pub operation: Operation,
    /// Whether it is a HEAD; its operation is `get`.
    pub head: bool,
    /// The key, percent-decoded.
    pub key: Key,
    /// How fresh the answer has to be.
    pub consistency: Consistency,
    /// How old the answer may be, wherever it comes from, when that has a bound. Only
    /// with [`Consistency::Cached`].
    pub max_staleness: Option<Duration>,
    /// The precondition.
    pub condition: Condition,
    /// The `Accept` header; `None` when absent or `*/*`.
    pub accept: Option<String>,
}

/// Why a request has no route.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RouteError {
    /// No such path.
    #[error("there is nothing at this path; keys are at /kv/{{key}}")]
    NotFound,
    /// The path is known, the method is not.
    #[error("this path answers {allow}")]
    MethodNotAllowed {
        /// The methods it knows, as `Allow` has them.
        allow: &'static str,
    },
    /// `/kv/` and nothing behind it.
    #[error("the key is empty; put a key of 1 to {MAX_KEY_BYTES} bytes after /kv/")]
    EmptyKey,
    /// The key is not percent-encoded UTF-8.
    #[error(
        "the key is not percent-encoded UTF-8; encode its bytes as %XX, and a percent sign as %25"
    )]
    MalformedKey,
    /// The key is over [`MAX_KEY_BYTES`].
    #[error("the key is longer than {MAX_KEY_BYTES} bytes; use a shorter one")]
    KeyTooLong,
    /// One of our headers cannot be read, or does not belong to this request.
    #[error("header {name}: {advice}")]
    BadHeader {
        /// The header.
        name: &'static str,
        /// What to send.
        advice: &'static str,
    },
    /// A header of a write is no text.
    #[error("header {name}: it is not UTF-8; send visible ASCII characters, or leave it out")]
    NotText {
        /// The header.
        name: HeaderName,
    },
}

impl From<KeyError> for RouteError {
    fn from(error: KeyError) -> RouteError {
        match error {
            KeyError::Empty => RouteError::EmptyKey,
            KeyError::TooLong(_) => RouteError::KeyTooLong,
        }
    }
}

/// The methods of a key's path.
const KV_METHODS: &str = "GET, HEAD, PUT, DELETE";
/// The methods of a probe's path, on both planes.
pub(super) const PROBE_METHODS: &str = "GET, HEAD";

/// Finds the route of a request.
pub fn parse(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Route, RouteError> {
    let path = uri.path();
    if let Some(key) = path.strip_prefix("/kv/") {
        return parse_kv(method, key, headers).map(Route::Kv);
    }
    let probe = match path {
        "/healthz" => Route::Healthz,
        "/readyz" => Route::Readyz,
        _ => return Err(RouteError::NotFound),
    };
    match *method {
        Method::GET | Method::HEAD => Ok(probe),
        _ => Err(RouteError::MethodNotAllowed {
            allow: PROBE_METHODS,
        }),
    }
}

fn parse_kv(method: &Method, key: &str, headers: &HeaderMap) -> Result<KvRequest, RouteError> {
    let (operation, head) = match *method {
        Method::GET => (Operation::Get, false),
        Method::HEAD => (Operation::Get, true),
        Method::PUT => (Operation::Put, false),
        Method::DELETE => (Operation::Delete, false),
        _ => return Err(RouteError::MethodNotAllowed { allow: KV_METHODS }),
    };
    if operation != Operation::Get {
        check_text(headers)?;
        check_idempotency_key(headers)?;
    }
    let (consistency, max_staleness) = parse_consistency(operation, headers)?;
    Ok(KvRequest {
        operation,
        head,
        key: parse_key(key)?,
        consistency,
        max_staleness,
        condition: parse_condition(headers)?,
        accept: parse_accept(headers)?,
    })
}

/// Percent-decodes a key. Strict: what is not an encoding is refused rather
/// than taken as it is, so that two spellings never mean two keys by accident.
fn parse_key(encoded: &str) -> Result<Key, RouteError> {
    let bytes = encoded.as_bytes();
    let Some(first) = memchr::memchr(b'%', bytes) else {
        return Ok(Key::new(encoded)?);
    };
    // Three bytes encode at least one: refused before any work is done.
    if bytes.len() > 3 * MAX_KEY_BYTES {
        return Err(RouteError::KeyTooLong);
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    decoded.extend_from_slice(&bytes[..first]);
    let mut rest = &bytes[first..];
    while let [byte, after @ ..] = rest {
        if *byte != b'%' {
            decoded.push(*byte);
            rest = after;
            continue;
        }
        let [high, low, after @ ..] = after else {
            return Err(RouteError::MalformedKey);
        };
        match (hex(*high), hex(*low)) {
            (Some(high), Some(low)) => decoded.push(high << 4 | low),
            _ => return Err(RouteError::MalformedKey),
        }
        rest = after;
    }
    let text = std::str::from_utf8(&decoded).map_err(|_| RouteError::MalformedKey)?;
    Ok(Key::new(text)?)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

fn parse_consistency(
    operation: Operation,
    headers: &HeaderMap,
) -> Result<(Consistency, Option<Duration>), RouteError> {
    let bad = |advice| {
        Err(RouteError::BadHeader {
            name: "Tidepool-Consistency",
            advice,
        })
    };
    let mut lines = headers.get_all(CONSISTENCY).iter();
    let Some(line) = lines.next() else {
        return Ok((Consistency::Cached, None));
    };
    if lines.next().is_some() {
        return bad("send it once");
    }
    if operation != Operation::Get {
        return bad("send it with GET or HEAD only; a write always goes to the log");
    }
    let text = line.as_bytes().trim_ascii();
    let at_least = || text.strip_prefix(b"at-least=").and_then(version_of);
    let staleness = || text.strip_prefix(b"max-staleness=").and_then(staleness_of);
    if text == b"cached" {
        Ok((Consistency::Cached, None))
    } else if text == b"log" {
        Ok((Consistency::Log, None))
    } else if let Some(version) = at_least() {
        Ok((Consistency::AtLeast(version), None))
    } else if let Some(staleness) = staleness() {
        Ok((Consistency::Cached, Some(staleness)))
    } else {
        bad(
            "send `cached`, `at-least=<version>` with the version of an answer, \
             `max-staleness=<seconds>` with 1 to 86400, or `log`",
        )
    }
}

/// A component sees headers as text, and one that is none not at all: a time to live
/// would be dropped in silence, and the value kept for ever. Which headers it asks
/// for is not known, so that all have to be. A read, which keeps nothing, does not
/// pay for the look at them.
fn check_text(headers: &HeaderMap) -> Result<(), RouteError> {
    let is_text = |value: &http::HeaderValue| std::str::from_utf8(value.as_bytes()).is_ok();
    match headers.iter().find(|(_, value)| !is_text(value)) {
        None => Ok(()),
        Some((name, _)) => Err(RouteError::NotText { name: name.clone() }),
    }
}

/// The log is given it where the component writes; here it is only read.
fn check_idempotency_key(headers: &HeaderMap) -> Result<(), RouteError> {
    let bad = |advice| RouteError::BadHeader {
        name: "Idempotency-Key",
        advice,
    };
    let mut lines = headers.get_all(write_id::HEADER).iter();
    let Some(line) = lines.next() else {
        return Ok(());
    };
    if lines.next().is_some() {
        return Err(bad("send it once"));
    }
    match WriteId::parse(line.as_bytes()) {
        Ok(_) => Ok(()),
        Err(BadWriteId) => Err(bad(BadWriteId::ADVICE)),
    }
}

/// RFC 9110, section 13.1.
fn parse_condition(headers: &HeaderMap) -> Result<Condition, RouteError> {
    match (
        headers.contains_key(IF_MATCH),
        headers.contains_key(IF_NONE_MATCH),
    ) {
        (false, false) => Ok(Condition::None),
        // A weak tag never matches here, and it always may there (RFC 9110,
        // sections 13.1.1 and 13.1.2).
        (true, false) => parse_tags(headers, IF_MATCH, false).map(Condition::IfMatch),
        (false, true) => parse_tags(headers, IF_NONE_MATCH, true).map(Condition::IfNoneMatch),
        (true, true) => Err(RouteError::BadHeader {
            name: "If-Match",
            advice: "send either If-Match or If-None-Match, not both",
        }),
    }
}

/// Reads `"*" / 1#entity-tag` from all lines of a header. Tags that cannot be
/// a version of ours are well formed and match nothing. A list without a tag
/// is refused: RFC 9110 allows it, but `If-None-Match:` with nothing would
/// turn a guarded write into an unguarded one.
fn parse_tags(
    headers: &HeaderMap,
    name: HeaderName,
    weak_may_match: bool,
) -> Result<Tags, RouteError> {
    let shown = if name == IF_MATCH {
        "If-Match"
    } else {
        "If-None-Match"
    };
    let bad = |advice| {
        Err(RouteError::BadHeader {
            name: shown,
            advice,
        })
    };
    let malformed = "send `*`, or entity tags in double quotes with commas between them";
    let mut versions = Vec::new();
    let mut tags = 0;
    let mut any = false;
    for line in headers.get_all(name) {
        let mut rest = line.as_bytes();
        loop {
            rest = trim_separators(rest);
            if rest.is_empty() {
                break;
            }
            tags += 1;
            if tags > MAX_TAGS {
                return bad("send at most 100 entity tags");
            }
            if let Some(after) = rest.strip_prefix(b"*") {
                any = true;
                rest = after;
            } else {
                let Some((weak, opaque, after)) = entity_tag(rest) else {
                    return bad(malformed);
                };
                if let Some(version) = version_of(opaque).filter(|_| weak_may_match || !weak) {
                    versions.push(version);
                }
                rest = after;
            }
            // Whatever follows must be a new element.
            rest = rest.trim_ascii_start();
            if !rest.is_empty() && rest[0] != b',' {
                return bad(malformed);
            }
        }
    }
    match (any, tags) {
        (true, 1) => Ok(Tags::Any),
        (false, 1..) => Ok(Tags::Versions(versions)),
        _ => bad(malformed),
    }
}

/// Skips commas and white space: empty elements are allowed (section 5.6.1.2).
fn trim_separators(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|b| !matches!(b, b',' | b' ' | b'\t'));
    start.map_or(&[], |start| &bytes[start..])
}

/// `[ "W/" ] DQUOTE *etagc DQUOTE`: whether it is weak, what is between the
/// quotes, and what follows.
fn entity_tag(bytes: &[u8]) -> Option<(bool, &[u8], &[u8])> {
    let (weak, quoted) = match bytes.strip_prefix(b"W/") {
        Some(quoted) => (true, quoted),
        None => (false, bytes),
    };
    let inside = quoted.strip_prefix(b"\"")?;
    let end = memchr::memchr(b'"', inside)?;
    let (opaque, after) = (&inside[..end], &inside[end + 1..]);
    let etagc = |b: &u8| matches!(b, 0x21 | 0x23..=0x7e | 0x80..);
    opaque.iter().all(etagc).then_some((weak, opaque, after))
}

/// The version that a text is, if it is written as we write versions: tags are
/// compared byte for byte, so `"07"` is not `"7"`.
fn version_of(text: &[u8]) -> Option<Version> {
    match text {
        [b'1'..=b'9', ..] if text.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(text).ok()?.parse().ok().map(Version)
        }
        _ => None,
    }
}

/// The seconds that a text is, as a time that may be allowed for.
fn staleness_of(text: &[u8]) -> Option<Duration> {
    let seconds = version_of(text)?.0;
    let staleness = Duration::from_secs(u64::try_from(seconds).ok()?);
    (staleness <= MAX_STALENESS).then_some(staleness)
}

fn parse_accept(headers: &HeaderMap) -> Result<Option<String>, RouteError> {
    let bad = |advice| RouteError::BadHeader {
        name: "Accept",
        advice,
    };
    let mut lines = headers.get_all(ACCEPT).iter();
    let Some(first) = lines.next() else {
        return Ok(None);
    };
    let mut second = lines.next();
    // What curl and most libraries send.
    if second.is_none() && first.as_bytes() == b"*/*" {
        return Ok(None);
    }
    let text = |line: &http::HeaderValue| match line.to_str() {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(_) => Err(bad("send visible ASCII characters only")),
    };
    let mut joined = text(first)?;
    while let Some(line) = second {
        joined.push_str(", ");
        joined.push_str(&text(line)?);
        second = lines.next();
    }
    match joined.len() {
        0 => Ok(None),
        1..=MAX_ACCEPT_BYTES => Ok(Some(joined)),
        _ => Err(bad("send at most 4096 bytes")),
    }
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
