//! The admin plane: deployments, and how the regions are doing.
//!
//! On loopback it asks for no token, so it must not be reachable through
//! somebody's browser: a request that a web page can cause (one with an
//! `Origin`, or one for a host name that a page could have pointed at
//! loopback) is refused.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use http::{Method, Request, StatusCode, Uri};
use hyper::body::{Body as _, Incoming as HttpBody};
use subtle::ConstantTimeEq as _;

use super::deploying::{self, Change};
use super::query::Query;
use super::region::{Readiness, Region, RegionReport};
use super::respond::{self, Answer, Kind, Problem};
use crate::config::{Secret, Settings};
use crate::deployments::Refusal;
use crate::handlers::registry::Registry;
use crate::trust::failures::Failures;
use crate::trust::signature::TrustedKeys;

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
    Change { change: Change, operation: &'a str },
    Audit,
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
                Ok(()) => self.0.answer(route, request, peer.ip()).await,
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
        ["v1", "handlers", operation, change] => match Change::parse(change) {
            Some(change) => (Route::Change { change, operation }, "POST"),
            None => return Err(no_such_path()),
        },
        ["v1", "audit"] => (Route::Audit, "GET"),
        _ => return Err(no_such_path()),
    };
    if method.as_str() == allow {
        Ok(route)
    } else {
        Err(Problem::new(Kind::MethodNotAllowed, format!("this path answers {allow}")).allow(allow))
    }
}

fn no_such_path() -> Problem {
    let detail = "there is nothing at this path; start at /v1/handlers or /v1/regions";
    Problem::new(Kind::NoSuchPath, detail)
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
        peer: IpAddr,
    ) -> Result<Answer, Problem> {
        match route {
            Route::Healthz | Route::Readyz => Ok(self.readyz()),
            Route::Regions => Ok(respond::json(StatusCode::OK, &self.reports())),
            Route::CaughtUp { region } => self.caught_up(region, request.uri()).await,
            Route::Handlers => deploying::list(&self.registry).await,
            Route::Deploy { operation } => {
                let bounds = (self.max_component_bytes, self.body_timeout);
                let trusted = &self.trusted;
                deploying::deploy(&self.registry, operation, request, trusted, peer, bounds).await
            }
            Route::Change { change, operation } => {
                deploying::change(&self.registry, change, operation, &request, peer).await
            }
            Route::Audit => deploying::audit(&self.registry, request.uri()).await,
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
        let detail = Refusal::UnknownRegion {
            name: name.to_owned(),
            known,
        };
        Problem::new(Kind::NoSuchPath, detail.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| {
                (
                    http::HeaderName::from_static(n),
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
}
