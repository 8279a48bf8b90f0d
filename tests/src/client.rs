//! Requests to one address of a server, and its answers. The client keeps
//! connections alive and never sends a request twice by itself.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::{Lines, within};

/// One address of a server. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Plane {
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    /// Sent with every request.
    token: Option<String>,
}

impl Plane {
    /// The plane at an address.
    pub fn new(address: SocketAddr) -> Plane {
        let client = Client::builder(TokioExecutor::new())
            .retry_canceled_requests(false)
            .build_http();
        Plane {
            address,
            client,
            token: None,
        }
    }

    /// The same plane, with a bearer token in every request.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Plane {
        self.token = Some(token.to_owned());
        self
    }

    /// The same plane, spoken to in HTTP/2 from the first byte on.
    pub fn http2(&self) -> Plane {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        Plane {
            address: self.address,
            client,
            token: self.token.clone(),
        }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A request; it is sent by [`Call::send`].
    pub fn call(&self, method: &str, path: &str) -> Call {
        let call = Call {
            client: self.client.clone(),
            name: format!("{method} {path}"),
            request: Request::builder()
                .method(method)
                .uri(format!("http://{}{path}", self.address)),
            body: Bytes::new(),
        };
        match &self.token {
            Some(token) => call.header("authorization", format!("Bearer {token}")),
            None => call,
        }
    }

    /// A GET.
    pub fn get(&self, path: &str) -> Call {
        self.call("GET", path)
    }

    /// A HEAD.
    pub fn head(&self, path: &str) -> Call {
        self.call("HEAD", path)
    }

    /// A PUT.
    pub fn put(&self, path: &str) -> Call {
        self.call("PUT", path)
    }

    /// A DELETE.
    pub fn delete(&self, path: &str) -> Call {
        self.call("DELETE", path)
    }

    /// A POST.
    pub fn post(&self, path: &str) -> Call {
        self.call("POST", path)
    }

    /// Writes a text to a key, in the envelope; its version.
    ///
    /// # Panics
    ///
    /// It is not acknowledged.
    pub async fn write(&self, key: &str, value: &str) -> i64 {
        let put = self.put(&format!("/kv/{key}")).value(value);
        put.send().await.expect(201).version()
    }

    /// Deletes a key; the version of its tombstone.
    ///
    /// # Panics
    ///
    /// It is not acknowledged.
    pub async fn remove(&self, key: &str) -> i64 {
        let delete = self.delete(&format!("/kv/{key}"));
        delete.send().await.expect(200).version()
    }
}

/// A request on its way.
#[derive(Debug)]
pub struct Call {
    client: Client<HttpConnector, Full<Bytes>>,
    name: String,
    request: http::request::Builder,
    body: Bytes,
}

impl Call {
    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl ToString) -> Call {
        self.request = self.request.header(name, value.to_string());
        self
    }

    /// Sends bytes.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Call {
        self.body = body.into();
        self
    }

    /// Sends a text in the envelope that a PUT takes.
    #[must_use]
    pub fn value(self, value: &str) -> Call {
        let envelope = json!({ "value": value }).to_string();
        self.header("content-type", "application/json")
            .body(envelope)
    }

    /// Sends the request and reads the whole answer.
    ///
    /// # Panics
    ///
    /// There is no answer.
    pub async fn send(self) -> Answer {
        let name = self.name.clone();
        match self.try_send().await {
            Ok(answer) => answer,
            Err(error) => panic!("{name} has no answer: {error}"),
        }
    }

    /// As [`Call::send`]; an error when the connection fails.
    ///
    /// # Errors
    ///
    /// What the client says.
    ///
    /// # Panics
    ///
    /// The request cannot be written, or nothing happens at all.
    pub async fn try_send(self) -> Result<Answer, String> {
        let (name, client, request) = self.into_parts();
        let exchange = async {
            let answer = client.request(request).await?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((head, body))
        };
        let what = format!("the answer to {name}");
        let (head, body) = within(&what, exchange)
            .await
            .map_err(|error| format!("{error}, {:?}", error.source()))?;
        Ok(Answer {
            to: name,
            status: head.status.as_u16(),
            http: head.version,
            headers: head.headers,
            body,
        })
    }

    /// Sends the request; the lines of its answer are read as they come.
    ///
    /// # Panics
    ///
    /// There is no answer, or not one of lines.
    pub async fn lines(self) -> Lines {
        let (name, client, request) = self.into_parts();
        let what = format!("the answer to {name}");
        match within(&what, client.request(request)).await {
            Ok(answer) => Lines::of(name, answer),
            Err(error) => panic!("{name} has no answer: {error}"),
        }
    }

    fn into_parts(
        self,
    ) -> (
        String,
        Client<HttpConnector, Full<Bytes>>,
        Request<Full<Bytes>>,
    ) {
        match self.request.body(Full::new(self.body)) {
            Ok(request) => (self.name, self.client, request),
            Err(error) => panic!("{} cannot be sent: {error}", self.name),
        }
    }
}

/// An answer, and what it answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Method and path of the request.
    pub to: String,
    /// The status.
    pub status: u16,
    /// The version of HTTP.
    pub http: http::Version,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// Asserts the status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{self:#?}");
        self
    }

    /// The value of a header, if it was sent once.
    ///
    /// # Panics
    ///
    /// It was sent more than once, or is no text.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        assert!(values.next().is_none(), "{name} is sent twice: {self:#?}");
        match value.to_str() {
            Ok(text) => Some(text),
            Err(_) => panic!("{name} is no text: {self:#?}"),
        }
    }

    /// The version that `ETag` names.
    ///
    /// # Panics
    ///
    /// There is none.
    #[track_caller]
    pub fn version(&self) -> i64 {
        let tag = self.header("etag").unwrap_or_default();
        match tag.trim_matches('"').parse() {
            Ok(version) if tag == format!("\"{version}\"") => version,
            _ => panic!("ETag {tag:?} is not a version in quotes: {self:#?}"),
        }
    }

    /// The body as text.
    ///
    /// # Panics
    ///
    /// It is not UTF-8.
    #[track_caller]
    pub fn text(&self) -> &str {
        match std::str::from_utf8(&self.body) {
            Ok(text) => text,
            Err(_) => panic!("the body is no text: {self:#?}"),
        }
    }

    /// The body as JSON, sent as JSON.
    ///
    /// # Panics
    ///
    /// It is not.
    #[track_caller]
    pub fn json(&self) -> Value {
        let content_type = self.header("content-type").unwrap_or_default();
        assert!(
            matches!(
                content_type,
                "application/json" | "application/problem+json"
            ),
            "{self:#?}"
        );
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("the body is no JSON ({error}): {self:#?}"),
        }
    }

    /// Asserts that it is a problem document (RFC 9457) of this status and
    /// kind, whose text is one line; the document.
    #[track_caller]
    pub fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{self:#?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:#?}"
        );
        let document = self.json();
        assert_eq!(document["type"], format!("/problems/{kind}"), "{self:#?}");
        assert_eq!(document["status"], status, "{self:#?}");
        for member in ["title", "detail"] {
            let text = document[member].as_str().unwrap_or_default();
            assert!(
                !text.is_empty() && !text.contains('\n'),
                "{member}: {self:#?}"
            );
        }
        document
    }
}
