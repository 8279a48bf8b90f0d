//! `tidepool doctor`: what is missing on the servers, what it costs, and the exact
//! statement to run. It changes nothing on them.

use std::path::PathBuf;

use super::dev::environment;
use super::{CliError, output};
use crate::config::{Sources, load};
use crate::doctor::{self, Finding, Severity, is_healthy};
use crate::sql::SqlConfig;

/// Check a database: what is missing, what it costs, and what to run.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "It changes nothing. Exit codes: 0 nothing is a problem, 1 something is, \
    2 wrong command line."
)]
pub(super) struct Args {
    /// A TOML file of settings
    #[arg(long, value_name = "FILE", env = "TIDEPOOL_CONFIG")]
    config: Option<PathBuf>,
    /// The database, instead of the one in the settings
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// Write the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Looks at everything and writes what was found.
pub(super) fn run(args: Args) -> Result<(), CliError> {
    let json = args.json;
    let config = database(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start: {error}")))?;
    let mut findings = Vec::new();
    runtime.block_on(async {
        findings.extend(doctor::database(&config).await);
    });
    output::print(&match json {
        true => serde_json::to_string_pretty(&findings)
            .map_err(|error| CliError::Failed(error.to_string()))?,
        false => report(&findings),
    })?;
    match is_healthy(&findings) {
        true => Ok(()),
        false => Err(CliError::Failed("there are problems; see above".into())),
    }
}

/// The database that was named: by a flag, by the environment, or by the settings.
fn database(args: Args) -> Result<SqlConfig, CliError> {
    let url = args.database_url;
    let flags = url.map(|url| ("database.url".to_owned(), url));
    let sources = Sources {
        file: args.config,
        environment: environment(std::env::vars_os())?,
        flags: flags.into_iter().collect(),
    };
    let settings = load(&sources).map_err(|error| CliError::Failed(error.to_string()))?;
    SqlConfig::new(&settings.database).map_err(|error| CliError::Failed(error.to_string()))
}

/// The findings, the worst last, and under them what to run, ready to paste.
fn report(findings: &[Finding]) -> String {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| finding.severity);
    let mut text = output::table(
        &sorted
            .iter()
            .map(|finding| {
                vec![
                    name(finding.severity).to_owned(),
                    output::one_line(&finding.subject),
                    output::one_line(&finding.what),
                ]
            })
            .collect::<Vec<_>>(),
    );
    let open = sorted.iter().filter(|finding| finding.fix.is_some());
    for finding in open.rev() {
        text.push_str(&format!("\n\n-- {}", output::one_line(&finding.subject)));
        if let Some(cost) = &finding.cost {
            text.push_str(&format!(": {}", output::one_line(cost)));
        }
        if let Some(fix) = &finding.fix {
            text.push_str(&format!("\n{}", output::one_line(fix)));
        }
    }
    text
}

fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Advice => "advice",
        Severity::Problem => "PROBLEM",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_ends_with_what_to_run() {
        let findings = [
            Finding::problem("kv.rangefeed.enabled", "off")
                .costs("no feed")
                .fixed_by("SET CLUSTER SETTING kv.rangefeed.enabled = true;"),
            Finding::ok("connection", "u@h/kv is CockroachDB v22.1"),
            Finding::advice("poll", "1s").fixed_by("SET x;"),
        ];
        assert_eq!(
            report(&findings),
            "ok       connection            u@h/kv is CockroachDB v22.1\n\
             advice   poll                  1s\n\
             PROBLEM  kv.rangefeed.enabled  off\n\
             \n\
             -- kv.rangefeed.enabled: no feed\n\
             SET CLUSTER SETTING kv.rangefeed.enabled = true;\n\
             \n\
             -- poll\n\
             SET x;"
        );
    }

    #[test]
    fn findings_are_json_with_the_names_of_their_fields() {
        let finding = Finding::advice("a", "b").costs("c");
        assert_eq!(
            serde_json::to_string(&finding).unwrap(),
            r#"{"severity":"advice","subject":"a","what":"b","cost":"c","fix":null}"#
        );
    }
}
