//! What a changefeed says, read: a row, a resolved position, or nothing that we
//! follow. Pure; it must not panic on any bytes, and must not fail: what it does
//! not understand is an answer too.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};

use super::hlc::Hlc;
use crate::hex;
use crate::model::{Key, Row, Value, Version};

/// How the table keeps keys. A text column arrives as text and a bytes column as
/// `\x` and hexadecimal digits. A text key may look like the other, so only the
/// column's type tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyColumn {
    /// STRING.
    Text,
    /// BYTES.
    Bytes,
}

/// A message of a changefeed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// A committed row.
    Row {
        /// The row.
        row: Row,
        /// When it was committed; for a row that is sent again because the table
        /// was changed, when that was.
        updated: Option<Hlc>,
    },
    /// A row was removed, by time to live or by compaction. No user's delete:
    /// that is a row of its own.
    Removed,
    /// Everything up to here has been sent.
    Resolved(Hlc),
    /// Not understood, and why.
    Unknown(String),
}

/// Reads the `value` column of a message in the wrapped envelope. Members and
/// columns that we do not know are ignored.
pub fn decode(value: &[u8], keys: KeyColumn) -> Message {
    match serde_json::from_slice::<Envelope<'_>>(value) {
        Ok(Envelope {
            resolved: Some(resolved),
            ..
        }) => match Hlc::parse(&resolved) {
            Some(position) => Message::Resolved(position),
            None => Message::Unknown(format!("{resolved:?} is not a position")),
        },
        Ok(Envelope { after: None, .. }) => {
            Message::Unknown("neither a row nor a resolved position".into())
        }
        Ok(Envelope {
            after: Some(None), ..
        }) => Message::Removed,
        Ok(Envelope {
            after: Some(Some(after)),
            updated,
            ..
        }) => match row(after, keys) {
            Ok(row) => Message::Row {
                row,
                updated: updated.as_deref().and_then(Hlc::parse),
            },
            Err(why) => Message::Unknown(why),
        },
        Err(error) => Message::Unknown(error.to_string()),
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    /// The outer option is whether there is one, the inner is `null`.
    #[serde(borrow, default, deserialize_with = "present")]
    after: Option<Option<After<'a>>>,
    #[serde(borrow, default)]
    updated: Option<Text<'a>>,
    #[serde(borrow, default)]
    resolved: Option<Text<'a>>,
}

/// The columns of `kv_log` that matter here.
#[derive(Deserialize)]
struct After<'a> {
    #[serde(borrow)]
    key: Text<'a>,
    version: i64,
    deleted: bool,
    #[serde(borrow, default)]
    content_type: Option<Text<'a>>,
    #[serde(default)]
    expires_at: Option<i64>,
    #[serde(borrow, default)]
    value: Option<Text<'a>>,
}

/// Borrows where nothing was escaped; an option of a `Cow` would never.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

fn row(after: After<'_>, keys: KeyColumn) -> Result<Row, String> {
    let key = match keys {
        KeyColumn::Text => Cow::Borrowed(after.key.as_bytes()),
        KeyColumn::Bytes => Cow::Owned(bytes(&after.key).ok_or("its key is not in hexadecimal")?),
    };
    let value = match after.value.as_deref().filter(|_| !after.deleted) {
        Some(value) => Some(bytes(value).ok_or("its value is not in hexadecimal")?),
        None => None,
    };
    let content_type = after.content_type.as_deref();
    checked(
        &key,
        after.version,
        after.deleted,
        content_type,
        after.expires_at,
        value,
    )
}

/// The row, if it is one that Tidepool can have written.
pub(super) fn checked(
    key: &[u8],
    version: i64,
    deleted: bool,
    content_type: Option<&str>,
    expires_at: Option<i64>,
    value: Option<Vec<u8>>,
) -> Result<Row, String> {
    let key = std::str::from_utf8(key).map_err(|_| "its key is not UTF-8")?;
    let key = Key::new(key).map_err(|error| error.to_string())?;
    if version < 1 {
        return Err(format!("{version} is not a version"));
    }
    let value = match (deleted, value) {
        (true, _) => None,
        (false, None) => return Err("it has no value and is not deleted".into()),
        (false, Some(bytes)) => Some(Value {
            bytes: Bytes::from(bytes),
            content_type: content_type.map(Arc::from),
            expires_at,
        }),
    };
    Ok(Row {
        key,
        version: Version(version),
        value,
    })
}

/// The bytes of `\x` and hexadecimal digits.
fn bytes(text: &str) -> Option<Vec<u8>> {
    hex::decode(text.strip_prefix("\\x")?)
}

/// Bytes that a row holds, for bounds on batches.
pub(super) fn size(row: &Row) -> usize {
    let value = row.value.as_ref().map_or(0, |value| value.bytes.len());
    std::mem::size_of::<Row>() + row.key.as_str().len() + value
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
