//! A small client of the admin plane: one request, one answer, every wait with
//! a bound.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderName};
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use self::lenient::Lenient;
use super::connect::connect;
use super::{CliError, output};

mod lenient;

/// What to do when the answer to a change breaks off.
pub(super) const LOOK_FIRST: &str =
    "see `tidepool handlers` for what was done before you try again";

/// How long it may take to answer a question.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long it may take to take, compile and test a component: those of other
/// languages have 20 MB, and a small machine compiles one in half a minute.
pub(super) const DEPLOY_TIMEOUT: Duration = Duration::from_secs(300);

/// The longest answer that is read.
pub(super) const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

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
    pub(super) admin: String,
    /// Token of the admin plane; better given in the environment
    #[arg(
        long,
        value_name = "TOKEN",
        env = "TIDEPOOL_ADMIN_TOKEN",
        hide_env_values = true
    )]
    token: Option<Token>,
    /// A PEM file with the authorities to trust for https, in place of the system's
    #[arg(long, value_name = "FILE", env = "TIDEPOOL_ADMIN_CA_FILE")]
    ca_file: Option<PathBuf>,
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
    ask_and_judge(args, call, show, |_| Ok(()))
}

/// As [`ask`], where an answer can say that not all was done.
pub(super) fn ask_and_judge<T: DeserializeOwned>(
    args: &ClientArgs,
    call: Call,
    show: impl FnOnce(&T) -> String,
    judge: impl FnOnce(&T) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let answer = runtime()?.block_on(send(args, call))?;
    let read: T = read(args, &answer)?;
    match args.json {
        true => output::print(&String::from_utf8_lossy(&answer)),
        false => output::print(&show(&read)),
    }?;
    judge(&read)
}

/// Asks the admin plane for a document.
pub(super) fn document<T: DeserializeOwned>(
    args: &ClientArgs,
    path: String,
) -> Result<T, CliError> {
    let call = Call {
        method: Method::GET,
        path,
        headers: Vec::new(),
        body: Bytes::new(),
        timeout: ANSWER_TIMEOUT,
    };
    let answer = runtime()?.block_on(send(args, call))?;
    read(args, &answer)
}

/// What one request runs on.
pub(super) fn runtime() -> Result<Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start: {error}")))
}

/// A document of the admin plane.
pub(super) fn read<T: DeserializeOwned>(args: &ClientArgs, answer: &[u8]) -> Result<T, CliError> {
    serde_json::from_slice(answer).map_err(|error| {
        CliError::Failed(format!(
            "{} does not answer as a Tidepool admin plane does: {error}",
            args.admin
        ))
    })
}

/// Sends one request and reads its answer.
async fn send(args: &ClientArgs, call: Call) -> Result<Bytes, CliError> {
    let advice = match call.method {
        Method::GET => "try again",
        _ => LOOK_FIRST,
    };
    within(args, call.timeout, async {
        let response = open(args, call).await?;
        whole(args, response, advice).await
    })
    .await
}

/// Does something for which the admin plane has so long.
pub(super) async fn within<T>(
    args: &ClientArgs,
    timeout: Duration,
    exchange: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let Ok(answer) = tokio::time::timeout(timeout, exchange).await else {
        return Err(CliError::Unreachable(format!(
            "{} did not answer within {}; see `tidepool handlers` for what was done",
            args.admin,
            humantime::format_duration(timeout)
        )));
    };
    answer
}

/// Sends one request; gives the head of its answer and what its body is read from.
pub(super) async fn open(args: &ClientArgs, call: Call) -> Result<Response<Incoming>, CliError> {
    let uri = uri(&args.admin, &call.path)?;
    let request = request(args, &uri, call)?;
    let socket = connect(&args.admin, &uri, args.ca_file.as_deref()).await?;
    let broke = |error| broken(args, &error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(Lenient::new(socket)))
        .await
        .map_err(broke)?;
    // It ends with the connection, and the runtime with this request.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(broke)
}

/// Reads an answer to its end; `advice` is what to do when it has none. With `--json` a
/// refusal is printed as the last line of a deployment has it: `{"problem": ...}`.
pub(super) async fn whole(
    args: &ClientArgs,
    response: Response<Incoming>,
    advice: &str,
) -> Result<Bytes, CliError> {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
        .collect()
        .await;
    let body = body.map_err(|error| broke_off(args, &*error, advice))?;
    let body = body.to_bytes();
    if status.is_success() {
        return Ok(body);
    }
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(error) = refused(&problem) else {
        // It is not the host that says so, but something between.
        let why = format!("the admin plane answered {status}");
        return Err(CliError::Failed(why));
    };
    if args.json {
        output::print(&json!({ "problem": problem }).to_string())?;
    }
    Err(error)
}

/// An answer that has begun, and did not come to its end; and what to do now.
pub(super) fn broke_off(
    args: &ClientArgs,
    error: &dyn std::error::Error,
    advice: &str,
) -> CliError {
    CliError::Unreachable(format!(
        "the answer of {} broke off: {}; {advice}",
        args.admin,
        innermost(error)
    ))
}

fn request(args: &ClientArgs, uri: &Uri, call: Call) -> Result<Request<Full<Bytes>>, CliError> {
    let wrong = |error: http::Error| CliError::Usage(format!("cannot ask {}: {error}", args.admin));
    let mut request = Request::builder()
        .method(call.method)
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, uri.authority().map_or("", |host| host.as_str()))
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
            "`{admin}` is no address of an admin plane; write http://host:port or https://host:port"
        ))
    };
    let (scheme, rest) = admin.split_once("://").unwrap_or(("http", admin));
    if !matches!(scheme, "http" | "https") {
        return Err(wrong());
    }
    let base: Uri = format!("{scheme}://{rest}").parse().map_err(|_| wrong())?;
    if base.authority().is_some_and(|it| it.as_str().contains('@')) {
        // It may have a password in it, and is not repeated.
        return Err(CliError::Usage(
            "the address of an admin plane has no user; write http://host:port, and give the token with --token".to_owned(),
        ));
    }
    match (base.authority(), base.path(), base.query()) {
        (Some(authority), "/" | "", None) => format!("{scheme}://{authority}{path}")
            .parse()
            .map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

fn broken(args: &ClientArgs, error: &hyper::Error) -> CliError {
    let admin = &args.admin;
    // What answers in TLS is no HTTP.
    let advice = match error.is_parse() {
        true => "if the admin plane has a certificate, write https://",
        false => "see `tidepool handlers` for what was done",
    };
    let cause = innermost(error);
    CliError::Unreachable(format!(
        "the connection to {admin} broke: {cause}; {advice}"
    ))
}

/// The outer errors only say where it happened; the innermost says what.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    output::one_line(&cause.to_string())
}

/// A refusal: the title and detail of a problem document, if it is one.
pub(super) fn refused(problem: &Value) -> Option<CliError> {
    let member = |name: &str| problem[name].as_str().map(output::one_line);
    let title = member("title")?;
    Some(CliError::Failed(match member("detail") {
        Some(detail) => format!("{title}: {detail}"),
        None => title,
    }))
}

#[cfg(test)]
#[path = "client_tests.rs"]
pub(super) mod tests;
