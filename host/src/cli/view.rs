//! `tidepool view`: what databases and caches hold, as tables for people.

use std::convert::Infallible;

use clap::Subcommand;
use serde::Deserialize;

use super::client::{ClientArgs, document, runtime};
use super::settings::{SettingArgs, load};
use super::{CliError, output, running};
use crate::app::look;
use crate::config::{Secret, Settings};
use crate::http::cached::{MOST_KEYS, USUAL_KEYS, list_of};
use crate::http::documents::{CacheList, CachedEntry};
use crate::log::look::{MOST_ROWS, Table};

/// Characters of a value that are shown.
const SHOWN: usize = 60;

/// See what the databases and the caches hold.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Db(Db),
    Cache(Cache),
}

/// Run SQL that reads, on each database that is named.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Without --database-url it is database.url (DATABASE_URL); without that, the log that \
    `tidepool dev` keeps in its data folder. Bytes that are text are shown as text. What would change \
    something by mistake is refused; for more than that, name a user who may only read."
)]
struct Db {
    /// For example 'SELECT key, version, deleted FROM kv_log'
    #[arg(value_name = "SQL")]
    statements: String,
    /// A database; may be given more than once
    #[arg(long = "database-url", value_name = "URL", value_parser = secret)]
    urls: Vec<Secret>,
    /// The data folder of `tidepool dev`
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    #[command(flatten)]
    settings: SettingArgs,
}

/// List the keys of each cache: version, kind, value, and how long they will be there.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Without --redis-url it is redis.url (REDIS_URL); without that, the caches of all regions of \
    the host whose admin plane is at --admin."
)]
struct Cache {
    /// A Redis; may be given more than once
    #[arg(long = "redis-url", value_name = "URL", value_parser = secret)]
    urls: Vec<Secret>,
    /// Most keys of each
    #[arg(long, value_name = "KEYS", default_value_t = USUAL_KEYS as u64,
        value_parser = clap::value_parser!(u64).range(1..=MOST_KEYS as u64))]
    limit: u64,
    #[command(flatten)]
    settings: SettingArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// A region of the list of an admin plane.
#[derive(Deserialize)]
struct Named {
    region: String,
}

#[allow(clippy::unnecessary_wraps)] // What clap asks for.
fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

pub(super) fn run(args: Args) -> Result<(), CliError> {
    match args.command {
        Command::Db(args) => db(args),
        Command::Cache(args) => cache(args),
    }
}

fn db(args: Db) -> Result<(), CliError> {
    let sources = args.settings.sources([("data", args.data)], true)?;
    let settings = load(&sources)?;
    each(args.urls, settings, |settings, url| {
        settings.database.url = url.or(settings.database.url.take());
        let found = runtime()?.block_on(look::log(settings, &args.statements));
        let (name, tables) = found.map_err(running::failed)?;
        output::print(&headed(&name, tables.iter().map(rows)))
    })
}

fn cache(args: Cache) -> Result<(), CliError> {
    let limit = usize::try_from(args.limit).unwrap_or(USUAL_KEYS);
    let sources = args.settings.sources([], true)?;
    let settings = load(&sources)?;
    let show = |list: &CacheList| match args.client.json {
        true => output::print(&json(list)?),
        false => output::print(&headed(&list.cache, [keys(list)])),
    };
    if args.urls.is_empty() && settings.redis.url.is_none() {
        let regions: Vec<Named> = document(&args.client, "/v1/regions".to_owned())?;
        for Named { region } in regions {
            let path = format!("/v1/regions/{region}/cache?limit={limit}");
            show(&document(&args.client, path)?)?;
        }
        return Ok(());
    }
    each(args.urls, settings, |settings, url| {
        settings.redis.url = url.or(settings.redis.url.take());
        // One more, to see whether there are more.
        let found = runtime()?.block_on(look::cache(settings, limit + 1));
        let (name, holdings) = found.map_err(running::failed)?;
        show(&list_of(&name, holdings, limit))
    })
}

/// Looks at what each URL names, or once at what the settings do. One that cannot be
/// seen does not hide the others.
fn each(
    urls: Vec<Secret>,
    mut settings: Settings,
    mut look: impl FnMut(&mut Settings, Option<Secret>) -> Result<(), CliError>,
) -> Result<(), CliError> {
    if urls.is_empty() {
        return look(&mut settings, None);
    }
    let mut done = Ok(());
    for url in urls {
        if let Err(error) = look(&mut settings, Some(url)) {
            output::error(&error.to_string());
            done = Err(CliError::Failed(
                "not all could be seen; see above".to_owned(),
            ));
        }
    }
    done
}

/// As JSON, without the control characters that it would leave as they are.
fn json(list: &CacheList) -> Result<String, CliError> {
    let text = serde_json::to_string_pretty(list).map_err(running::failed)?;
    let plain = |c: char| match c.is_control() && c != '\n' {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    Ok(text.chars().map(plain).collect())
}

/// Tables under a heading.
fn headed(name: &str, tables: impl IntoIterator<Item = String>) -> String {
    let tables: Vec<String> = tables.into_iter().collect();
    format!("== {}\n{}\n", output::one_line(name), tables.join("\n\n"))
}

fn rows(table: &Table) -> String {
    let mut lines = vec![
        table
            .columns
            .iter()
            .map(|it| output::one_line(it))
            .collect(),
    ];
    let cells = |row: &Vec<String>| row.iter().map(|cell| short(cell, false)).collect();
    lines.extend(table.rows.iter().map(cells));
    let mut text = output::table(&lines);
    text.push_str(&match (table.more, table.rows.len()) {
        (true, _) => format!("\n(the first {MOST_ROWS} rows; there are more)"),
        (false, 1) => "\n(1 row)".to_owned(),
        (false, rows) => format!("\n({rows} rows)"),
    });
    text
}

fn keys(list: &CacheList) -> String {
    let heads = ["KEY", "VERSION", "KIND", "TYPE", "VALUE", "LEFT"];
    let mut lines = vec![heads.map(str::to_owned).to_vec()];
    lines.extend(list.entries.iter().map(key));
    let mut text = output::table(&lines);
    text.push_str(&match (list.more, list.entries.len()) {
        (true, keys) => format!("\n({keys} keys; there are more, see --limit)"),
        (false, 1) => "\n(1 key)".to_owned(),
        (false, keys) => format!("\n({keys} keys)"),
    });
    text
}

fn key(entry: &CachedEntry) -> Vec<String> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        short(&entry.key, false),
        or_none(entry.version.map(|version| version.to_string())),
        entry.kind.name().to_owned(),
        or_none(entry.content_type.as_deref().map(output::one_line)),
        or_none(entry.value.as_deref().map(|value| short(value, entry.cut))),
        or_none(
            entry
                .left_ms
                .map(|left| format!("{} s", left.div_ceil(1000))),
        ),
    ]
}

/// The beginning of a text, on one line. `cut`: it was longer.
fn short(text: &str, cut: bool) -> String {
    let line = output::one_line(text);
    let mut shown: String = line.chars().take(SHOWN).collect();
    if cut || shown.len() < line.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::documents::CachedKind;

    #[test]
    fn a_cache_is_a_table() {
        let entry = CachedEntry {
            key: "hello\u{1b}[2J".to_owned(),
            kind: CachedKind::Value,
            version: Some(7),
            content_type: None,
            value: Some("x".repeat(SHOWN)),
            cut: true,
            left_ms: Some(59_001),
        };
        let mut list = CacheList {
            cache: "eu".to_owned(),
            entries: vec![entry],
            more: false,
        };
        let text = headed(&list.cache, [keys(&list)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "== eu");
        let value = "x".repeat(SHOWN);
        assert_eq!(
            lines[2],
            format!("hello [2J  7        value  -     {value}…  60 s")
        );
        assert_eq!(lines[3], "(1 key)");
        list.more = true;
        assert!(keys(&list).ends_with("(1 keys; there are more, see --limit)"));
    }

    #[test]
    fn json_has_no_control_characters() {
        let list = CacheList {
            cache: "a\u{9b}b\u{7f}\u{1b}".to_owned(),
            entries: Vec::new(),
            more: false,
        };
        let text = json(&list).unwrap();
        assert!(
            !text.chars().any(|c| c.is_control() && c != '\n'),
            "{text:?}"
        );
        assert_eq!(serde_json::from_str::<CacheList>(&text).unwrap(), list);
    }

    #[test]
    fn an_answer_is_a_table() {
        let table = Table {
            columns: vec!["key".to_owned(), "n".to_owned()],
            rows: vec![vec!["a\nb".to_owned(), "NULL".to_owned()]],
            more: false,
        };
        assert_eq!(rows(&table), "key   n\na; b  NULL\n(1 row)");
    }
}
