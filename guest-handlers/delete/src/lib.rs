//! The default DELETE handler: appends a tombstone, whether the key exists or
//! not, so that every region learns of it the same way.

use serde::Serialize;
use tidepool::kv::http;
use tidepool::kv::log_delete::delete;
use tidepool::kv::log_types::WriteError;
use tidepool::kv::types::Body;

// Brings in `Guest`, `Request`, `Response`, `Failure` and the host
// interfaces as modules under `tidepool::kv`.
wit_bindgen::generate!({ path: "../../wit", world: "delete" });

struct Delete;

export!(Delete);

impl Guest for Delete {
    fn handle(request: Request) -> Result<Response, Failure> {
        let receipt = delete(&request.condition).map_err(|error| match error {
            WriteError::PreconditionFailed(version) => Failure::PreconditionFailed(version),
            WriteError::TooLarge(text) => Failure::TooLarge(text),
            WriteError::Unavailable(text) => Failure::Unavailable(text),
            WriteError::OutcomeUnknown(text) => Failure::OutcomeUnknown(text),
        })?;
        Ok(Response {
            status: 200,
            version: Some(receipt.version),
            cache: None,
            content_type: Some("application/json".to_owned()),
            headers: Vec::new(),
            body: Body::Bytes(answer(&http::key(), &receipt.timestamp)),
        })
    }
}

/// The answer's body; the fields are in the order that clients know.
fn answer(key: &str, timestamp: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Deleted<'a> {
        key: &'a str,
        timestamp: &'a str,
        deleted: bool,
    }
    let deleted = Deleted {
        key,
        timestamp,
        deleted: true,
    };
    // Fails only for a map whose keys are not text; there is no map.
    serde_json::to_vec(&deleted).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_answer_has_its_fields_in_order_and_escapes_the_key() {
        assert_eq!(
            super::answer("a\"b\u{1}é", "T"),
            "{\"key\":\"a\\\"b\\u0001é\",\"timestamp\":\"T\",\"deleted\":true}".as_bytes()
        );
    }
}
