//! `tidepool promote`: a canary gets more of the keys, or all.

use http::Method;

use super::client::{ANSWER_TIMEOUT, Call, ClientArgs, ask};
use super::deploy::{actor, list, query, share};
use super::rollback::changed;
use super::{CliError, operation};
use crate::deployments::Share;
use crate::model::Operation;

/// Give a canary more of the keys, or all of them.
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
    /// The share of the keys that it gets; all when left out
    #[arg(long, value_name = "SHARE", value_parser = share)]
    canary: Option<Share>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let query = query(&[
        ("region", list(&args.regions)),
        ("share", args.canary.map(|share| share.to_string())),
    ]);
    let call = Call {
        method: Method::POST,
        path: format!("/v1/handlers/{}/promote{query}", args.operation),
        headers: vec![actor()],
        body: bytes::Bytes::new(),
        timeout: ANSWER_TIMEOUT,
    };
    ask(&args.client, call, |answer| changed(answer, "promoted"))
}
