//! Rows of `kv_log` as the database has them, decoded. Pure; it must not choose
//! which rows are read.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Row as SqlRow;
use rusqlite::types::{FromSqlError, Type};

use crate::model::{Key, Row, Value, Version};

/// The columns that [`decode`] expects, in their order.
pub(crate) const COLUMNS: &str =
    "seq, timestamp, key, version, deleted, content_type, expires_at, value";

/// A row with its place in the feed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    /// The feed's position of it.
    pub seq: i64,
    /// When it was appended, microseconds since the Unix epoch.
    pub timestamp: i64,
    /// The row.
    pub row: Row,
}

impl Stored {
    /// Bytes that it holds, for bounds on batches.
    pub fn bytes(&self) -> usize {
        let value = self.row.value.as_ref().map_or(0, |value| value.bytes.len());
        std::mem::size_of::<Stored>() + self.row.key.as_str().len() + value
    }
}

/// Decodes a row of [`COLUMNS`]. A row that Tidepool cannot have written is an
/// error: the file is damaged.
pub(crate) fn decode(row: &SqlRow<'_>) -> rusqlite::Result<Stored> {
    let key = row
        .get_ref(2)?
        .as_str()
        .map_err(|error| bad_column(2, Type::Text, error))?;
    let key = Key::new(key).map_err(|error| bad_column(2, Type::Text, error))?;
    let deleted: bool = row.get(4)?;
    let value = match deleted {
        true => None,
        false => Some(Value {
            bytes: Bytes::from(row.get::<_, Vec<u8>>(7)?),
            content_type: row.get::<_, Option<Arc<str>>>(5)?,
            expires_at: row.get(6)?,
        }),
    };
    let row_of_log = Row {
        key,
        version: Version(row.get(3)?),
        value,
    };
    Ok(Stored {
        seq: row.get(0)?,
        timestamp: row.get(1)?,
        row: row_of_log,
    })
}

fn bad_column(
    column: usize,
    kind: Type,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, FromSqlError::other(error).into())
}
