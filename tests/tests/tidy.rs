//! The sources keep to their own rules: which module may import which, and
//! what the README says of the WIT, the settings and the errors.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::collections::BTreeSet;
use std::process::Command;

use tidepool::config::Settings;
use tidepool::http::respond::Kind;
use tidepool::model::Operation;
use tidepool::wit_host::worlds;
use tidepool_tests::built;
use wit_parser::{FunctionKind, Resolve, WorldKey};

/// The files of the repository that git knows, or would take, by their paths.
fn tracked() -> Vec<(String, String)> {
    let list = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(built::repository())
        .output()
        .expect("git");
    assert!(list.status.success(), "{list:?}");
    let paths = String::from_utf8(list.stdout).expect("paths in UTF-8");
    let read = |path: &str| {
        // One that was removed and not yet committed is not there any more.
        let bytes = std::fs::read(built::repository().join(path)).ok()?;
        Some((
            path.to_owned(),
            String::from_utf8_lossy(&bytes).into_owned(),
        ))
    };
    paths.split('\0').filter_map(read).collect()
}

/// The Rust sources among them.
fn sources() -> Vec<(String, String)> {
    let mut files = tracked();
    files.retain(|(path, _)| path.ends_with(".rs"));
    files
}

/// The modules of the host by their path in `host/src`, without comments and
/// without their tests.
fn host_code() -> Vec<(String, String)> {
    let is_test = |path: &str| path.ends_with("_tests.rs") || path.ends_with("/tests.rs");
    let code = |text: &str| {
        let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
        let lines = text[..end].lines();
        let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
        lines.map(|line| format!("{line}\n")).collect()
    };
    sources()
        .into_iter()
        .filter_map(|(path, text)| Some((path.strip_prefix("host/src/")?.to_owned(), text)))
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| (path, code(&text)))
        .collect()
}

/// The words (letters, digits, `_` and `:`) of a text: a path is one word.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | ':'))
}

#[test]
fn every_source_says_first_what_it_is() {
    let all = sources();
    assert!(all.len() > 100, "only {} sources were found", all.len());
    for (path, text) in all {
        assert!(text.starts_with("//! "), "{path} does not open with `//! `");
    }
}

#[test]
fn imports_point_one_way() {
    let above_backends = ["handlers", "http", "hydrate", "wit_host", "app", "cli"];
    let rules: [(&str, &[&str]); 10] = [
        ("cache/", &above_backends),
        ("log/", &above_backends),
        ("feed/", &above_backends),
        ("deployments/", &above_backends),
        (
            "sql/",
            &[
                "cache", "log", "feed", "handlers", "http", "hydrate", "wit_host", "app", "cli",
            ],
        ),
        (
            "trust/",
            &[
                "cache", "log", "feed", "handlers", "http", "hydrate", "wit_host", "app", "cli",
            ],
        ),
        ("wit_host/", &["handlers", "http", "hydrate", "app", "cli"]),
        ("handlers/", &["http", "hydrate", "app", "cli"]),
        ("http/", &["app", "cli"]),
        ("hydrate/", &["http", "app", "cli"]),
    ];
    let code = host_code();
    for (folder, forbidden) in rules {
        let inside = code.iter().filter(|(path, _)| path.starts_with(folder));
        let mut seen = 0;
        for (path, text) in inside {
            seen += 1;
            // So that one look at a path is enough.
            assert!(
                !text.contains("crate::{"),
                "{path}: write one `use crate::` a module"
            );
            for word in words(text) {
                let roots = ["crate::", "super::super::"];
                let Some(import) = roots.iter().find_map(|root| word.strip_prefix(root)) else {
                    continue;
                };
                let reaches = |module: &&&str| {
                    let rest = import.strip_prefix(**module);
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
                };
                let found = forbidden.iter().find(reaches);
                assert!(found.is_none(), "{path} may not import {word}");
            }
        }
        assert!(seen > 1, "nothing was found in {folder}");
    }
}

#[test]
fn backends_are_named_in_one_place() {
    /// Who else may, and what.
    const ALLOWED: [(&str, &str); 2] = [
        // It looks at each kind of server in that server's own words.
        ("doctor/mod.rs", "cache::redis"),
        // A component is called once on a scratch cache of its own.
        ("handlers/selftest.rs", "cache::memory"),
    ];
    let mut used: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (path, text) in host_code() {
        let home = ["log/", "feed/", "cache/", "deployments/", "quarantine/"]
            .iter()
            .any(|home| path.starts_with(home));
        if home || path == "app.rs" || path.starts_with("app/") {
            continue;
        }
        for word in words(&text) {
            let names = |backend: &&&str| word.contains(**backend);
            let Some(backend) = ["sqlite", "cache::memory", "cache::redis"]
                .iter()
                .find(names)
            else {
                continue;
            };
            let allowed = ALLOWED
                .iter()
                .find(|allowed| **allowed == (&*path, *backend));
            assert!(allowed.is_some(), "{path} names a backend: {word}");
            used.extend(allowed);
        }
    }
    assert_eq!(
        used.len(),
        ALLOWED.len(),
        "an exception is not needed: {used:?}"
    );
}

#[test]
fn bindings_are_made_in_one_place() {
    let bind = |text: &str| text.contains("bindgen!(");
    let code = host_code();
    let found: Vec<_> = code.iter().filter(|(_, text)| bind(text)).collect();
    let found: Vec<_> = found.iter().map(|(path, _)| &**path).collect();
    assert_eq!(found, ["wit_host/bindings.rs"]);
}

#[test]
fn no_file_names_a_place_on_somebodys_machine() {
    for (path, text) in tracked() {
        for root in ["work", "home", "root", "Users"] {
            let root = format!("/{root}/");
            for (at, _) in text.match_indices(&root) {
                // Part of a longer path, which is relative or an address.
                let before = text[..at].chars().next_back();
                let longer = before.is_some_and(|c| {
                    c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | ')' | '/' | '*')
                });
                let line = text[..at].lines().count().max(1);
                assert!(longer, "{path}, line {line}: an absolute path below {root}");
            }
        }
    }
}

/// The tables of a section of the README, each as its rows of cells, with the
/// heading row first.
fn tables(section: &str) -> Vec<Vec<Vec<String>>> {
    let readme = std::fs::read_to_string(built::repository().join("README.md")).expect("README.md");
    let after = readme.split(&format!("\n## {section}\n")).nth(1);
    let text = after
        .expect(section)
        .split("\n## ")
        .next()
        .unwrap_or_default();
    let mut tables = vec![Vec::new()];
    for line in text.lines() {
        let cells = line
            .strip_prefix("| ")
            .and_then(|line| line.strip_suffix(" |"));
        match (cells, tables.last_mut()) {
            (Some(cells), Some(table)) => {
                table.push(
                    cells
                        .split(" | ")
                        .map(|cell| cell.trim().to_owned())
                        .collect(),
                );
            }
            (None, Some(table)) if !line.starts_with('|') && !table.is_empty() => {
                tables.push(Vec::new());
            }
            _ => {}
        }
    }
    tables
}

/// The rows of the table of a section whose first heading is this.
fn table(section: &str, heading: &str) -> Vec<Vec<String>> {
    let found = tables(section).into_iter();
    let mut found = found.filter(|table| table.first().is_some_and(|head| head[0] == heading));
    let table = found.next().unwrap_or_default();
    assert!(
        table.len() > 1,
        "README.md, {section}: no table of {heading}"
    );
    table[1..].to_vec()
}

/// What stands between backticks.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// The one quoted word of a cell.
fn name(cell: &str) -> String {
    let mut names = quoted(cell);
    assert_eq!(names.len(), 1, "one name in backticks was expected: {cell}");
    names.pop_first().unwrap_or_default()
}

/// The interfaces as `wit/` has them.
fn wit() -> (Resolve, wit_parser::PackageId) {
    let mut resolve = Resolve::default();
    let (package, _) = resolve
        .push_dir(built::repository().join("wit"))
        .expect("wit/");
    (resolve, package)
}

#[test]
fn the_worlds_of_the_readme_are_those_of_the_wit_and_of_the_host() {
    let (resolve, package) = wit();
    let package = &resolve.packages[package];
    assert_eq!(
        package.name.to_string(),
        format!("{}@{}", worlds::PACKAGE, worlds::PACKAGE_VERSION)
    );
    let rows = table("WIT", "world");
    let named: BTreeSet<String> = rows.iter().map(|row| name(&row[0])).collect();
    let there: BTreeSet<String> = package.worlds.keys().cloned().collect();
    let operations = Operation::ALL.map(|operation| operation.name().to_owned());
    assert_eq!(named, there);
    assert_eq!(there, BTreeSet::from(operations));
    for row in rows {
        let world = name(&row[0]);
        let operation = Operation::parse(&world).expect("an operation");
        let world = &resolve.worlds[package.worlds[&world]];
        // What they need in turn is among them: that is how they are resolved.
        let imports: BTreeSet<String> = world
            .imports
            .keys()
            .filter_map(|key| match key {
                WorldKey::Interface(interface) => resolve.interfaces[*interface].name.clone(),
                WorldKey::Name(_) => None,
            })
            .collect();
        let exports: BTreeSet<String> = world
            .exports
            .keys()
            .map(|key| resolve.name_world_key(key))
            .collect();
        assert_eq!(quoted(&row[1]), imports, "README.md, world {}", world.name);
        assert_eq!(quoted(&row[2]), exports, "README.md, world {}", world.name);
        assert_eq!(exports, BTreeSet::from([worlds::EXPORT.to_owned()]));
        let served: BTreeSet<String> = worlds::imports(operation)
            .iter()
            .map(|name| (*name).to_owned())
            .collect();
        assert_eq!(served, imports, "worlds.rs, {operation}");
    }
}

#[test]
fn the_interfaces_of_the_readme_are_those_of_the_wit() {
    let (resolve, package) = wit();
    let interfaces = &resolve.packages[package].interfaces;
    let rows = table("WIT", "interface");
    let named: BTreeSet<String> = rows.iter().map(|row| name(&row[0])).collect();
    let there: BTreeSet<String> = interfaces.keys().cloned().collect();
    assert_eq!(named, there);
    for row in rows {
        let interface = &resolve.interfaces[interfaces[&name(&row[0])]];
        let told = quoted(&row[1]);
        let functions = interface.functions.values();
        let functions = functions.filter(|f| !matches!(f.kind, FunctionKind::Constructor(_)));
        let functions: BTreeSet<&str> = functions.map(|f| f.item_name()).collect();
        for function in &functions {
            assert!(
                told.contains(*function),
                "README.md does not name {function}: {row:?}"
            );
        }
        for name in &told {
            let known = functions.contains(&**name) || interface.types.contains_key(name);
            assert!(known, "there is no {name} in {row:?}");
        }
    }
}

/// The default of a setting, as it is printed.
fn default(key: &str) -> Option<String> {
    let defaults = serde_json::to_value(Settings::default()).expect("settings");
    let value = key
        .split('.')
        .try_fold(&defaults, |value, part| value.get(part))?;
    Some(
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned),
    )
}

#[test]
fn the_limits_of_the_readme_are_the_defaults() {
    let mut limits = BTreeSet::new();
    for row in table("Settings and limits", "limit") {
        let Some(key) = quoted(&row[0]).pop_first() else {
            continue;
        };
        let default = default(&key).unwrap_or_else(|| panic!("there is no setting {key}"));
        // A number, with its unit if it has one; then what it is for.
        let told = row[1].replace(',', "");
        let told: Vec<&str> = told.split_whitespace().collect();
        let told = [told[0].to_owned(), told[..told.len().min(2)].concat()];
        let default = default.replace(' ', "");
        assert!(
            told.contains(&default),
            "{key} is {default} and not {}",
            row[1]
        );
        limits.insert(key);
    }
    // What one call may use is all in there.
    let all = serde_json::to_value(Settings::default().limits).expect("limits");
    for key in all.as_object().expect("limits").keys() {
        assert!(
            limits.contains(&format!("limits.{key}")),
            "limits.{key} is not in the table"
        );
    }
}

#[test]
fn every_setting_that_the_readme_names_exists() {
    let readme = std::fs::read_to_string(built::repository().join("README.md")).expect("README.md");
    let sections = [
        "admin", "trust", "http", "database", "cache", "log", "feed", "handlers", "limits",
    ];
    let mut seen = 0;
    for line in readme.lines() {
        for code in quoted(line) {
            for word in code.split(|c: char| c.is_whitespace() || c == '=') {
                let Some((section, key)) = word.split_once('.') else {
                    continue;
                };
                if sections.contains(&section) && !key.is_empty() {
                    seen += 1;
                    // An unset one has no value, and is there all the same.
                    assert!(default(word).is_some(), "README.md names {word}: {line}");
                }
            }
        }
    }
    assert!(seen > 20, "only {seen} were found");
}

#[test]
fn every_problem_is_in_the_readme_with_its_status() {
    let mut told = Vec::new();
    for row in table("HTTP: the data plane", "type") {
        let names = row[0].split(", ").map(name);
        let statuses = row[1].split(", ").map(str::to_owned);
        told.extend(names.zip(statuses));
    }
    told.sort();
    let kinds = Kind::ALL.iter();
    let kinds = kinds.map(|kind| (kind.name().to_owned(), kind.status().as_u16().to_string()));
    let mut kinds: Vec<_> = kinds.collect();
    kinds.sort();
    assert_eq!(told, kinds);
}
