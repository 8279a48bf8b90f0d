//! The accept loop of one address: HTTP/1.1 with keep-alive and HTTP/2, a
//! bound on connections, and a drain with a bound; over TLS where it is given a
//! certificate. It knows nothing of what is served: the service is a function
//! from a request and the client's address to a response.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::connection::{Marked, Patience, Pulse, drive};
use super::drain::{AbortOnDrop, Drain, Member, Wanted};
use super::respond::Answer;
use super::socket::Socket;
use super::tls::Tls;

/// Connections that the system keeps waiting to be accepted.
const BACKLOG: u32 = 1024;

/// First and longest pause after a failed accept, for example when the process
/// has no file descriptor left.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long connections that were told to end at once may take to do so.
const ABORT_WAIT: Duration = Duration::from_secs(1);

/// A future on the heap.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; {}", advice(source))]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop the program that has it, or choose another port",
        io::ErrorKind::PermissionDenied => {
            "choose a port from 1024 up, or allow this program to bind it"
        }
        io::ErrorKind::AddrNotAvailable => {
            "choose an address that this machine has, such as 127.0.0.1"
        }
        _ => "choose another address",
    }
}

/// Bytes of the head of a request over HTTP/2, as it counts them: room for the
/// largest configuration of a handler.
const MAX_HTTP2_HEAD_BYTES: u32 = 64 * 1024;

/// Bounds of one server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionLimits {
    /// Connections served at once; further ones wait to be accepted.
    pub max_connections: u32,
    /// How long a client may take to send the head of a request, and before that
    /// for the handshake of TLS.
    pub header_timeout: Duration,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// How long requests in flight may take to finish after the stop.
    pub drain_timeout: Duration,
}

/// An address that is bound and not yet served.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
}

impl Server {
    /// Binds an address; port 0 takes any free port. Must be called within a
    /// Tokio runtime.
    pub fn bind(address: SocketAddr) -> Result<Server, BindError> {
        let failed = |source| BindError { address, source };
        let listener = listen(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Server {
            listener,
            address,
            tls: None,
        })
    }

    /// Serves over TLS, and nothing without it.
    #[must_use]
    pub fn with_tls(mut self, tls: Arc<Tls>) -> Server {
        self.tls = Some(tls);
        self
    }

    /// Whether it serves over TLS.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The address that was bound, with its real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is true or its sender is gone, and then drains: no
    /// new connection, requests in flight are answered, and what is not done
    /// after `drain_timeout` is cut. Returns how many connections were cut.
    ///
    /// When the returned future is dropped, its connections end at once.
    pub async fn run<S, F>(
        self,
        service: S,
        limits: ConnectionLimits,
        mut stop: watch::Receiver<bool>,
    ) -> usize
    where
        S: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let drain = Arc::new(Drain::default());
        let _abort = AbortOnDrop(Arc::clone(&drain));
        let permits = Arc::new(Semaphore::new(limits.max_connections as usize));
        let patience = Patience {
            header: limits.header_timeout,
            idle: limits.idle_timeout,
        };
        tokio::select! {
            () = stopped(&mut stop) => {}
            () = accept(&self, service, patience, &permits, &drain) => {}
        }
        // From here on a new client is told that nobody listens.
        drop(self);
        drain.want(Wanted::Drain);
        let all = permits.acquire_many(limits.max_connections);
        if tokio::time::timeout(limits.drain_timeout, all)
            .await
            .is_ok()
        {
            return 0;
        }
        let cut = limits.max_connections as usize - permits.available_permits();
        drain.want(Wanted::Abort);
        let _ =
            tokio::time::timeout(ABORT_WAIT, permits.acquire_many(limits.max_connections)).await;
        cut
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restart need not wait for the old connections' last packets.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone cannot say stop any more: that is a stop, too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Accepts for ever.
async fn accept<S, F>(
    server: &Server,
    service: S,
    patience: Patience,
    permits: &Arc<Semaphore>,
    drain: &Arc<Drain>,
) where
    S: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let mut pause = FIRST_PAUSE;
    loop {
        // Only closing the semaphore fails, and nobody does.
        let Ok(permit) = Arc::clone(permits).acquire_owned().await else {
            return;
        };
        let (socket, peer) = match server.listener.accept().await {
            Ok(accepted) => accepted,
            // The client gave up while it waited; the next one may be fine.
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(address = %server.address, %error, "cannot accept connections; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        pause = FIRST_PAUSE;
        let service = service.clone();
        let service = move |request| service(request, peer);
        let (drain, tls) = (Arc::clone(drain), server.tls.clone());
        tokio::spawn(async move {
            serve(socket, tls, service, patience, &drain).await;
            drop(permit);
        });
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// Serves one connection.
async fn serve<S, F>(
    socket: TcpStream,
    tls: Option<Arc<Tls>>,
    service: S,
    patience: Patience,
    drain: &Drain,
) where
    S: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    // Answers are written whole; waiting to fill a packet only adds delay.
    let _ = socket.set_nodelay(true);
    let mut member = drain.member();
    let socket = match &tls {
        None => Socket::Plain(socket),
        Some(tls) => match shake_hands(socket, tls, patience, &mut member).await {
            Some(socket) => socket,
            None => return,
        },
    };
    let pulse = Arc::new(Pulse::default());
    let marks = Arc::clone(&pulse);
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = marks.begin(request.version());
        let answer = service(request);
        async move {
            let response = answer.await;
            drop(busy);
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // hyper's own timeout sets a new timer for every request; see `connection`.
    builder.http1().header_read_timeout(None);
    builder.http2().max_header_list_size(MAX_HTTP2_HEAD_BYTES);
    let io = Marked::new(socket, Arc::clone(&pulse));
    let connection = builder.serve_connection(io, service);
    drive(connection, &pulse, patience, member).await;
}

/// The handshake of TLS; nothing when it fails, takes too long, or the server is
/// to stop: no request has begun then.
async fn shake_hands(
    socket: TcpStream,
    tls: &Arc<Tls>,
    patience: Patience,
    member: &mut Member<'_>,
) -> Option<Socket> {
    let handshake = tokio::time::timeout(patience.header, tls.accept(socket));
    let stop = std::future::poll_fn(|cx| match member.wanted(cx) {
        Wanted::Serve => Poll::Pending,
        Wanted::Drain | Wanted::Abort => Poll::Ready(()),
    });
    tokio::select! {
        done = handshake => done.ok()?.ok(),
        () = stop => None,
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
