//! What a host is compared with, in the same process and on the same threads,
//! and the few requests that a benchmark asks a host outside of the load.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidepool::app::App;
use tidepool::config::Settings;
use tidepool::handlers::answer::{Answer, AnswerBody};
use tidepool::http::data::answered;
use tidepool::http::respond::{self, Kind, Problem};
use tidepool::http::route::{self, Route};
use tidepool::http::server::{BoxFuture, ConnectionLimits, Server};
use tidepool::model::State;
use tidepool::wit_host::bindings::tidepool::kv::types::CacheStatus;
use tidepool::wit_host::context::{Backends, StoredValue};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::Result;

/// Any free port of loopback.
pub const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The host's own path on these backends, with a native function in the place
/// of the `get` component, until the sender is told or dropped.
pub fn native(
    backends: &Arc<Backends>,
    settings: &Settings,
) -> Result<(SocketAddr, watch::Sender<bool>)> {
    let server = Server::bind(ANY_PORT)?;
    let address = server.local_addr();
    let (stop, stopped) = watch::channel(false);
    let backends = Arc::clone(backends);
    let service =
        move |request, _| -> BoxFuture<_> { Box::pin(native_get(Arc::clone(&backends), request)) };
    let limits = ConnectionLimits {
        max_connections: settings.http.max_connections,
        header_timeout: settings.http.header_timeout,
        idle_timeout: settings.http.idle_timeout,
        drain_timeout: Duration::from_secs(1),
    };
    tokio::spawn(server.run(service, limits, stopped));
    Ok((address, stop))
}

/// What the `get` component does for a hit, as a function of the host.
async fn native_get(backends: Arc<Backends>, request: Request<Incoming>) -> respond::Answer {
    let (parts, _) = request.into_parts();
    let kv = match route::parse(&parts.method, &parts.uri, &parts.headers) {
        Ok(Route::Kv(kv)) => kv,
        Ok(_) => return Problem::new(Kind::NoSuchPath, "only keys").into_answer(),
        Err(error) => return Problem::from(error).into_answer(),
    };
    // The same look-up that the host does for a component.
    let found = match backends.cache.lookup_now(kv.key.as_str(), None) {
        Some(state) => state,
        None => match backends.cache.peek(&kv.key, None).await {
            Ok(Some(state)) => state,
            Ok(None) => State::Absent,
            Err(error) => {
                return Problem::new(Kind::Unavailable, error.to_string()).into_answer();
            }
        },
    };
    let State::Live { version, value } = found else {
        return Problem::new(Kind::NotFound, "not in the cache").into_answer();
    };
    let answer = Answer {
        status: StatusCode::OK,
        version: Some(version),
        cache: Some(CacheStatus::Hit),
        content_type: None,
        headers: Vec::new(),
        body: AnswerBody::Envelope(StoredValue {
            bytes: value.bytes,
            content_type: value.content_type,
            expires_at: value.expires_at,
        }),
    };
    answered(answer, kv.key.as_str())
}

/// hyper as its documentation starts it, with a constant to say.
pub async fn bare_hyper() -> Result<SocketAddr> {
    let listener = TcpListener::bind(ANY_PORT).await?;
    let address = listener.local_addr()?;
    let constant = Bytes::from(format!("{{\"key\":\"hit\",\"value\":\"{:0>100}\"}}", 0));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let _ = socket.set_nodelay(true);
            let constant = constant.clone();
            let service = service_fn(move |_: Request<Incoming>| {
                let answer = Response::new(Full::new(constant.clone()));
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            tokio::spawn(async move {
                // A client that is gone has been counted on its own side.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service)
                    .await;
            });
        }
    });
    Ok(address)
}

/// Waits until what was written so far is in the caches of all regions. With the
/// token, if the admin plane wants one.
pub async fn caught_up(app: &App, token: Option<&str>) -> Result<()> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_micros();
    for (region, _) in &app.regions {
        let uri = format!(
            "http://{}/v1/regions/{region}/caught-up?version={now}",
            app.admin
        );
        let mut request = Request::get(uri);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        send(request.body(Full::default())?).await?;
    }
    Ok(())
}

/// Sends a request and takes the body of its answer, which must be a success.
pub async fn send(request: Request<Full<Bytes>>) -> Result<Bytes> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status.is_success() {
        Ok(body)
    } else {
        Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into())
    }
}
