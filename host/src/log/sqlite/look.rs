//! Statements of people who look into the file, beside the process that writes it.

use std::path::Path;
use std::time::Duration;

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, OpenFlags};

use super::open::DATABASE_FILE;
use crate::log::look::{NULL, Table, bytes};

/// How long a lock of the process that writes is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// There is no file.
    #[error("there is no log in {0}; start `tidepool dev` once, or name its folder with --data")]
    NoFile(String),
    /// The file, or the statement.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// Runs statements, separated by `;`, and takes at most
/// [`MOST_ROWS`](crate::log::look::MOST_ROWS) rows of what each answers. Whatever
/// they mean to change is refused.
///
/// # Errors
///
/// There is no log in the folder, or a statement is refused.
pub fn look(folder: &Path, statements: &str) -> Result<Vec<Table>, LookError> {
    let file = folder.join(DATABASE_FILE);
    if !file.exists() {
        return Err(LookError::NoFile(folder.display().to_string()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(PATIENCE)?;
    let mut tables = Vec::new();
    let mut batch = Batch::new(&connection, statements);
    while let Some(mut statement) = batch.next()? {
        let columns = statement.column_names();
        let mut table = Table {
            columns: columns.into_iter().map(str::to_owned).collect(),
            ..Table::default()
        };
        let width = table.columns.len();
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            let cells: Result<Vec<_>, _> =
                (0..width).map(|at| Ok(shown(row.get_ref(at)?))).collect();
            let cells: Vec<String> = cells.map_err(|error: rusqlite::Error| error)?;
            table.push(|| cells);
            if table.more {
                break;
            }
        }
        drop(rows);
        if width > 0 {
            tables.push(table);
        }
    }
    Ok(tables)
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => NULL.to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) | ValueRef::Blob(text) => bytes(text),
    }
}
