//! HTTP/1.1 as bytes, for requests that an HTTP library would not send and
//! clients that behave as none should.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Answer, within};

/// A connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    /// Connects.
    ///
    /// # Panics
    ///
    /// Nobody listens.
    pub async fn connect(address: SocketAddr) -> Wire {
        match within("a connection", TcpStream::connect(address)).await {
            Ok(stream) => Wire {
                stream,
                read: Vec::new(),
            },
            Err(error) => panic!("cannot connect to {address}: {error}"),
        }
    }

    /// Sends a request to its last byte before it reads anything; the answer, with
    /// which the connection ends.
    ///
    /// # Panics
    ///
    /// The request is cut off, or the connection goes on.
    pub async fn sends_all(address: SocketAddr, head: &str, body: &[u8]) -> Answer {
        let mut wire = Wire::connect(address).await;
        wire.send(head).await;
        assert!(wire.send(body).await, "cut off: {head}");
        let answer = wire.answer().await;
        assert_eq!(answer.header("connection"), Some("close"), "{answer:#?}");
        assert!(wire.closed().await.is_empty());
        answer
    }

    /// Sends bytes as they are. That the other side has stopped listening is
    /// no error: what it has answered before counts. Whether all were taken.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let sent = self.stream.write_all(bytes.as_ref());
        within("room to send", sent).await.is_ok()
    }

    /// Sends bytes, and reads some that come; whether the other side is there.
    pub async fn exchange(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.send(bytes).await && self.read_more().await
    }

    /// Says that no more bytes will come.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Reads one answer, framed by `Content-Length`; one without has no body.
    ///
    /// # Panics
    ///
    /// The connection ends before the answer does, or it is not HTTP/1.1.
    pub async fn answer(&mut self) -> Answer {
        loop {
            if let Some((answer, length)) = parse(&self.read) {
                self.read.drain(..length);
                return answer;
            }
            assert!(
                self.read_more().await,
                "the connection ended after {:?}",
                String::from_utf8_lossy(&self.read)
            );
        }
    }

    /// Reads until the other side closes the connection; what came until then.
    pub async fn closed(mut self) -> Vec<u8> {
        while self.read_more().await {}
        self.read
    }

    /// Whether bytes came; not at the end of the connection.
    async fn read_more(&mut self) -> bool {
        let read = within("bytes, or the end", self.stream.read_buf(&mut self.read)).await;
        // A reset is an end, too.
        read.is_ok_and(|count| count > 0)
    }
}

/// The first answer in the bytes, and its length, if it is all there.
fn parse(bytes: &[u8]) -> Option<(Answer, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let Some(status) = status else {
        panic!("not an answer: {head:?}");
    };
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        match (
            HeaderName::try_from(name),
            HeaderValue::try_from(value.trim()),
        ) {
            (Ok(name), Ok(value)) => headers.append(name, value),
            _ => panic!("not a header: {line:?}"),
        };
    }
    let length = headers
        .get("content-length")
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(0);
    let body = bytes.get(end + 4..end + 4 + length)?;
    let answer = Answer {
        to: "bytes on the wire".to_owned(),
        status,
        http: http::Version::HTTP_11,
        headers,
        body: Bytes::copy_from_slice(body),
    };
    Some((answer, end + 4 + length))
}
