//! What a GET decides by: entity tags (RFC 9110, section 13.1) and the
//! `Accept` header (section 12.5.1). Pure: no host call, no WIT type.

/// How a value is sent.
#[derive(Debug, PartialEq)]
pub enum Shape {
    /// `{"key": "...", "value": "..."}`.
    Envelope,
    /// The bytes as stored, under this media type.
    Raw(String),
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const BYTES: &str = "application/octet-stream";

/// Whether an entity-tag condition names this version. `None` is `*`.
pub fn matches(tags: Option<&[i64]>, version: i64) -> bool {
    tags.is_none_or(|versions| versions.contains(&version))
}

/// Picks the shape for a value `stored` under a media type, or (`None`) as
/// text in an envelope. An error is the sentence that says what is on offer.
///
/// The answer carries the type that was asked for: a client that accepts only
/// `application/octet-stream` gets just that, whatever the value is.
pub fn choose(accept: Option<&str>, stored: Option<String>) -> Result<Shape, String> {
    let Some(accept) = accept else {
        return Ok(stored.map_or(Shape::Envelope, Shape::Raw));
    };
    // Best first: between equals the client gets what it would get unasked.
    let offers = match &stored {
        None => [JSON, TEXT, BYTES],
        Some(own) => [own.as_str(), BYTES, JSON],
    };
    let ranges = parse(accept);
    if ranges.is_empty() {
        return Ok(stored.map_or(Shape::Envelope, Shape::Raw));
    }
    let mut best: Option<(usize, u16)> = None;
    for (index, offer) in offers.iter().enumerate() {
        let weight = weight(&ranges, offer);
        if weight > best.map_or(0, |(_, weight)| weight) {
            best = Some((index, weight));
        }
    }
    // Where the envelope stands among the offers above.
    let envelope = if stored.is_none() { 0 } else { 2 };
    match best {
        Some((index, _)) if index == envelope => Ok(Shape::Envelope),
        Some((index, _)) => Ok(Shape::Raw(offers[index].to_owned())),
        None => {
            let [first, second, third] = offers;
            Err(format!(
                "this value is on offer as {first}, {second} or {third}: accept one of them, or leave Accept out"
            ))
        }
    }
}

/// One member of `Accept`: a media range and its weight in thousandths.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    weight: u16,
}

/// Reads the header. Members that are no media ranges are passed over, as a
/// recipient of a list may.
fn parse(accept: &str) -> Vec<Range<'_>> {
    accept
        .split(',')
        .filter_map(|member| {
            let mut parts = member.split(';').map(str::trim);
            let (kind, subtype) = parts.next()?.split_once('/')?;
            if kind.is_empty() || subtype.is_empty() {
                return None;
            }
            let weight = parts
                .filter_map(|parameter| parameter.split_once('='))
                .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
                .map_or(Some(1000), |(_, q)| thousandths(q.trim()))?;
            Some(Range {
                kind,
                subtype,
                weight,
            })
        })
        .collect()
}

/// A weight, `0` to `1` with at most three decimals, in thousandths.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut weight = match whole {
        "0" => 0,
        "1" => 1,
        _ => return None,
    };
    for position in 0..3 {
        let digit = decimals
            .as_bytes()
            .get(position)
            .map_or(0, |byte| byte - b'0');
        weight = weight * 10 + u16::from(digit);
    }
    (weight <= 1000).then_some(weight)
}

/// The weight of a media type: that of the most specific range with it.
fn weight(ranges: &[Range], media_type: &str) -> u16 {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let (kind, subtype) = essence.split_once('/').unwrap_or((essence, ""));
    ranges
        .iter()
        .filter_map(|range| {
            let specificity = match (range.kind, range.subtype) {
                ("*", "*") => 0,
                (k, "*") if k.eq_ignore_ascii_case(kind) => 1,
                (k, s) if k.eq_ignore_ascii_case(kind) && s.eq_ignore_ascii_case(subtype) => 2,
                _ => return None,
            };
            Some((specificity, range.weight))
        })
        .max_by_key(|&(specificity, weight)| (specificity, weight))
        .map_or(0, |(_, weight)| weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(accept: &str, stored: Option<&str>) -> Option<Shape> {
        choose(Some(accept), stored.map(str::to_owned)).ok()
    }

    fn raw(media_type: &str) -> Option<Shape> {
        Some(Shape::Raw(media_type.to_owned()))
    }

    #[test]
    fn unasked_a_value_comes_back_as_it_was_written() {
        assert_eq!(choose(None, None), Ok(Shape::Envelope));
        assert_eq!(
            choose(None, Some("image/png".into())).ok(),
            raw("image/png")
        );
        assert_eq!(shape("nonsense", None), Some(Shape::Envelope));
        assert_eq!(shape("", Some("image/png")), raw("image/png"));
    }

    #[test]
    fn text_in_an_envelope_is_also_had_raw() {
        assert_eq!(shape("application/json", None), Some(Shape::Envelope));
        assert_eq!(shape("APPLICATION/*", None), Some(Shape::Envelope));
        assert_eq!(shape("text/html, */*;q=0.1", None), Some(Shape::Envelope));
        assert_eq!(shape("text/plain", None), raw(TEXT));
        assert_eq!(shape("text/*", None), raw(TEXT));
        assert_eq!(shape("application/octet-stream", None), raw(BYTES));
        assert_eq!(shape("image/png", None), None);
    }

    #[test]
    fn a_typed_value_is_had_under_its_type_as_bytes_or_in_an_envelope() {
        let stored = Some("Text/HTML; charset=utf-8");
        assert_eq!(shape("text/html", stored), raw("Text/HTML; charset=utf-8"));
        assert_eq!(shape("text/*", stored), raw("Text/HTML; charset=utf-8"));
        assert_eq!(shape("application/octet-stream", stored), raw(BYTES));
        assert_eq!(shape("application/json", stored), Some(Shape::Envelope));
        assert_eq!(shape("text/plain", stored), None);
    }

    #[test]
    fn json_written_raw_comes_back_raw() {
        assert_eq!(shape("application/json", Some(JSON)), raw(JSON));
    }

    #[test]
    fn weights_decide_and_the_most_specific_range_speaks() {
        assert_eq!(
            shape("application/json;q=0.5, text/plain;q=0.8", None),
            raw(TEXT)
        );
        assert_eq!(
            shape("*/*, application/json;q=0", None),
            raw(TEXT),
            "a zero weight refuses, whatever the wildcard says"
        );
        assert_eq!(shape("*/*;q=0", None), None);
        assert_eq!(
            shape("text/plain;q=2, application/json", None),
            Some(Shape::Envelope),
            "a weight above one is not a weight"
        );
    }

    #[test]
    fn a_refusal_names_what_is_on_offer() {
        let text = choose(Some("image/png"), None).unwrap_err();
        assert!(text.contains("application/json") && text.contains("text/plain"));
    }

    #[test]
    fn weights_are_read_in_thousandths() {
        for (text, weight) in [
            ("1", Some(1000)),
            ("1.000", Some(1000)),
            ("0", Some(0)),
            ("0.", Some(0)),
            ("0.25", Some(250)),
            ("0.001", Some(1)),
            ("1.001", None),
            ("0.1234", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(thousandths(text), weight, "{text:?}");
        }
    }

    #[test]
    fn a_star_matches_every_version_and_an_empty_list_none() {
        assert!(matches(None, 7));
        assert!(matches(Some(&[3, 7]), 7));
        assert!(!matches(Some(&[3]), 7));
        assert!(!matches(Some(&[]), 7));
    }
}
