//! That something was committed to tables, and not what: a changefeed without a sink
//! of which only the arrival of rows counts. What it tells is a hint: it can be late,
//! can come twice, and what is committed while it is opened is not told.

use std::sync::Arc;

use tokio::time::timeout;
use tokio_postgres::Client;

use super::answer::{Answer, Broken};
use super::failure::{Failure, Told, Who, classify, error};
use super::statement::Statement;
use super::{CockroachFeedSettings, moment};
use crate::feed::FeedError;
use crate::sql::{ConnectionTask, ServerKind};

/// A changefeed under way. Dropping it ends it.
pub struct Changes {
    client: Arc<Client>,
    /// Ends the connection: a changefeed never ends by itself.
    _connection: ConnectionTask,
    who: Who,
    settings: CockroachFeedSettings,
    statement: Statement,
    answer: Answer,
}

impl Changes {
    /// Follows `tables`, with commas between them, on a connection that is nobody
    /// else's. `role` is who we are there.
    ///
    /// # Errors
    ///
    /// The server does not answer as it should, within the bounds of the settings.
    pub async fn open(
        (client, connection, server): (Client, ConnectionTask, ServerKind),
        role: &str,
        tables: &'static str,
        settings: CockroachFeedSettings,
    ) -> Result<Changes, FeedError> {
        let who = Who {
            server,
            role: role.to_owned(),
            tables,
        };
        let begin = async {
            // A user may have a bound on statements; a changefeed has no end.
            let unbounded = client.batch_execute("SET statement_timeout = 0").await;
            unbounded.map_err(|failed| error(&Told::of(&failed), &who))?;
            moment(&client, &who).await
        };
        let wait = settings.answer_wait;
        let late = |_| FeedError::Interrupted(format!("the server did not answer within {wait:?}"));
        let start = timeout(wait, begin).await.map_err(late)??;
        let statement = Statement::of(tables, start, settings.resolved_every);
        let client = Arc::new(client);
        let answer = ask(&client, &statement, &settings);
        Ok(Changes {
            client,
            _connection: connection,
            who,
            settings,
            statement,
            answer,
        })
    }

    /// Waits for the next message: `true` is a row, `false` only says that the
    /// changefeed works. A call that is dropped loses nothing.
    ///
    /// # Errors
    ///
    /// The changefeed has ended, or nothing came for `settings.silence`.
    pub async fn next(&mut self) -> Result<bool, FeedError> {
        loop {
            let told = match self.answer.next().await {
                // How far it is has no table.
                Ok(Some(row)) => return Ok(!matches!(row.try_get(0), Ok(None::<&str>))),
                Ok(None) => {
                    let why = "the server has ended the changefeed".to_owned();
                    return Err(FeedError::Interrupted(why));
                }
                Err(Broken::Silent(bound)) => {
                    let why = format!("the server was silent for {bound:?}");
                    return Err(FeedError::Interrupted(why));
                }
                Err(Broken::Failed(failed)) => Told::of(&failed),
            };
            if classify(&told, &self.who) == Failure::Spelling
                && let Some(other) = self.statement.otherwise(&told.message)
            {
                self.answer = ask(&self.client, &other, &self.settings);
                self.statement = other;
                continue;
            }
            return Err(error(&told, &self.who));
        }
    }
}

fn ask(client: &Arc<Client>, statement: &Statement, settings: &CockroachFeedSettings) -> Answer {
    let text = statement.to_string();
    Answer::ask(client, text, None, settings.answer_wait, settings.silence)
}
