//! `tidepool rollback`: an earlier revision becomes the active one again.

use http::Method;

use super::client::{ANSWER_TIMEOUT, Call, ClientArgs, ask};
use super::deploy::{actor, query};
use super::{CliError, operation, output};
use crate::http::documents::RolledBack;
use crate::model::Operation;

/// Return an operation to an earlier revision while it serves.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The operation: get, put, delete or hydrate
    #[arg(value_parser = operation)]
    operation: Operation,
    /// Only in this region; all regions when left out
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// The revision to return to; the one before when left out
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let query = query(&[
        ("region", args.region.clone()),
        ("to", args.to.map(|to| to.to_string())),
    ]);
    let call = Call {
        method: Method::POST,
        path: format!("/v1/handlers/{}/rollback{query}", args.operation),
        headers: vec![actor()],
        body: bytes::Bytes::new(),
        timeout: ANSWER_TIMEOUT,
    };
    ask(&args.client, call, show)
}

fn show(rolled_back: &RolledBack) -> String {
    let rows: Vec<_> = rolled_back
        .slots
        .iter()
        .map(|slot| {
            vec![
                format!("  {}", output::one_line(&slot.region)),
                format!("revision {} -> {}", slot.from, slot.revision),
                slot.state.name().to_owned(),
            ]
        })
        .collect();
    format!(
        "{}: rolled back\n{}",
        output::one_line(&rolled_back.operation),
        output::table(&rows)
    )
}
