//! `tidepool handlers`: what every slot runs, and with `--all` what it ran.

use http::Method;

use super::client::{ANSWER_TIMEOUT, Call, ClientArgs, ask};
use super::deploy::problems;
use super::{CliError, output};
use crate::http::documents::{
    HandlerList, HandlerRevision, PlanState, PlanStatus, RevisionState, Setting,
};

/// Bytes of a configuration's value that are shown.
const SHOWN: usize = 32;

/// List the components of every region and operation.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Also those that are no longer running, and can be rolled back to
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let call = Call {
        method: Method::GET,
        path: "/v1/handlers".to_owned(),
        headers: Vec::new(),
        body: bytes::Bytes::new(),
        timeout: ANSWER_TIMEOUT,
    };
    ask(&args.client, call, |list| show(list, args.all))
}

fn show(list: &HandlerList, all: bool) -> String {
    let heads = [
        "REGION",
        "OPERATION",
        "REVISION",
        "STATE",
        "DIGEST",
        "SIZE",
        "CALLS",
        "FAILURES",
        "DEPLOYED",
        "BY",
        "NOTE",
    ];
    let shown = list
        .handlers
        .iter()
        .filter(|handler| all || handler.state != RevisionState::Retired);
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(shown.map(row));
    let mut text = output::table(&rows);
    let plans = list.plans.iter();
    for plan in plans.filter(|plan| all || plan.state != PlanState::Done) {
        text.push_str("\n\n");
        text.push_str(&self::plan(plan));
    }
    problems(&mut text, &list.problems);
    text
}

/// A plan, its steps line by line.
pub(super) fn plan(plan: &PlanStatus) -> String {
    let operation = output::one_line(&plan.operation);
    let mut text = format!("plan {} of {operation}: ", plan.plan);
    match plan.state {
        PlanState::Running => text.push_str("running"),
        PlanState::Done => text.push_str("done"),
        PlanState::Stopped => text.push_str("stopped"),
    }
    if let Some(next) = &plan.next_at {
        text.push_str(&format!(", the next step at {}", output::one_line(next)));
    }
    if let Some(why) = &plan.why {
        text.push_str(&format!("; {}", output::one_line(why)));
    }
    for (at, step) in plan.steps.iter().enumerate() {
        let mark = match at < plan.step {
            true => "x",
            false => " ",
        };
        text.push_str(&format!("\n  [{mark}] {}", output::one_line(step)));
    }
    text
}

fn row(handler: &HandlerRevision) -> Vec<String> {
    vec![
        output::one_line(&handler.region),
        output::one_line(&handler.operation),
        handler.revision.to_string(),
        match &handler.share {
            Some(share) => format!("{} {}", handler.state.name(), output::one_line(share)),
            None => handler.state.name().to_owned(),
        },
        output::digest(&handler.digest),
        output::size(handler.size),
        handler.calls.to_string(),
        handler.failures.to_string(),
        output::one_line(&handler.deployed_at),
        output::one_line(&handler.deployed_by),
        note(handler),
    ]
}

/// Its configuration, and what else there is to say.
fn note(handler: &HandlerRevision) -> String {
    let config = handler.config.iter().map(|(name, setting)| match setting {
        Setting::Text(text) if text.len() > SHOWN => {
            format!("{name}=<{}>", output::size(text.len() as u64))
        }
        setting => format!("{name}={setting}"),
    });
    let notes: Vec<_> = config.chain(handler.note.clone()).collect();
    output::one_line(&notes.join("; "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn retired_revisions_are_shown_only_when_asked_for() {
        let handler = |revision, state| HandlerRevision {
            region: "us-east-1".to_owned(),
            operation: "get".to_owned(),
            revision,
            digest: "sha256:0123456789abcdef".to_owned(),
            size: 1024,
            deployed_at: "2026-01-01T00:00:00Z".to_owned(),
            deployed_by: "eve\u{1b}[2J@host".to_owned(),
            state,
            share: None,
            calls: 7,
            failures: 0,
            config: BTreeMap::from([("greeting".to_owned(), Setting::Text("hi".to_owned()))]),
            note: Some("signed".to_owned()),
        };
        let list = HandlerList {
            handlers: vec![
                handler(1, RevisionState::Retired),
                handler(2, RevisionState::Active),
            ],
            plans: vec![PlanStatus {
                operation: "get".to_owned(),
                plan: 7,
                state: PlanState::Running,
                step: 1,
                steps: vec!["a at 5%".to_owned(), "a at 100%".to_owned()],
                pause: "5m".to_owned(),
                next_at: Some("2026-01-01T00:05:00Z".to_owned()),
                why: None,
            }],
            problems: Vec::new(),
        };
        let text = show(&list, false);
        let (table, plan) = text.split_once("\n\n").unwrap();
        assert_eq!(table.lines().count(), 2);
        assert!(table.contains(r#"greeting="hi"; signed"#), "{table}");
        assert_eq!(
            plan,
            "plan 7 of get: running, the next step at 2026-01-01T00:05:00Z\n  [x] a at 5%\n  [ ] a at 100%"
        );
        assert!(
            text.contains("active") && !text.contains('\u{1b}'),
            "{text}"
        );
        assert_eq!(show(&list, true).lines().count(), 7);
    }
}
