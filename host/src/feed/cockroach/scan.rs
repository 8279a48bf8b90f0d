//! The statements and rows of a scan: the newest row of every key as of one moment,
//! page by page in the order of the keys. A page is a statement of its own, so that
//! none runs for long. The database keeps the moment, so a scan that goes on after an
//! interruption still shows that one, unless it took longer than `gc.ttlseconds`.

use tokio_postgres::Row as SqlRow;
use tokio_postgres::types::{ToSql, Type};

use super::decode::{KeyColumn, checked};
use super::hlc::Hlc;
use super::statement::TABLE;
use crate::feed::mark::Mark;
use crate::model::Row;

/// What tells how the table keeps keys, and whether it can be read at all.
pub(super) const KEY_COLUMN: &str = "SELECT key FROM kv_log LIMIT 0";

/// The database's moment.
pub(super) const MOMENT: &str = "SELECT cluster_logical_timestamp()::STRING";

/// How many keys there are, by the statistics that the server collects by itself.
pub(super) const KEYS: &str = "SELECT distinct_count::INT8 FROM [SHOW STATISTICS FOR TABLE kv_log]
    WHERE column_names = ARRAY['key'] ORDER BY created DESC LIMIT 1";

/// Where a scan is.
pub(super) struct Scan {
    /// The moment that it shows.
    pub at: Hlc,
    /// How far it is; no key is before the empty one.
    pub mark: Mark,
    /// How many keys there are, about.
    pub total: Option<u64>,
    keys: KeyColumn,
    page_rows: usize,
    /// Rows of this page that were read.
    seen: usize,
}

impl Scan {
    /// A scan that goes on at a mark.
    pub fn new(at: Hlc, mark: Mark, total: Option<u64>, keys: KeyColumn, page_rows: usize) -> Scan {
        Scan {
            at,
            mark,
            total,
            keys,
            page_rows: page_rows.max(1),
            seen: 0,
        }
    }

    /// The statement of the next page, with its parameter.
    pub fn page(&mut self) -> (String, Box<dyn ToSql + Send + Sync>) {
        self.seen = 0;
        // A placeholder may not stand for the moment; it is digits and a dot.
        let text = format!(
            "SELECT DISTINCT ON (key) key, version, deleted, content_type, expires_at, value \
             FROM {TABLE} AS OF SYSTEM TIME '{}' WHERE key > $1 \
             ORDER BY key, version DESC LIMIT {}",
            self.at, self.page_rows
        );
        let after: Box<dyn ToSql + Send + Sync> = match self.keys {
            KeyColumn::Text => Box::new(String::from_utf8_lossy(&self.mark.last).into_owned()),
            KeyColumn::Bytes => Box::new(self.mark.last.clone()),
        };
        (text, after)
    }

    /// Whether the page that has ended was the last one.
    pub fn is_done(&self) -> bool {
        self.seen < self.page_rows
    }

    /// Takes a row of the page. The inner error is a row that is not understood and
    /// was passed over, the outer one that the scan cannot go on.
    pub fn take(&mut self, row: &SqlRow) -> Result<Result<Row, String>, tokio_postgres::Error> {
        let key: &[u8] = match self.keys {
            KeyColumn::Text => row.try_get::<_, &str>(0)?.as_bytes(),
            KeyColumn::Bytes => row.try_get(0)?,
        };
        self.seen += 1;
        self.mark.pass(1, key);
        let deleted = row.try_get(2)?;
        let content_type = row.try_get::<_, Option<&str>>(3)?;
        let value = row.try_get::<_, Option<Vec<u8>>>(5)?;
        let (version, expires_at) = (row.try_get(1)?, row.try_get(4)?);
        Ok(checked(
            key,
            version,
            deleted,
            content_type,
            expires_at,
            value,
        ))
    }
}

/// How a column of this type keeps keys.
pub(super) fn key_column(column: &Type) -> Option<KeyColumn> {
    match *column {
        Type::TEXT | Type::VARCHAR => Some(KeyColumn::Text),
        Type::BYTEA => Some(KeyColumn::Bytes),
        _ => None,
    }
}
