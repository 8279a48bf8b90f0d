//! A small client of the admin plane: one request, one answer, every wait with
//! a bound. The admin plane speaks plain HTTP; what guards it off loopback is
//! its token and the tunnel or proxy in front of it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;

use super::{CliError, output};

/// How long the admin plane may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take to answer a question.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long it may take to take, compile and test a component: those of other
/// languages have 20 MB, and a small machine compiles one in half a minute.
pub(super) const DEPLOY_TIMEOUT: Duration = Duration::from_secs(300);

/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Where the admin plane is, and how its answer is shown.
#[derive(clap::Args, Debug)]
pub(super) struct ClientArgs {
    /// Address of the admin plane
    #[arg(
        long,
        value_name = "URL",
        env = "TIDEPOOL_ADMIN_URL",
        default_value = "http://127.0.0.1:8090"
    )]
    admin: String,
    /// Token of the admin plane; better given in the environment
    #[arg(
        long,
        value_name = "TOKEN",
        env = "TIDEPOOL_ADMIN_TOKEN",
        hide_env_values = true
    )]
    token: Option<Token>,
    /// Print the answer as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// A token that `Debug` does not show.
#[derive(Clone)]
struct Token(String);

impl From<String> for Token {
    fn from(text: String) -> Token {
        Token(text)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("********")
    }
}

/// One request to the admin plane.
pub(super) struct Call {
    pub(super) method: Method,
    /// Path and query.
    pub(super) path: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
    pub(super) timeout: Duration,
}

/// Asks the admin plane; prints its answer as JSON when that is wanted, and
/// otherwise as `show` writes it.
pub(super) fn ask<T: DeserializeOwned>(
    args: &ClientArgs,
    call: Call,
    show: impl FnOnce(&T) -> String,
) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start: {error}")))?;
    let answer = runtime.block_on(send(args, call))?;
    let read: T = serde_json::from_slice(&answer).map_err(|error| {
        CliError::Failed(format!(
            "{} does not answer as a Tidepool admin plane does: {error}",
            args.admin
        ))
    })?;
    match args.json {
        true => output::print(&String::from_utf8_lossy(&answer)),
        false => output::print(&show(&read)),
    }
}

/// Sends one request and reads its answer.
async fn send(args: &ClientArgs, call: Call) -> Result<Bytes, CliError> {
    let timeout = call.timeout;
    let request = request(args, call)?;
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let client = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);
    let exchange = async {
        let response = client
            .request(request)
            .await
            .map_err(|error| unreachable(args, &error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await;
        let body = body.map_err(|error| {
            CliError::Unreachable(format!(
                "the answer of {} broke off: {error}; try again",
                args.admin
            ))
        })?;
        Ok((status, body.to_bytes()))
    };
    let Ok(answer) = tokio::time::timeout(timeout, exchange).await else {
        return Err(CliError::Unreachable(format!(
            "{} did not answer within {}; see `tidepool handlers` for what was done",
            args.admin,
            humantime::format_duration(timeout)
        )));
    };
    let (status, body) = answer?;
    match status.is_success() {
        true => Ok(body),
        false => Err(refused(status, &body)),
    }
}

fn request(args: &ClientArgs, call: Call) -> Result<Request<Full<Bytes>>, CliError> {
    let uri = uri(&args.admin, &call.path)?;
    let wrong = |error: http::Error| CliError::Usage(format!("cannot ask {}: {error}", args.admin));
    let mut request = Request::builder()
        .method(call.method)
        .uri(uri)
        .body(Full::new(call.body))
        .map_err(wrong)?;
    request.headers_mut().extend(
        call.headers
            .into_iter()
            .map(|(name, value)| (Some(name), value)),
    );
    if let Some(Token(token)) = &args.token {
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
            CliError::Usage(
                "the token has characters that no token has; use visible ASCII".to_owned(),
            )
        })?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Ok(request)
}

/// The address of a path of the admin plane.
fn uri(admin: &str, path: &str) -> Result<Uri, CliError> {
    let wrong = || {
        CliError::Usage(format!(
            "`{admin}` is no address of an admin plane; write http://host:port"
        ))
    };
    let base = match admin.split_once("://") {
        None => format!("http://{admin}"),
        Some(("http", _)) => admin.to_owned(),
        Some(_) => return Err(wrong()),
    };
    let base: Uri = base.parse().map_err(|_| wrong())?;
    match (base.authority(), base.path(), base.query()) {
        (Some(authority), "/" | "", None) => format!("http://{authority}{path}")
            .parse()
            .map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

fn unreachable(args: &ClientArgs, error: &hyper_util::client::legacy::Error) -> CliError {
    // The outer errors only say where it happened; the innermost says what.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let admin = &args.admin;
    CliError::Unreachable(match error.is_connect() {
        true => format!(
            "cannot reach the admin plane at {admin}: {cause}; start `tidepool dev`, or name another with --admin"
        ),
        false => format!(
            "the connection to {admin} broke: {cause}; see `tidepool handlers` for what was done"
        ),
    })
}

/// A refusal: the title and detail of a problem document, if it is one.
fn refused(status: http::StatusCode, body: &[u8]) -> CliError {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let member = |name: &str| problem[name].as_str().map(output::one_line);
    CliError::Failed(match (member("title"), member("detail")) {
        (Some(title), Some(detail)) => format!("{title}: {detail}"),
        (Some(title), None) => title,
        _ => format!("the admin plane answered {status}"),
    })
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
