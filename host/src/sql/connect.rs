//! One connection to any of the hosts, and the task that drives it. It must not
//! outlive its owner: dropping the task ends the connection, also in the middle of
//! an answer.

use std::future::poll_fn;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::tls::TlsStream;
use tokio_postgres::{AsyncMessage, Client, Connection, Socket};

use super::error::{Class, SqlError, classify, explain};
use super::server::{ServerKind, parse_version};
use super::url::{Place, SqlConfig};

/// The task of a connection; dropping it cuts the connection.
#[derive(Debug)]
pub struct ConnectionTask {
    task: JoinHandle<()>,
    notified: watch::Receiver<u64>,
}

impl ConnectionTask {
    /// Cuts the connection: what is under way has no answer any more.
    pub fn abort(&self) {
        self.task.abort();
    }

    /// How many notifications (of channels that were listened to) have arrived. It
    /// ends with the connection.
    pub fn notifications(&self) -> watch::Receiver<u64> {
        self.notified.clone()
    }

    /// Waits until the connection has ended, for whatever reason.
    pub async fn closed(&self) {
        let mut notified = self.notified.clone();
        while notified.changed().await.is_ok() {}
    }
}

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects to the first of the hosts, in the order of the URL, that lets us in and
/// is new enough. The connection is nobody else's.
///
/// # Errors
///
/// [`SqlError::Connect`] or [`SqlError::NotSupported`], at the latest after
/// `connect_timeout` for each host.
pub async fn connect_dedicated(
    config: &SqlConfig,
) -> Result<(Client, ConnectionTask, ServerKind), SqlError> {
    let mut failures: Vec<(String, Class, String)> = Vec::new();
    for place in config.places() {
        let (class, why) = match timeout(config.connect_timeout, connect(config, place)).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(Failure::NotSupported(source))) => {
                return Err(SqlError::NotSupported {
                    target: config.target().to_owned(),
                    source,
                });
            }
            Ok(Err(Failure::Server(error))) => {
                let what = match classify(&error) {
                    Class::Lost | Class::Other => {
                        "; check that the server runs and that host and port are right"
                    }
                    _ => "",
                };
                let why = format!("{}{what}", explain(&error, config.role()));
                (classify(&error), why)
            }
            Err(_) => (
                Class::Lost,
                format!(
                    "no connection within {:?} (database.connect_timeout); check host, port and firewall",
                    config.connect_timeout
                ),
            ),
        };
        failures.push((place.name(), class, why));
    }
    let class = failures.last().map_or(Class::Lost, |(_, class, _)| *class);
    let why = match &failures[..] {
        [(_, _, why)] => why.clone(),
        all => {
            let each = all.iter().map(|(place, _, why)| format!("{place}: {why}"));
            each.collect::<Vec<_>>().join("; ")
        }
    };
    Err(SqlError::Connect {
        target: config.target().to_owned(),
        class,
        why,
    })
}

/// Makes a connection fit for writes: what is acknowledged on it is on disk, and
/// transactions of CockroachDB are serializable, whatever the server's defaults are.
///
/// # Errors
///
/// The server's.
pub async fn ready_to_write(
    client: &Client,
    kind: ServerKind,
    config: &SqlConfig,
) -> Result<(), tokio_postgres::Error> {
    const EXACT: &str = "SET default_transaction_isolation = 'serializable'";
    const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') = 'off'";
    client.batch_execute(&config.statement_timeout()).await?;
    client
        .batch_execute(match kind {
            ServerKind::Cockroach { .. } => EXACT,
            ServerKind::Postgres { .. } => DURABLE,
        })
        .await
}

enum Failure {
    Server(tokio_postgres::Error),
    NotSupported(super::server::NotSupported),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        Failure::Server(error)
    }
}

async fn connect(
    config: &SqlConfig,
    place: &Place,
) -> Result<(Client, ConnectionTask, ServerKind), Failure> {
    let (client, connection) = config.at(place).connect(config.tls()).await?;
    let (notify, notified) = watch::channel(0);
    let task = ConnectionTask {
        task: tokio::spawn(drive(connection, notify)),
        notified,
    };
    let version = client.query_one("SELECT version()", &[]).await?;
    let version: &str = version.try_get(0)?;
    let kind = parse_version(version).map_err(Failure::NotSupported)?;
    Ok((client, task, kind))
}

/// Moves bytes until the connection ends.
async fn drive<S: TlsStream + Unpin>(
    mut connection: Connection<Socket, S>,
    notify: watch::Sender<u64>,
) {
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(_))) => notify.send_modify(|count| *count += 1),
            Some(Ok(AsyncMessage::Notice(notice))) => {
                tracing::debug!(notice = notice.message(), "the database says");
            }
            Some(Ok(_)) => {}
            // Whoever waits for an answer gets the error too.
            Some(Err(error)) => {
                tracing::debug!(
                    error = explain(&error, ""),
                    "a connection to the database has ended"
                );
                return;
            }
            None => return,
        }
    }
}

/// First and longest wait before another try to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Tries to connect that whoever waits for a whole request's time sees, at least.
const TRIES_IN_A_REQUEST: u32 = 4;

/// Waits that double, each with a random half, so that many that lost a server do
/// not come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// Waits for a server on which a request may take `request_timeout`: short
    /// enough that one that waits that long does not miss that the server is back.
    pub fn new(request_timeout: Duration) -> Backoff {
        Backoff {
            next: BACKOFF.0,
            longest: (request_timeout / TRIES_IN_A_REQUEST).clamp(BACKOFF.0, BACKOFF.1),
        }
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.next = BACKOFF.0;
    }

    /// The next wait: 25 ms at first, 5 s at most.
    fn next_wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.longest);
        whole / 2 + (whole / 2).mul_f64(rand::random::<f64>())
    }

    /// Waits the next wait.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_are_not_all_alike() {
        for (request, longest) in [
            (Duration::from_millis(1), BACKOFF.0),
            (Duration::from_secs(1), Duration::from_millis(250)),
            (Duration::from_secs(60), BACKOFF.1),
        ] {
            let mut backoff = Backoff::new(request);
            let waits: Vec<Duration> = (0..50).map(|_| backoff.next_wait()).collect();
            assert!(waits[0] <= BACKOFF.0 && waits[0] >= BACKOFF.0 / 2);
            assert!(waits.iter().all(|wait| *wait <= longest));
            let late = &waits[20..];
            assert!(late.iter().all(|wait| *wait >= longest / 2));
            assert!(late.iter().any(|wait| *wait != late[0]));
            backoff.reset();
            assert!(backoff.next_wait() <= BACKOFF.0);
        }
    }
}
