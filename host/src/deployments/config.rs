//! The configuration of a revision: names with values, and with secrets that are
//! only referred to. A deployment says what changes; the rest is as in the revision
//! that it replaces. Pure: where secrets come from is `handlers::secrets`' to know.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::SECRET_PREFIX;

/// Names that a configuration may have.
pub const MAX_NAMES: usize = 64;

/// Bytes of a name.
pub const MAX_NAME_BYTES: usize = 64;

/// Bytes of a value.
pub const MAX_VALUE_BYTES: usize = 4096;

/// Bytes of all names and values together.
pub const MAX_CONFIG_BYTES: usize = 16 * 1024;

/// Why a configuration is not one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// A name.
    #[error(
        "{0:?} is not a name in a configuration: write 1 to {MAX_NAME_BYTES} of a-z, A-Z, 0-9, `_`, `-` and `.`"
    )]
    Name(String),
    /// A value.
    #[error("the value of {name:?} has {size} bytes; at most {MAX_VALUE_BYTES} are allowed")]
    Value {
        /// Its name.
        name: String,
        /// Its bytes.
        size: usize,
    },
    /// Names.
    #[error("a configuration of {0} names; at most {MAX_NAMES} are allowed")]
    Names(usize),
    /// All of it.
    #[error(
        "a configuration of {0} bytes, names and values; at most {MAX_CONFIG_BYTES} are allowed"
    )]
    Size(usize),
    /// A reference.
    #[error(
        "{0:?} refers to no secret: write env:{SECRET_PREFIX}NAME for a variable of the hosts, or file:NAME for a file in their handlers.secrets_dir"
    )]
    Reference(String),
}

/// Where the hosts have a secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretRef {
    /// In a variable of their environment.
    Env(String),
    /// In a file of this name in their folder of secrets.
    File(String),
}

impl SecretRef {
    /// From `env:TIDEPOOL_SECRET_NAME` or `file:NAME`.
    ///
    /// # Errors
    ///
    /// It is neither.
    pub fn parse(text: &str) -> Result<SecretRef, ConfigError> {
        let wrong = || ConfigError::Reference(text.to_owned());
        match text.split_once(':') {
            Some(("env", name)) => {
                let rest = name.strip_prefix(SECRET_PREFIX).filter(|rest| {
                    rest.bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                });
                match rest {
                    Some(rest) if !rest.is_empty() && name.len() <= MAX_NAME_BYTES => {
                        Ok(SecretRef::Env(name.to_owned()))
                    }
                    _ => Err(wrong()),
                }
            }
            // A folder's own entries only, and none that is hidden.
            Some(("file", name)) if is_name(name) && !name.starts_with('.') => {
                Ok(SecretRef::File(name.to_owned()))
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretRef::Env(name) => write!(f, "env:{name}"),
            SecretRef::File(name) => write!(f, "file:{name}"),
        }
    }
}

impl TryFrom<String> for SecretRef {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<SecretRef, ConfigError> {
        SecretRef::parse(&text)
    }
}

impl From<SecretRef> for String {
    fn from(secret: SecretRef) -> String {
        secret.to_string()
    }
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Setting {
    /// A text.
    Text(String),
    /// A secret, by reference.
    Secret {
        /// Where it is.
        secret: SecretRef,
    },
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Text(text) => write!(f, "{text:?}"),
            Setting::Secret { secret } => write!(f, "<{secret}>"),
        }
    }
}

/// See the head of this file.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Config(BTreeMap<String, Setting>);

impl Config {
    /// Its names and what they stand for, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.0.iter().map(|(name, is)| (name.as_str(), is))
    }

    /// It with a change.
    pub fn with(&self, change: &ConfigChange) -> Config {
        let mut config = self.clone();
        for (name, to) in &change.0 {
            match to {
                Some(setting) => config.0.insert(name.clone(), setting.clone()),
                None => config.0.remove(name),
            };
        }
        config
    }

    /// Whether it is within all bounds.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut all = 0;
        for (name, setting) in self.iter() {
            let size = match setting {
                Setting::Text(text) => text.len(),
                Setting::Secret { secret } => secret.to_string().len(),
            };
            if !is_name(name) {
                return Err(ConfigError::Name(name.to_owned()));
            }
            if size > MAX_VALUE_BYTES {
                let name = name.to_owned();
                return Err(ConfigError::Value { name, size });
            }
            all += name.len() + size;
        }
        match self.0.len() {
            names if names > MAX_NAMES => Err(ConfigError::Names(names)),
            _ if all > MAX_CONFIG_BYTES => Err(ConfigError::Size(all)),
            _ => Ok(()),
        }
    }
}

/// What a deployment changes of a configuration: names with what they are to stand
/// for, or without to remove them. As JSON an object of texts, `{"secret":
/// "env:..."}` and `null`.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigChange(BTreeMap<String, Option<Setting>>);

impl ConfigChange {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a name. False: it was named before.
    pub fn add(&mut self, name: &str, to: Option<Setting>) -> bool {
        self.0.insert(name.to_owned(), to).is_none()
    }
}

impl fmt::Display for ConfigChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, to)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            match to {
                Some(to) => write!(f, "{comma}{name}={to}")?,
                None => write!(f, "{comma}without {name}")?,
            }
        }
        Ok(())
    }
}

impl FromIterator<(String, Option<Setting>)> for ConfigChange {
    fn from_iter<I: IntoIterator<Item = (String, Option<Setting>)>>(changes: I) -> ConfigChange {
        ConfigChange(changes.into_iter().collect())
    }
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<Setting> {
        Some(Setting::Text(text.to_owned()))
    }

    fn change(changes: &[(&str, Option<Setting>)]) -> ConfigChange {
        let changes = changes.iter().cloned();
        changes.map(|(name, to)| (name.to_owned(), to)).collect()
    }

    #[test]
    fn a_change_sets_and_removes_and_leaves_the_rest() {
        let first = Config::default().with(&change(&[("a", text("1")), ("b", text("2"))]));
        let then = first.with(&change(&[("a", None), ("c", text("")), ("x", None)]));
        let shown: Vec<_> = then
            .iter()
            .map(|(name, is)| format!("{name}={is}"))
            .collect();
        assert_eq!(shown, [r#"b="2""#, r#"c="""#]);
        assert_eq!(first.with(&ConfigChange::default()), first);
    }

    #[test]
    fn a_change_is_an_object_of_texts_references_and_nulls() {
        let json = r#"{"a":"1","b":{"secret":"env:TIDEPOOL_SECRET_B"},"c":null}"#;
        let read: ConfigChange = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
        for wrong in [
            r#"{"a":1}"#,
            r#"{"a":{"secret":"env:HOME"}}"#,
            r#"{"a":{"secret":"file:a","more":1}}"#,
            r#"{"a":{"secret":"file:../etc"}}"#,
            "[]",
        ] {
            assert!(
                serde_json::from_str::<ConfigChange>(wrong).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_secret_is_one_that_was_meant_for_handlers() {
        for right in ["env:TIDEPOOL_SECRET_KEY", "file:key", "file:key-2.pem"] {
            assert_eq!(SecretRef::parse(right).unwrap().to_string(), right);
        }
        for wrong in [
            "env:DATABASE_URL",
            "env:TIDEPOOL_SECRET_",
            "env:TIDEPOOL_SECRET_A B",
            "env:TIDEPOOL_ADMIN_TOKEN",
            "file:",
            "file:..",
            "file:.hidden",
            "file:a/b",
            "file:/a",
            "vault:a",
            "key",
            "",
        ] {
            let refused = SecretRef::parse(wrong).unwrap_err();
            assert_eq!(refused, ConfigError::Reference(wrong.to_owned()));
        }
    }

    #[test]
    fn every_bound_is_held_at_its_edge() {
        let of = |changes: Vec<(String, usize)>| {
            let changes = changes.into_iter();
            let change = changes.map(|(name, size)| (name, text(&"v".repeat(size))));
            Config::default().with(&change.collect()).check()
        };
        let value = |size| of(vec![("n".to_owned(), size)]);
        assert_eq!(value(MAX_VALUE_BYTES), Ok(()));
        assert!(matches!(
            value(MAX_VALUE_BYTES + 1),
            Err(ConfigError::Value { size: 4097, .. })
        ));
        let name = |bytes| of(vec![("n".repeat(bytes), 0)]);
        assert_eq!(name(MAX_NAME_BYTES), Ok(()));
        assert!(matches!(
            name(MAX_NAME_BYTES + 1),
            Err(ConfigError::Name(_))
        ));
        assert!(matches!(name(0), Err(ConfigError::Name(_))));
        let names = |count: usize| of((0..count).map(|n| (format!("{n:02}"), 0)).collect());
        assert_eq!(names(MAX_NAMES), Ok(()));
        assert_eq!(names(MAX_NAMES + 1), Err(ConfigError::Names(65)));
        let all = |last| {
            let sizes = [4000, 4000, 4000, 4000, last].into_iter().enumerate();
            of(sizes.map(|(n, size)| (format!("{n:02}"), size)).collect())
        };
        assert_eq!(all(MAX_CONFIG_BYTES - 16_010), Ok(()));
        assert_eq!(
            all(MAX_CONFIG_BYTES - 16_009),
            Err(ConfigError::Size(MAX_CONFIG_BYTES + 1))
        );
    }
}
