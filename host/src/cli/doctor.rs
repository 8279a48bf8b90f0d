//! `tidepool doctor`: what is missing on the servers, what it costs, and the exact
//! statement to run. It changes nothing on them.

use super::serve::RegionArgs;
use super::{CliError, output, running};
use crate::config::Settings;
use crate::doctor::{self, Finding, Severity, is_healthy};
use crate::sql::SqlConfig;

/// Check the database and the Redis: what is missing, what it costs, and what to run.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "It looks at database.url (DATABASE_URL) and redis.url (REDIS_URL), and changes nothing. \
    Exit codes: 0 nothing is a problem, 1 something is, 2 wrong command line."
)]
pub(super) struct Args {
    #[command(flatten)]
    region: RegionArgs,
    /// Write the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Looks at everything and writes what was found.
pub(super) fn run(args: Args) -> Result<(), CliError> {
    let settings = args.region.unchecked()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start: {error}")))?;
    let findings = runtime.block_on(look(&settings))?;
    output::print(&match args.json {
        true => serde_json::to_string_pretty(&findings).map_err(running::failed)?,
        false => report(&findings),
    })?;
    match is_healthy(&findings) {
        true => Ok(()),
        false => Err(CliError::Failed("there are problems; see above".into())),
    }
}

/// What there is to say of the servers that the settings name.
async fn look(settings: &Settings) -> Result<Vec<Finding>, CliError> {
    if settings.database.url.is_none() && settings.redis.url.is_none() {
        return Err(CliError::Failed(
            "there is nothing to look at; set DATABASE_URL, REDIS_URL or both".to_owned(),
        ));
    }
    let mut findings = Vec::new();
    if settings.database.url.is_some() {
        let config = SqlConfig::new(&settings.database).map_err(running::failed)?;
        findings.extend(doctor::database(&config).await);
    }
    if settings.redis.url.is_some() {
        findings.extend(doctor::redis(settings).await);
    }
    Ok(findings)
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
