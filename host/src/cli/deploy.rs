//! `tidepool deploy`: uploads a component and has it swapped in.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

use super::client::{Call, ClientArgs, DEPLOY_TIMEOUT, ask};
use super::{CliError, operation, output, signature};
use crate::config::MAX_COMPONENT_BYTES_CEILING;
use crate::http::documents::Deployed;
use crate::model::Operation;

/// Replace the component of an operation while it serves.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The operation: get, put, delete or hydrate
    #[arg(value_parser = operation)]
    operation: Operation,
    /// The component, a .wasm file
    file: PathBuf,
    /// Only in this region; all regions when left out
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// The signature of `ssh-keygen -Y sign -n tidepool`; FILE.sig when there is one
    #[arg(long, value_name = "SIG")]
    signature: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
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
    headers.extend(signature::header(args.signature.as_deref(), &args.file)?);
    let call = Call {
        method: Method::POST,
        path: format!(
            "/v1/handlers/{}{}",
            args.operation,
            query(&[("region", args.region.clone())])
        ),
        headers,
        body: component.into(),
        timeout: DEPLOY_TIMEOUT,
    };
    ask(&args.client, call, show)
}

fn read(file: &Path) -> Result<Vec<u8>, CliError> {
    let failed = |error| {
        CliError::Failed(format!(
            "cannot read {}: {error}; name a component (.wasm)",
            file.display()
        ))
    };
    let size = std::fs::metadata(file).map_err(failed)?.len();
    if size > MAX_COMPONENT_BYTES_CEILING as u64 {
        let most = output::size(MAX_COMPONENT_BYTES_CEILING as u64);
        return Err(CliError::Failed(format!(
            "{} has {}; no component may have more than {most}",
            file.display(),
            output::size(size)
        )));
    }
    std::fs::read(file).map_err(failed)
}

fn show(deployed: &Deployed) -> String {
    let rows: Vec<_> = deployed
        .slots
        .iter()
        .map(|slot| {
            let unchanged = if slot.unchanged {
                " (ran it already)"
            } else {
                ""
            };
            vec![
                format!("  {}", output::one_line(&slot.region)),
                format!("revision {}", slot.revision),
                format!("{}{unchanged}", slot.state.name()),
            ]
        })
        .collect();
    format!(
        "{}: {} ({}), compiled in {:.0} ms, live after {:.0} ms\n{}",
        output::one_line(&deployed.operation),
        output::digest(&deployed.digest),
        output::size(deployed.size),
        deployed.timings.compile_ms,
        deployed.timings.total_ms,
        output::table(&rows)
    )
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
    use crate::http::documents::{DeployedSlot, RevisionState, Timings};

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
    fn a_deployment_is_shown_slot_by_slot() {
        let slot = |region: &str, unchanged| DeployedSlot {
            region: region.to_owned(),
            revision: 2,
            state: RevisionState::Active,
            unchanged,
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
        });
        assert_eq!(
            text,
            "get: 0123456789ab (2.0 KiB), compiled in 12 ms, live after 21 ms\n  us-east-1  revision 2  active\n  eu         revision 2  active (ran it already)"
        );
    }
}
