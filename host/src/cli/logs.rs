//! `tidepool logs`: what the handlers of a host print, and how they fail.

use http::Method;

use super::change::Regions;
use super::client::{
    ANSWER_TIMEOUT, Call, ClientArgs, open, read, refused, runtime, whole, within,
};
use super::deploy::query;
use super::lines::Lines;
use super::running::Signals;
use super::{CliError, operation, output};
use crate::http::documents::LogEntry;
use crate::model::Operation;

/// Show what the handlers of an operation print, and how they fail.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The operation: get, put, delete or hydrate
    #[arg(value_parser = operation)]
    operation: Operation,
    #[command(flatten)]
    regions: Regions,
    /// Go on with what comes, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// At most this many lines at first; 0 to 1000
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=1000))]
    limit: u64,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let query = query(&[
        args.regions.parameter(),
        ("limit", Some(args.limit.to_string())),
        ("follow", args.follow.then(|| "true".to_owned())),
    ]);
    let call = Call {
        method: Method::GET,
        path: format!("/v1/logs/{}{query}", args.operation),
        headers: Vec::new(),
        body: bytes::Bytes::new(),
        timeout: ANSWER_TIMEOUT,
    };
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        tokio::select! {
            ended = print(args, call) => ended,
            () = signals.next() => Ok(()),
        }
    })
}

async fn print(args: &Args, call: Call) -> Result<(), CliError> {
    let client = &args.client;
    let response = within(client, call.timeout, open(client, call)).await?;
    if !Lines::are_in(&response) {
        // What is no refusal is no admin plane.
        let answer = within(client, ANSWER_TIMEOUT, whole(client, response, "try again")).await?;
        return read(client, &answer).and_then(|_: LogEntry| {
            let why = format!("{} does not answer with lines", client.admin);
            Err(CliError::Failed(why))
        });
    }
    let mut lines = Lines::of(client, response, "is the host still there? then try again");
    while let Some(line) = lines.next().await? {
        let entry: LogEntry = read(client, &line)?;
        let text = match client.json {
            true => Some(String::from_utf8_lossy(&line).trim_end().to_owned()),
            false => show(&entry),
        };
        // Who reads this may have seen enough.
        if let Some(text) = text
            && !output::print_on(&text)?
        {
            return Ok(());
        }
        if let LogEntry::Problem { problem } = entry {
            let unknown = || CliError::Failed("the host tells no more".to_owned());
            return Err(refused(&problem).unwrap_or_else(unknown));
        }
    }
    match args.follow {
        false => Ok(()),
        true => Err(CliError::Unreachable(format!(
            "{} has stopped, and its lines with it; follow it again when it is back",
            client.admin
        ))),
    }
}

fn show(entry: &LogEntry) -> Option<String> {
    match entry {
        LogEntry::Line(line) => Some(format!(
            "{} {} {}@{} {}",
            output::one_line(&line.at),
            output::one_line(&line.region),
            output::one_line(&line.operation),
            line.revision,
            output::one_line(&line.text)
        )),
        LogEntry::Missed { missed, region } => Some(format!(
            "-- {missed} lines of {} came too fast, and are gone",
            output::one_line(region)
        )),
        LogEntry::Problem { .. } | LogEntry::Other(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_without_control_characters() {
        let entry: LogEntry = serde_json::from_str(
            r#"{"at":"2026-01-01T00:00:00.000000Z","region":"eu","operation":"get","revision":3,
                "kind":"failed","text":"a\u001b[2J\nb","new":1}"#,
        )
        .unwrap();
        assert_eq!(
            show(&entry).unwrap(),
            "2026-01-01T00:00:00.000000Z eu get@3 a [2J; b"
        );
        let missed = serde_json::from_str(r#"{"missed":7,"region":"eu"}"#).unwrap();
        assert!(show(&missed).unwrap().contains("7 lines of eu"));
        let other = serde_json::from_str(r#"{"something":"newer"}"#).unwrap();
        assert_eq!(show(&other), None);
    }
}
