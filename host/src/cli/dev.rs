//! `tidepool dev`: all regions in one process, over an embedded log.

use std::io::IsTerminal;
use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use super::{CliError, output};
use crate::app::App;
use crate::config::{Settings, Sources, load};

/// What is logged unless `RUST_LOG` says otherwise.
const LOG_FILTER: &str = "info";

/// Run all regions in this process, with everything embedded.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Every setting can also be given as TIDEPOOL_<KEY>, for example TIDEPOOL_LIMITS_CPU=1s; \
    the file comes first, then the environment, then flags. RUST_LOG sets what is logged."
)]
pub(super) struct Args {
    /// A TOML file of settings; `--print-config` writes one to start from
    #[arg(long, value_name = "FILE", env = "TIDEPOOL_CONFIG")]
    config: Option<PathBuf>,
    /// The folder of the log and of the deployed handlers
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// A region; give it once for each
    #[arg(long = "region", value_name = "NAME=ADDR")]
    regions: Vec<String>,
    /// Where the admin plane listens
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<String>,
    /// A folder whose components are deployed when they change
    #[arg(long, value_name = "DIR")]
    watch: Option<String>,
    /// Any setting, for example limits.cpu=1s; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
    /// Write all settings with their meaning as TOML, and stop
    #[arg(long)]
    print_config: bool,
}

/// Runs until it is told to stop.
pub(super) fn run(args: Args) -> Result<(), CliError> {
    let print_config = args.print_config;
    let settings = load(&sources(args)?).map_err(failed)?;
    if print_config {
        return output::print(settings.to_commented_toml().trim_end());
    }
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
    runtime.block_on(serve(&settings))
}

/// Starts, says where, and stops when it is told to.
async fn serve(settings: &Settings) -> Result<(), CliError> {
    // Before anything is started: a signal in between must not be lost.
    let mut signals = Signals::new()?;
    let app = App::start(settings).await.map_err(failed)?;
    output::print(&banner(&app, settings))?;
    signals.next().await;
    tracing::info!("finishing what was begun; a second signal stops at once");
    tokio::select! {
        () = app.stop() => Ok(()),
        () = signals.next() => Err(CliError::Failed("stopped before all requests were finished".to_owned())),
    }
}

/// Ctrl-C, and what a service manager sends.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Signals, CliError> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Where it listens, and what to try: each line a command to paste.
fn banner(app: &App, settings: &Settings) -> String {
    let width = app
        .regions
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0)
        .max("admin".len());
    let mut text = format!("tidepool dev: data in {}\n", settings.data.display());
    for (name, address) in &app.regions {
        text.push_str(&format!("  {name:width$}  http://{address}\n"));
    }
    text.push_str(&format!("  {:width$}  http://{}\n", "admin", app.admin));
    let command = std::env::args()
        .next()
        .unwrap_or_else(|| "tidepool".to_owned());
    let admin = if app.admin.port() == 8090 {
        String::new()
    } else {
        format!(" --admin http://{}", app.admin)
    };
    if let (Some((_, first)), Some((_, last))) = (app.regions.first(), app.regions.last()) {
        text.push_str(&format!(
            "try:\n  curl -X PUT http://{first}/kv/hello -d '{{\"value\": \"world\"}}'\n  \
             curl -i http://{last}/kv/hello\n  {command} handlers{admin}\n",
        ));
    }
    text.push_str("Ctrl-C finishes what was begun and stops.");
    text
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

/// The log lines of this process: on standard error, where they do not mix
/// with what a command answers.
fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Fails when a subscriber is set already, and then that one is wanted.
    let _ = lines.try_init();
}

/// Settings have three sources; a flag of its own beats `--set`.
fn sources(args: Args) -> Result<Sources, CliError> {
    let mut flags = args.set;
    let mut flag =
        |key: &str, value: Option<String>| flags.extend(value.map(|value| (key.to_owned(), value)));
    flag("data", args.data);
    flag(
        "regions",
        (!args.regions.is_empty()).then(|| args.regions.join(",")),
    );
    flag("admin.listen", args.admin_listen);
    flag("watch", args.watch);
    Ok(Sources {
        file: args.config,
        environment: environment(std::env::vars_os())?,
        flags,
    })
}

/// The variables that may be settings.
pub(super) fn environment(
    variables: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> Result<Vec<(String, String)>, CliError> {
    let mut settings = Vec::new();
    for (name, value) in variables {
        let Ok(name) = name.into_string() else {
            continue;
        };
        if !name.starts_with("TIDEPOOL_") {
            continue;
        }
        match value.into_string() {
            Ok(value) => settings.push((name, value)),
            Err(_) => {
                return Err(CliError::Failed(format!(
                    "{name} is not UTF-8; set it to a text"
                )));
            }
        }
    }
    Ok(settings)
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write key=value, for example limits.cpu=1s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Just {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_become_settings_and_the_specific_one_is_last() {
        let line = "dev --region a=127.0.0.1:0 --region b=127.0.0.1:0 --data d --admin-listen 127.0.0.1:0 \
                    --watch w --set data=e --set regions=c=127.0.0.1:1";
        let mut sources = sources(Just::parse_from(line.split_whitespace()).args).unwrap();
        sources.environment.clear();
        let settings = load(&sources).unwrap();
        assert_eq!(settings.data, PathBuf::from("d"));
        assert_eq!(settings.watch, Some(PathBuf::from("w")));
        assert_eq!(settings.admin.listen.port(), 0);
        let names: Vec<_> = settings
            .regions
            .iter()
            .map(|region| region.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[cfg(unix)]
    #[test]
    fn only_our_variables_are_taken_and_they_must_be_text() {
        use std::os::unix::ffi::OsStringExt;
        let bad = || std::ffi::OsString::from_vec(vec![0xff]);
        let read = environment([
            ("TIDEPOOL_DATA".into(), "d".into()),
            ("OTHER".into(), bad()),
        ]);
        assert_eq!(
            read.unwrap(),
            [("TIDEPOOL_DATA".to_owned(), "d".to_owned())]
        );
        assert!(environment([("TIDEPOOL_DATA".into(), bad())]).is_err());
    }
}
