//! `wit/log.wit`: reading and appending, each in an interface of its own, so
//! that a world can have the one without the other.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use wasmtime::Result;
use wasmtime::component::Resource;

use super::bindings::tidepool::kv::log_types::{self, Receipt, WriteError};
use super::bindings::tidepool::kv::types::{Condition, State as WitState};
use super::bindings::tidepool::kv::{log_delete, log_put, log_reader};
use super::context::{Context, StoredValue};
use super::types::condition;
use crate::log::{AppendError, Change, ReadError, WriteId, write_id};
use crate::model::{self, MAX_CONTENT_TYPE_BYTES, MAX_TTL_SECONDS, State};

impl log_types::Host for Context {}

impl log_reader::Host for Context {
    async fn read(&mut self) -> Result<Result<Resource<State>, log_reader::ReadError>> {
        self.charge(0)?;
        let incoming = self.incoming()?;
        let (key, max_staleness) = (incoming.key.clone(), incoming.max_staleness);
        let backends = Arc::clone(self.backends()?);
        let read = match max_staleness {
            Some(most) => backends.log.read_stale(&key, most).await,
            None => backends.log.read(&key).await,
        };
        match read {
            Ok(state) => Ok(Ok(Resource::new_own(self.readings.push(state)?))),
            Err(error @ ReadError::Unavailable(_)) => {
                Ok(Err(log_reader::ReadError::Unavailable(error.to_string())))
            }
        }
    }
}

impl log_reader::HostLatest for Context {
    fn state(&mut self, latest: Resource<State>) -> Result<WitState> {
        self.charge(0)?;
        let state = self.readings.get(latest.rep())?.clone();
        Ok(self.give_state(state)?)
    }

    fn drop(&mut self, latest: Resource<State>) -> Result<()> {
        let _ = self.readings.take(latest.rep());
        Ok(())
    }
}

impl log_put::Host for Context {
    async fn put(
        &mut self,
        value: Resource<StoredValue>,
        options: log_put::Options,
    ) -> Result<Result<Receipt, WriteError>> {
        self.charge(0)?;
        let value = self.values.get(value.rep())?.bytes.clone();
        let limit = self.backends()?.max_value_bytes;
        if value.len() > limit {
            let text = format!(
                "the value has {} bytes; at most {limit} are allowed",
                value.len()
            );
            return Ok(Err(WriteError::TooLarge(text)));
        }
        let change = match put_change(value, options.content_type, options.ttl) {
            Ok(change) => change,
            Err(text) => return Ok(Err(WriteError::TooLarge(text))),
        };
        self.append(change, condition(options.condition)).await
    }
}

/// Checks what goes beside the value.
fn put_change(
    value: Bytes,
    content_type: Option<String>,
    ttl: Option<u32>,
) -> Result<Change, String> {
    if let Some(length) = content_type
        .as_ref()
        .map(String::len)
        .filter(|n| *n > MAX_CONTENT_TYPE_BYTES)
    {
        return Err(format!(
            "the content type has {length} bytes; at most {MAX_CONTENT_TYPE_BYTES} are allowed"
        ));
    }
    if ttl.is_some_and(|ttl| ttl == 0 || ttl > MAX_TTL_SECONDS) {
        return Err(format!(
            "the time to live must be 1 to {MAX_TTL_SECONDS} seconds"
        ));
    }
    Ok(Change::Put {
        value,
        content_type: content_type.map(Arc::from),
        ttl: ttl.map(|seconds| Duration::from_secs(seconds.into())),
    })
}

impl log_delete::Host for Context {
    async fn delete(&mut self, when: Condition) -> Result<Result<Receipt, WriteError>> {
        self.charge(0)?;
        self.append(Change::Delete, condition(when)).await
    }
}

impl Context {
    async fn append(
        &mut self,
        change: Change,
        condition: model::Condition,
    ) -> Result<Result<Receipt, WriteError>> {
        let incoming = self.incoming()?;
        let key = incoming.key.clone();
        let id = incoming.parts.headers.get(write_id::HEADER);
        let id = id.map(|id| WriteId::parse(id.as_bytes())).transpose()?;
        let id = id.map(|id| id.after(self.written));
        let backends = Arc::clone(self.backends()?);
        // Set before the wait: the call may be cut while the log is at it.
        let before = std::mem::replace(&mut self.may_have_written, true);
        let answer = backends.log.append(key, change, condition, id).await;
        match answer {
            Ok(written) => {
                self.written = self.written.saturating_add(1);
                Ok(Ok(receipt(written)))
            }
            Err(AppendError::PreconditionFailed { current }) => {
                self.may_have_written = before;
                Ok(Err(WriteError::PreconditionFailed(current.map(|v| v.0))))
            }
            Err(error @ AppendError::Unavailable(_)) => {
                self.may_have_written = before;
                Ok(Err(WriteError::Unavailable(error.to_string())))
            }
            Err(error @ AppendError::OutcomeUnknown(_)) => {
                Ok(Err(WriteError::OutcomeUnknown(error.to_string())))
            }
            // Not the component's to answer: it ends the call.
            Err(error @ AppendError::IdReused) => {
                self.may_have_written = before;
                Err(error.into())
            }
        }
    }
}

fn receipt(receipt: crate::log::Receipt) -> Receipt {
    Receipt {
        version: receipt.version.0,
        timestamp: rfc3339(receipt.timestamp_micros),
    }
}

/// RFC 3339 in UTC with microseconds.
pub fn rfc3339(micros: i64) -> String {
    // A clock before 1970 is shown as 1970; humantime ends with the year 9999.
    const LAST: u64 = 253_402_300_799_999_999;
    let micros = u64::try_from(micros).unwrap_or(0).min(LAST);
    let time: SystemTime = UNIX_EPOCH + Duration::from_micros(micros);
    humantime::format_rfc3339_micros(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_have_microseconds_and_any_number_is_one() {
        assert_eq!(
            rfc3339(1_700_000_000_000_001),
            "2023-11-14T22:13:20.000001Z"
        );
        assert_eq!(rfc3339(-1), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339(i64::MAX), "9999-12-31T23:59:59.999999Z");
    }

    #[test]
    fn content_type_and_ttl_are_bounded() {
        let put = |content_type: Option<usize>, ttl| {
            put_change(Bytes::new(), content_type.map(|n| "x".repeat(n)), ttl).is_ok()
        };
        assert!(put(Some(MAX_CONTENT_TYPE_BYTES), Some(1)));
        assert!(put(None, Some(MAX_TTL_SECONDS)));
        assert!(!put(Some(MAX_CONTENT_TYPE_BYTES + 1), None));
        assert!(!put(None, Some(0)));
        assert!(!put(None, Some(MAX_TTL_SECONDS + 1)));
    }
}
