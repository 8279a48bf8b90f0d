//! `tidepool dev`: all regions in one process, over an embedded log.

use super::settings::{ConfigArgs, load};
use super::{CliError, running};
use crate::app::App;
use crate::config::{Settings, Sources};

/// Run all regions in this process, with everything embedded.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Every setting can also be given as TIDEPOOL_<KEY>, for example TIDEPOOL_LIMITS_CPU=1s; \
    the file comes first, then the environment, then flags. RUST_LOG sets what is logged."
)]
pub(super) struct Args {
    /// A region; give it once for each
    #[arg(long = "region", value_name = "NAME=ADDR")]
    regions: Vec<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs until it is told to stop.
pub(super) fn run(args: Args) -> Result<(), CliError> {
    let settings = load(&sources(args)?)?;
    running::run(App::dev(&settings), |app| banner(app, &settings))
}

/// Where it listens, and what to try: each line a command to paste.
fn banner(app: &App, settings: &Settings) -> String {
    let mut text = format!(
        "tidepool dev: data in {}\n{}{}",
        settings.data.display(),
        running::watching(settings),
        running::addresses(app)
    );
    let (command, admin) = (running::program(), running::admin_flag(app));
    if let (Some((_, first)), Some((_, last))) = (app.regions.first(), app.regions.last()) {
        text.push_str(&format!(
            "try:\n  curl -X PUT http://{first}/kv/hello -d '{{\"value\": \"world\"}}'\n  \
             curl -i http://{last}/kv/hello\n  {command} handlers{admin}\n",
        ));
    }
    text.push_str("Ctrl-C finishes what was begun and stops.");
    text
}

fn sources(args: Args) -> Result<Sources, CliError> {
    let regions = (!args.regions.is_empty()).then(|| args.regions.join(","));
    args.config.sources([("regions", regions)], false)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

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
}
