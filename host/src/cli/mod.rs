//! The command line: one file per subcommand, and what they share. The only
//! part that reads the process environment and writes to standard streams.
//!
//! An error is one line on standard error, `error: ...`. Exit codes: 0 it is
//! done, 1 it was refused or failed, 2 the command line is wrong, 3 the admin
//! plane cannot be reached or did not answer.

mod abort;
mod audit;
mod change;
mod changed;
mod check;
mod client;
mod compile;
mod completions;
mod config;
mod configure;
mod connect;
mod deploy;
mod deploy_lines;
mod dev;
mod doctor;
mod feed;
mod handlers;
mod lines;
mod logs;
mod output;
mod promote;
mod rollback;
mod running;
mod serve;
mod settings;
mod signature;
mod token;
mod view;

pub use compile::answer_compile;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::model::Operation;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused or failed, 2 wrong command line, \
                          3 the admin plane cannot be reached.";

/// A geo-distributed key-value store whose logic is WebAssembly, replaced while it serves.
#[derive(Parser, Debug)]
#[command(name = "tidepool", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Abort(abort::Args),
    Audit(audit::Args),
    Dev(dev::Args),
    Serve(serve::Args),
    Config(config::Args),
    Check(check::Args),
    Deploy(deploy::Args),
    Doctor(doctor::Args),
    Feed(feed::Args),
    Handlers(handlers::Args),
    Logs(logs::Args),
    Promote(promote::Args),
    Rollback(rollback::Args),
    Token(token::Args),
    View(view::Args),
    Completions(completions::Args),
}

/// Why a command did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
enum CliError {
    /// It was refused, or it failed.
    #[error("{0}")]
    Failed(String),
    /// The command line is wrong in a way that its grammar does not say.
    #[error("{0}")]
    Usage(String),
    /// The admin plane cannot be reached, or did not answer.
    #[error("{0}")]
    Unreachable(String),
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            CliError::Failed(_) => 1,
            CliError::Usage(_) => 2,
            CliError::Unreachable(_) => 3,
        }
    }
}

/// Runs the command that the arguments (the program's name first) say.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(done) = answer_compile(args.iter().cloned()) {
        return done;
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let done = match cli.command {
        Command::Abort(args) => abort::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Dev(args) => dev::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Config(args) => config::run(args),
        Command::Check(args) => check::run(args),
        Command::Deploy(args) => deploy::run(&args),
        Command::Doctor(args) => doctor::run(args),
        Command::Feed(args) => feed::run(&args),
        Command::Handlers(args) => handlers::run(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Promote(args) => promote::run(&args),
        Command::Rollback(args) => rollback::run(&args),
        Command::Token(args) => token::run(&args),
        Command::View(args) => view::run(args),
        Command::Completions(args) => completions::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

/// Help and version as clap writes them; a mistake as one line.
fn explain(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(2)
        }
        _ => {
            output::error(&usage_line(error));
            ExitCode::from(2)
        }
    }
}

fn usage_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    // What follows is the usage and where to find help: no more than a hint.
    let said = text.split("\nUsage:").next().unwrap_or(&text);
    let said = said.split("\nFor more information").next().unwrap_or(said);
    let said = said.strip_prefix("error: ").unwrap_or(said);
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    format!(
        "{}; see `tidepool --help`",
        lines.join("; ").replace(":;", ":")
    )
}

/// Reads the name of an operation.
fn operation(name: &str) -> Result<Operation, String> {
    let names = Operation::ALL.map(Operation::name).join(", ");
    Operation::parse(name).ok_or_else(|| format!("there is no such operation; there are {names}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("tidepool").chain(args.iter().copied()))
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_mistake_is_one_line_that_says_what_to_do() {
        for (args, says) in [
            (&["dev", "--dta", "x"][..], "--data"),
            (
                &["deploy", "gte", "x.wasm"],
                "there are get, put, delete, hydrate",
            ),
            (&["deploy", "get"], "<FILE>"),
            (&["rollback", "get", "--to", "0"], "--to"),
            (&["feed", "quarantine", "drop"], "--all"),
            (&["dev", "--set", "limits.cpu"], "key=value"),
            (&["srve"], "srve"),
        ] {
            let line = usage_line(&parse(args).unwrap_err());
            assert!(
                line.contains(says) && !line.contains('\n'),
                "{args:?}: {line}"
            );
            assert!(line.ends_with("see `tidepool --help`"), "{line}");
        }
    }

    #[test]
    fn exit_codes_are_as_documented() {
        assert_eq!(CliError::Failed(String::new()).exit_code(), 1);
        assert_eq!(CliError::Usage(String::new()).exit_code(), 2);
        assert_eq!(CliError::Unreachable(String::new()).exit_code(), 3);
    }
}
