//! Rows of `kv_log` on a server, decoded. Pure; it must not choose which rows are
//! read.

use bytes::Bytes;
use tokio_postgres::Row as SqlRow;

use crate::model::{Key, Row, Value, Version};

/// The columns that [`decode`] expects, in their order and first.
pub(crate) const COLUMNS: &str = "key, version, deleted, content_type, expires_at, value";

/// How many those are.
pub(crate) const COLUMN_COUNT: usize = 6;

/// Decodes a row that begins with [`COLUMNS`]; says what is wrong with one that
/// Tidepool cannot have written.
pub(crate) fn decode(row: &SqlRow) -> Result<Row, String> {
    let bad = |error: tokio_postgres::Error| format!("a row of kv_log cannot be read: {error}");
    let key: &[u8] = row.try_get(0).map_err(bad)?;
    let key = std::str::from_utf8(key)
        .ok()
        .and_then(|key| Key::new(key).ok())
        .ok_or("a row of kv_log has a key that is not 1 to 1024 bytes of UTF-8")?;
    let deleted: bool = row.try_get(2).map_err(bad)?;
    let value = match deleted {
        true => None,
        false => Some(Value {
            // A value that is missing is an empty one.
            bytes: row
                .try_get::<_, Option<&[u8]>>(5)
                .map_err(bad)?
                .map_or_else(Bytes::new, Bytes::copy_from_slice),
            content_type: row
                .try_get::<_, Option<&str>>(3)
                .map_err(bad)?
                .map(Into::into),
            expires_at: row.try_get(4).map_err(bad)?,
        }),
    };
    Ok(Row {
        key,
        version: Version(row.try_get(1).map_err(bad)?),
        value,
    })
}
