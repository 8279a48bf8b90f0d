//! The end of a connection, in stages (RFC 9112, section 9.6). A socket that is
//! closed while bytes come that nobody has read is reset, and a reset takes away
//! what the client has not read yet: the very answer that says why its body was
//! refused. So the server stops writing, reads on and forgets what it reads, and
//! closes once the client has, or at a bound.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How long a client may take to stop sending and close, after the last answer.
pub(super) const LINGER_TIME: Duration = Duration::from_secs(5);

/// How many bytes it may send in that time: twice the largest component that is
/// taken by default, so that whoever sends one that is too large hears of it.
pub(super) const LINGER_BYTES: usize = 128 << 20;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 16 << 10;

/// See the head of this file.
pub(super) struct Linger {
    timer: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl Linger {
    /// Begins to wait for the client's end.
    pub(super) fn new() -> Linger {
        Linger {
            timer: Box::pin(tokio::time::sleep(LINGER_TIME)),
            bytes_left: LINGER_BYTES,
        }
    }

    /// Reads and forgets; ready when the client has closed, or used up a bound.
    pub(super) fn poll(&mut self, socket: &mut TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        // First: a client that sends without a pause would keep it from its turn.
        if self.timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut piece = [0; PIECE_BYTES];
        while self.bytes_left > 0 {
            let mut into = ReadBuf::new(&mut piece);
            let read = ready!(Pin::new(&mut *socket).poll_read(cx, &mut into));
            if read.is_err() || into.filled().is_empty() {
                break;
            }
            self.bytes_left = self.bytes_left.saturating_sub(into.filled().len());
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    /// Both ends of a connection: the client's and the server's.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    async fn linger(mut socket: TcpStream) -> usize {
        let mut linger = Linger::new();
        std::future::poll_fn(|cx| linger.poll(&mut socket, cx)).await;
        linger.bytes_left
    }

    #[tokio::test]
    async fn it_ends_with_the_client_and_reads_all_until_then() {
        let (mut client, server) = pair().await;
        let lingering = tokio::spawn(linger(server));
        let bytes = vec![0; 3 << 20];
        client.write_all(&bytes).await.unwrap();
        drop(client);
        assert_eq!(lingering.await.unwrap(), LINGER_BYTES - bytes.len());
    }

    #[tokio::test]
    async fn a_client_that_sends_without_end_is_left_at_the_bound() {
        let (mut client, server) = pair().await;
        let sending = tokio::spawn(async move {
            let piece = vec![0; 1 << 20];
            while client.write_all(&piece).await.is_ok() {}
        });
        linger(server).await;
        // It is told by a reset.
        sending.await.unwrap();
    }

    // Time passes by itself as soon as nothing else happens.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_neither_sends_nor_closes_is_left_in_time() {
        let (_client, server) = pair().await;
        let start = Instant::now();
        assert_eq!(linger(server).await, LINGER_BYTES);
        assert!(start.elapsed() >= LINGER_TIME);
    }
}
