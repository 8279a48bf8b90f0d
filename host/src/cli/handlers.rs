//! `tidepool handlers`: what every slot runs, and with `--all` what it ran.

use http::Method;

use super::client::{ANSWER_TIMEOUT, Call, ClientArgs, ask};
use super::{CliError, output};
use crate::http::documents::{HandlerList, HandlerRevision, RevisionState};

/// List the components of every region and operation.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Also those that are no longer running, and can be rolled back to
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let call = Call {
        method: Method::GET,
        path: "/v1/handlers".to_owned(),
        headers: Vec::new(),
        body: bytes::Bytes::new(),
        timeout: ANSWER_TIMEOUT,
    };
    ask(&args.client, call, |list| show(list, args.all))
}

fn show(list: &HandlerList, all: bool) -> String {
    let heads = [
        "REGION",
        "OPERATION",
        "REVISION",
        "STATE",
        "DIGEST",
        "SIZE",
        "CALLS",
        "FAILURES",
        "DEPLOYED",
        "BY",
        "NOTE",
    ];
    let shown = list
        .handlers
        .iter()
        .filter(|handler| all || handler.state != RevisionState::Retired);
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(shown.map(row));
    output::table(&rows)
}

fn row(handler: &HandlerRevision) -> Vec<String> {
    vec![
        output::one_line(&handler.region),
        output::one_line(&handler.operation),
        handler.revision.to_string(),
        match &handler.share {
            Some(share) => format!("{} {}", handler.state.name(), output::one_line(share)),
            None => handler.state.name().to_owned(),
        },
        output::digest(&handler.digest),
        output::size(handler.size),
        handler.calls.to_string(),
        handler.failures.to_string(),
        output::one_line(&handler.deployed_at),
        output::one_line(&handler.deployed_by),
        handler
            .note
            .as_deref()
            .map(output::one_line)
            .unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retired_revisions_are_shown_only_when_asked_for() {
        let handler = |revision, state| HandlerRevision {
            region: "us-east-1".to_owned(),
            operation: "get".to_owned(),
            revision,
            digest: "sha256:0123456789abcdef".to_owned(),
            size: 1024,
            deployed_at: "2026-01-01T00:00:00Z".to_owned(),
            deployed_by: "eve\u{1b}[2J@host".to_owned(),
            state,
            share: None,
            calls: 7,
            failures: 0,
            note: None,
        };
        let list = HandlerList {
            handlers: vec![
                handler(1, RevisionState::Retired),
                handler(2, RevisionState::Active),
            ],
        };
        let text = show(&list, false);
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.contains("active") && !text.contains('\u{1b}'),
            "{text}"
        );
        assert_eq!(show(&list, true).lines().count(), 3);
    }
}
