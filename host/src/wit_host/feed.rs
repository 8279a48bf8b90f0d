//! `wit/feed.wit`: the batch that a hydrator decides about.

use wasmtime::Result;

use super::bindings::tidepool::kv::feed::{self as wit, Change};
use super::context::{Context, OutsideCall, Subject};
use crate::cache::Decision;
use crate::model::Row;

impl wit::Host for Context {
    fn value(&mut self, index: u32) -> Result<Vec<u8>> {
        let Subject::Batch(rows) = &self.subject else {
            return Err(OutsideCall.into());
        };
        let value = rows.get(index as usize).and_then(|row| row.value.as_ref());
        let bytes: Vec<u8> = value.map(|v| v.bytes.to_vec()).unwrap_or_default();
        self.charge(bytes.len())?;
        Ok(bytes)
    }
}

/// A row as a component sees it.
pub fn change(row: &Row) -> Change {
    let value = row.value.as_ref();
    Change {
        key: row.key.as_str().to_owned(),
        version: row.version.0,
        deleted: value.is_none(),
        size: value.map_or(0, |v| u32::try_from(v.bytes.len()).unwrap_or(u32::MAX)),
        content_type: value
            .and_then(|v| v.content_type.as_deref())
            .map(str::to_owned),
        expires_at: value.and_then(|v| v.expires_at),
    }
}

/// What a component decided.
pub fn decision(decision: wit::Decision) -> Decision {
    match decision {
        wit::Decision::Store => Decision::Store,
        wit::Decision::Refresh => Decision::Refresh,
        wit::Decision::Evict => Decision::Evict,
    }
}
