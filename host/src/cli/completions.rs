//! `tidepool completions`: what a shell needs to complete the command line.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, CliError, output};

/// Print a script that completes `tidepool` in a shell.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "For bash, in ~/.bashrc: source <(tidepool completions bash)\n\
    For zsh: tidepool completions zsh > a folder of $fpath, as _tidepool\n\
    For fish: tidepool completions fish > ~/.config/fish/completions/tidepool.fish"
)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    output::print(script(args.shell).trim_end())
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tidepool", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_the_script_and_the_compiler_is_not() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {command}");
            }
            assert!(!script.contains("compile-component"), "{shell}");
        }
    }
}
