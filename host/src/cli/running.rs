//! What every command that runs a host shares: its log lines, its threads, and
//! how it stops.

use std::future::Future;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::{CliError, output};
use crate::app::{App, AppError};
use crate::config::Settings;

/// What is logged unless `RUST_LOG` says otherwise.
const LOG_FILTER: &str = "info";

/// Starts a host, says where it is, and stops it when it is told to.
pub(super) fn run(
    start: impl Future<Output = Result<App, AppError>>,
    banner: impl FnOnce(&App) -> String,
) -> Result<(), CliError> {
    start_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("tidepool")
        .build()
        .map_err(|error| {
            CliError::Failed(format!(
                "cannot start threads: {error}; allow this user more of them"
            ))
        })?;
    runtime.block_on(async {
        // Before anything is started: a signal in between must not be lost.
        let mut signals = Signals::new()?;
        let app = tokio::select! {
            started = start => started.map_err(failed)?,
            () = signals.next() => return Err(CliError::Failed("stopped before it had started".to_owned())),
        };
        output::print(&banner(&app))?;
        signals.next().await;
        tracing::info!("finishing what was begun; a second signal stops at once");
        tokio::select! {
            () = app.stop() => Ok(()),
            () = signals.next() => Err(CliError::Failed("stopped before all requests were finished".to_owned())),
        }
    })
}

/// Ctrl-C, and what a service manager sends.
pub(super) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Signals, CliError> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

pub(super) fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

/// The log lines of this process: on standard error, where they do not mix
/// with what a command answers.
pub(super) fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Fails when a subscriber is set already, and then that one is wanted.
    let _ = lines.try_init();
}

/// Where a host listens: its regions and its admin plane, one line each.
pub(super) fn addresses(app: &App) -> String {
    let names = app.regions.iter().map(|(name, _)| name.len());
    let width = names.max().unwrap_or(0).max("admin".len());
    let mut text = String::new();
    for (name, address) in &app.regions {
        text.push_str(&format!("  {name:width$}  http://{address}\n"));
    }
    text.push_str(&format!("  {:width$}  {}\n", "admin", admin_url(app)));
    text
}

/// A line about the folder that is watched, if one is.
pub(super) fn watching(settings: &Settings) -> String {
    let folder = settings.watch.as_deref();
    folder.map_or_else(String::new, |folder| {
        format!("watching {}\n", folder.display())
    })
}

fn admin_url(app: &App) -> String {
    let scheme = if app.admin_has_tls { "https" } else { "http" };
    format!("{scheme}://{}", app.admin)
}

/// This program as it was called, for commands to paste.
pub(super) fn program() -> String {
    std::env::args()
        .next()
        .unwrap_or_else(|| "tidepool".to_owned())
}

/// The flag that names an admin plane, where it is not the default one.
pub(super) fn admin_flag(app: &App) -> String {
    if app.admin.port() == 8090 && !app.admin_has_tls {
        String::new()
    } else {
        format!(" --admin {}", admin_url(app))
    }
}
