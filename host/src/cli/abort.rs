//! `tidepool abort`: a canary is withdrawn.

use super::CliError;
use super::change::{Slots, change};
use super::client::ClientArgs;

/// Withdraw a canary: all keys get the active revision again.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    slots: Slots,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let nothing = ("", None);
    change(
        "abort",
        &args.slots,
        nothing,
        &args.client,
        "canary withdrawn",
    )
}
