//! A connection whose other side may stop listening before all is sent: what it
//! has answered by then is still read. Without this the failure of the next write
//! would hide why it stopped.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the head of this file.
pub(super) struct Lenient<S> {
    socket: S,
    /// Nobody listens any more; what is written is forgotten.
    deaf: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lenient<S> {
    /// Nothing has failed yet.
    pub(super) fn new(socket: S) -> Lenient<S> {
        Lenient {
            socket,
            deaf: false,
        }
    }

    /// Writes while somebody listens. `else_done` is what it has come to when
    /// nobody does.
    fn write<T>(
        &mut self,
        else_done: T,
        write: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if !self.deaf {
            match write(Pin::new(&mut self.socket)) {
                Poll::Ready(Err(error)) if is_deafness(&error) => self.deaf = true,
                other => return other,
            }
        }
        Poll::Ready(Ok(else_done))
    }
}

fn is_deafness(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted
    )
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(buf.len(), |socket| socket.poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write((), |socket| socket.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write((), |socket| socket.poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().map(|buf| buf.len()).sum();
        self.write(all, |socket| socket.poll_write_vectored(cx, bufs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Fails each write, and has an answer to read.
    struct Gone(&'static [u8], ErrorKind);

    impl AsyncRead for Gone {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Gone {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(self.1.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(self.1.into()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(self.1.into()))
        }
    }

    #[tokio::test]
    async fn what_was_answered_is_read_after_a_write_has_failed() {
        for kind in [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset] {
            let mut lenient = Lenient::new(Gone(b"why", kind));
            lenient.write_all(&[0; 100]).await.unwrap();
            lenient.flush().await.unwrap();
            let mut answer = String::new();
            lenient.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "why");
            lenient.shutdown().await.unwrap();
        }
    }

    #[tokio::test]
    async fn another_failure_stays_one() {
        let mut lenient = Lenient::new(Gone(b"", ErrorKind::OutOfMemory));
        let error = lenient.write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    }
}
