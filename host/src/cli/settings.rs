//! Where a command's settings come from: a file, the environment and flags.

use std::ffi::OsString;
use std::path::PathBuf;

use super::CliError;
use crate::config::{self, ConfigError, Origin, Settings, Sources};

/// Variables of the environment that have other names than `TIDEPOOL_*`,
/// because deployments of this kind have always used them, and the settings
/// that they are. One with our own name wins.
const CUSTOMARY: [(&str, &str); 3] = [
    ("DATABASE_URL", "TIDEPOOL_DATABASE_URL"),
    ("REDIS_URL", "TIDEPOOL_REDIS_URL"),
    ("PORT", "TIDEPOOL_LISTEN"),
];

/// The flags of every command that has settings.
#[derive(clap::Args, Debug)]
pub(super) struct SettingArgs {
    /// A TOML file of settings; `tidepool config print` writes one to start from
    #[arg(long, value_name = "FILE", env = "TIDEPOOL_CONFIG")]
    config: Option<PathBuf>,
    /// Any setting, for example limits.cpu=1s; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

/// The flags of every command that runs or checks a host.
#[derive(clap::Args, Debug)]
pub(super) struct ConfigArgs {
    #[command(flatten)]
    any: SettingArgs,
    /// The folder of what this host keeps: deployed handlers, and the embedded log
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Where the admin plane listens
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<String>,
    /// A folder whose components are deployed when they change
    #[arg(long, value_name = "DIR")]
    watch: Option<String>,
    /// Refuse components that no trusted key has signed (trust.keys, trust.keys_file)
    #[arg(long)]
    require_signature: bool,
}

impl SettingArgs {
    /// Those that a command takes by other flags.
    pub(super) fn of(config: Option<PathBuf>, set: Vec<(String, String)>) -> SettingArgs {
        SettingArgs { config, set }
    }

    /// All sources. `own` are the command's own flags; a flag of its own beats
    /// `--set`. `customary`: also take `DATABASE_URL`, `REDIS_URL` and `PORT`.
    pub(super) fn sources(
        self,
        own: impl IntoIterator<Item = (&'static str, Option<String>)>,
        customary: bool,
    ) -> Result<Sources, CliError> {
        let mut flags = self.set;
        for (key, value) in own {
            flags.extend(value.map(|value| (key.to_owned(), value)));
        }
        Ok(Sources {
            file: self.config,
            environment: environment(std::env::vars_os(), customary)?,
            flags,
        })
    }
}

impl ConfigArgs {
    /// As [`SettingArgs::sources`].
    pub(super) fn sources(
        self,
        own: impl IntoIterator<Item = (&'static str, Option<String>)>,
        customary: bool,
    ) -> Result<Sources, CliError> {
        let shared = [
            ("data", self.data),
            ("admin.listen", self.admin_listen),
            ("watch", self.watch),
            (
                "trust.require_signature",
                self.require_signature.then(|| "true".to_owned()),
            ),
        ];
        self.any.sources(shared.into_iter().chain(own), customary)
    }
}

/// Reads the settings. What is wrong in a flag by itself is a wrong command line;
/// what is wrong in a file, in the environment or in how settings go together is not.
pub(super) fn load(sources: &Sources) -> Result<Settings, CliError> {
    config::load(sources).map_err(|error| {
        let text = error.to_string();
        match error {
            ConfigError::UnknownKey { origin, .. }
            | ConfigError::NotAValue { origin, .. }
            | ConfigError::BadValue { origin, .. }
                if origin == Origin::Flag =>
            {
                CliError::Usage(text)
            }
            _ => CliError::Failed(text),
        }
    })
}

/// The variables that may be settings.
fn environment(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    customary: bool,
) -> Result<Vec<(String, String)>, CliError> {
    let mut own = Vec::new();
    let mut others = Vec::new();
    for (name, value) in variables {
        let Ok(name) = name.into_string() else {
            continue;
        };
        let known = CUSTOMARY
            .iter()
            .find(|(other, _)| customary && *other == name);
        if known.is_none() && !name.starts_with("TIDEPOOL_") {
            continue;
        }
        let Ok(value) = value.into_string() else {
            return Err(CliError::Failed(format!(
                "{name} is not UTF-8; set it to a text"
            )));
        };
        match known {
            Some(("PORT", setting)) => match value.trim().parse::<u16>() {
                Ok(port) => others.push(((*setting).to_owned(), format!("0.0.0.0:{port}"))),
                Err(_) => {
                    return Err(CliError::Failed(format!(
                        "PORT={value} is not a port; use a number from 0 to 65535"
                    )));
                }
            },
            Some((_, setting)) => others.push(((*setting).to_owned(), value)),
            None => own.push((name, value)),
        }
    }
    others.retain(|(setting, _)| !own.iter().any(|(name, _)| name == setting));
    others.extend(own);
    Ok(others)
}

pub(super) fn assignment(text: &str) -> Result<(String, String), String> {
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

    fn read(
        variables: &[(&str, &str)],
        customary: bool,
    ) -> Result<Vec<(String, String)>, CliError> {
        let variables = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        environment(variables, customary)
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[cfg(unix)]
    #[test]
    fn only_our_variables_are_taken_and_they_must_be_text() {
        use std::os::unix::ffi::OsStringExt;
        let bad = || OsString::from_vec(vec![0xff]);
        let variables = [
            ("TIDEPOOL_DATA".into(), "d".into()),
            ("OTHER".into(), bad()),
        ];
        assert_eq!(
            environment(variables, false).unwrap(),
            [pair("TIDEPOOL_DATA", "d")]
        );
        assert!(environment([("TIDEPOOL_DATA".into(), bad())], false).is_err());
    }

    #[test]
    fn customary_names_are_settings_where_they_are_asked_for() {
        let variables = [("DATABASE_URL", "a"), ("REDIS_URL", "b"), ("PORT", "81")];
        assert_eq!(read(&variables, false).unwrap(), []);
        assert_eq!(
            read(&variables, true).unwrap(),
            [
                pair("TIDEPOOL_DATABASE_URL", "a"),
                pair("TIDEPOOL_REDIS_URL", "b"),
                pair("TIDEPOOL_LISTEN", "0.0.0.0:81"),
            ]
        );
        assert!(read(&[("PORT", "http")], true).is_err());
    }

    #[test]
    fn our_own_name_wins() {
        let variables = [("TIDEPOOL_REDIS_URL", "ours"), ("REDIS_URL", "other")];
        assert_eq!(
            read(&variables, true).unwrap(),
            [pair("TIDEPOOL_REDIS_URL", "ours")]
        );
    }
}
