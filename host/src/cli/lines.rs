//! An answer of the admin plane that comes line by line, each a document of JSON.
//! It knows nothing of what they say.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Response;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::CliError;

use super::client::{ClientArgs, MAX_ANSWER_BYTES, broke_off};
use crate::http::stream::NDJSON;

/// How long the admin plane may be silent: several times as long as it takes to
/// send at least an empty line.
const SILENCE: Duration = Duration::from_secs(30);

/// See the head of this file.
pub(super) struct Lines<'a> {
    args: &'a ClientArgs,
    advice: &'static str,
    body: Incoming,
    read: BytesMut,
    /// How much of it is known to have no end of a line.
    searched: usize,
}

impl Lines<'_> {
    /// Whether an answer comes line by line.
    pub(super) fn are_in(response: &Response<Incoming>) -> bool {
        let content_type = response.headers().get(CONTENT_TYPE);
        response.status().is_success() && content_type.is_some_and(|it| it == NDJSON)
    }

    /// The lines of such an answer; what to do when it breaks off.
    pub(super) fn of<'a>(
        args: &'a ClientArgs,
        response: Response<Incoming>,
        advice: &'static str,
    ) -> Lines<'a> {
        Lines {
            args,
            advice,
            body: response.into_body(),
            read: BytesMut::new(),
            searched: 0,
        }
    }

    /// The next line that is not empty; none at the end of the answer.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, CliError> {
        loop {
            while let Some(line) = self.take() {
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(line));
                }
            }
            let admin = &self.args.admin;
            if self.read.len() > MAX_ANSWER_BYTES {
                let why = format!("{admin} sends a line that does not end; is it an admin plane?");
                return Err(CliError::Failed(why));
            }
            let Ok(frame) = tokio::time::timeout(SILENCE, self.body.frame()).await else {
                let silence = humantime::format_duration(SILENCE);
                let why = format!("{admin} has been silent for {silence}; {}", self.advice);
                return Err(CliError::Unreachable(why));
            };
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| broke_off(self.args, &error, self.advice))?;
            if let Ok(data) = frame.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }

    /// A line that is there already.
    fn take(&mut self) -> Option<Bytes> {
        let unseen = self.read.get(self.searched..)?;
        match memchr::memchr(b'\n', unseen) {
            Some(end) => {
                let line = self.read.split_to(self.searched + end + 1);
                self.searched = 0;
                Some(line.freeze())
            }
            None => {
                self.searched = self.read.len();
                None
            }
        }
    }
}
