//! `tidepool rollback`: an earlier revision becomes the active one again.

use super::CliError;
use super::change::{Slots, change};
use super::client::ClientArgs;

/// Return an operation to an earlier revision while it serves.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    slots: Slots,
    /// The revision to return to; the one before when left out
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let to = ("to", args.to.map(|to| to.to_string()));
    change("rollback", &args.slots, to, &args.client, "rolled back")
}
