//! The connection of one feed: nothing else runs on it, and it ends with the feed.

use std::future::poll_fn;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, Error};

use super::failure::Told;

/// A client and the task that moves its bytes. Dropping it cuts the connection:
/// a changefeed never ends by itself, and a dropped client would wait for that.
pub(super) struct Connection {
    pub client: Arc<Client>,
    task: JoinHandle<()>,
    ended: Arc<Mutex<Option<Told>>>,
}

impl Connection {
    /// Runs a connection.
    pub fn run<S, T>(client: Client, mut connection: tokio_postgres::Connection<S, T>) -> Connection
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let ended = Arc::new(Mutex::new(None));
        let why = Arc::clone(&ended);
        let task = tokio::spawn(async move {
            loop {
                match poll_fn(|cx| connection.poll_message(cx)).await {
                    Some(Ok(AsyncMessage::Notice(notice))) => {
                        tracing::info!(notice = notice.message(), "the database says");
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        // Before the connection is dropped, which the client sees.
                        *why.lock() = Some(told(&error));
                        break;
                    }
                    None => break,
                }
            }
        });
        Connection {
            client: Arc::new(client),
            task,
            ended,
        }
    }

    /// What was told, also by a connection that has ended because of it.
    pub fn told(&self, error: &Error) -> Told {
        let told = told(error);
        match told.code {
            Some(_) => told,
            None => self.ended.lock().clone().unwrap_or(told),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What an error of the client says.
pub(super) fn told(error: &Error) -> Told {
    match error.as_db_error() {
        Some(said) => Told {
            code: Some(said.code().code().to_owned()),
            message: said.message().to_owned(),
        },
        None => Told {
            code: None,
            message: error.to_string(),
        },
    }
}
