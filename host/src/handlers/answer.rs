//! A component's answer, checked: what may leave the host, and what is the
//! component's error.

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};

use crate::model::Version;
use crate::wit_host::bindings::tidepool::kv::types::{Body, CacheStatus, Response};
use crate::wit_host::context::{Context, StoredValue};

/// Headers that a component may add to its answer.
pub const MAX_HEADERS: usize = 64;

/// The body of an answer.
#[derive(Debug)]
pub enum AnswerBody {
    /// None.
    Empty,
    /// Bytes that the component made.
    Bytes(Bytes),
    /// A value as stored.
    Stored(StoredValue),
    /// The JSON envelope of a value.
    Envelope(StoredValue),
}

/// An answer that can be sent.
#[derive(Debug)]
pub struct Answer {
    /// 200 to 599.
    pub status: StatusCode,
    /// For `ETag`.
    pub version: Option<Version>,
    /// For `X-Cache`.
    pub cache: Option<CacheStatus>,
    /// For `Content-Type`.
    pub content_type: Option<HeaderValue>,
    /// Others.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: AnswerBody,
}

/// What is wrong with an answer. The text goes to the client and to the log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadAnswer {
    /// Not 200 to 599.
    #[error("status {0} is not one of 200 to 599")]
    Status(u16),
    /// Not above 0, as every version is.
    #[error("version {0} is not a version; versions are above 0")]
    Version(i64),
    /// A header that HTTP does not allow.
    #[error("{0:?} is not a header that can be sent")]
    Header(String),
    /// A header that is the host's.
    #[error("the header {0} is the host's to set")]
    HostHeader(HeaderName),
    /// Over [`MAX_HEADERS`].
    #[error("{0} headers; at most {MAX_HEADERS} are allowed")]
    TooManyHeaders(usize),
    /// Over `limits.response_bytes`.
    #[error("a body of {0} bytes; at most {1} are allowed (limits.response_bytes)")]
    TooLarge(usize, usize),
    /// The body names a value that the component does not hold.
    #[error("the body is not a value of this call")]
    NoSuchValue,
    /// Not one decision per change.
    #[error("{0} decisions for {1} changes")]
    Decisions(usize, usize),
}

/// Checks a response; takes the value that its body names.
pub(super) fn check(
    response: Response,
    context: &mut Context,
    max_bytes: usize,
) -> Result<Answer, BadAnswer> {
    let status = match response.status {
        200..=599 => {
            StatusCode::from_u16(response.status).map_err(|_| BadAnswer::Status(response.status))?
        }
        other => return Err(BadAnswer::Status(other)),
    };
    if let Some(version) = response.version.filter(|version| *version < 1) {
        return Err(BadAnswer::Version(version));
    }
    if response.headers.len() > MAX_HEADERS {
        return Err(BadAnswer::TooManyHeaders(response.headers.len()));
    }
    let mut headers = Vec::with_capacity(response.headers.len());
    for h in response.headers {
        let name =
            HeaderName::from_bytes(h.name.as_bytes()).map_err(|_| BadAnswer::Header(h.name))?;
        if is_the_hosts(&name) {
            return Err(BadAnswer::HostHeader(name));
        }
        let value =
            HeaderValue::try_from(h.value).map_err(|_| BadAnswer::Header(name.to_string()))?;
        headers.push((name, value));
    }
    let content_type = match response.content_type {
        Some(text) => Some(
            HeaderValue::try_from(text)
                .map_err(|_| BadAnswer::Header(header::CONTENT_TYPE.to_string()))?,
        ),
        None => None,
    };
    let body = match response.body {
        Body::Empty => AnswerBody::Empty,
        Body::Bytes(bytes) if bytes.len() > max_bytes => {
            return Err(BadAnswer::TooLarge(bytes.len(), max_bytes));
        }
        Body::Bytes(bytes) => AnswerBody::Bytes(Bytes::from(bytes)),
        Body::Value(value) => AnswerBody::Stored(
            context
                .take_value(value.rep())
                .map_err(|_| BadAnswer::NoSuchValue)?,
        ),
        Body::Envelope(value) => AnswerBody::Envelope(
            context
                .take_value(value.rep())
                .map_err(|_| BadAnswer::NoSuchValue)?,
        ),
    };
    Ok(Answer {
        status,
        version: response.version.map(Version),
        cache: response.cache,
        content_type,
        headers,
        body,
    })
}

/// Headers that frame the message or that the host derives from the response.
fn is_the_hosts(name: &HeaderName) -> bool {
    const HOSTS: [HeaderName; 10] = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::DATE,
        header::ETAG,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::PROXY_AUTHENTICATE,
    ];
    HOSTS.contains(name) || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "x-cache")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::wit_host::bindings::tidepool::kv::types::Header;
    use crate::wit_host::context::CallBounds;
    use crate::wit_host::wasi::HandlerOutput;

    fn checked(change: impl FnOnce(&mut Response)) -> Result<Answer, BadAnswer> {
        let mut response = Response {
            status: 200,
            version: Some(5),
            cache: None,
            content_type: None,
            headers: vec![],
            body: Body::Empty,
        };
        change(&mut response);
        let mut context = Context::new(
            CallBounds::of(&Limits::default()),
            None,
            HandlerOutput::discard(),
        );
        check(response, &mut context, 10)
    }

    fn header(name: &str, value: &str) -> Header {
        Header {
            name: name.into(),
            value: value.into(),
        }
    }

    #[test]
    fn only_final_statuses_are_sent() {
        for status in [0, 99, 100, 199, 600, u16::MAX] {
            assert_eq!(
                checked(|r| r.status = status).unwrap_err(),
                BadAnswer::Status(status)
            );
        }
        assert!(checked(|r| r.status = 200).is_ok() && checked(|r| r.status = 599).is_ok());
    }

    #[test]
    fn only_versions_are_sent_as_versions() {
        for version in [i64::MIN, -1, 0] {
            let answer = checked(|r| r.version = Some(version));
            assert_eq!(answer.unwrap_err(), BadAnswer::Version(version));
        }
        assert!(checked(|r| r.version = Some(1)).is_ok());
        assert!(checked(|r| r.version = None).is_ok());
    }

    #[test]
    fn headers_cannot_split_the_message_or_frame_it() {
        assert!(checked(|r| r.headers.push(header("x-a", "b\r\nset-cookie: c"))).is_err());
        assert!(checked(|r| r.headers.push(header("x a", "b"))).is_err());
        assert!(checked(|r| r.headers.push(header("Content-Length", "3"))).is_err());
        assert!(checked(|r| r.headers.push(header("x-a", "b"))).is_ok());
        assert!(checked(|r| r.content_type = Some("a\nb".into())).is_err());
    }

    #[test]
    fn headers_and_bytes_are_bounded() {
        let many = |n| checked(|r| r.headers = (0..n).map(|_| header("x", "y")).collect());
        assert!(many(MAX_HEADERS).is_ok() && many(MAX_HEADERS + 1).is_err());
        assert!(checked(|r| r.body = Body::Bytes(vec![0; 10])).is_ok());
        assert_eq!(
            checked(|r| r.body = Body::Bytes(vec![0; 11])).unwrap_err(),
            BadAnswer::TooLarge(11, 10)
        );
    }
}
