//! What a deployment says before its component: which slots, which keys or which
//! plan, what changes of the configuration, and the digest of what is to come.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::Request;
use http::header::{HeaderMap, HeaderName};

use super::query::Query;
use super::respond::{Kind, Problem};
use crate::deployments::plan::{MAX_PAUSE, USUAL_PAUSE};
use crate::deployments::{ConfigChange, Digest, Outline, Share};
use crate::handlers::rollout::{Rollout, Upload};
use crate::model::Operation;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// What a deployment changes of the configuration.
pub(super) const CONFIG: HeaderName = HeaderName::from_static("tidepool-config");

/// What a deploy says before its component.
pub(super) fn said<B>(operation: &str, request: &Request<B>) -> Result<Upload, Problem> {
    let operation = known(operation)?;
    let query = Query::of(request.uri(), &["region", "canary", "plan", "pause"])?;
    Ok(Upload {
        operation,
        rollout: rollout(&query)?,
        config: config(request.headers())?,
        component: bytes::Bytes::new(),
        announced: announced(request.headers())?,
        note: String::new(),
        signature: None,
    })
}

/// A plan, or a share in some regions.
fn rollout(query: &Query) -> Result<Rollout, Problem> {
    let bad = |detail: String| Problem::new(Kind::BadRequest, detail);
    let Some(plan) = query.text("plan") else {
        if query.text("pause").is_some() {
            let detail = "query parameter \"pause\": it is the pause of a plan; send plan too";
            return Err(bad(detail.to_owned()));
        }
        return Ok(Rollout::Now {
            regions: query.list("region"),
            share: share(query, "canary")?.unwrap_or(Share::ALL),
        });
    };
    if query.text("region").is_some() || query.text("canary").is_some() {
        let detail = "query parameter \"plan\": it names the regions and shares; leave region and canary out";
        return Err(bad(detail.to_owned()));
    }
    let outline = Outline::parse(plan).map_err(|error| bad(error.to_string()))?;
    let pause = match query.text("pause") {
        Some(text) => humantime::parse_duration(text)
            .ok()
            .filter(|pause| *pause <= MAX_PAUSE)
            .ok_or_else(|| {
                bad(format!(
                    "query parameter \"pause\": {text:?} is not a time up to {}; write 90s, 5m or 1h",
                    humantime::format_duration(MAX_PAUSE)
                ))
            })?,
        None => USUAL_PAUSE,
    };
    Ok(Rollout::Planned { outline, pause })
}

/// What changes of the configuration: JSON in base64.
fn config(headers: &HeaderMap) -> Result<ConfigChange, Problem> {
    let Some(value) = headers.get(CONFIG) else {
        return Ok(ConfigChange::default());
    };
    let bad = |why: String| {
        let detail = format!(
            "header Tidepool-Config: {why}; send an object of texts, {{\"secret\": \"env:...\"}} and nulls, as JSON in base64"
        );
        Problem::new(Kind::BadRequest, detail)
    };
    let json = BASE64
        .decode(value)
        .map_err(|error| bad(error.to_string()))?;
    serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))
}

pub(super) fn share(query: &Query, name: &str) -> Result<Option<Share>, Problem> {
    let Some(text) = query.text(name) else {
        return Ok(None);
    };
    match Share::parse(text) {
        Some(share) => Ok(Some(share)),
        None => Err(Problem::new(
            Kind::BadRequest,
            format!(
                "query parameter {name:?}: {text:?} is no share of the keys; write 0.01% to 100%"
            ),
        )),
    }
}

pub(super) fn known(operation: &str) -> Result<Operation, Problem> {
    Operation::parse(operation).ok_or_else(|| {
        let detail =
            format!("there is no operation {operation:?}; there are get, put, delete and hydrate");
        Problem::new(Kind::NoSuchPath, detail)
    })
}

/// The SHA-256 in `Content-Digest` (RFC 9530).
fn announced(headers: &HeaderMap) -> Result<Option<Digest>, Problem> {
    let Some(value) = headers.get(CONTENT_DIGEST) else {
        return Ok(None);
    };
    let digest = value.to_str().ok().and_then(|text| {
        let member = text
            .split(',')
            .map(str::trim)
            .find_map(|member| member.strip_prefix("sha-256=:"))?;
        Digest::from_bytes(&BASE64.decode(member.strip_suffix(':')?).ok()?)
    });
    match digest {
        Some(digest) => Ok(Some(digest)),
        None => Err(Problem::new(
            Kind::BadRequest,
            "header Content-Digest: send sha-256=:<base64 of 32 bytes>: (RFC 9530), or leave it out",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let value = http::HeaderValue::from_static(value);
            (HeaderName::from_static(name), value)
        });
        pairs.collect()
    }

    #[test]
    fn a_content_digest_is_32_bytes_of_base64() {
        let digest = Digest::of(b"x");
        let text: &'static str = format!("sha-256=:{}:", BASE64.encode(digest.as_bytes())).leak();
        assert_eq!(
            announced(&headers(&[("content-digest", text)])).unwrap(),
            Some(digest)
        );
        assert!(announced(&headers(&[("content-digest", "sha-256=:AAAA:")])).is_err());
        assert_eq!(announced(&HeaderMap::new()).unwrap(), None);
    }
}
