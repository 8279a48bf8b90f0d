//! The admin plane: deployments, and how the regions are doing.
//!
//! On loopback it asks for no token, so it must not be reachable through
//! somebody's browser: a request that a web page can cause (one with an
//! `Origin`, or one for a host name that a page could have pointed at
//! loopback) is refused.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderMap;
use http::{Method, Request, StatusCode, Uri};
use hyper::body::{Body as _, Incoming as HttpBody};
use tokio::sync::watch;

use super::authority::{Authority, Who};
use super::deploying::{self, Change};
use super::quarantine::Quarantined;
use super::query::Query;
use super::region::{Readiness, Region, RegionReport};
use super::respond::{self, Answer, Kind, Problem};
use super::route::PROBE_METHODS;
use super::stream::Streams;
use super::{cached, logs, tokens, upload};
use crate::config::Settings;
use crate::deployments::Refusal;
use crate::handlers::registry::Registry;
use crate::quarantine::Keeper;
use crate::trust::signature::TrustedKeys;
use crate::trust::token::Action;

/// Longest wait for a region to catch up.
const MAX_CATCH_UP_WAIT: Duration = Duration::from_secs(60);

/// The admin plane. Cheap to clone.
#[derive(Clone)]
pub struct AdminPlane(Arc<Inner>);

struct Inner {
    regions: Vec<Arc<Region>>,
    registry: Arc<Registry>,
    keeper: Arc<Keeper>,
    authority: Authority,
    trusted: Arc<TrustedKeys>,
    streams: Streams,
    max_component_bytes: usize,
    body_timeout: Duration,
}

/// What a request asks for.
enum Route<'a> {
    Healthz,
    Readyz,
    Regions,
    CaughtUp { region: &'a str },
    Cache { region: &'a str },
    Handlers,
    Deploy { operation: &'a str },
    Change { change: Change, operation: &'a str },
    Logs { operation: &'a str },
    Audit,
    Quarantine,
    Replay,
    DropQuarantined,
    CreateToken,
    Tokens,
    RevokeToken { id: &'a str },
}

impl AdminPlane {
    /// The admin plane of these regions. `open`: while the settings have no token,
    /// none is asked for. `stop`: when answers that have no end are to end.
    pub fn new(
        regions: Vec<Arc<Region>>,
        registry: Arc<Registry>,
        keeper: Arc<Keeper>,
        trusted: Arc<TrustedKeys>,
        settings: &Settings,
        open: bool,
        stop: watch::Receiver<bool>,
    ) -> AdminPlane {
        AdminPlane(Arc::new(Inner {
            regions,
            registry,
            keeper,
            authority: Authority::new(settings.admin.token.clone(), open),
            trusted,
            streams: Streams::new(settings.http.idle_timeout, stop),
            max_component_bytes: settings.handlers.max_component_bytes,
            body_timeout: settings.http.body_timeout,
        }))
    }

    /// Answers a request of a client at an address.
    pub async fn serve(&self, request: Request<HttpBody>, peer: SocketAddr) -> Answer {
        let path = request.uri().path().to_owned();
        let has_body = !request.body().is_end_stream();
        let head = request.method() == Method::HEAD;
        let answer = match route(request.method(), &path) {
            // Probes carry no token, and tell nothing but how far it is.
            Ok(Route::Healthz) => Ok(respond::json(
                StatusCode::OK,
                &serde_json::json!({"status": "alive"}),
            )),
            Ok(Route::Readyz) => Ok(self.0.readyz()),
            Ok(route) => match self.0.identify(request.headers(), peer.ip()).await {
                Ok(who) => self.0.answer(route, request, &who).await,
                Err(problem) => Err(problem.close(has_body)),
            },
            Err(problem) => Err(problem.close(has_body)),
        };
        let answer = answer.unwrap_or_else(Problem::into_answer);
        match head {
            true => respond::without_body(answer),
            false => answer,
        }
    }
}

fn route<'a>(method: &Method, path: &'a str) -> Result<Route<'a>, Problem> {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let (route, allow) = match segments[..] {
        ["healthz"] => (Route::Healthz, PROBE_METHODS),
        ["readyz"] => (Route::Readyz, PROBE_METHODS),
        ["v1", "regions"] => (Route::Regions, "GET"),
        ["v1", "regions", region, "caught-up"] => (Route::CaughtUp { region }, "GET"),
        ["v1", "regions", region, "cache"] => (Route::Cache { region }, "GET"),
        ["v1", "handlers"] => (Route::Handlers, "GET"),
        ["v1", "handlers", operation] => (Route::Deploy { operation }, "POST"),
        ["v1", "handlers", operation, change] => match Change::parse(change) {
            Some(change) => (Route::Change { change, operation }, "POST"),
            None => return Err(no_such_path()),
        },
        ["v1", "logs", operation] => (Route::Logs { operation }, "GET"),
        ["v1", "audit"] => (Route::Audit, "GET"),
        ["v1", "feed", "quarantine"] if method == Method::DELETE => {
            (Route::DropQuarantined, "DELETE")
        }
        ["v1", "feed", "quarantine"] => (Route::Quarantine, "GET"),
        ["v1", "feed", "quarantine", "replay"] => (Route::Replay, "POST"),
        ["v1", "tokens"] if method == Method::POST => (Route::CreateToken, "POST"),
        ["v1", "tokens"] => (Route::Tokens, "GET"),
        ["v1", "tokens", id] => (Route::RevokeToken { id }, "DELETE"),
        _ => return Err(no_such_path()),
    };
    if allow.split(", ").any(|allowed| method.as_str() == allowed) {
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
    async fn identify(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Who, Problem> {
        self.authority.identify(headers, peer, &self.registry).await
    }

    async fn answer(
        &self,
        route: Route<'_>,
        request: Request<HttpBody>,
        who: &Who,
    ) -> Result<Answer, Problem> {
        match route {
            Route::Healthz | Route::Readyz => {}
            Route::Regions
            | Route::CaughtUp { .. }
            | Route::Handlers
            | Route::Audit
            | Route::Logs { .. }
            | Route::Quarantine => {
                who.may(&Action::Read)?;
            }
            // Judged with the regions, which are read there.
            Route::Deploy { .. }
            | Route::Change { .. }
            | Route::Replay
            | Route::DropQuarantined => {}
            // What applications have stored is not for whoever watches the hosts.
            Route::Cache { .. }
            | Route::CreateToken
            | Route::Tokens
            | Route::RevokeToken { .. } => {
                who.may(&Action::Admin)?;
            }
        }
        match route {
            Route::Healthz | Route::Readyz => Ok(self.readyz()),
            Route::Regions => Ok(respond::json(StatusCode::OK, &self.reports())),
            Route::CaughtUp { region } => self.caught_up(region, request.uri()).await,
            Route::Cache { region } => cached::list(self.region(region)?, request.uri()).await,
            Route::Handlers => deploying::list(&self.registry).await,
            Route::Deploy { operation } => {
                let bounds = (self.max_component_bytes, self.body_timeout);
                let (trusted, streams) = (&self.trusted, &self.streams);
                deploying::deploy(
                    &self.registry,
                    operation,
                    request,
                    trusted,
                    who,
                    streams,
                    bounds,
                )
                .await
            }
            Route::Change { change, operation } => {
                deploying::change(&self.registry, change, operation, &request, who).await
            }
            Route::Logs { operation } => {
                let operation = upload::known(operation)?;
                logs::logs(&self.registry, operation, request.uri(), who, &self.streams)
            }
            Route::Audit => deploying::audit(&self.registry, request.uri()).await,
            Route::Quarantine => self.quarantined().list(request.uri()).await,
            Route::Replay => self.quarantined().replay(request.uri(), who).await,
            Route::DropQuarantined => self.quarantined().drop_entries(request.uri(), who).await,
            Route::CreateToken => {
                tokens::create(&self.registry, request, &who.actor, self.body_timeout).await
            }
            Route::Tokens => tokens::list(&self.registry).await,
            Route::RevokeToken { id } => tokens::revoke(&self.registry, id, &who.actor).await,
        }
    }

    fn quarantined(&self) -> Quarantined<'_> {
        Quarantined {
            regions: &self.regions,
            registry: &self.registry,
            keeper: &self.keeper,
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
        let region = self.region(name)?;
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

    fn region(&self, name: &str) -> Result<&Region, Problem> {
        let mut regions = self.regions.iter();
        let found = regions.find(|region| *region.name == *name);
        found
            .map(|region| &**region)
            .ok_or_else(|| self.no_region(name))
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
