//! The answer to one statement, row by row, with a bound on every wait. A wait may
//! be dropped at any time: nothing is lost, and it goes on where it was.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, RowStream};

/// Why there is no next row.
#[derive(Debug)]
pub(super) enum Broken {
    /// The server said nothing for so long.
    Silent(Duration),
    /// The server, or the connection to it, has failed.
    Failed(Error),
}

/// An answer under way.
pub(super) struct Answer {
    state: State,
    /// Since when we wait for what comes next.
    since: Option<Instant>,
    first: Duration,
    later: Duration,
}

enum State {
    Asking(BoxFuture<'static, Result<RowStream, Error>>),
    Reading(Pin<Box<RowStream>>),
    Done,
}

impl Answer {
    /// Asks. The first row may take `first`, and every other one `later`.
    pub fn ask(
        client: &Arc<Client>,
        text: String,
        parameter: Option<Box<dyn ToSql + Send + Sync>>,
        first: Duration,
        later: Duration,
    ) -> Answer {
        let client = Arc::clone(client);
        let asking = async move {
            let parameter = parameter.iter().map(|parameter| &**parameter as _);
            let parameters: Vec<&(dyn ToSql + Sync)> = parameter.collect();
            client.query_raw(&text, parameters).await
        };
        Answer {
            state: State::Asking(Box::pin(asking)),
            since: None,
            first,
            later,
        }
    }

    /// The next row; `None` when there are no more.
    pub async fn next(&mut self) -> Result<Option<Row>, Broken> {
        loop {
            let bound = match self.state {
                State::Asking(_) => self.first,
                _ => self.later,
            };
            let since = *self.since.get_or_insert_with(Instant::now);
            let found = timeout_at(since + bound, self.step()).await;
            self.since = None;
            match found {
                Err(_) => {
                    self.state = State::Done;
                    return Err(Broken::Silent(bound));
                }
                Ok(Some(found)) => return found,
                Ok(None) => {}
            }
        }
    }

    /// The next row if it has come already.
    pub fn now(&mut self) -> Option<Result<Option<Row>, Broken>> {
        let found = self.step().now_or_never()??;
        self.since = None;
        Some(found)
    }

    /// What comes next; `None` when the server has begun to answer.
    async fn step(&mut self) -> Option<Result<Option<Row>, Broken>> {
        let found = match &mut self.state {
            State::Asking(asking) => match asking.await {
                Ok(rows) => {
                    self.state = State::Reading(Box::pin(rows));
                    return None;
                }
                Err(error) => Err(Broken::Failed(error)),
            },
            State::Reading(rows) => match rows.next().await {
                Some(Ok(row)) => return Some(Ok(Some(row))),
                Some(Err(error)) => Err(Broken::Failed(error)),
                None => Ok(None),
            },
            State::Done => Ok(None),
        };
        self.state = State::Done;
        Some(found)
    }
}
