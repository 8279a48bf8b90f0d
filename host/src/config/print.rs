//! The effective settings as a commented TOML file: what a user starts a file
//! of their own from, and what the reference in the README is made of. A
//! secret is masked.

use std::fmt::Write;

use super::{
    Admin, Cache, Database, Feed, Handlers, Http, Limits, Log, Redis, Settings, Trust, env_name,
};

impl Settings {
    /// All settings, each with its documentation and its variable.
    pub fn to_commented_toml(&self) -> String {
        let mut out = String::new();
        let values = serde_json::to_value(self).unwrap_or_default();
        // In TOML the keys without a section come first.
        for (key, docs) in Settings::DOCS {
            if !values[key].is_object() {
                print(&mut out, key, key, docs, &values[key]);
            }
        }
        for (section, about) in Settings::DOCS {
            if values[section].is_object() {
                let about = about.join(" ");
                let _ = writeln!(out, "#{about}\n[{section}]\n");
                for (key, docs) in section_docs(section) {
                    print(
                        &mut out,
                        key,
                        &format!("{section}.{key}"),
                        docs,
                        &values[section][key],
                    );
                }
            }
        }
        out
    }
}

fn section_docs(section: &str) -> &'static [(&'static str, &'static [&'static str])] {
    match section {
        "admin" => Admin::DOCS,
        "trust" => Trust::DOCS,
        "http" => Http::DOCS,
        "database" => Database::DOCS,
        "cache" => Cache::DOCS,
        "redis" => Redis::DOCS,
        "log" => Log::DOCS,
        "feed" => Feed::DOCS,
        "handlers" => Handlers::DOCS,
        "limits" => Limits::DOCS,
        _ => &[],
    }
}

fn print(out: &mut String, name: &str, path: &str, docs: &[&str], value: &serde_json::Value) {
    for line in docs {
        let _ = writeln!(out, "#{line}");
    }
    let _ = writeln!(out, "# {}", env_name(path));
    // Strings, numbers, truths and lists of strings are written alike in JSON and TOML.
    let _ = match value {
        serde_json::Value::Null => writeln!(out, "# {name} = \"...\"\n"),
        value => writeln!(out, "{name} = {value}\n"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_back_and_every_key_is_there() {
        let text = Settings::default().to_commented_toml();
        let read: Settings = toml::from_str(&text).unwrap();
        assert_eq!(read, Settings::default());
        let names = text
            .lines()
            .filter(|line| line.starts_with("# TIDEPOOL_"))
            .count();
        let defaults = serde_json::to_value(Settings::default()).unwrap();
        let leaves: usize = defaults
            .as_object()
            .unwrap()
            .values()
            .map(|value| value.as_object().map_or(1, serde_json::Map::len))
            .sum();
        assert_eq!(names, leaves);
    }
}
