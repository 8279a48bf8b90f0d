//! `tidepool rollback`: an earlier revision becomes the active one again.

use http::Method;

use super::client::{ANSWER_TIMEOUT, Call, ClientArgs, ask};
use super::deploy::{actor, list, problems, query, row};
use super::{CliError, operation, output};
use crate::http::documents::RolledBack;
use crate::model::Operation;

/// Return an operation to an earlier revision while it serves.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The operation: get, put, delete or hydrate
    #[arg(value_parser = operation)]
    operation: Operation,
    /// Only in these regions; all when left out
    #[arg(
        long = "region",
        alias = "regions",
        value_name = "NAME",
        value_delimiter = ','
    )]
    regions: Vec<String>,
    /// The revision to return to; the one before when left out
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let query = query(&[
        ("region", list(&args.regions)),
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
    changed(rolled_back, "rolled back")
}

/// What a change without a component has come to.
pub(super) fn changed(change: &RolledBack, done: &str) -> String {
    let rows = change.slots.iter().map(|slot| {
        let mut cells = row(&slot.slot);
        if let Some(revision) = cells.get_mut(1) {
            *revision = format!("revision {} -> {}", slot.from, slot.slot.revision);
        }
        cells
    });
    let rows: Vec<_> = rows.collect();
    let operation = output::one_line(&change.operation);
    let mut text = format!("{operation}: {done}\n{}", output::table(&rows));
    problems(&mut text, &change.problems);
    text
}
