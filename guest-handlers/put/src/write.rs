//! What a PUT writes: the JSON envelope, its time to live, and the answer.
//! Pure: no host call, no WIT type.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use miniserde::Deserialize;
use serde::Serialize;
use std::borrow::Cow;
use std::str;

/// The longest time to live, ten years of seconds.
const MAX_TTL: u32 = 315_360_000;

const ADVICE: &str = r#"send {"value": "..."}, or bytes under another Content-Type"#;

/// Whether a body of this media type is an envelope rather than the value
/// itself. No type at all, and the one that `curl -d` sends unasked, are.
pub fn is_envelope(content_type: Option<&str>) -> bool {
    let Some(content_type) = content_type else {
        return true;
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    ["", "application/json", "application/x-www-form-urlencoded"]
        .iter()
        .any(|known| essence.eq_ignore_ascii_case(known))
}

/// A value in transit: `{"value": "...", "encoding": "base64"}`. Other fields
/// are passed over.
#[derive(Debug, Deserialize)]
pub struct Envelope {
    value: String,
    encoding: Option<String>,
}

/// Reads an envelope. An error is a sentence for the client.
pub fn envelope(body: &[u8]) -> Result<Envelope, String> {
    // Read by miniserde: serde_json's reader, with its errors and its numbers,
    // would by itself take this component over its 64 KiB.
    str::from_utf8(body)
        .ok()
        .and_then(|text| miniserde::json::from_str(text).ok())
        .ok_or_else(|| format!("the body is no JSON with a text as \"value\": {ADVICE}"))
}

impl Envelope {
    /// The bytes to store.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>, String> {
        match self.encoding.as_deref() {
            None => Ok(Cow::Borrowed(self.value.as_bytes())),
            Some("base64") => STANDARD
                .decode(self.value.as_bytes())
                .map(Cow::Owned)
                .map_err(|_| {
                    format!(
                        "\"value\" is not base64, with + and / and padding: mend it, or {ADVICE}"
                    )
                }),
            Some(_) => Err(format!(
                "\"encoding\" can only be \"base64\": leave it out, or {ADVICE}"
            )),
        }
    }
}

/// Reads the header `Tidepool-TTL`.
pub fn ttl(text: &str) -> Result<u32, String> {
    match text.trim().parse() {
        Ok(seconds @ 1..=MAX_TTL) => Ok(seconds),
        _ => Err(format!(
            "Tidepool-TTL is a number of seconds, 1 to {MAX_TTL}"
        )),
    }
}

/// The answer to a write; the fields are in the order that clients know.
#[derive(Serialize)]
pub struct Written<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u32>,
    timestamp: &'a str,
    deleted: bool,
}

impl<'a> Written<'a> {
    /// Says what came in the envelope back as it was sent.
    pub fn envelope(key: &'a str, envelope: &'a Envelope, timestamp: &'a str) -> Self {
        Written {
            key,
            value: Some(&envelope.value),
            encoding: envelope.encoding.as_deref(),
            size: None,
            timestamp,
            deleted: false,
        }
    }

    /// Names the size of a raw value in place of the value.
    pub fn raw(key: &'a str, size: u32, timestamp: &'a str) -> Self {
        Written {
            key,
            value: None,
            encoding: None,
            size: Some(size),
            timestamp,
            deleted: false,
        }
    }

    pub fn to_json(&self) -> Vec<u8> {
        // Fails only for a map whose keys are not text; there is no map.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(body: &str) -> Result<Vec<u8>, String> {
        envelope(body.as_bytes()).and_then(|envelope| envelope.bytes().map(Cow::into_owned))
    }

    #[test]
    fn json_forms_and_no_type_at_all_are_envelopes() {
        assert!(is_envelope(None));
        assert!(is_envelope(Some("")));
        assert!(is_envelope(Some("application/json")));
        assert!(is_envelope(Some("Application/JSON; charset=utf-8")));
        assert!(is_envelope(Some("application/x-www-form-urlencoded")));
        assert!(!is_envelope(Some("text/plain")));
        assert!(!is_envelope(Some("application/octet-stream")));
        assert!(!is_envelope(Some("application/jsonl")));
    }

    #[test]
    fn the_value_is_taken_and_other_fields_are_passed_over() {
        assert_eq!(bytes(r#"{"value": "tide"}"#).unwrap(), b"tide");
        assert_eq!(bytes(r#"{"value": ""}"#).unwrap(), b"");
        assert_eq!(
            bytes(r#" {"ttl": [1.5e9, {}], "value": "\u00e9\n", "encoding": null} "#).unwrap(),
            "é\n".as_bytes()
        );
    }

    #[test]
    fn base64_is_decoded() {
        let body = r#"{"value": "AP/+", "encoding": "base64"}"#;
        assert_eq!(bytes(body).unwrap(), [0x00, 0xff, 0xfe]);
    }

    #[test]
    fn what_is_no_envelope_is_refused_with_advice() {
        for body in [
            "",
            "tide",
            "[]",
            "{}",
            r#"{"value": 1}"#,
            r#"{"value": null}"#,
            r#"{"value": "a"} x"#,
            r#"{"value": "\ud800"}"#,
            r#"{"value": "a", "encoding": "rot13"}"#,
            r#"{"value": "a", "encoding": "base64"}"#,
        ] {
            let text = bytes(body).unwrap_err();
            assert!(text.ends_with(ADVICE), "{body}: {text}");
            assert!(!text.contains('\n'));
        }
        assert!(envelope(b"{\"value\": \"\xff\"}").is_err());
        assert!(envelope("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn a_time_to_live_is_whole_seconds_within_bounds() {
        assert_eq!(ttl("1"), Ok(1));
        assert_eq!(ttl(" 315360000 "), Ok(MAX_TTL));
        for text in ["", "0", "-1", "1.5", "315360001", "99999999999", "soon"] {
            assert!(ttl(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_answer_has_its_fields_in_order() {
        let plain = envelope(br#"{"value": "a\"b"}"#).unwrap();
        assert_eq!(
            Written::envelope("k", &plain, "T").to_json(),
            br#"{"key":"k","value":"a\"b","timestamp":"T","deleted":false}"#
        );
        let coded = envelope(br#"{"value": "AA==", "encoding": "base64"}"#).unwrap();
        assert_eq!(
            Written::envelope("k", &coded, "T").to_json(),
            br#"{"key":"k","value":"AA==","encoding":"base64","timestamp":"T","deleted":false}"#
        );
        assert_eq!(
            Written::raw("k", 3, "T").to_json(),
            br#"{"key":"k","size":3,"timestamp":"T","deleted":false}"#
        );
    }
}
