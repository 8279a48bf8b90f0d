//! Statements of people who look into the file, beside the process that writes it.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, ErrorCode, OpenFlags};

use super::open::DATABASE_FILE;
use crate::log::look::{NULL, Table, bytes};

/// How long a lock of the process that writes is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Steps of SQLite's machine between two looks at the clock: some microseconds.
const STEPS: i32 = 1000;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// There is no file.
    #[error("there is no log in {0}; start `tidepool dev` once, or name its folder with --data")]
    NoFile(String),
    /// It would write something else than the file.
    #[error(
        "only SQL that reads is run here ({0}); leave out what attaches, copies or makes something"
    )]
    Writes(rusqlite::Error),
    /// They take too long.
    #[error("there is no answer after {}; ask for less, or raise database.request_timeout with --set", humantime::format_duration(*.0))]
    TooLong(Duration),
    /// The file, or the statement.
    #[error("{0}")]
    Sqlite(rusqlite::Error),
}

/// Runs statements, separated by `;`, and takes at most
/// [`MOST_ROWS`](crate::log::look::MOST_ROWS) rows of what each answers. Whatever
/// they mean to change is refused, and after `bound` they are ended.
///
/// # Errors
///
/// There is no log in the folder, or a statement is refused or takes too long.
pub fn look(folder: &Path, statements: &str, bound: Duration) -> Result<Vec<Table>, LookError> {
    let file = folder.join(DATABASE_FILE);
    if !file.exists() {
        return Err(LookError::NoFile(folder.display().to_string()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    run(&file, flags, statements, bound).map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::AuthorizationForStatementDenied) => LookError::Writes(error),
        Some(ErrorCode::OperationInterrupted) => LookError::TooLong(bound),
        _ => LookError::Sqlite(error),
    })
}

fn run(
    file: &Path,
    flags: OpenFlags,
    statements: &str,
    bound: Duration,
) -> rusqlite::Result<Vec<Table>> {
    let mut connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(PATIENCE)?;
    connection.authorizer(Some(authorize))?;
    let start = Instant::now();
    connection.progress_handler(STEPS, Some(move || start.elapsed() > bound))?;
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

/// The file is open for reading only, and SQLite itself refuses to change it. This is
/// about others: files that are attached, as `VACUUM INTO` does with the one that it
/// writes, and what is made beside the file for the time of the connection.
fn authorize(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Attach { .. }
        | AuthAction::CreateVtable { .. }
        | AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. } => Authorization::Deny,
        _ => Authorization::Allow,
    }
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => NULL.to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) | ValueRef::Blob(text) => bytes(text),
    }
}
