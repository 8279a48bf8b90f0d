//! An answer that comes line by line, as JSON, while the test goes on.

use bytes::BytesMut;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use crate::within;

/// The lines of an answer. When it is dropped the client goes away.
#[derive(Debug)]
pub struct Lines {
    to: String,
    body: Incoming,
    read: BytesMut,
}

impl Lines {
    pub(crate) fn of(to: String, answer: Response<Incoming>) -> Lines {
        assert_eq!(answer.status(), 200, "{to}");
        assert_eq!(
            answer.headers()["content-type"],
            "application/x-ndjson",
            "{to}"
        );
        Lines {
            to,
            body: answer.into_body(),
            read: BytesMut::new(),
        }
    }

    /// The next line that says something; none at the end of the answer.
    ///
    /// # Panics
    ///
    /// It is no JSON, the connection breaks, or nothing comes.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            let line = self.any().await?;
            if line.is_empty() {
                continue;
            }
            match serde_json::from_str(&line) {
                Ok(value) => return Some(value),
                Err(error) => panic!("{}: no JSON ({error}): {line}", self.to),
            }
        }
    }

    /// The next line, also an empty one; none at the end of the answer.
    ///
    /// # Panics
    ///
    /// The connection breaks, or nothing comes.
    pub async fn any(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let what = format!("a line of {}", self.to);
            match within(&what, self.body.frame()).await {
                None => return None,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => panic!("{} broke off: {error}", self.to),
            }
        }
    }

    /// All lines until the end.
    ///
    /// # Panics
    ///
    /// As [`Lines::next`].
    pub async fn rest(mut self) -> Vec<Value> {
        let mut rest = Vec::new();
        while let Some(line) = self.next().await {
            rest.push(line);
        }
        rest
    }
}
