//! Where the secrets of this host are: variables of its environment that begin with
//! `TIDEPOOL_SECRET_`, and the files of one folder. They are read when a revision is
//! loaded; what is read is given to its component and to nobody else.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use crate::config::{SECRET_PREFIX, Secret};
use crate::deployments::Config;
use crate::deployments::config::{SecretRef, Setting};
use crate::wit_host::config::Values;

/// Bytes of a secret.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// Why a configuration cannot be had on this host. None names more of a secret than
/// where it should be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not set.
    #[error(
        "the secret {name:?} is not there: this host has no variable {variable} in its environment; set it and restart the host, or name another"
    )]
    NoVariable {
        /// The name in the configuration.
        name: String,
        /// The variable.
        variable: String,
    },
    /// There is no folder.
    #[error(
        "the secret {name:?} is not there: this host has no folder of secrets; set handlers.secrets_dir, or use a variable {SECRET_PREFIX}..."
    )]
    NoFolder {
        /// The name in the configuration.
        name: String,
    },
    /// The file cannot be read.
    #[error("the secret {name:?} is not there: {} cannot be read: {why}", file.display())]
    Unreadable {
        /// The name in the configuration.
        name: String,
        /// The file.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// It is more than a component is given.
    #[error("the secret {name:?} has more than {MAX_SECRET_BYTES} bytes")]
    TooLarge {
        /// The name in the configuration.
        name: String,
    },
    /// It is no text.
    #[error("the secret {name:?} is not UTF-8; encode it, in base64 for example")]
    NotText {
        /// The name in the configuration.
        name: String,
    },
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Secrets {
    /// Names and values.
    environment: Vec<(String, Secret)>,
    folder: Option<PathBuf>,
}

impl Secrets {
    /// Of the variables that secrets may be in, and of the files in `folder`.
    pub fn new(
        environment: impl IntoIterator<Item = (String, String)>,
        folder: Option<PathBuf>,
    ) -> Secrets {
        let environment = environment
            .into_iter()
            .filter(|(name, _)| name.starts_with(SECRET_PREFIX));
        Secrets {
            environment: environment
                .map(|(name, value)| (name, Secret::new(value)))
                .collect(),
            folder,
        }
    }

    /// What a component reads of a configuration. It reads files.
    ///
    /// # Errors
    ///
    /// See [`SecretError`]: the first secret, by its name, that is not to be had.
    pub fn resolve(&self, config: &Config) -> Result<Values, SecretError> {
        let values = config.iter().map(|(name, setting)| {
            let value = match setting {
                Setting::Text(text) => text.clone(),
                Setting::Secret {
                    secret: SecretRef::Env(variable),
                } => self.variable(name, variable)?,
                Setting::Secret {
                    secret: SecretRef::File(file),
                } => self.file(name, file)?,
            };
            Ok((name.to_owned(), value))
        });
        values.collect()
    }

    fn variable(&self, name: &str, variable: &str) -> Result<String, SecretError> {
        let found = self.environment.iter().find(|(it, _)| it == variable);
        match found {
            Some((_, value)) if value.expose().len() > MAX_SECRET_BYTES => {
                Err(SecretError::TooLarge {
                    name: name.to_owned(),
                })
            }
            Some((_, value)) => Ok(value.expose().to_owned()),
            None => Err(SecretError::NoVariable {
                name: name.to_owned(),
                variable: variable.to_owned(),
            }),
        }
    }

    fn file(&self, name: &str, file: &str) -> Result<String, SecretError> {
        let name = || name.to_owned();
        let Some(folder) = &self.folder else {
            return Err(SecretError::NoFolder { name: name() });
        };
        let file = folder.join(file);
        let bytes = read(&file).map_err(|error| SecretError::Unreadable {
            name: name(),
            why: match error.kind() {
                ErrorKind::NotFound => "there is no such file".to_owned(),
                _ => error.to_string(),
            },
            file: file.clone(),
        })?;
        if bytes.len() > MAX_SECRET_BYTES {
            return Err(SecretError::TooLarge { name: name() });
        }
        let mut text =
            String::from_utf8(bytes).map_err(|_| SecretError::NotText { name: name() })?;
        // As every editor ends a file.
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }
}

/// Reads a file, and no more of it than tells that it is too large.
fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let file = File::open(file)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_SECRET_BYTES as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(secret: &str) -> Config {
        let setting = Setting::Secret {
            secret: SecretRef::parse(secret).unwrap(),
        };
        let change = [("key".to_owned(), Some(setting))].into_iter().collect();
        Config::default().with(&change)
    }

    #[test]
    fn secrets_come_from_variables_that_are_meant_for_it() {
        let environment = [
            ("TIDEPOOL_SECRET_KEY".to_owned(), "hidden".to_owned()),
            (
                "TIDEPOOL_SECRET_LONG".to_owned(),
                "x".repeat(MAX_SECRET_BYTES + 1),
            ),
            ("HOME".to_owned(), "here".to_owned()),
        ];
        let secrets = Secrets::new(environment, None);
        assert!(!format!("{secrets:?}").contains("hidden"));
        let of = |secret| secrets.resolve(&config(secret));
        let values = of("env:TIDEPOOL_SECRET_KEY").unwrap();
        assert_eq!(values.get("key"), Some("hidden"));
        let missing = of("env:TIDEPOOL_SECRET_OTHER").unwrap_err().to_string();
        assert!(missing.contains("\"key\"") && missing.contains("TIDEPOOL_SECRET_OTHER"));
        let name = "key".to_owned();
        assert_eq!(
            of("env:TIDEPOOL_SECRET_LONG"),
            Err(SecretError::TooLarge { name: name.clone() })
        );
        assert_eq!(of("file:key"), Err(SecretError::NoFolder { name }));
    }

    #[test]
    fn secrets_come_from_files_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::new([], Some(folder.path().to_owned()));
        let of = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(name), bytes).unwrap();
            secrets.resolve(&config(&format!("file:{name}")))
        };
        assert_eq!(of("a", b"hidden\n").unwrap().get("key"), Some("hidden"));
        assert_eq!(of("b", b"1\n2\r\n").unwrap().get("key"), Some("1\n2"));
        let largest = vec![b'x'; MAX_SECRET_BYTES];
        assert!(of("c", &largest).is_ok());
        let name = "key".to_owned();
        let larger = vec![b'x'; MAX_SECRET_BYTES + 1];
        assert_eq!(
            of("d", &larger),
            Err(SecretError::TooLarge { name: name.clone() })
        );
        assert_eq!(of("e", b"\xff"), Err(SecretError::NotText { name }));
        let missing = secrets.resolve(&config("file:none")).unwrap_err();
        assert!(missing.to_string().contains("no such file"), "{missing}");
        std::fs::create_dir(folder.path().join("f")).unwrap();
        let wrong = secrets.resolve(&config("file:f")).unwrap_err();
        assert!(wrong.to_string().contains("not a file"), "{wrong}");
    }
}
