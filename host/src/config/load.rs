//! Settings from a TOML file, then the environment, then flags: the later one
//! wins. Every value is read by itself first, so that an error can say where
//! it was written, under which key, and what would be right.
//!
//! The file is the only I/O here; environment and flags are passed in.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::check::LeastLimits;
use super::{InvalidSetting, Settings};

/// Every name in the environment that is a setting starts with this.
const PREFIX: &str = "TIDEPOOL_";

/// What the variables begin with that a handler's secret may be read from: whoever
/// may deploy must not be able to give a handler the database's password.
pub const SECRET_PREFIX: &str = "TIDEPOOL_SECRET_";

/// Names that start like settings and are not: test switches, secrets of handlers,
/// what the command line reads by itself, and what `scripts/setup` does.
const RESERVED_PREFIXES: [&str; 2] = ["TIDEPOOL_TEST_", SECRET_PREFIX];
const RESERVED: [&str; 4] = [
    "TIDEPOOL_WASM",
    "TIDEPOOL_CONFIG",
    "TIDEPOOL_ADMIN_URL",
    "TIDEPOOL_ADMIN_CA_FILE",
];

/// Where settings come from.
#[derive(Clone, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Names and values of the environment; others than `TIDEPOOL_*` are
    /// passed over.
    pub environment: Vec<(String, String)>,
    /// Keys (`limits.cpu`) and values given on the command line.
    pub flags: Vec<(String, String)>,
}

/// Where one value was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A configuration file.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => path.display().fmt(f),
            Origin::Variable(name) => f.write_str(name),
            Origin::Flag => f.write_str("command line"),
        }
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}; name a file that exists, or leave --config out", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}, line {line}: {message}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A key that is no setting.
    #[error("{origin}: there is no setting `{key}`; did you mean `{nearest}`?")]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// The key.
        key: String,
        /// The setting with the most similar name.
        nearest: String,
    },
    /// A section with a value instead of keys.
    #[error("{origin}: `{key}` is a section; write [{key}] and its settings below")]
    NotAValue {
        /// Where it stands.
        origin: Origin,
        /// The section.
        key: String,
    },
    /// A value that cannot be read.
    #[error("{origin}: {key}: {message}")]
    BadValue {
        /// Where it stands.
        origin: Origin,
        /// The key.
        key: String,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// A value that cannot work.
    #[error(transparent)]
    Invalid(#[from] InvalidSetting),
}

/// Reads the settings and checks them as a whole.
pub fn load(sources: &Sources) -> Result<Settings, ConfigError> {
    let keys = Keys::of_defaults();
    let mut merged = Table::new();
    if let Some(file) = &sources.file {
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
            file: file.clone(),
            source,
        })?;
        let table = parse_file(file, &text)?;
        keys.merge(&mut merged, "", table, &Origin::File(file.clone()))?;
    }
    for (name, text) in &sources.environment {
        if !name.starts_with(PREFIX)
            || RESERVED_PREFIXES.iter().any(|it| name.starts_with(it))
            || RESERVED.contains(&name.as_str())
        {
            continue;
        }
        let origin = Origin::Variable(name.clone());
        let Some(key) = keys.with_env_name(name) else {
            let nearest = keys.nearest(name, env_name);
            return Err(ConfigError::UnknownKey {
                origin,
                key: name.clone(),
                nearest,
            });
        };
        keys.merge_text(&mut merged, key, text, &origin)?;
    }
    for (key, text) in &sources.flags {
        let Some(known) = keys.find(key) else {
            return Err(keys.unknown(key, Origin::Flag));
        };
        keys.merge_text(&mut merged, known, text, &Origin::Flag)?;
    }
    let limits = merged.get("limits").and_then(Value::as_table).cloned();
    let mut settings: Settings = merged.try_into().map_err(|error: toml::de::Error| {
        // Every value was read by itself before; only a fault of ours leads here.
        let message = error.message().to_owned();
        ConfigError::BadValue {
            origin: Origin::Flag,
            key: "settings".to_owned(),
            message,
        }
    })?;
    make_room(&mut settings, &limits.unwrap_or_default());
    settings.check()?;
    Ok(settings)
}

/// Larger values take more of what was left out of the `limits` that were `given`.
fn make_room(settings: &mut Settings, given: &Table) {
    let least = LeastLimits::of(settings.http.max_value_bytes);
    let limits = &mut settings.limits;
    if !given.contains_key("cpu") {
        limits.cpu = limits.cpu.max(least.cpu);
    }
    if !given.contains_key("memory_bytes") {
        limits.memory_bytes = limits.memory_bytes.max(least.memory_bytes);
    }
    if !given.contains_key("response_bytes") {
        limits.response_bytes = limits.response_bytes.max(least.response_bytes);
    }
}

/// The name in the environment of a key: `limits.cpu` is `TIDEPOOL_LIMITS_CPU`.
pub fn env_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

fn parse_file(file: &Path, text: &str) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = 1 + text.as_bytes()[..start]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        let message = error.message().replace('\n', "; ");
        ConfigError::Syntax {
            file: file.to_owned(),
            line,
            message,
        }
    })
}

/// How the text of a variable or flag becomes a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Truth,
    List,
}

/// All keys, as the default settings have them: adding a field adds its key,
/// its variable and its flag.
struct Keys {
    leaves: Vec<(String, Kind)>,
    sections: Vec<String>,
}

impl Keys {
    fn of_defaults() -> Keys {
        let mut keys = Keys {
            leaves: Vec::new(),
            sections: Vec::new(),
        };
        if let Ok(defaults) = serde_json::to_value(Settings::default()) {
            keys.collect("", &defaults);
        }
        keys
    }

    fn collect(&mut self, path: &str, value: &serde_json::Value) {
        let kind = match value {
            serde_json::Value::Object(members) => {
                if !path.is_empty() {
                    self.sections.push(path.to_owned());
                }
                for (name, member) in members {
                    self.collect(&join(path, name), member);
                }
                return;
            }
            serde_json::Value::Array(_) => Kind::List,
            serde_json::Value::Number(_) => Kind::Number,
            // Null is an optional setting; all of them are texts.
            serde_json::Value::Null | serde_json::Value::String(_) => Kind::Text,
            serde_json::Value::Bool(_) => Kind::Truth,
        };
        self.leaves.push((path.to_owned(), kind));
    }

    fn find(&self, key: &str) -> Option<&(String, Kind)> {
        self.leaves.iter().find(|(known, _)| known == key)
    }

    fn with_env_name(&self, name: &str) -> Option<&(String, Kind)> {
        self.leaves
            .iter()
            .find(|(known, _)| env_name(known) == name)
    }

    fn nearest(&self, name: &str, spelled: impl Fn(&str) -> String) -> String {
        nearest_of(self.leaves.iter().map(|(known, _)| known), name, spelled)
    }

    fn unknown(&self, key: &str, origin: Origin) -> ConfigError {
        let nearest = self.nearest(key, str::to_owned);
        ConfigError::UnknownKey {
            origin,
            key: key.to_owned(),
            nearest,
        }
    }

    /// Takes every value of a table over, after checking each by itself.
    fn merge(
        &self,
        into: &mut Table,
        path: &str,
        table: Table,
        origin: &Origin,
    ) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = join(path, &name);
            match value {
                Value::Table(inner) if self.sections.contains(&key) => {
                    self.merge(into, &key, inner, origin)?
                }
                _ if self.sections.contains(&key) => {
                    return Err(ConfigError::NotAValue {
                        origin: origin.clone(),
                        key,
                    });
                }
                value if self.find(&key).is_some() => merge_value(into, &key, value, origin)?,
                Value::Table(_) => {
                    let nearest = nearest_of(&self.sections, &key, str::to_owned);
                    return Err(ConfigError::UnknownKey {
                        origin: origin.clone(),
                        key,
                        nearest,
                    });
                }
                _ => return Err(self.unknown(&key, origin.clone())),
            }
        }
        Ok(())
    }

    /// Takes one value over that is written as text.
    fn merge_text(
        &self,
        into: &mut Table,
        key: &(String, Kind),
        text: &str,
        origin: &Origin,
    ) -> Result<(), ConfigError> {
        let (key, kind) = key;
        let bad = |message| ConfigError::BadValue {
            origin: origin.clone(),
            key: key.clone(),
            message,
        };
        let value = match kind {
            Kind::Text => Value::String(text.to_owned()),
            Kind::List => Value::Array(
                text.split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(|item| Value::String(item.to_owned()))
                    .collect(),
            ),
            Kind::Number => match text.trim().parse() {
                Ok(number) => Value::Integer(number),
                Err(_) => return Err(bad(format!("`{text}` is not a whole number"))),
            },
            Kind::Truth => match text.trim().parse() {
                Ok(truth) => Value::Boolean(truth),
                Err(_) => return Err(bad(format!("`{text}` is neither `true` nor `false`"))),
            },
        };
        merge_value(into, key, value, origin)
    }
}

/// The name, as `spelled`, that is most like `name`.
fn nearest_of<'a>(
    names: impl IntoIterator<Item = &'a String>,
    name: &str,
    spelled: impl Fn(&str) -> String,
) -> String {
    let last_word = |name: &str| name.rsplit('.').next().map(str::to_owned);
    names
        .into_iter()
        // One that ends in the same word (`cpu` for `limits.cpu`) is nearest.
        .map(|known| {
            let other_word = last_word(known) != last_word(name);
            let known = spelled(known);
            (other_word, strsim::damerau_levenshtein(name, &known), known)
        })
        .min()
        .map(|(.., known)| known)
        .unwrap_or_default()
}

/// Sets a value, if settings with only this value can be read.
fn merge_value(
    into: &mut Table,
    key: &str,
    value: Value,
    origin: &Origin,
) -> Result<(), ConfigError> {
    let mut alone = Table::new();
    insert(&mut alone, key, value.clone());
    if let Err(error) = alone.try_into::<Settings>() {
        // The message quotes the value, and a secret is never shown.
        let message = match key {
            "admin.token" => "the token is a text; write it in quotes".to_owned(),
            "database.url" | "redis.url" => "the URL is a text; write it in quotes".to_owned(),
            _ => error.message().trim().replace('\n', "; "),
        };
        return Err(ConfigError::BadValue {
            origin: origin.clone(),
            key: key.to_owned(),
            message,
        });
    }
    insert(into, key, value);
    Ok(())
}

/// Sets the value at a path; the sections on the way are made.
fn insert(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = table
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        _ => format!("{path}.{name}"),
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
