//! `tidepool promote`: a canary gets more of the keys, or all.

use super::CliError;
use super::change::{Slots, change};
use super::client::ClientArgs;
use super::deploy::share;
use crate::deployments::Share;

/// Give a canary more of the keys, or all of them.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    slots: Slots,
    /// The share of the keys that it gets; all when left out
    #[arg(long, value_name = "SHARE", value_parser = share)]
    canary: Option<Share>,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let share = ("share", args.canary.map(|share| share.to_string()));
    change("promote", &args.slots, share, &args.client, "promoted")
}
