//! WASI for components whose language needs it: clocks, random numbers and
//! standard streams. There are no files, no sockets, no arguments and no
//! environment; what a component prints becomes log lines.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder};

/// Longest line that is logged, in bytes. More is cut, and said to be.
const MAX_LINE_BYTES: usize = 4096;

/// Where the printed lines of one revision's components go.
#[derive(Clone)]
pub struct HandlerOutput(Arc<dyn Fn(&str) + Send + Sync>);

impl HandlerOutput {
    /// Calls `line` with every line, without its end.
    pub fn new(line: impl Fn(&str) + Send + Sync + 'static) -> HandlerOutput {
        HandlerOutput(Arc::new(line))
    }

    /// Throws everything away.
    pub fn discard() -> HandlerOutput {
        HandlerOutput::new(|_| {})
    }
}

/// A context that reaches nothing but `output`.
pub(super) fn sandbox(output: &HandlerOutput) -> WasiCtx {
    WasiCtxBuilder::new()
        .stdout(output.clone())
        .stderr(output.clone())
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .build()
}

impl IsTerminal for HandlerOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for HandlerOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Lines {
            output: self.clone(),
            pending: Vec::new(),
        })
    }
}

/// Cuts a stream of bytes into lines.
struct Lines {
    output: HandlerOutput,
    pending: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let room = MAX_LINE_BYTES.saturating_sub(self.pending.len());
            self.pending
                .extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.finish_line();
            }
        }
    }

    fn finish_line(&mut self) {
        let cut = self.pending.len() >= MAX_LINE_BYTES;
        let line = String::from_utf8_lossy(&self.pending);
        let line = line.trim_end_matches(['\r', '\n']);
        if cut {
            (self.output.0)(&format!("{line} [cut at {MAX_LINE_BYTES} bytes]"));
        } else {
            (self.output.0)(line);
        }
        self.pending.clear();
    }
}

impl AsyncWrite for Lines {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.get_mut().feed(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.pending.is_empty() {
            self.finish_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[test]
    fn bytes_become_lines_and_long_lines_are_cut() {
        let seen = Arc::new(Mutex::new(Vec::<String>::new()));
        let sink = seen.clone();
        let mut lines = Lines {
            output: HandlerOutput::new(move |l| sink.lock().push(l.into())),
            pending: vec![],
        };
        lines.feed(b"one\ntw");
        lines.feed(b"o\r\n");
        lines.feed(&vec![b'x'; MAX_LINE_BYTES * 2]);
        lines.feed(b"\nlast");
        drop(lines);
        let seen = seen.lock();
        assert_eq!(seen[0], "one");
        assert_eq!(seen[1], "two");
        assert!(seen[2].ends_with("[cut at 4096 bytes]") && seen[2].len() < MAX_LINE_BYTES + 30);
        assert_eq!(seen[3], "last");
    }
}
