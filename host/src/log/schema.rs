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
    // What is deployed, as a ledger of events; `body` is JSON. What ran before
    // becomes its first events, one for each region and operation.
    "CREATE TABLE deployments (
        seq INTEGER PRIMARY KEY,
        at INTEGER NOT NULL, -- microseconds since the Unix epoch
        id INTEGER NOT NULL,
        actor TEXT NOT NULL,
        source TEXT NOT NULL,
        body TEXT NOT NULL
    );
    CREATE TABLE deployed_components (
        digest BLOB PRIMARY KEY,
        put_at INTEGER NOT NULL, -- microseconds since the Unix epoch
        bytes BLOB NOT NULL
    );
    INSERT INTO deployed_components (digest, put_at, bytes) SELECT digest, 0, bytes FROM components;
    INSERT INTO deployments (seq, at, id, actor, source, body)
        SELECT row_number() OVER (ORDER BY joined DESC, deployed_at, region, operation),
            deployed_at, 0, deployed_by, 'host', body
        FROM (
            SELECT 1 AS joined, min(deployed_at) AS deployed_at, 'host' AS deployed_by, region,
                '' AS operation, json_object('type', 'joined', 'region', region) AS body
            FROM revisions GROUP BY region
            UNION ALL
            SELECT 0, deployed_at, deployed_by, region, operation, json_object(
                'type', 'deployed', 'operation', operation, 'regions', json_array(region),
                'digest', 'sha256:' || lower(hex(r.digest)), 'size', length(c.bytes),
                'share', 10000, 'note', note)
            FROM revisions AS r JOIN components AS c ON c.digest = r.digest
            WHERE active = 1 AND deployed_by <> 'built-in'
        );
    DROP TABLE revisions;
    DROP TABLE components;",
    // Rows of the feed that were set aside, one for each key of a region.
    "CREATE TABLE quarantine (
        region TEXT NOT NULL,
        key TEXT NOT NULL,
        version INTEGER NOT NULL,
        at INTEGER NOT NULL, -- microseconds since the Unix epoch
        why TEXT NOT NULL,
        PRIMARY KEY (region, key)
    ) WITHOUT ROWID;",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployments::{Digest, Entry, Event, State};
    use crate::model::Operation;

    #[test]
    fn what_was_deployed_before_there_was_a_ledger_is_its_beginning() {
        let mut connection = Connection::open_in_memory().unwrap();
        for old in &MIGRATIONS[..3] {
            connection.execute_batch(old).unwrap();
        }
        let digest = Digest::of(b"component");
        connection
            .execute(
                "INSERT INTO components VALUES (?1, ?2)",
                (digest.as_bytes(), b"component"),
            )
            .unwrap();
        let rows = [
            ("eu", "get", 1, "built-in", 0),
            ("eu", "get", 2, "ann", 1),
            ("us", "get", 1, "built-in", 1),
        ];
        for (region, operation, number, by, active) in rows {
            connection
                .execute(
                    "INSERT INTO revisions VALUES (?1, ?2, ?3, ?4, 7, ?5, '', ?6)",
                    (region, operation, number, digest.as_bytes(), by, active),
                )
                .unwrap();
        }
        let transaction = connection.transaction().unwrap();
        migrate(&transaction, 3).unwrap();
        transaction.commit().unwrap();
        let read = "SELECT seq, at, id, actor, source, body FROM deployments ORDER BY seq";
        let mut read = connection.prepare(read).unwrap();
        let entries = read.query_map((), |row| {
            Ok(Entry {
                seq: row.get(0)?,
                at: row.get(1)?,
                id: row.get(2)?,
                actor: row.get(3)?,
                source: row.get(4)?,
                body: row.get(5)?,
            })
        });
        let entries: Vec<Entry> = entries.unwrap().map(Result::unwrap).collect();
        let mut state = State::new(100);
        for (number, entry) in (1..).zip(&entries) {
            assert_eq!(entry.seq, number);
            state.apply(entry).unwrap();
        }
        let slot = state.slot("eu", Operation::Get).unwrap();
        assert_eq!(
            (slot.active, slot.revision(2).unwrap().by.as_str()),
            (2, "ann")
        );
        assert_eq!(state.slot("us", Operation::Get).unwrap().active, 1);
        assert!(matches!(
            entries.last().unwrap().event(),
            Some(Event::Deployed { digest: kept, size: 9, .. }) if kept == digest
        ));
        let kept = "SELECT bytes FROM deployed_components WHERE digest = ?1";
        let kept: Vec<u8> = connection
            .query_row(kept, [digest.as_bytes()], |row| row.get(0))
            .unwrap();
        assert_eq!(kept, b"component");
    }
}
