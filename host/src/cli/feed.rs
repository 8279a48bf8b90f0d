//! `tidepool feed quarantine`: the rows that no hydrate handler could decide about.

use clap::Subcommand;
use http::Method;

use super::change::Regions;
use super::client::{ANSWER_TIMEOUT, Call, ClientArgs, ask, ask_and_judge};
use super::deploy::{actor, query};
use super::{CliError, output};
use crate::http::documents::{Dropped, QuarantineList, QuarantinedRow, Replayed};

/// Look after what the regions follow.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Quarantine(Quarantine),
}

/// List the rows that a region's hydrate handler failed on, and set aside.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
struct Quarantine {
    #[command(subcommand)]
    change: Option<Change>,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Subcommand, Debug)]
enum Change {
    /// Give them to the handler that runs now; what it decides about leaves the quarantine
    Replay {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Forget them
    #[command(group = clap::ArgGroup::new("some").required(true).multiple(true).args(["names", "key", "all"]))]
    Drop {
        #[command(flatten)]
        which: Which,
        /// All that there are
        #[arg(long, conflicts_with_all = ["names", "key"])]
        all: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// The rows that a command is for.
#[derive(clap::Args, Debug)]
struct Which {
    #[command(flatten)]
    regions: Regions,
    /// Only this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

impl Which {
    fn call(&self, method: Method, path: &str) -> Call {
        let query = query(&[self.regions.parameter(), ("key", self.key.clone())]);
        Call {
            method,
            path: format!("/v1/feed/quarantine{path}{query}"),
            headers: vec![actor()],
            body: bytes::Bytes::new(),
            timeout: ANSWER_TIMEOUT,
        }
    }
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let Command::Quarantine(quarantine) = &args.command;
    match &quarantine.change {
        None => {
            let call = quarantine.which.call(Method::GET, "");
            ask(&quarantine.client, call, list)
        }
        Some(Change::Replay { which, client }) => {
            let call = which.call(Method::POST, "/replay");
            ask_and_judge(client, call, replayed, |done: &Replayed| {
                match done.failed.len() {
                    0 => Ok(()),
                    rows => Err(CliError::Failed(format!(
                        "the hydrate handler still fails on {rows} of the rows; they stay in the quarantine"
                    ))),
                }
            })
        }
        Some(Change::Drop { which, client, .. }) => {
            let call = which.call(Method::DELETE, "");
            ask(client, call, |done: &Dropped| {
                format!("dropped {}", done.dropped)
            })
        }
    }
}

fn list(list: &QuarantineList) -> String {
    if list.entries.is_empty() {
        return "nothing is set aside".to_owned();
    }
    let mut text = table(&list.entries);
    let shown = list.entries.len() as u64;
    if list.total > shown {
        let more = list.total - shown;
        text.push_str(&format!("\nand {more} more; name a region with --region"));
    }
    text
}

fn replayed(done: &Replayed) -> String {
    let mut text = format!("replayed {}", done.replayed);
    if !done.failed.is_empty() {
        text.push_str(&format!(
            "; {} could not be decided about now either\n{}",
            done.failed.len(),
            table(&done.failed)
        ));
    }
    if done.left > 0 {
        text.push_str(&format!(
            "\n{} were not tried in time: run it again",
            done.left
        ));
    }
    for region in &done.elsewhere {
        let region = output::one_line(region);
        text.push_str(&format!(
            "\n{region} is served by other hosts: run it again with --admin for one of them"
        ));
    }
    text
}

fn table(entries: &[QuarantinedRow]) -> String {
    let heads = ["REGION", "KEY", "VERSION", "SET ASIDE", "WHY"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(entries.iter().map(|entry| {
        vec![
            output::one_line(&entry.region),
            output::one_line(&entry.key),
            entry.version.to_string(),
            output::one_line(&entry.at),
            output::one_line(&entry.why),
        ]
    }));
    output::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str) -> QuarantinedRow {
        QuarantinedRow {
            region: "eu".to_owned(),
            key: key.to_owned(),
            version: 7,
            at: "2026-01-01T00:00:00Z".to_owned(),
            why: "revision 2: trapped".to_owned(),
        }
    }

    #[test]
    fn what_is_set_aside_is_a_table() {
        let text = list(&QuarantineList {
            entries: vec![row("a\u{1b}[2J")],
            total: 3,
        });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1],
            "eu      a [2J  7        2026-01-01T00:00:00Z  revision 2: trapped"
        );
        assert_eq!(lines[2], "and 2 more; name a region with --region");
        let none = QuarantineList::default();
        assert_eq!(list(&none), "nothing is set aside");
    }

    #[test]
    fn what_a_replay_did_not_do_is_said() {
        let text = replayed(&Replayed {
            replayed: 2,
            failed: vec![row("k")],
            left: 1,
            elsewhere: vec!["us".to_owned()],
        });
        for says in [
            "replayed 2; 1 could",
            "trapped",
            "1 were not",
            "us is served",
        ] {
            assert!(text.contains(says), "{text}");
        }
    }
}
