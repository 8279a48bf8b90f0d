//! The default GET (and HEAD) handler: cache, then log, then fill.
//!
//! This file walks; what it decides by is in [`choose`], which knows nothing
//! of WIT and is tested natively. A plain cache hit makes no host call, and
//! that is worth keeping: every call here is on a path where a client asked
//! for more or the cache had less.

mod choose;

use choose::{Shape, choose, matches};
use tidepool::kv::cache::{Lease, LookupResult, lookup};
use tidepool::kv::log_reader::{Latest, ReadError, read};
use tidepool::kv::types::{Body, CacheStatus, Condition, Consistency, Entry, Tags, Version};

// Brings in `Guest`, `Request`, `Response`, `Failure`, `State` and the host
// interfaces as modules under `tidepool::kv`.
wit_bindgen::generate!({ path: "../../wit", world: "get" });

struct Get;

export!(Get);

impl Guest for Get {
    fn handle(request: Request, cached: Option<State>) -> Result<Response, Failure> {
        let (state, cache) = match cached {
            Some(state) => (state, CacheStatus::Hit),
            None => find(request.consistency)?,
        };
        match state {
            State::Live(entry) => answer(entry, cache, &request.condition, request.accept),
            // Nothing can match `If-Match` where there is no value.
            _ if matches!(request.condition, Condition::IfMatch(_)) => {
                Err(Failure::PreconditionFailed(None))
            }
            State::Deleted(version) => Err(Failure::NotFound(Some(version))),
            State::Absent => Err(Failure::NotFound(None)),
        }
    }
}

/// The state of a key that was not at hand, and where it came from.
fn find(consistency: Consistency) -> Result<(State, CacheStatus), Failure> {
    let at_least = match consistency {
        Consistency::Cached => None,
        Consistency::AtLeast(version) => Some(version),
        Consistency::Log => return Ok((read_log()?.state(), CacheStatus::Bypass)),
    };
    let lease = match lookup(at_least) {
        LookupResult::Found(state) => return Ok((state, CacheStatus::Hit)),
        LookupResult::Miss(lease) => lease,
    };
    let latest = read_log()?;
    if let Some(lease) = lease {
        // A refused fill is nobody's loss: the answer comes from the log.
        Lease::fill(lease, &latest);
    }
    let state = latest.state();
    match at_least {
        Some(wanted) if version_of(&state) < wanted => Err(Failure::Unavailable(format!(
            "version {wanted} of this key is not visible yet; try again"
        ))),
        _ => Ok((state, CacheStatus::Miss)),
    }
}

fn read_log() -> Result<Latest, Failure> {
    read().map_err(|ReadError::Unavailable(text)| Failure::Unavailable(text))
}

fn version_of(state: &State) -> Version {
    match state {
        State::Live(entry) => entry.version,
        State::Deleted(version) => *version,
        State::Absent => 0,
    }
}

/// The answer for a live value.
fn answer(
    entry: Entry,
    cache: CacheStatus,
    condition: &Condition,
    accept: Option<String>,
) -> Result<Response, Failure> {
    let mut response = Response {
        status: 200,
        version: Some(entry.version),
        cache: Some(cache),
        content_type: None,
        headers: Vec::new(),
        body: Body::Empty,
    };
    match condition {
        Condition::None => {}
        Condition::IfMatch(tags) => {
            if !matches(versions(tags), entry.version) {
                return Err(Failure::PreconditionFailed(Some(entry.version)));
            }
        }
        Condition::IfNoneMatch(tags) => {
            if matches(versions(tags), entry.version) {
                response.status = 304;
                return Ok(response);
            }
        }
    }
    match choose(accept.as_deref(), entry.content_type) {
        Ok(Shape::Envelope) => response.body = Body::Envelope(entry.value),
        Ok(Shape::Raw(content_type)) => {
            response.content_type = Some(content_type);
            response.body = Body::Value(entry.value);
        }
        Err(offered) => return Err(Failure::NotAcceptable(offered)),
    }
    Ok(response)
}

/// The versions that tags name; none for `*`.
fn versions(tags: &Tags) -> Option<&[Version]> {
    match tags {
        Tags::Any => None,
        Tags::Versions(versions) => Some(versions),
    }
}
