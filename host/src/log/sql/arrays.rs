//! A batch as the arrays that the append statement takes, one element an append.
//! Pure; the order of the parameters is that of `statements.rs`.

use std::time::Duration;

use tokio_postgres::types::ToSql;

use super::queue::Append;
use super::statements;
use crate::log::Change;

/// A batch as the parameters of the append statement.
pub(super) struct Arrays<'a> {
    pub keys: Vec<&'a [u8]>,
    pub write_ids: Vec<i64>,
    deleted: Vec<bool>,
    content_types: Vec<Option<&'a str>>,
    ttls: Vec<Option<i64>>,
    values: Vec<Option<&'a [u8]>>,
    conditions: Vec<i64>,
    tag_places: Vec<i64>,
    tag_versions: Vec<i64>,
}

impl<'a> Arrays<'a> {
    pub fn of(batch: &'a [Append]) -> Arrays<'a> {
        let mut arrays = Arrays {
            keys: Vec::with_capacity(batch.len()),
            write_ids: Vec::with_capacity(batch.len()),
            deleted: Vec::with_capacity(batch.len()),
            content_types: Vec::with_capacity(batch.len()),
            ttls: Vec::with_capacity(batch.len()),
            values: Vec::with_capacity(batch.len()),
            conditions: Vec::with_capacity(batch.len()),
            tag_places: Vec::new(),
            tag_versions: Vec::new(),
        };
        for (place, append) in (1..).zip(batch) {
            arrays.keys.push(append.key.as_str().as_bytes());
            arrays.write_ids.push(append.write_id);
            let (value, content_type, ttl) = match &append.change {
                Change::Put {
                    value,
                    content_type,
                    ttl,
                } => (Some(&value[..]), content_type.as_deref(), *ttl),
                Change::Delete => (None, None, None),
            };
            arrays.deleted.push(value.is_none());
            arrays.values.push(value);
            arrays.content_types.push(content_type);
            let micros = |ttl: Duration| i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
            arrays.ttls.push(ttl.map(micros));
            let (condition, tags) = statements::condition(&append.condition);
            arrays.conditions.push(condition);
            arrays.tag_places.extend(tags.iter().map(|_| place));
            arrays.tag_versions.extend(tags.iter().map(|tag| tag.0));
        }
        arrays
    }

    pub fn parameters(&self) -> [&(dyn ToSql + Sync); 9] {
        [
            &self.keys,
            &self.write_ids,
            &self.deleted,
            &self.content_types,
            &self.ttls,
            &self.values,
            &self.conditions,
            &self.tag_places,
            &self.tag_versions,
        ]
    }
}
