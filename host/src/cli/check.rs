//! `tidepool check`: everything that a host does with a component before it
//! serves, here, without a host.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant as Stopwatch};

use bytes::Bytes;
use serde::Serialize;

use super::configure::ConfigArgs;
use super::settings::{SettingArgs, assignment, load};
use super::{CliError, deploy, operation, output, running};
use crate::app::texts;
use crate::config::Settings;
use crate::deployments::Digest;
use crate::handlers::compile::Compiler;
use crate::handlers::engine::ServingEngine;
use crate::handlers::load::{Loader, Timings};
use crate::handlers::load_error::LoadError;
use crate::handlers::progress::Progress;
use crate::handlers::secrets::Secrets;
use crate::http::documents;
use crate::model::Operation;
use crate::wit_host::config::Values;

/// Room in the engine: for one component, however many core instances it is
/// made of.
const INSTANCES: u32 = 32;

/// Check a component as a deployment would, without deploying it.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The settings are a host's, as for `tidepool dev`: what it would \
    refuse under them is refused here. Secrets are those of this machine."
)]
pub(super) struct Args {
    /// The component, a .wasm file
    file: PathBuf,
    /// What it is to be: get, put, delete or hydrate
    #[arg(long, value_parser = operation)]
    operation: Operation,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// A TOML file of a host's settings
    #[arg(long, value_name = "FILE", env = "TIDEPOOL_CONFIG")]
    settings: Option<PathBuf>,
    /// Any setting of a host, for example limits.cpu=1s; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

/// What is printed with `--json`.
#[derive(Serialize)]
struct Report {
    operation: &'static str,
    digest: String,
    size: u64,
    /// Whether it can be deployed.
    ok: bool,
    timings: documents::Timings,
    /// Why it cannot be.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Where it trapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

pub(super) fn run(args: Args) -> Result<(), CliError> {
    let config = args.config.first()?;
    let sources = SettingArgs::of(args.settings, args.set).sources([], false)?;
    let settings = load(&sources)?;
    let component = Bytes::from(deploy::read(&args.file)?);
    let secrets = Secrets::new(texts(), settings.handlers.secrets_dir.clone());
    let config = secrets.resolve(&config).map_err(running::failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(running::failed)?;
    let digest = Digest::of(&component).to_string();
    let size = component.len() as u64;
    let mut timings = Timings::default();
    let start = Stopwatch::now();
    let checked = runtime.block_on(check(
        &settings,
        args.operation,
        component,
        &Arc::new(config),
        &mut timings,
    ));
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let report = Report {
        operation: args.operation.name(),
        digest,
        size,
        ok: checked.is_ok(),
        timings: documents::Timings {
            compile_ms: millis(timings.compile),
            verify_ms: millis(timings.verify),
            self_test_ms: millis(timings.self_test),
            total_ms: millis(start.elapsed()),
        },
        error: checked.as_ref().err().map(LoadError::to_string),
        detail: match &checked {
            Err(LoadError::SelfTest { detail, .. }) => Some(detail.clone()),
            _ => None,
        },
    };
    output::print(&match args.json {
        true => serde_json::to_string(&report).map_err(running::failed)?,
        false => show(&report),
    })?;
    checked.map_err(running::failed)
}

async fn check(
    settings: &Settings,
    operation: Operation,
    component: Bytes,
    config: &Arc<Values>,
    timings: &mut Timings,
) -> Result<(), LoadError> {
    let engine = ServingEngine::new(settings.limits.clone(), INSTANCES)
        .map_err(|error| LoadError::Host(error.to_string()))?;
    let compiler = Compiler::process(&settings.handlers)?;
    let loader = Loader::new(
        engine,
        settings.handlers.max_component_bytes,
        compiler,
        None,
    )?;
    let untold = Progress::untold();
    let loading = loader.load_timed(operation, component, config, timings, &untold);
    loading.await?;
    Ok(())
}

fn show(report: &Report) -> String {
    let verdict = match report.ok {
        true => "can be deployed",
        false => "cannot be deployed",
    };
    let mut text = format!(
        "{} ({}) {verdict} as `{}`",
        output::digest(&report.digest),
        output::size(report.size),
        report.operation
    );
    let steps = [
        ("compile", report.timings.compile_ms),
        ("imports and exports", report.timings.verify_ms),
        ("self-test", report.timings.self_test_ms),
    ];
    // One that took no time at all was not reached.
    let rows = steps.iter().filter(|(_, ms)| *ms > 0.0);
    let rows: Vec<_> = rows
        .map(|(step, ms)| vec![format!("  {step}"), format!("{ms:.1} ms")])
        .collect();
    let table = output::table(&rows);
    let detail = report.detail.as_deref().unwrap_or_default();
    for line in table.lines().chain(detail.lines()) {
        text.push('\n');
        // Names in a backtrace are the component's.
        text.extend(line.chars().filter(|c| !c.is_control()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_shown_as_far_as_they_went() {
        let mut report = Report {
            operation: "get",
            digest: "sha256:0123456789abcdef".to_owned(),
            size: 2048,
            ok: true,
            timings: documents::Timings {
                compile_ms: 12.34,
                verify_ms: 0.56,
                self_test_ms: 1.0,
                total_ms: 14.0,
            },
            error: None,
            detail: None,
        };
        assert_eq!(
            show(&report),
            "0123456789ab (2.0 KiB) can be deployed as `get`\n  compile              12.3 ms\n  \
             imports and exports  0.6 ms\n  self-test            1.0 ms"
        );
        report.ok = false;
        report.timings = documents::Timings::default();
        assert_eq!(
            show(&report),
            "0123456789ab (2.0 KiB) cannot be deployed as `get`"
        );
    }
}
