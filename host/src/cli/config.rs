//! `tidepool config`: what the settings are, and whether they can work.

use super::serve::RegionArgs;
use super::{CliError, output, running};
use crate::app::App;
use crate::config::Settings;

/// Show settings
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Check the settings of `tidepool serve` as a whole and print what they come to, secrets masked
    Check(RegionArgs),
    /// Print all settings with their meaning, their variable and their default, as a file to start from
    Print,
}

/// Prints them.
pub(super) fn run(args: Args) -> Result<(), CliError> {
    let settings = match args.command {
        Command::Check(region) => {
            let settings = region.settings()?;
            App::check(&settings).map_err(running::failed)?;
            settings
        }
        Command::Print => Settings::default(),
    };
    output::print(settings.to_commented_toml().trim_end())
}
