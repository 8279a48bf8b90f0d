//! Connections that only read: a fixed number of them, lent to blocking threads,
//! so that neither a slow disk nor a crowd of readers stops the async threads. It
//! must not know what is read.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::database::explain;
use super::writer::CLOSED;
use crate::log::ReadError;

/// The set of connections.
pub(super) struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    count: u32,
    wait: Duration,
}

impl Readers {
    /// Lends out these connections; a read waits for one at most for `wait`.
    pub fn new(connections: Vec<Connection>, wait: Duration) -> Readers {
        let count = connections.len() as u32;
        Readers {
            permits: Arc::new(Semaphore::new(connections.len())),
            idle: Arc::new(Mutex::new(connections)),
            count,
            wait,
        }
    }

    /// Runs `work` on a connection, on a blocking thread.
    pub async fn run<R, F>(&self, work: F) -> Result<R, ReadError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<R> + Send + 'static,
    {
        let permit = match timeout(self.wait, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(ReadError::Unavailable(CLOSED.into())),
            Err(_) => {
                return Err(ReadError::Unavailable(
                    "too many reads are waiting for the disk; try again later".into(),
                ));
            }
        };
        let idle = self.idle.clone();
        let done = tokio::task::spawn_blocking(move || {
            // Goes last: whoever gets it finds the connection back.
            let _permit = permit;
            let taken = idle.lock().pop();
            let lent = Lent {
                connection: taken,
                idle,
            };
            lent.connection.as_ref().map(work)
        });
        match done.await {
            Ok(Some(Ok(answer))) => Ok(answer),
            Ok(Some(Err(error))) => Err(ReadError::Unavailable(explain(&error))),
            Ok(None) => Err(ReadError::Unavailable(CLOSED.into())),
            Err(error) => Err(ReadError::Unavailable(format!(
                "a read has failed inside tidepool: {error}"
            ))),
        }
    }

    /// Refuses new reads, waits for those under way (bounded), and closes what has
    /// come back.
    pub async fn close(&self) {
        let _ = timeout(self.wait, self.permits.acquire_many(self.count)).await;
        self.permits.close();
        self.idle.lock().clear();
    }
}

/// A connection on loan: it comes back also from a read that panics.
struct Lent {
    connection: Option<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.idle.lock().extend(self.connection.take());
    }
}
