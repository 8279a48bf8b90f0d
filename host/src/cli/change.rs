//! What the commands share that change what a slot runs: which slots, the request,
//! and how its outcome is shown.

use http::Method;

use super::changed::ask;
use super::client::{ANSWER_TIMEOUT, Call, ClientArgs};
use super::deploy::{actor, problems, query, row};
use super::{CliError, operation, output};
use crate::http::documents::RolledBack;
use crate::model::Operation;

/// The slots that a command is for.
#[derive(clap::Args, Debug)]
pub(super) struct Slots {
    /// The operation: get, put, delete or hydrate
    #[arg(value_parser = operation)]
    pub(super) operation: Operation,
    #[command(flatten)]
    pub(super) regions: Regions,
}

/// The regions that a command is for.
#[derive(clap::Args, Debug)]
pub(super) struct Regions {
    /// Only in these regions; wherever it applies when left out
    #[arg(
        long = "region",
        alias = "regions",
        value_name = "NAME",
        value_delimiter = ','
    )]
    names: Vec<String>,
}

impl Regions {
    /// As a parameter of a query.
    pub(super) fn parameter(&self) -> (&'static str, Option<String>) {
        let names = (!self.names.is_empty()).then(|| self.names.join(","));
        ("region", names)
    }
}

/// Asks for a change without a component, by its name in the path, with one more
/// parameter; says that it is `done`.
pub(super) fn change(
    name: &str,
    slots: &Slots,
    parameter: (&str, Option<String>),
    client: &ClientArgs,
    done: &str,
) -> Result<(), CliError> {
    let query = query(&[slots.regions.parameter(), parameter]);
    let call = Call {
        method: Method::POST,
        path: format!("/v1/handlers/{}/{name}{query}", slots.operation),
        headers: vec![actor()],
        body: bytes::Bytes::new(),
        timeout: ANSWER_TIMEOUT,
    };
    ask(client, call, |answer| show(answer, done))
}

fn show(change: &RolledBack, done: &str) -> String {
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
