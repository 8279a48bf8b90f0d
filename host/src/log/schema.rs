//! The tables of the embedded database, as a list of migrations. It must not open
//! files: `sqlite/database.rs` does.
//!
//! A migration, once released, is never edited: a change is another entry at the
//! end. `user_version` counts those that a file has seen, so a binary refuses a
//! file from a newer one instead of misreading it.

use rusqlite::{Connection, Transaction};

/// "Tide" as a big-endian number: tells our files from other SQLite files.
pub const APPLICATION_ID: i32 = 0x5469_6465;

/// All migrations, oldest first.
pub const MIGRATIONS: &[&str] = &[
    // `seq` is the feed's position: AUTOINCREMENT, because a number that came back
    // after the newest row was purged would be skipped by every feed. `value` is
    // last: what stands behind a big value is read only by walking through it.
    "CREATE TABLE kv_log (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL,
        version INTEGER NOT NULL,
        timestamp INTEGER NOT NULL, -- microseconds since the Unix epoch
        deleted INTEGER NOT NULL,
        content_type TEXT,
        expires_at INTEGER, -- microseconds since the Unix epoch
        value BLOB
    );
    CREATE UNIQUE INDEX kv_log_key_version ON kv_log (key, version DESC);",
    // What is deployed: components by the SHA-256 of their bytes, revisions per
    // slot, and at most one active revision in each.
    "CREATE TABLE components (
        digest BLOB PRIMARY KEY,
        bytes BLOB NOT NULL
    );
    CREATE TABLE revisions (
        region TEXT NOT NULL,
        operation TEXT NOT NULL,
        number INTEGER NOT NULL,
        digest BLOB NOT NULL REFERENCES components (digest),
        deployed_at INTEGER NOT NULL, -- microseconds since the Unix epoch
        deployed_by TEXT NOT NULL,
        note TEXT NOT NULL,
        active INTEGER NOT NULL,
        PRIMARY KEY (region, operation, number)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX revisions_active ON revisions (region, operation) WHERE active = 1;
    CREATE INDEX revisions_digest ON revisions (digest);",
    // What a client calls a write, if it does. It stands behind the value, so it is
    // only looked for in its index, which has nothing of other writes.
    "ALTER TABLE kv_log ADD COLUMN write_id INTEGER;
    CREATE INDEX kv_log_write_id ON kv_log (key, write_id, version DESC)
        WHERE write_id IS NOT NULL;",
];

/// What a file says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// A new, empty file.
    Empty,
    /// Ours, with this many migrations.
    Ours(usize),
    /// Ours, from a newer binary, with this many migrations.
    Newer(usize),
    /// Some other program's.
    Foreign,
}

/// Reads what kind of file it is; changes nothing.
pub fn inspect(connection: &Connection) -> rusqlite::Result<Found> {
    let number = |pragma| connection.query_row(pragma, (), |row| row.get::<_, i64>(0));
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    if tables == 0 {
        return Ok(Found::Empty);
    }
    if number("PRAGMA application_id")? != i64::from(APPLICATION_ID) {
        return Ok(Found::Foreign);
    }
    let version = usize::try_from(number("PRAGMA user_version")?).unwrap_or(usize::MAX);
    Ok(if version > MIGRATIONS.len() {
        Found::Newer(version)
    } else {
        Found::Ours(version)
    })
}

/// Brings the schema up to date, all or nothing.
pub fn migrate(transaction: &Transaction<'_>, seen: usize) -> rusqlite::Result<()> {
    for migration in MIGRATIONS.iter().skip(seen) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64)
}
