//! One client's connection: it drives hyper, and cuts a client off that stalls
//! or stays away. What it must not do: cost a request a timer. Requests and
//! bytes leave marks in a few atomics, and one timer per connection looks at
//! the marks now and then. The end, where it lingers, is in `linger`.

use std::future::Future;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulConnection;
use tokio::task::unconstrained;
use tokio::time::Instant;

use super::drain::{Member, Wanted};
use super::frames::Written;
use super::linger::Linger;
use super::socket::Socket;

/// How long a client may stall.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Patience {
    /// From the first byte of a head, or the opening, to its last.
    pub header: Duration,
    /// Without a request, a byte of an answer taken by the client, or a head under
    /// way.
    pub idle: Duration,
}

impl Patience {
    /// How often a connection is looked at: a client is cut off at most an
    /// eighth later than its time.
    fn tick(self) -> Duration {
        (self.header.min(self.idle) / 8).max(Duration::from_millis(1))
    }
}

/// The marks that a connection's traffic leaves.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Requests being answered.
    busy: AtomicU32,
    /// Requests ever begun.
    begun: AtomicU64,
    /// Changes whenever the client takes bytes of an answer or a request ends.
    progress: AtomicU64,
    /// Bytes have come since the last request began or ended.
    partial: AtomicBool,
    /// It speaks HTTP/2, where bytes between requests are not a head.
    multiplexed: AtomicBool,
    /// The last answer is sent; only the client's end is waited for.
    lingering: AtomicBool,
}

impl Pulse {
    /// Marks a request as being answered until the guard goes.
    pub(super) fn begin(self: &Arc<Pulse>, version: http::Version) -> Busy {
        self.busy.fetch_add(1, Relaxed);
        self.begun.fetch_add(1, Relaxed);
        self.partial.store(false, Relaxed);
        if version == http::Version::HTTP_2 {
            self.multiplexed.store(true, Relaxed);
        }
        Busy(Arc::clone(self))
    }

    fn phase(&self) -> Phase {
        let begun = self.begun.load(Relaxed);
        if self.busy.load(Relaxed) > 0 {
            Phase::Answering
        } else if begun == 0 || (self.partial.load(Relaxed) && !self.multiplexed.load(Relaxed)) {
            Phase::Head { begun }
        } else {
            Phase::Idle {
                progress: self.progress.load(Relaxed),
            }
        }
    }
}

/// A request that is being answered.
pub(super) struct Busy(Arc<Pulse>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.progress.fetch_add(1, Relaxed);
        self.0.partial.store(false, Relaxed);
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

/// What a connection is doing. Equal at two looks: nothing has moved between.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// A request is being answered; its own bounds apply.
    Answering,
    /// A head is under way.
    Head { begun: u64 },
    /// It waits for the next request, or for the client to take an answer.
    Idle { progress: u64 },
}

/// Decides when a client has stalled for too long.
#[derive(Debug)]
struct Watch {
    phase: Phase,
    since: Instant,
}

impl Watch {
    /// Whether the client has used its time up.
    fn stalled(&mut self, phase: Phase, now: Instant, patience: Patience) -> bool {
        if phase != self.phase {
            *self = Watch { phase, since: now };
        }
        let allowed = match phase {
            Phase::Answering => return false,
            Phase::Head { .. } => patience.header,
            Phase::Idle { .. } => patience.idle,
        };
        now.duration_since(self.since) >= allowed
    }
}

/// A socket that marks what goes through it.
pub(super) struct Marked {
    socket: TokioIo<Socket>,
    pulse: Arc<Pulse>,
    written: Written,
    linger: Option<Linger>,
}

impl Marked {
    /// Marks a socket's traffic.
    pub(super) fn new(socket: Socket, pulse: Arc<Pulse>) -> Marked {
        Marked {
            socket: TokioIo::new(socket),
            pulse,
            written: Written::default(),
            linger: None,
        }
    }

    /// What the client has taken is a mark if it is of an answer. Others are none:
    /// whoever sends PINGs over HTTP/2 is idle all the same.
    fn mark_write(&mut self, taken: &Poll<std::io::Result<usize>>, bufs: &[IoSlice<'_>]) {
        let Poll::Ready(Ok(mut left)) = *taken else {
            return;
        };
        let mut of_answer = false;
        for buf in bufs {
            let here = left.min(buf.len());
            of_answer |= self.written.answers(&buf[..here]);
            left -= here;
        }
        if of_answer {
            self.pulse.progress.fetch_add(1, Relaxed);
        }
    }
}

impl Read for Marked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        // The end of the stream is marked too; the connection ends with it.
        if read.is_ready() && self.pulse.busy.load(Relaxed) == 0 {
            self.pulse.partial.store(true, Relaxed);
        }
        read
    }
}

impl Write for Marked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.mark_write(&written, &[IoSlice::new(buf)]);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    /// hyper drops the socket once this is ready, so the lingering is here.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let linger = match &mut this.linger {
            Some(linger) => linger,
            None => {
                ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
                this.pulse.lingering.store(true, Relaxed);
                this.linger.insert(Linger::new())
            }
        };
        // Beneath TLS: what is forgotten need not be deciphered.
        linger.poll(this.socket.inner_mut().transport(), cx).map(Ok)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.mark_write(&written, bufs);
        written
    }
}

/// Drives a connection until it ends, stalls, or is to stop.
pub(super) async fn drive<C: GracefulConnection>(
    connection: C,
    pulse: &Pulse,
    patience: Patience,
    mut member: Member<'_>,
) {
    let tick = patience.tick();
    let start = Instant::now();
    let mut connection = pin!(connection);
    let mut timer = pin!(tokio::time::sleep_until(start + tick));
    let mut watch = Watch {
        phase: Phase::Head { begun: 0 },
        since: start,
    };
    let mut draining = false;
    std::future::poll_fn(|cx| {
        match member.wanted(cx) {
            Wanted::Abort => return Poll::Ready(()),
            Wanted::Drain if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            Wanted::Serve | Wanted::Drain => {}
        }
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // A stop does not wait for a client that has its answer.
        if draining && pulse.lingering.load(Relaxed) {
            return Poll::Ready(());
        }
        // Without a share in what the runtime lets one task do at once: a client that
        // sends without a pause would use it up, and never be looked at.
        while pin!(unconstrained(timer.as_mut())).poll(cx).is_ready() {
            let now = Instant::now();
            if watch.stalled(pulse.phase(), now, patience) {
                return Poll::Ready(());
            }
            timer.as_mut().reset(now + tick);
        }
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        header: Duration::from_secs(10),
        idle: Duration::from_secs(60),
    };

    /// Looks at a pulse once a second; the second at which it had stalled.
    fn seconds_to_stall(pulse: &Pulse, mut each_second: impl FnMut(u64)) -> Option<u64> {
        let start = Instant::now();
        let mut watch = Watch {
            phase: pulse.phase(),
            since: start,
        };
        (1..=1000).find(|second| {
            each_second(*second);
            watch.stalled(
                pulse.phase(),
                start + Duration::from_secs(*second),
                PATIENCE,
            )
        })
    }

    #[test]
    fn a_client_that_says_nothing_has_the_time_of_a_head() {
        assert_eq!(seconds_to_stall(&Pulse::default(), |_| {}), Some(10));
    }

    #[test]
    fn dribbling_a_head_does_not_help() {
        let pulse = Arc::new(Pulse::default());
        drop(pulse.begin(http::Version::HTTP_11));
        let dribble = |_| pulse.partial.store(true, Relaxed);
        // The head is seen at the first look, a second after it began.
        assert_eq!(seconds_to_stall(&pulse, dribble), Some(11));
    }

    #[test]
    fn a_connection_between_requests_is_idle() {
        let pulse = Arc::new(Pulse::default());
        drop(pulse.begin(http::Version::HTTP_11));
        assert_eq!(seconds_to_stall(&pulse, |_| {}), Some(60));
        // A client that takes its answer slowly is not.
        let taken = |second: u64| pulse.progress.store(second.min(100), Relaxed);
        assert_eq!(seconds_to_stall(&pulse, taken), Some(160));
    }

    #[test]
    fn bytes_between_requests_of_http2_are_not_a_head() {
        let pulse = Arc::new(Pulse::default());
        drop(pulse.begin(http::Version::HTTP_2));
        pulse.partial.store(true, Relaxed);
        assert_eq!(seconds_to_stall(&pulse, |_| {}), Some(60));
    }

    #[test]
    fn a_request_being_answered_is_not_cut() {
        let pulse = Arc::new(Pulse::default());
        let busy = pulse.begin(http::Version::HTTP_11);
        assert_eq!(seconds_to_stall(&pulse, |_| {}), None);
        drop(busy);
        assert_eq!(seconds_to_stall(&pulse, |_| {}), Some(60));
    }
}
