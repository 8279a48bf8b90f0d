//! Statements of people who look, on a connection of their own that writes nothing
//! unless it is told to.

use std::pin::pin;

use futures_util::TryStreamExt;
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;

use crate::log::look::{NULL, Table, text};
use crate::sql::{SqlConfig, SqlError, connect_dedicated};

/// What a statement changes by mistake is refused by the server. One that says `BEGIN
/// READ WRITE` means it.
const READ_ONLY: &str = "SET default_transaction_read_only = on";

/// Runs statements, separated by `;`, and takes at most
/// [`MOST_ROWS`](crate::log::look::MOST_ROWS) rows of what
/// each answers. Every wait is bounded by `database.request_timeout`.
///
/// # Errors
///
/// The server cannot be reached, refuses a statement or takes too long.
pub async fn look(config: &SqlConfig, statements: &str) -> Result<Vec<Table>, SqlError> {
    let (client, _task, _) = connect_dedicated(config).await?;
    let silent = |_| config.silent();
    let failed = |error| config.statement_error(&error);
    // The server is not to go on with what nobody waits for.
    let set = format!("{}; {READ_ONLY}", config.statement_timeout());
    let set = timeout(config.request_timeout, client.batch_execute(&set)).await;
    set.map_err(silent)?.map_err(failed)?;
    let started = client.simple_query_raw(statements);
    let started = timeout(config.request_timeout, started).await;
    let mut messages = pin!(started.map_err(silent)?.map_err(failed)?);
    let mut tables: Vec<Table> = Vec::new();
    loop {
        let next = timeout(config.request_timeout, messages.try_next()).await;
        match next.map_err(silent)?.map_err(failed)? {
            Some(SimpleQueryMessage::RowDescription(columns)) => tables.push(Table {
                columns: columns.iter().map(|it| it.name().to_owned()).collect(),
                ..Table::default()
            }),
            Some(SimpleQueryMessage::Row(row)) => {
                let Some(table) = tables.last_mut() else {
                    continue;
                };
                let cells = 0..row.len();
                table.push(|| {
                    cells
                        .map(|cell| row.get(cell).map_or_else(|| NULL.to_owned(), text))
                        .collect()
                });
                // The rest may be long; the connection ends with us.
                if table.more {
                    return Ok(tables);
                }
            }
            Some(_) => {}
            None => return Ok(tables),
        }
    }
}
