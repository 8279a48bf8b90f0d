//! The default PUT handler: reads what is to be written, and appends it.
//!
//! A value comes as text in a JSON envelope or as the raw body; the raw body
//! never enters this component, the host hands its handle on. What the
//! request means is decided in [`write`], which knows nothing of WIT and is
//! tested natively.

mod write;

use tidepool::kv::log_put::{Options, put};
use tidepool::kv::log_types::WriteError;
use tidepool::kv::types::{Body, Value};

// Brings in `Guest`, `Request`, `Incoming`, `Response`, `Failure` and the host
// interfaces as modules under `tidepool::kv`.
wit_bindgen::generate!({ path: "../../wit", world: "put" });

struct Put;

export!(Put);

impl Guest for Put {
    fn handle(request: Request, incoming: &Incoming) -> Result<Response, Failure> {
        let content_type = incoming.header("content-type");
        let raw = !write::is_envelope(content_type.as_deref()) || incoming.query("raw").is_some();
        let ttl = incoming
            .header("tidepool-ttl")
            .map(|text| write::ttl(&text))
            .transpose()
            .map_err(Failure::BadRequest)?;

        let (value, envelope) = if raw {
            (incoming.body_value(), None)
        } else {
            let envelope = write::envelope(&incoming.body()).map_err(Failure::BadRequest)?;
            let bytes = envelope.bytes().map_err(Failure::BadRequest)?;
            (Value::new(&bytes), Some(envelope))
        };
        let options = Options {
            content_type: raw
                .then(|| content_type.unwrap_or_else(|| "application/octet-stream".to_owned())),
            ttl,
            condition: request.condition,
        };

        let receipt = put(&request.key, &value, &options).map_err(|error| match error {
            WriteError::InvalidKey(text) => Failure::BadRequest(text),
            WriteError::PreconditionFailed(version) => Failure::PreconditionFailed(version),
            WriteError::TooLarge(text) => Failure::TooLarge(text),
            WriteError::Unavailable(text) => Failure::Unavailable(text),
            WriteError::OutcomeUnknown(text) => Failure::OutcomeUnknown(text),
        })?;

        let written = match &envelope {
            Some(envelope) => write::Written::envelope(&request.key, envelope, &receipt.timestamp),
            None => write::Written::raw(&request.key, value.size(), &receipt.timestamp),
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
