//! The answers of the commands that change what is deployed: whoever reads their JSON
//! reads a refusal as JSON too, and an answer that breaks off leaves open what was done.

use std::error::Error;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::{Call, ClientArgs, MAX_ANSWER_BYTES, open, read, refused, runtime, within};
use super::{CliError, output};

/// What to do when an answer breaks off.
pub(super) const LOOK_FIRST: &str =
    "see `tidepool handlers` for what was done before you try again";

/// Asks for a change; prints its answer as JSON when that is wanted, and otherwise as
/// `show` writes it.
pub(super) fn ask<T: DeserializeOwned>(
    args: &ClientArgs,
    call: Call,
    show: impl FnOnce(&T) -> String,
) -> Result<(), CliError> {
    let timeout = call.timeout;
    let answer = runtime()?.block_on(within(args, timeout, async {
        let response = open(args, call).await?;
        whole(args, response).await
    }))?;
    let done: T = read(args, &answer)?;
    match args.json {
        true => output::print(&String::from_utf8_lossy(&answer)),
        false => output::print(&show(&done)),
    }
}

/// Reads an answer to its end. With `--json` a refusal is printed as the last line of
/// a deployment has it: `{"problem": ...}`.
pub(super) async fn whole(
    args: &ClientArgs,
    response: Response<Incoming>,
) -> Result<Bytes, CliError> {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    let body = body.collect().await;
    let body = body.map_err(|error| broke_off(args, &*error, LOOK_FIRST))?;
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
pub(super) fn broke_off(args: &ClientArgs, error: &dyn Error, advice: &str) -> CliError {
    let mut cause = error;
    // The outer errors only say where it happened.
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    CliError::Unreachable(format!(
        "the answer of {} broke off: {}; {advice}",
        args.admin,
        output::one_line(&cause.to_string())
    ))
}
