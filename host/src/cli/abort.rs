//! `tidepool abort`: a canary is withdrawn.

use http::Method;

use super::client::{ANSWER_TIMEOUT, Call, ClientArgs, ask};
use super::deploy::{actor, list, query};
use super::rollback::changed;
use super::{CliError, operation};
use crate::model::Operation;

/// Withdraw a canary: all keys get the active revision again.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The operation: get, put, delete or hydrate
    #[arg(value_parser = operation)]
    operation: Operation,
    /// Only in these regions; wherever there is a canary when left out
    #[arg(
        long = "region",
        alias = "regions",
        value_name = "NAME",
        value_delimiter = ','
    )]
    regions: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let query = query(&[("region", list(&args.regions))]);
    let call = Call {
        method: Method::POST,
        path: format!("/v1/handlers/{}/abort{query}", args.operation),
        headers: vec![actor()],
        body: bytes::Bytes::new(),
        timeout: ANSWER_TIMEOUT,
    };
    ask(&args.client, call, |answer| {
        changed(answer, "canary withdrawn")
    })
}
