//! What is measured: a whole host, and beside it, in the same process and on
//! the same threads, the two that it is compared with.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
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
use tidepool::http::respond::{Kind, Problem};
use tidepool::http::route::{self, Route};
use tidepool::http::server::{BoxFuture, ConnectionLimits, Server};
use tidepool::model::{Key, Operation, State};
use tidepool::wit_host::bindings::tidepool::kv::types::{
    self, CacheStatus, Condition, Consistency,
};
use tidepool::wit_host::context::{self, Backends, Cached, StoredValue};
use tokio::net::TcpListener;
use tokio::sync::watch;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The running servers.
pub struct Servers {
    app: App,
    stop: watch::Sender<bool>,
    /// hyper answering a constant of the size of a hit.
    pub bare: SocketAddr,
    /// The host's own path with a native function in the place of the component.
    pub native: SocketAddr,
    /// A region's data plane.
    pub region: SocketAddr,
}

impl Servers {
    /// Starts all of them.
    pub async fn start(data: &Path) -> Result<Servers> {
        let mut settings = Settings {
            data: data.join("data"),
            ..Settings::default()
        };
        settings.admin.listen = ANY_PORT;
        settings
            .regions
            .iter_mut()
            .for_each(|region| region.listen = ANY_PORT);
        let app = App::dev(&settings).await?;
        let (stop, stopped) = watch::channel(false);
        let native = Server::bind(ANY_PORT)?;
        let native_address = native.local_addr();
        let backends = Arc::clone(&app.backends[0]);
        let service =
            move |request| -> BoxFuture<_> { Box::pin(native_get(Arc::clone(&backends), request)) };
        let limits = ConnectionLimits {
            max_connections: settings.http.max_connections,
            header_timeout: settings.http.header_timeout,
            idle_timeout: settings.http.idle_timeout,
            drain_timeout: Duration::from_secs(1),
        };
        tokio::spawn(native.run(service, limits, stopped));
        let bare = bare_hyper().await?;
        let region = app.regions[0].1;
        Ok(Servers {
            app,
            stop,
            bare,
            native: native_address,
            region,
        })
    }

    /// Waits until what was written is in the region's cache.
    pub async fn caught_up(&self) -> Result<()> {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_micros();
        let region = &self.app.regions[0].0;
        let uri = format!(
            "http://{}/v1/regions/{region}/caught-up?version={now}",
            self.app.admin
        );
        send(Request::get(uri).body(Full::default())?).await
    }

    /// Deploys a `get` component to all regions, over the admin plane.
    pub async fn deploy(&self, component: &Bytes) -> Result<()> {
        let uri = format!("http://{}/v1/handlers/get", self.app.admin);
        send(Request::post(uri).body(Full::new(component.clone()))?).await
    }

    /// The time of a call of the `get` component for a hit, without HTTP.
    pub async fn nanoseconds_per_call(&self) -> Result<f64> {
        const CALLS: u32 = 1_000_000;
        let start = std::time::Instant::now();
        let key = Key::new("hit")?;
        for _ in 0..CALLS {
            let (parts, ()) = Request::new(()).into_parts();
            let request = types::Request {
                consistency: Consistency::Cached,
                condition: Condition::None,
                accept: None,
            };
            let incoming = Box::new(context::Incoming {
                key: key.clone(),
                parts,
                body: Bytes::new(),
                cached: match self.app.backends[0].cache.lookup_now(key.as_str(), None) {
                    Some(state) => Cached::Found(state),
                    None => Cached::Missing,
                },
            });
            let revision = self.app.registry.current(0, Operation::Get);
            match revision.request(request, incoming).await? {
                Ok(answer) => drop(answer),
                Err(failure) => return Err(format!("{failure:?}").into()),
            }
        }
        Ok(start.elapsed().as_nanos() as f64 / f64::from(CALLS))
    }

    /// Stops the host.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.app.stop().await;
    }
}

async fn send(request: Request<Full<Bytes>>) -> Result<()> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into())
    }
}

/// One of the tests' components.
pub fn fixture(name: &str) -> Result<Bytes> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../target/fixtures/{name}.wasm"));
    let bytes = std::fs::read(&path)
        .map_err(|error| format!("{}: {error}; run `make fixtures`", path.display()))?;
    Ok(Bytes::from(bytes))
}

/// The same component under a digest that the host has not seen: with a custom
/// section of its own. So each deployment compiles.
pub fn never_seen(component: &Bytes, n: usize) -> Bytes {
    let mut bytes = component.to_vec();
    // Section 0, ten bytes long, a name of one byte and eight bytes of content.
    bytes.extend_from_slice(&[0, 10, 1, b'n']);
    bytes.extend_from_slice(&(n as u64).to_le_bytes());
    Bytes::from(bytes)
}

/// What the `get` component does for a hit, as a function of the host.
async fn native_get(backends: Arc<Backends>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, _) = request.into_parts();
    let kv = match route::parse(&parts.method, &parts.uri, &parts.headers) {
        Ok(Route::Kv(kv)) => kv,
        Ok(_) => return Problem::new(Kind::NoSuchPath, "only keys").into_answer(),
        Err(error) => return Problem::from(error).into_answer(),
    };
    let Some(State::Live { version, value }) = backends.cache.lookup_now(kv.key.as_str(), None)
    else {
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
async fn bare_hyper() -> Result<SocketAddr> {
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
