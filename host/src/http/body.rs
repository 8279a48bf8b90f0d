//! Reading a request's body whole, with a bound on its size and on the time
//! that the client takes. What it must not do: read one byte of a body that is
//! known to be too large.

use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;

/// Why there is no body.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BodyError {
    /// It is longer than allowed.
    #[error("the body is longer than {limit} bytes; send a smaller one")]
    TooLarge {
        /// The most that is allowed, in bytes.
        limit: usize,
    },
    /// It did not arrive in time.
    #[error("the body did not arrive within {}; send it faster, or raise http.body_timeout", humantime::format_duration(*after))]
    Timeout {
        /// How long it was waited for.
        after: Duration,
    },
    /// It ended before its declared length, or is not framed as HTTP wants.
    #[error(
        "the body did not come whole ({reason}); send as many bytes as Content-Length says, or chunks up to the empty one"
    )]
    Cut {
        /// What the HTTP layer says.
        reason: String,
    },
}

/// Reads a body of at most `limit` bytes in at most `timeout`.
pub async fn read_body<B>(body: B, limit: usize, timeout: Duration) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    // The declared length: a body that will be too long is not waited for.
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLarge { limit });
    }
    match tokio::time::timeout(timeout, read(body, limit)).await {
        Ok(read) => read,
        Err(_) => Err(BodyError::Timeout { after: timeout }),
    }
}

async fn read<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let mut body = pin!(body);
    // A small body comes in one piece and is not copied.
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Cut {
            reason: error.to_string(),
        })?;
        // What is no data is a trailer; nothing here asks for one.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.len() + whole.len() + data.len() > limit {
            return Err(BodyError::TooLarge { limit });
        }
        if !whole.is_empty() {
            whole.extend_from_slice(&data);
        } else if first.is_empty() {
            first = data;
        } else {
            let left = usize::try_from(body.size_hint().lower())
                .unwrap_or(0)
                .min(limit);
            whole.reserve(first.len() + data.len() + left);
            whole.extend_from_slice(&first);
            whole.extend_from_slice(&data);
            first = Bytes::new();
        }
    }
    Ok(if whole.is_empty() {
        first
    } else {
        whole.freeze()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    const SECOND: Duration = Duration::from_secs(1);

    fn pieces(pieces: &[&'static str]) -> impl Body<Data = Bytes, Error = String> {
        let frames: Vec<_> = pieces
            .iter()
            .map(|p| Ok(Frame::data(Bytes::from_static(p.as_bytes()))))
            .collect();
        StreamBody::new(stream::iter(frames))
    }

    #[tokio::test]
    async fn pieces_are_joined_up_to_the_limit() {
        assert_eq!(read_body(pieces(&[]), 0, SECOND).await, Ok(Bytes::new()));
        assert_eq!(
            read_body(pieces(&["ab", "", "cd", "e"]), 5, SECOND).await,
            Ok("abcde".into())
        );
        assert_eq!(
            read_body(pieces(&["ab", "cd", "ef"]), 5, SECOND).await,
            Err(BodyError::TooLarge { limit: 5 })
        );
        assert_eq!(
            read_body(pieces(&["abcdef"]), 5, SECOND).await,
            Err(BodyError::TooLarge { limit: 5 })
        );
    }

    #[tokio::test]
    async fn a_body_that_says_it_is_too_long_is_not_read() {
        let body = |n| Full::new(Bytes::from(vec![b'x'; n]));
        assert_eq!(
            read_body(body(6), 5, SECOND).await,
            Err(BodyError::TooLarge { limit: 5 })
        );
        assert_eq!(read_body(body(5), 5, SECOND).await, Ok("xxxxx".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_is_given_up() {
        let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, String>>());
        assert_eq!(
            read_body(never, 5, SECOND).await,
            Err(BodyError::Timeout { after: SECOND })
        );
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_cut() {
        let frames = vec![
            Ok(Frame::data(Bytes::from_static(b"a"))),
            Err("gone".to_owned()),
        ];
        let error = read_body(StreamBody::new(stream::iter(frames)), 5, SECOND).await;
        assert_eq!(
            error,
            Err(BodyError::Cut {
                reason: "gone".to_owned()
            })
        );
    }
}
