//! `tidepool deploy`: uploads a component and has it swapped in.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

use super::change::Regions;
use super::client::{Call, ClientArgs, DEPLOY_TIMEOUT};
use super::configure::ConfigArgs;
use super::{CliError, deploy_lines, handlers, operation, output, signature};
use crate::component_file;
use crate::config::MAX_COMPONENT_BYTES_CEILING;
use crate::deployments::{Outline, Share};
use crate::http::documents::{Deployed, DeployedSlot};
use crate::model::Operation;

/// Replace the component of an operation while it serves.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The operation: get, put, delete or hydrate
    #[arg(value_parser = operation)]
    operation: Operation,
    /// The component, a .wasm file
    file: PathBuf,
    #[command(flatten)]
    regions: Regions,
    /// Only for this share of the keys, for example 5%, until `tidepool promote`
    #[arg(long, value_name = "SHARE", value_parser = share)]
    canary: Option<Share>,
    /// Step by step, for example "us-east-1: 5%, 100%; *: 100%": regions in this
    /// order, with growing shares of their keys; `*` is every other region
    #[arg(long, value_name = "PLAN", value_parser = plan, conflicts_with_all = ["names", "canary"])]
    plan: Option<String>,
    /// The pause after each step of the plan [default: 5m]
    #[arg(long, value_name = "TIME", requires = "plan")]
    pause: Option<humantime::Duration>,
    #[command(flatten)]
    config: ConfigArgs,
    /// The signature of `ssh-keygen -Y sign -n tidepool`; FILE.sig when there is one
    #[arg(long, value_name = "SIG")]
    signature: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    // First what is wrong in the command line itself.
    let config = args.config.header()?;
    let component = read(&args.file)?;
    let digest = format!("sha-256=:{}:", BASE64.encode(Sha256::digest(&component)));
    let digest =
        HeaderValue::try_from(digest).map_err(|error| CliError::Failed(error.to_string()))?;
    let mut headers = vec![
        (CONTENT_TYPE, HeaderValue::from_static("application/wasm")),
        // RFC 9530: the server compares it with what has arrived.
        (HeaderName::from_static("content-digest"), digest),
        actor(),
    ];
    headers.extend(config);
    headers.extend(signature::header(args.signature.as_deref(), &args.file)?);
    let call = Call {
        method: Method::POST,
        path: format!(
            "/v1/handlers/{}{}",
            args.operation,
            query(&[
                args.regions.parameter(),
                ("canary", args.canary.map(|share| share.to_string())),
                ("plan", args.plan.clone()),
                ("pause", args.pause.map(|pause| pause.to_string())),
            ])
        ),
        headers,
        body: component.into(),
        timeout: DEPLOY_TIMEOUT,
    };
    let judge = |deployed: &Deployed| done(deployed.slots.iter(), &deployed.problems);
    deploy_lines::deploy(&args.client, call, show, judge)
}

/// Reads a component, unless it is larger than any host takes.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, CliError> {
    let read = component_file::read(file, MAX_COMPONENT_BYTES_CEILING);
    read.map_err(|error| CliError::Failed(format!("{} {error}", file.display())))
}

fn show(deployed: &Deployed) -> String {
    let mut text = format!(
        "{}: {} ({}), compiled in {:.0} ms, live after {:.0} ms\n{}",
        output::one_line(&deployed.operation),
        output::digest(&deployed.digest),
        output::size(deployed.size),
        deployed.timings.compile_ms,
        deployed.timings.total_ms,
        output::table(&deployed.slots.iter().map(row).collect::<Vec<_>>())
    );
    if let Some(plan) = &deployed.plan {
        text.push('\n');
        text.push_str(&handlers::plan(plan));
    }
    problems(&mut text, &deployed.problems);
    text
}

/// A slot as a row: what it runs, and when its hosts did.
pub(super) fn row(slot: &DeployedSlot) -> Vec<String> {
    let share = slot.share.as_deref().map(output::one_line);
    let state = match share {
        Some(share) => format!("{} {share}", slot.state.name()),
        None => slot.state.name().to_owned(),
    };
    let live = match (slot.unchanged, slot.live_ms) {
        (true, Some(_)) => "(ran it already)".to_owned(),
        (true, None) => "(nothing to do, and not all of its hosts run it)".to_owned(),
        (false, Some(live)) => format!("after {live:.0} ms"),
        (false, None) => "(not all of its hosts run it yet)".to_owned(),
    };
    vec![
        format!("  {}", output::one_line(&slot.region)),
        format!("revision {}", slot.revision),
        format!("{state} {live}"),
    ]
}

/// What hosts cannot do.
pub(super) fn problems(text: &mut String, problems: &[String]) {
    for problem in problems {
        text.push_str(&format!("\nproblem: {}", output::one_line(problem)));
    }
}

/// Fails when hosts say that they cannot do what was asked: then it is in the record,
/// and not true in their regions.
pub(super) fn done<'a>(
    slots: impl Iterator<Item = &'a DeployedSlot>,
    problems: &[String],
) -> Result<(), CliError> {
    let missing = slots.filter(|slot| slot.live_ms.is_none());
    let missing: Vec<_> = missing.map(|slot| output::one_line(&slot.region)).collect();
    if problems.is_empty() || missing.is_empty() {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "hosts of {} cannot run it: {}; mend that, they try again by themselves, or roll back",
        missing.join(", "),
        output::one_line(&problems.join("; "))
    )))
}

/// Reads a plan, as a host will.
fn plan(text: &str) -> Result<String, String> {
    let parsed = Outline::parse(text).map(|_| text.to_owned());
    parsed.map_err(|error| error.to_string())
}

/// Reads a share of the keys.
pub(super) fn share(text: &str) -> Result<Share, String> {
    Share::parse(text).ok_or_else(|| "a share is 0.01% to 100%".to_owned())
}

/// A query of those parameters that have a value; empty when none has.
pub(super) fn query(parameters: &[(&str, Option<String>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| {
        let value = utf8_percent_encode(value.as_ref()?, NON_ALPHANUMERIC);
        Some(format!("{name}={value}"))
    });
    match given.collect::<Vec<_>>().join("&") {
        query if query.is_empty() => query,
        query => format!("?{query}"),
    }
}

/// Who does it, for the record: `user@host`, as this machine says. It is a
/// note, not a proof; the proof is the token.
pub(super) fn actor() -> (HeaderName, HeaderValue) {
    let user = std::env::var("USER")
        .or_else(|_| std::env::var("LOGNAME"))
        .unwrap_or_else(|_| "unknown".to_owned());
    let host = gethostname::gethostname();
    let text: String = format!("{user}@{}", host.to_string_lossy())
        .chars()
        .map(|c| if c.is_ascii_graphic() { c } else { '?' })
        .take(128)
        .collect();
    let value = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
    (HeaderName::from_static("tidepool-actor"), value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::documents::{RevisionState, Timings};

    #[test]
    fn a_query_has_what_is_given() {
        assert_eq!(query(&[("region", None), ("to", None)]), "");
        assert_eq!(
            query(&[("region", Some("a&b".into())), ("to", Some("3".into()))]),
            "?region=a%26b&to=3"
        );
    }

    #[test]
    fn the_actor_is_a_user_at_a_host() {
        assert!(actor().1.to_str().unwrap().contains('@'));
    }

    #[test]
    fn what_a_host_cannot_run_is_not_done() {
        let slot = |region: &str, live_ms| DeployedSlot {
            region: region.to_owned(),
            revision: 2,
            state: RevisionState::Active,
            share: None,
            unchanged: true,
            live_ms,
        };
        let slots = [slot("us", Some(1.0)), slot("eu", None)];
        let problem = ["no secret".to_owned()];
        assert_eq!(done(slots.iter(), &[]), Ok(()));
        assert_eq!(done(slots[..1].iter(), &problem), Ok(()));
        let failed = done(slots.iter(), &problem).unwrap_err();
        assert_eq!(failed.exit_code(), 1);
        assert!(
            failed
                .to_string()
                .starts_with("hosts of eu cannot run it: no secret;")
        );
    }

    #[test]
    fn a_deployment_is_shown_slot_by_slot() {
        let slot = |region: &str, unchanged| DeployedSlot {
            region: region.to_owned(),
            revision: 2,
            state: RevisionState::Active,
            share: None,
            unchanged,
            live_ms: Some(19.6),
        };
        let text = show(&Deployed {
            operation: "get".to_owned(),
            digest: "sha256:0123456789abcdef".to_owned(),
            size: 2048,
            timings: Timings {
                compile_ms: 12.4,
                total_ms: 20.6,
                ..Timings::default()
            },
            slots: vec![slot("us-east-1", false), slot("eu", true)],
            plan: None,
            problems: vec!["eu is old".to_owned()],
        });
        assert_eq!(
            text,
            "get: 0123456789ab (2.0 KiB), compiled in 12 ms, live after 21 ms\n  us-east-1  revision 2  active after 20 ms\n  eu         revision 2  active (ran it already)\nproblem: eu is old"
        );
    }
}
