//! `tidepool audit`: who did what to deployments, when and from where.

use http::Method;

use super::client::{ANSWER_TIMEOUT, Call, ClientArgs, ask};
use super::deploy::query;
use super::{CliError, output};
use crate::http::documents::AuditList;

/// List what was done to deployments, newest first.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// At most this many; 1 to 1000
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
    limit: u64,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let query = query(&[("limit", Some(args.limit.to_string()))]);
    let call = Call {
        method: Method::GET,
        path: format!("/v1/audit{query}"),
        headers: Vec::new(),
        body: bytes::Bytes::new(),
        timeout: ANSWER_TIMEOUT,
    };
    ask(&args.client, call, show)
}

fn show(list: &AuditList) -> String {
    let heads = ["NUMBER", "AT", "BY", "FROM", "WHAT"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(list.entries.iter().map(|entry| {
        vec![
            entry.number.to_string(),
            output::one_line(&entry.at),
            output::one_line(&entry.actor),
            output::one_line(&entry.source),
            output::one_line(&entry.summary),
        ]
    }));
    output::table(&rows)
}
