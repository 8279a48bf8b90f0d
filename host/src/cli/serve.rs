//! `tidepool serve`: one region, over CockroachDB or PostgreSQL and Redis.

use super::settings::{ConfigArgs, load};
use super::{CliError, running};
use crate::app::App;
use crate::config::{Settings, Sources};

/// Run one region over a database and a Redis.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The database is database.url (DATABASE_URL), the cache redis.url (REDIS_URL). Every setting \
    can be given in a file, then as TIDEPOOL_<KEY>, then as a flag; the later one wins. \
    `tidepool config check` shows what comes out, `tidepool doctor` whether it will do. RUST_LOG sets what is logged."
)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) region: RegionArgs,
}

/// The flags that say which region a host is.
#[derive(clap::Args, Debug)]
pub(super) struct RegionArgs {
    /// The region's name, for example us-east-1
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Where the data plane listens [default: 0.0.0.0:8080, or PORT]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

impl RegionArgs {
    /// The settings, checked as those of a region over real servers.
    pub(super) fn settings(self) -> Result<Settings, CliError> {
        let settings = self.unchecked()?;
        settings.check_serve().map_err(running::failed)?;
        Ok(settings)
    }

    /// The settings, whether or not they name the servers.
    pub(super) fn unchecked(self) -> Result<Settings, CliError> {
        load(&self.sources()?)
    }

    fn sources(self) -> Result<Sources, CliError> {
        let own = [("region", self.region), ("listen", self.listen)];
        self.config.sources(own, true)
    }
}

/// Runs until it is told to stop.
pub(super) fn run(args: Args) -> Result<(), CliError> {
    let settings = args.region.settings()?;
    running::run(App::serve(&settings), |app| {
        format!(
            "tidepool serve: region {}\n{}{}Ctrl-C finishes what was begun and stops.",
            settings.region,
            running::watching(&settings),
            running::addresses(app)
        )
    })
}
