//! The admin plane: deployments, and how the regions are doing.
//!
//! On loopback it asks for no token, so it must not be reachable through
//! somebody's browser: a request that a web page can cause (one with an
//! `Origin`, or one for a host name that a page could have pointed at
//! loopback) is refused.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use http::{Method, Request, StatusCode, Uri};
use hyper::body::{Body as _, Incoming as HttpBody};
use subtle::ConstantTimeEq as _;

use super::body::read_body;
use super::documents::{
    Deployed, DeployedSlot, HandlerList, HandlerRevision, RevisionState, RolledBack,
    RolledBackSlot, Timings,
};
use super::region::{Readiness, Region, RegionReport};
use super::respond::{self, Answer, Kind, Problem};
use super::signed;
use crate::config::{Secret, Settings};
use crate::handlers::load::{Digest, LoadError};
use crate::handlers::registry::{DeployError, Listed, Registry};
use crate::model::Operation;
use crate::trust::failures::Failures;
use crate::trust::signature::TrustedKeys;
use crate::wit_host::log::rfc3339;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const ACTOR: HeaderName = HeaderName::from_static("tidepool-actor");

/// Longest `Tidepool-Actor`, in bytes.
const MAX_ACTOR_BYTES: usize = 256;

/// Longest wait for a region to catch up.
const MAX_CATCH_UP_WAIT: Duration = Duration::from_secs(60);

/// The admin plane. Cheap to clone.
#[derive(Clone)]
pub struct AdminPlane(Arc<Inner>);

struct Inner {
    regions: Vec<Arc<Region>>,
    registry: Arc<Registry>,
    token: Option<Secret>,
    failures: Failures,
    trusted: Arc<TrustedKeys>,
    max_component_bytes: usize,
    body_timeout: Duration,
}

/// What a request asks for.
enum Route<'a> {
    Healthz,
    Readyz,
    Regions,
    CaughtUp { region: &'a str },
    Handlers,
    Deploy { operation: &'a str },
    Rollback { operation: &'a str },
}

impl AdminPlane {
    /// The admin plane of these regions.
    pub fn new(
        regions: Vec<Arc<Region>>,
        registry: Arc<Registry>,
        trusted: Arc<TrustedKeys>,
        settings: &Settings,
    ) -> AdminPlane {
        AdminPlane(Arc::new(Inner {
            regions,
            registry,
            token: settings.admin.token.clone(),
            failures: Failures::default(),
            trusted,
            max_component_bytes: settings.handlers.max_component_bytes,
            body_timeout: settings.http.body_timeout,
        }))
    }

    /// Answers a request of a client at an address.
    pub async fn serve(&self, request: Request<HttpBody>, peer: SocketAddr) -> Answer {
        let path = request.uri().path().to_owned();
        let has_body = !request.body().is_end_stream();
        let answer = match route(request.method(), &path) {
            // Probes carry no token, and tell nothing but how far it is.
            Ok(Route::Healthz) => Ok(respond::json(
                StatusCode::OK,
                &serde_json::json!({"status": "alive"}),
            )),
            Ok(Route::Readyz) => Ok(self.0.readyz()),
            Ok(route) => match self.0.authorize(request.headers(), peer.ip()) {
                Ok(()) => self.0.answer(route, request).await,
                Err(problem) => Err(problem.close(has_body)),
            },
            Err(problem) => Err(problem.close(has_body)),
        };
        answer.unwrap_or_else(Problem::into_answer)
    }
}

fn route<'a>(method: &Method, path: &'a str) -> Result<Route<'a>, Problem> {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let (route, allow) = match segments[..] {
        ["healthz"] => (Route::Healthz, "GET"),
        ["readyz"] => (Route::Readyz, "GET"),
        ["v1", "regions"] => (Route::Regions, "GET"),
        ["v1", "regions", region, "caught-up"] => (Route::CaughtUp { region }, "GET"),
        ["v1", "handlers"] => (Route::Handlers, "GET"),
        ["v1", "handlers", operation] => (Route::Deploy { operation }, "POST"),
        ["v1", "handlers", operation, "rollback"] => (Route::Rollback { operation }, "POST"),
        _ => {
            let detail = "there is nothing at this path; start at /v1/handlers or /v1/regions";
            return Err(Problem::new(Kind::NoSuchPath, detail));
        }
    };
    if method.as_str() == allow {
        Ok(route)
    } else {
        Err(Problem::new(Kind::MethodNotAllowed, format!("this path answers {allow}")).allow(allow))
    }
}

impl Inner {
    fn authorize(&self, headers: &HeaderMap, peer: IpAddr) -> Result<(), Problem> {
        let Some(token) = &self.token else {
            return refuse_browsers(headers);
        };
        let credentials = headers.get(AUTHORIZATION);
        let sent = credentials.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        // In constant time: an answer's delay must not tell how much was right.
        if sent.is_some_and(|sent| bool::from(sent.ct_eq(token.expose().as_bytes()))) {
            return Ok(());
        }
        let detail = "send the admin token as `Authorization: Bearer <token>` (tidepool: --token or TIDEPOOL_ADMIN_TOKEN)";
        // Who sends nothing guesses nothing. The right token was let in above,
        // whatever else came from its address.
        let wait = credentials.and_then(|_| self.failures.count(peer, Instant::now()));
        Err(match wait {
            None => Problem::new(Kind::Unauthorized, detail),
            Some(wait) => Problem::new(Kind::TooManyFailures, detail).retry_after(wait),
        })
    }

    async fn answer(
        &self,
        route: Route<'_>,
        request: Request<HttpBody>,
    ) -> Result<Answer, Problem> {
        match route {
            Route::Healthz | Route::Readyz => Ok(self.readyz()),
            Route::Regions => Ok(respond::json(StatusCode::OK, &self.reports())),
            Route::CaughtUp { region } => self.caught_up(region, request.uri()).await,
            Route::Handlers => self.list().await,
            Route::Deploy { operation } => self.deploy(operation, request).await,
            Route::Rollback { operation } => self.rollback(operation, &request).await,
        }
    }

    fn reports(&self) -> Vec<RegionReport> {
        self.regions.iter().map(|region| region.report()).collect()
    }

    fn readyz(&self) -> Answer {
        let readiness = Readiness::of(&self.regions);
        let status = if readiness.ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        respond::json(status, &readiness)
    }

    /// Answers once the region has applied everything that was committed up to
    /// a version or time.
    async fn caught_up(&self, name: &str, uri: &Uri) -> Result<Answer, Problem> {
        let query = Query::of(uri, &["version", "timeout_ms"])?;
        let version: i64 = query.number("version")?.ok_or_else(|| {
            Problem::new(
                Kind::BadRequest,
                "say up to which version: ?version=<the ETag of a write>",
            )
        })?;
        let wait = query
            .number("timeout_ms")?
            .map_or(MAX_CATCH_UP_WAIT, Duration::from_millis)
            .min(MAX_CATCH_UP_WAIT);
        let region = self
            .regions
            .iter()
            .find(|region| *region.name == *name)
            .ok_or_else(|| self.no_region(name))?;
        let mut resolved = region.status.progress();
        let reached = resolved
            .wait_for(|resolved| resolved.as_ref().is_some_and(|r| r.as_of_micros > version));
        // What the wait gives is a lock on the progress. It must be gone before
        // anything else looks at the progress: a writer in between would wait
        // for the one and hold up the other.
        let reached = tokio::time::timeout(wait, reached)
            .await
            .is_ok_and(|reached| reached.is_ok());
        if reached {
            return Ok(respond::json(StatusCode::OK, &region.report()));
        }
        let detail = format!(
            "{name} has not applied everything up to {version} yet; ask again, or see /v1/regions"
        );
        Err(Problem::new(Kind::Unavailable, detail))
    }

    fn no_region(&self, name: &str) -> Problem {
        let known = self
            .registry
            .regions()
            .iter()
            .map(|region| region.to_string())
            .collect();
        DeployError::UnknownRegion {
            name: name.to_owned(),
            known,
        }
        .into()
    }

    async fn list(&self) -> Result<Answer, Problem> {
        let handlers = self
            .registry
            .list()
            .await?
            .into_iter()
            .map(listed)
            .collect();
        Ok(respond::json(StatusCode::OK, &HandlerList { handlers }))
    }

    async fn deploy(&self, operation: &str, request: Request<HttpBody>) -> Result<Answer, Problem> {
        let unread = !request.body().is_end_stream();
        let (operation, query, actor, announced) =
            upload(operation, &request).map_err(|problem| problem.close(unread))?;
        let signature = signed::of(request.headers(), &self.trusted)
            .map_err(|error| Problem::from(error).close(unread))?;
        let component = match read_body(
            request.into_body(),
            self.max_component_bytes,
            self.body_timeout,
        )
        .await
        {
            Ok(component) => component,
            Err(error) => return Err(error.into()),
        };
        let signer = signed::verify(&self.trusted, component.clone(), signature).await?;
        let note = signer.map_or(String::new(), |signer| format!("signed by {signer}"));
        let done = self
            .registry
            .deploy(
                operation,
                query.text("region"),
                component,
                announced,
                &actor,
                &note,
            )
            .await?;
        let document = Deployed {
            operation: operation.name().to_owned(),
            digest: done.digest.to_string(),
            size: done.size as u64,
            timings: Timings {
                verify_ms: millis(done.timings.verify),
                compile_ms: millis(done.timings.compile),
                self_test_ms: millis(done.timings.self_test),
                total_ms: millis(done.total),
            },
            slots: done
                .slots
                .into_iter()
                .map(|slot| DeployedSlot {
                    region: slot.region.to_string(),
                    revision: slot.revision,
                    state: RevisionState::Active,
                    unchanged: slot.unchanged,
                })
                .collect(),
        };
        Ok(respond::json(StatusCode::OK, &document))
    }

    async fn rollback(
        &self,
        operation: &str,
        request: &Request<HttpBody>,
    ) -> Result<Answer, Problem> {
        let operation = known(operation)?;
        let query = Query::of(request.uri(), &["region", "to"])?;
        let actor = actor(request.headers())?;
        let slots = self
            .registry
            .rollback(operation, query.text("region"), query.number("to")?, &actor)
            .await?;
        let slots = slots.into_iter().map(|slot| RolledBackSlot {
            region: slot.region.to_string(),
            from: slot.from,
            revision: slot.revision,
            state: RevisionState::Active,
        });
        let document = RolledBack {
            operation: operation.name().to_owned(),
            slots: slots.collect(),
        };
        Ok(respond::json(StatusCode::OK, &document))
    }
}

/// Refuses what a web page could have caused.
fn refuse_browsers(headers: &HeaderMap) -> Result<(), Problem> {
    let host = headers
        .get(HOST)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("localhost");
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    let name = name.trim_matches(['[', ']']);
    let ours = name == "localhost" || name.parse::<IpAddr>().is_ok();
    if ours && !headers.contains_key(ORIGIN) {
        return Ok(());
    }
    let detail =
        "requests from web pages are refused; use the command line, or set admin.token and send it";
    Err(Problem::new(Kind::Forbidden, detail))
}

/// What a deploy says before its component: the operation, the query, who sends
/// it, and its digest.
fn upload(
    operation: &str,
    request: &Request<HttpBody>,
) -> Result<(Operation, Query, String, Option<Digest>), Problem> {
    Ok((
        known(operation)?,
        Query::of(request.uri(), &["region"])?,
        actor(request.headers())?,
        announced(request.headers())?,
    ))
}

fn known(operation: &str) -> Result<Operation, Problem> {
    Operation::parse(operation).ok_or_else(|| {
        let detail =
            format!("there is no operation {operation:?}; there are get, put, delete and hydrate");
        Problem::new(Kind::NoSuchPath, detail)
    })
}

fn actor(headers: &HeaderMap) -> Result<String, Problem> {
    let Some(value) = headers.get(ACTOR) else {
        return Ok("unknown".to_owned());
    };
    match value.to_str() {
        Ok(text) if !text.is_empty() && text.len() <= MAX_ACTOR_BYTES => Ok(text.to_owned()),
        _ => Err(Problem::new(
            Kind::BadRequest,
            format!(
                "header Tidepool-Actor: send who you are in 1 to {MAX_ACTOR_BYTES} bytes of ASCII, or leave it out"
            ),
        )),
    }
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

fn listed(listed: Listed) -> HandlerRevision {
    let stored = listed.stored;
    let (calls, failures) = listed.counts.unwrap_or_default();
    HandlerRevision {
        region: stored.region,
        operation: stored.operation.name().to_owned(),
        revision: stored.number,
        digest: stored.digest.to_string(),
        size: stored.size as u64,
        deployed_at: rfc3339(stored.deployed_at),
        deployed_by: stored.deployed_by,
        state: listed.state,
        calls,
        failures,
        note: Some(stored.note).filter(|note| !note.is_empty()),
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl From<DeployError> for Problem {
    fn from(error: DeployError) -> Problem {
        let detail = error.to_string();
        let kind = match &error {
            DeployError::UnknownRegion { .. } => Kind::NoSuchPath,
            DeployError::DigestMismatch { .. } => Kind::BadRequest,
            DeployError::NoSuchRevision { .. } => Kind::Conflict,
            DeployError::Store(_) | DeployError::Load(LoadError::Host(_)) => Kind::Unavailable,
            DeployError::Load(LoadError::TooLarge { .. }) => Kind::TooLarge,
            DeployError::Load(LoadError::SelfTest { detail, .. }) => {
                tracing::warn!("a component failed its self-test: {detail}");
                Kind::Unprocessable
            }
            DeployError::Load(_) => Kind::Unprocessable,
        };
        Problem::new(kind, detail)
    }
}

/// The query of a request, with only the names that the path knows: a
/// misspelt `region` must not deploy everywhere.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(uri: &Uri, names: &[&str]) -> Result<Query, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_encoding::percent_decode_str(value)
                .decode_utf8_lossy()
                .into_owned();
            if !names.contains(&name) || pairs.iter().any(|(seen, _)| seen == name) {
                let detail = format!(
                    "query parameter {name:?}: this path takes each of {} once",
                    names.join(", ")
                );
                return Err(Problem::new(Kind::BadRequest, detail));
            }
            pairs.push((name.to_owned(), value));
        }
        Ok(Query(pairs))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, Problem> {
        self.text(name)
            .map(|text| {
                let detail = || format!("query parameter {name:?}: {text:?} is not a number");
                text.parse()
                    .map_err(|_| Problem::new(Kind::BadRequest, detail()))
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| {
                (
                    HeaderName::from_static(n),
                    http::HeaderValue::from_static(v),
                )
            })
            .collect()
    }

    #[test]
    fn a_web_page_cannot_reach_an_admin_plane_without_a_token() {
        assert!(refuse_browsers(&headers(&[("host", "127.0.0.1:8090")])).is_ok());
        assert!(refuse_browsers(&headers(&[("host", "[::1]:8090")])).is_ok());
        assert!(refuse_browsers(&headers(&[("host", "localhost:8090")])).is_ok());
        assert!(refuse_browsers(&headers(&[("host", "evil.example:8090")])).is_err());
        assert!(
            refuse_browsers(&headers(&[
                ("host", "127.0.0.1:8090"),
                ("origin", "http://evil.example")
            ]))
            .is_err()
        );
    }

    #[test]
    fn a_misspelt_parameter_is_refused() {
        let of = |text: &str| Query::of(&text.parse().unwrap(), &["region", "to"]);
        assert_eq!(of("/x?region=a%2Db").unwrap().text("region"), Some("a-b"));
        assert!(of("/x?regoin=a").is_err() && of("/x?region=a&region=b").is_err());
        assert_eq!(of("/x?to=7").unwrap().number::<u64>("to").unwrap(), Some(7));
        assert!(of("/x?to=seven").unwrap().number::<u64>("to").is_err());
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
