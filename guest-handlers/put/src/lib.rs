//! The default PUT handler: reads what is to be written, and appends it.
//!
//! A value comes as text in a JSON envelope or as the raw body; the raw body
//! never enters this component, the host hands its handle on. What the
//! request means is decided in [`write`], which knows nothing of WIT and is
//! tested natively.

mod write;

use tidepool::kv::http;
use tidepool::kv::log_put::{Options, put};
use tidepool::kv::log_types::WriteError;
use tidepool::kv::types::{Body, Header, Value};

// Brings in `Guest`, `Request`, `Response`, `Failure` and the host
// interfaces as modules under `tidepool::kv`.
wit_bindgen::generate!({ path: "../../wit", world: "put" });

struct Put;

export!(Put);

impl Guest for Put {
    fn handle(request: Request) -> Result<Response, Failure> {
        let said = match write::said(&http::headers()) {
            Ok(said) => said,
            Err(write::Refused::BadRequest(detail)) => return Err(Failure::BadRequest(detail)),
            Err(write::Refused::Coded(detail)) => return Ok(coded(&detail)),
        };
        let raw = !write::is_envelope(said.content_type.as_deref()) || http::query("raw").is_some();

        let (value, envelope) = if raw {
            (http::body_value(), None)
        } else {
            let envelope = write::envelope(&http::body()).map_err(Failure::BadRequest)?;
            let bytes = envelope.bytes().map_err(Failure::BadRequest)?;
            (Value::new(&bytes), Some(envelope))
        };
        let options = Options {
            content_type: raw.then(|| {
                said.content_type
                    .unwrap_or_else(|| "application/octet-stream".to_owned())
            }),
            ttl: said.ttl,
            condition: request.condition,
        };

        let receipt = put(&value, &options).map_err(|error| match error {
            WriteError::PreconditionFailed(version) => Failure::PreconditionFailed(version),
            WriteError::TooLarge(text) => Failure::TooLarge(text),
            WriteError::Unavailable(text) => Failure::Unavailable(text),
            WriteError::OutcomeUnknown(text) => Failure::OutcomeUnknown(text),
        })?;

        let key = http::key();
        let written = match &envelope {
            Some(envelope) => write::Written::envelope(&key, envelope, &receipt.timestamp),
            None => write::Written::raw(&key, value.size(), &receipt.timestamp),
        };
        Ok(Response {
            status: 201,
            version: Some(receipt.version),
            cache: None,
            content_type: Some("application/json".to_owned()),
            headers: Vec::new(),
            body: Body::Bytes(written.to_json()),
        })
    }
}

/// The refusal of a body with a coding. `Accept-Encoding` says which would be taken
/// (RFC 9110, section 15.5.16).
fn coded(detail: &str) -> Response {
    Response {
        status: write::CODED_STATUS,
        version: None,
        cache: None,
        content_type: Some("application/problem+json".to_owned()),
        headers: vec![Header {
            name: "accept-encoding".to_owned(),
            value: "identity".to_owned(),
        }],
        body: Body::Bytes(write::coded(detail)),
    }
}
