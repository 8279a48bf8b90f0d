//! What a PUT writes: what its headers say, the JSON envelope, and the answer.
//! Pure: no host call, no WIT type.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use miniserde::Deserialize;
use serde::Serialize;
use std::borrow::Cow;
use std::str;

/// The longest time to live, ten years of seconds.
const MAX_TTL: u32 = 315_360_000;

/// The status of [`coded`].
pub const CODED_STATUS: u16 = 415;

const ADVICE: &str = r#"send {"value": "..."}, or bytes under another Content-Type"#;

/// What the headers of a PUT say.
#[derive(PartialEq, Eq, Debug)]
pub struct Said {
    pub content_type: Option<String>,
    /// In seconds.
    pub ttl: Option<u32>,
}

/// Why headers are refused; each is a sentence for the client.
#[derive(PartialEq, Eq, Debug)]
pub enum Refused {
    /// They cannot be read, or are not for a PUT.
    BadRequest(String),
    /// The body has a coding that nothing here undoes.
    Coded(String),
}

/// Reads the headers, whose names are in lower case. What would change the meaning
/// of the write is refused rather than passed over.
pub fn said(headers: &[(String, String)]) -> Result<Said, Refused> {
    // RFC 9110, section 14.5: a part would be taken for the whole.
    if lines(headers, "content-range").next().is_some() {
        return Err(Refused::BadRequest(
            "header Content-Range: a PUT writes the whole value; leave the header out".to_owned(),
        ));
    }
    let mut codings = lines(headers, "content-encoding")
        .flat_map(|line| line.split(','))
        .map(str::trim);
    if codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity")) {
        return Err(Refused::Coded(
            "header Content-Encoding: only identity is taken; send the body without a coding"
                .to_owned(),
        ));
    }
    let content_type = once(headers, "content-type", "Content-Type")?;
    let ttl = once(headers, "tidepool-ttl", "Tidepool-TTL")?;
    Ok(Said {
        content_type: content_type.map(str::to_owned),
        ttl: ttl.map(ttl_of).transpose().map_err(Refused::BadRequest)?,
    })
}

/// The lines of a header.
fn lines<'a>(headers: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .iter()
        .filter(move |(named, _)| named == name)
        .map(|(_, value)| value.as_str())
}

/// The line of a header that is sent at most once; `shown` is how its name is
/// written.
fn once<'a>(
    headers: &'a [(String, String)],
    name: &'a str,
    shown: &str,
) -> Result<Option<&'a str>, Refused> {
    let mut lines = lines(headers, name);
    let first = lines.next();
    match lines.next() {
        None => Ok(first),
        Some(_) => Err(Refused::BadRequest(format!("header {shown}: send it once"))),
    }
}

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

/// Reads the header `Tidepool-TTL`: digits only, as a number can also be written
/// with a sign.
fn ttl_of(text: &str) -> Result<u32, String> {
    let text = text.trim();
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(seconds @ 1..=MAX_TTL) if digits => Ok(seconds),
        _ => Err(format!(
            "header Tidepool-TTL: send a number of seconds, 1 to {MAX_TTL}"
        )),
    }
}

/// The problem document (RFC 9457) of a body with a coding. The other refusals are
/// the host's to write; it has none with this status.
pub fn coded(detail: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Problem<'a> {
        r#type: &'static str,
        title: &'static str,
        status: u16,
        detail: &'a str,
    }
    let problem = Problem {
        r#type: "/problems/unsupported-media-type",
        title: "The body has a coding that is not taken",
        status: CODED_STATUS,
        detail,
    };
    serde_json::to_vec(&problem).unwrap_or_default()
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

    fn with(lines: &[(&str, &str)]) -> Result<Said, Refused> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        said(&lines.iter().map(own).collect::<Vec<_>>())
    }

    #[test]
    fn a_time_to_live_is_whole_seconds_within_bounds() {
        let ttl = |text| with(&[("tidepool-ttl", text)]).map(|said| said.ttl);
        assert_eq!(with(&[]).unwrap().ttl, None);
        assert_eq!(ttl("1"), Ok(Some(1)));
        assert_eq!(ttl(" 315360000 "), Ok(Some(MAX_TTL)));
        for text in [
            "",
            "0",
            "-1",
            "+5",
            "1.5",
            "315360001",
            "99999999999",
            "soon",
            "1, 2",
        ] {
            let Err(Refused::BadRequest(detail)) = ttl(text) else {
                panic!("{text:?} is taken");
            };
            assert!(detail.contains("Tidepool-TTL"), "{detail}");
        }
    }

    #[test]
    fn what_is_sent_twice_is_refused_by_its_name() {
        for (name, shown) in [
            ("tidepool-ttl", "Tidepool-TTL"),
            ("content-type", "Content-Type"),
        ] {
            let twice = with(&[(name, "5"), ("accept", "*/*"), (name, "5")]);
            let detail = format!("header {shown}: send it once");
            assert_eq!(twice, Err(Refused::BadRequest(detail)));
        }
        let once = with(&[("content-type", "text/plain"), ("tidepool-ttl", "5")]);
        let expected = Said {
            content_type: Some("text/plain".to_owned()),
            ttl: Some(5),
        };
        assert_eq!(once, Ok(expected));
    }

    #[test]
    fn a_part_of_a_value_is_refused() {
        let refused = with(&[("content-range", "bytes 0-1/3")]);
        assert!(
            matches!(&refused, Err(Refused::BadRequest(detail)) if detail.contains("Content-Range")),
            "{refused:?}"
        );
    }

    #[test]
    fn a_body_with_a_coding_is_refused() {
        for lines in [
            &[("content-encoding", "gzip")][..],
            &[("content-encoding", "identity, br")],
            &[
                ("content-encoding", "identity"),
                ("content-encoding", "gzip"),
            ],
        ] {
            assert!(matches!(with(lines), Err(Refused::Coded(_))), "{lines:?}");
        }
        for coding in ["identity", "Identity", "", "identity,identity"] {
            assert!(with(&[("content-encoding", coding)]).is_ok(), "{coding}");
        }
        assert_eq!(
            String::from_utf8(coded("why")).unwrap(),
            r#"{"type":"/problems/unsupported-media-type","title":"The body has a coding that is not taken","status":415,"detail":"why"}"#
        );
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
