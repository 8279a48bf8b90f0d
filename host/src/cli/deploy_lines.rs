//! What `tidepool deploy` shows while it happens: a line for each step. A host of
//! an earlier release answers at the end only.

use std::time::{Duration, Instant as Stopwatch};

use http::HeaderValue;
use http::header::ACCEPT;
use serde_json::json;

use super::client::{Call, ClientArgs, LOOK_FIRST, open, read, refused, runtime, whole, within};
use super::lines::Lines;
use super::{CliError, output};
use crate::http::documents::{DeployLine, DeployStep, Deployed};

const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson, application/json");

/// Deploys; prints each step as it comes, and in the end as `show` writes it, or
/// all as lines of JSON. It fails when `judge` says that not all was done.
pub(super) fn deploy(
    args: &ClientArgs,
    mut call: Call,
    show: impl FnOnce(&Deployed) -> String,
    judge: impl FnOnce(&Deployed) -> Result<(), CliError>,
) -> Result<(), CliError> {
    call.headers.push((ACCEPT, LINES));
    let timeout = call.timeout;
    let deployed = runtime()?.block_on(within(args, timeout, told(args, call)))?;
    if !args.json {
        output::print(&show(&deployed))?;
    }
    judge(&deployed)
}

async fn told(args: &ClientArgs, call: Call) -> Result<Deployed, CliError> {
    let start = Stopwatch::now();
    let response = open(args, call).await?;
    // The head comes when the host has the last byte.
    let upload = start.elapsed();
    if !Lines::are_in(&response) {
        let answer = whole(args, response, LOOK_FIRST).await?;
        let deployed: Deployed = read(args, &answer)?;
        if args.json {
            output::print(&json!({"done": read::<serde_json::Value>(args, &answer)?}).to_string())?;
        }
        return Ok(deployed);
    }
    let step = upload_step(upload);
    match args.json {
        true => output::print(&json!(step).to_string())?,
        false => output::print(&show_step(&step))?,
    }
    let mut lines = Lines::of(args, response, LOOK_FIRST);
    while let Some(line) = lines.next().await? {
        if args.json {
            output::print(String::from_utf8_lossy(&line).trim_end())?;
        }
        match read(args, &line)? {
            DeployLine::Step(step) if !args.json && step.step != "received" => {
                output::print(&show_step(&step))?;
            }
            DeployLine::Done { done } => return Ok(*done),
            DeployLine::Problem { problem } => {
                let unknown = || CliError::Failed("it was not deployed".to_owned());
                return Err(refused(&problem).unwrap_or_else(unknown));
            }
            DeployLine::Step(_) | DeployLine::Other(_) => {}
        }
    }
    Err(CliError::Unreachable(format!(
        "{} ended before the deployment did; see `tidepool handlers` for what was done",
        args.admin
    )))
}

/// The time until the host had all bytes, as this side sees it.
fn upload_step(took: Duration) -> DeployStep {
    DeployStep {
        step: "upload".to_owned(),
        region: None,
        revision: None,
        ms: took.as_secs_f64() * 1e3,
    }
}

fn show_step(step: &DeployStep) -> String {
    let name = output::one_line(&step.step);
    let region = step.region.as_deref().map(output::one_line);
    let region = region.unwrap_or_default();
    format!("{name:<9} {:>8.1} ms  {region}", step.ms)
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{args, call, serve};
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use crate::http::documents::Timings;
    use crate::http::respond;
    use crate::http::stream;

    const LAST: &str = "{\"done\":{\"operation\":\"get\",\"digest\":\"\",\"size\":9,\"slots\":[],\
        \"timings\":{\"verify_ms\":0,\"compile_ms\":0,\"self_test_ms\":0,\"total_ms\":0}}}\n";

    async fn told_by(text: &'static str) -> Result<Deployed, CliError> {
        let (address, asked) = serve(move || stream::answer(bytes::Bytes::from(text).into()));
        let done = told(&args(address), call(Vec::new())).await;
        assert_eq!(asked.lock().len(), 1);
        done
    }

    #[tokio::test]
    async fn a_host_that_knows_no_lines_is_understood() {
        let deployed = Deployed {
            operation: "get".to_owned(),
            digest: String::new(),
            size: 7,
            timings: Timings::default(),
            slots: Vec::new(),
            plan: None,
            problems: Vec::new(),
        };
        let answer = deployed.clone();
        let (address, _) = serve(move || respond::json(http::StatusCode::OK, &answer));
        let done = told(&args(address), call(Vec::new())).await;
        assert_eq!(done.unwrap(), deployed);
    }

    #[tokio::test]
    async fn the_last_line_says_what_has_become_of_it() {
        assert_eq!(told_by(LAST).await.unwrap().size, 9);
        let text = "{\"step\":\"paint\",\"ms\":1,\"colour\":2}\n\n{\"newer\":true}\n\
                    {\"problem\":{\"title\":\"No\",\"detail\":\"it is\\nbad\"}}\n";
        let refused = told_by(text).await.unwrap_err();
        assert_eq!(refused, CliError::Failed("No: it is; bad".to_owned()));
        for cut in ["", "{\"step\":\"compile\",\"ms\":1}\n", LAST.trim_end()] {
            let ended = told_by(cut).await.unwrap_err();
            assert_eq!(ended.exit_code(), 3, "{ended}");
        }
        assert_eq!(told_by("<html>\n").await.unwrap_err().exit_code(), 1);
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_may_have_been_a_deployment() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let args = args(listener.local_addr().unwrap());
        let host = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            // One byte of the request, so that closing comes after its answer.
            socket.read_u8().await.unwrap();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncontent-length: 99\r\n\r\n{";
            socket.write_all(head.as_bytes()).await.unwrap();
            socket.shutdown().await.unwrap();
            // Until the client is gone: an end with bytes unread would reset it all.
            let _ = tokio::io::copy(&mut socket, &mut tokio::io::sink()).await;
        };
        let (_, broken) = tokio::join!(host, told(&args, call(Vec::new())));
        let error = broken.unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("broke off") && text.contains("tidepool handlers"),
            "{text}"
        );
    }

    #[test]
    fn a_step_is_a_line_with_its_time() {
        let mut step = upload_step(Duration::from_micros(12_340));
        assert_eq!(show_step(&step), "upload        12.3 ms");
        step.step = "live\n".to_owned();
        step.region = Some("eu\u{1b}".to_owned());
        assert_eq!(show_step(&step), "live          12.3 ms  eu");
    }
}
