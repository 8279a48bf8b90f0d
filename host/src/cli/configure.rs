//! What `tidepool deploy` changes of a handler's configuration.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderValue;
use http::header::HeaderName;

use super::CliError;
use crate::deployments::ConfigChange;
use crate::deployments::config::{Config, SecretRef, Setting};

/// Changes of the configuration.
#[derive(clap::Args, Debug)]
pub(super) struct ConfigArgs {
    /// Set a name of its configuration; the others stay as they are
    #[arg(long = "config", value_name = "NAME=VALUE")]
    texts: Vec<String>,
    /// Set a name to a secret of the hosts: `env:TIDEPOOL_SECRET_X`, a variable of
    /// theirs, or `file:X` in their handlers.secrets_dir
    #[arg(long = "secret", value_name = "NAME=WHERE")]
    secrets: Vec<String>,
    /// Remove a name from its configuration
    #[arg(long = "unset", value_name = "NAME")]
    removed: Vec<String>,
}

impl ConfigArgs {
    /// As a header, if anything changes.
    pub(super) fn header(&self) -> Result<Option<(HeaderName, HeaderValue)>, CliError> {
        let change = self.change().map_err(CliError::Usage)?;
        if change.is_empty() {
            return Ok(None);
        }
        let failed = |error: String| CliError::Failed(error);
        let json = serde_json::to_vec(&change).map_err(|error| failed(error.to_string()))?;
        let value = HeaderValue::try_from(BASE64.encode(json));
        let value = value.map_err(|error| failed(error.to_string()))?;
        Ok(Some((HeaderName::from_static("tidepool-config"), value)))
    }

    /// The configuration of a first revision.
    pub(super) fn first(&self) -> Result<Config, CliError> {
        let change = self.change().map_err(CliError::Usage)?;
        let config = Config::default().with(&change);
        let checked = config.check();
        checked.map_err(|error| CliError::Failed(error.to_string()))?;
        Ok(config)
    }

    fn change(&self) -> Result<ConfigChange, String> {
        let mut change = ConfigChange::default();
        let mut add = |name: &str, to| match change.add(name, to) {
            true => Ok(()),
            false => Err(format!("{name:?} is named twice; name it once")),
        };
        for text in &self.texts {
            let pair = text.split_once('=');
            let (name, value) =
                pair.ok_or_else(|| format!("--config {text:?}: write NAME=VALUE"))?;
            add(name, Some(Setting::Text(value.to_owned())))?;
        }
        for text in &self.secrets {
            let pair = text.split_once('=');
            let (name, secret) =
                pair.ok_or_else(|| format!("--secret {text:?}: write NAME=WHERE"))?;
            let secret = SecretRef::parse(secret).map_err(|error| error.to_string())?;
            add(name, Some(Setting::Secret { secret }))?;
        }
        self.removed.iter().try_for_each(|name| add(name, None))?;
        Ok(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(texts: &[&str], secrets: &[&str], removed: &[&str]) -> ConfigArgs {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        ConfigArgs {
            texts: owned(texts),
            secrets: owned(secrets),
            removed: owned(removed),
        }
    }

    #[test]
    fn a_change_is_one_header() {
        assert_eq!(args(&[], &[], &[]).header().unwrap(), None);
        let change = args(&["a=b=c"], &["key=env:TIDEPOOL_SECRET_KEY"], &["old"]);
        let (_, value) = change.header().unwrap().unwrap();
        let json = BASE64.decode(value.as_bytes()).unwrap();
        assert_eq!(
            String::from_utf8(json).unwrap(),
            r#"{"a":"b=c","key":{"secret":"env:TIDEPOOL_SECRET_KEY"},"old":null}"#
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for wrong in [
            args(&["a"], &[], &[]),
            args(&["a=1", "a=2"], &[], &[]),
            args(&["a=1"], &[], &["a"]),
            args(&[], &["key"], &[]),
            args(&[], &["key=env:HOME"], &[]),
        ] {
            assert_eq!(wrong.header().unwrap_err().exit_code(), 2, "{wrong:?}");
            assert_eq!(wrong.first().unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }
}
