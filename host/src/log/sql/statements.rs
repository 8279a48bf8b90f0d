//! The statements of the log, for both dialects. Pure text; what they share is
//! written once.
//!
//! An append is one statement over arrays, one element an append. The order of the
//! elements is the order of the versions of a key. A condition is decided against
//! the state before the statement, and an id is looked for in it, so a batch has
//! them only on the first append of a key (see `queue.rs`).

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::log::write_id::REMEMBERED;
use crate::model::{Condition, Key, Tags};
use crate::sql::{ServerKind, now};

/// Makes an append wait for every other transaction that appends to one of its
/// keys. It has to be a statement of its own: what follows sees what those have
/// committed. The locks are given in ascending order, so that two batches never
/// wait for each other.
pub(super) const LOCK: &str = "SELECT pg_advisory_xact_lock(k) FROM unnest($1::int8[]) AS k";

/// PostgreSQL: the snapshot of a statement must be younger than the locks, which
/// it is at no other level.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Wakes the feeds. After the commit and not in it: in a transaction it would be
/// held in line with the commits of all others.
pub(super) const NOTIFY: &str = "SELECT pg_notify('tidepool_kv_log', '')";

/// What `LISTEN` names for [`NOTIFY`].
pub(crate) const CHANNEL: &str = "tidepool_kv_log";

/// How old a stale read is. By the settings that a cluster of CockroachDB has from
/// the start, every replica knows what was 4.8 seconds ago, so the nearest answers
/// (before v24.3 with an enterprise licence; else the leaseholder does).
pub(super) const REPLICA_AGE: Duration = Duration::from_secs(5);

/// How far two nodes' clocks may be apart, either way: CockroachDB's `--max-offset`
/// is half a second when nobody sets it, and a read of the past has no margin of its
/// own.
pub(super) const CLOCKS_APART: Duration = Duration::from_secs(1);

/// The latest row of a key, and the clock. `$1`: the key.
macro_rules! read {
    ($as_of:literal) => {
        concat!(
            "SELECT key, version, deleted, content_type, expires_at, value, ",
            now!(),
            " AS now FROM kv_log ",
            $as_of,
            "WHERE key = $1 ORDER BY version DESC LIMIT 1"
        )
    };
}

/// Every commit before it.
pub(super) const READ: &str = read!("");

/// CockroachDB: every commit up to [`REPLICA_AGE`] before it. That age, and not a
/// bound on it: a bound (`with_max_staleness`) refuses `ORDER BY`, and wants a
/// licence.
pub(super) const READ_STALE: &str = read!("AS OF SYSTEM TIME '-5s' ");

/// Which of some appends without an id are there. `$1`: keys, `$2`: write ids.
pub(super) const LOOK_UP: &str = "SELECT w.place, l.version, l.\"timestamp\"
    FROM unnest($1::bytea[], $2::int8[]) WITH ORDINALITY AS w (key, write_id, place)
    JOIN kv_log AS l ON l.key = w.key AND l.write_id = w.write_id
    WHERE w.write_id >= 0";

/// PostgreSQL: ends the backend of a lost connection, so that nothing which was
/// sent on it can be committed later. `$1`: its process, `$2`: when it began, `$3`:
/// milliseconds to wait for its end. No row: it has ended already.
pub(super) const END_BACKEND: &str = "SELECT pg_terminate_backend(pid, $3) FROM pg_stat_activity
    WHERE pid = $1 AND (extract(epoch FROM backend_start) * 1000000)::int8 = $2";

/// PostgreSQL: who serves this connection.
pub(super) const OWN_BACKEND: &str =
    "SELECT pid, (extract(epoch FROM backend_start) * 1000000)::int8
    FROM pg_stat_activity WHERE pid = pg_backend_pid()";

/// The append: `$1` keys, `$2` write ids, `$3` deleted, `$4` content types, `$5`
/// times to live in microseconds, `$6` values, `$7` conditions, `$8` and `$9` the
/// tags of conditions as pairs of an append's place and a version. It gives back,
/// in the order of the appends: whether the condition held, the version of the
/// live value, the version and the time of the row, and, where a row with the id
/// of the append was there, whether it says the same: then nothing was appended
/// and version and time are of that row.
///
/// Without `ids` nothing is looked for: one statement for either, so that a write
/// without an id costs no more than it has to.
pub fn append(kind: ServerKind, ids: bool) -> String {
    let latest = match kind {
        // The keys are locked already.
        ServerKind::Postgres { .. } => {
            "SELECT k.key, l.version, l.deleted, l.expires_at
             FROM (SELECT DISTINCT key FROM batch) AS k
             CROSS JOIN LATERAL (
                 SELECT version, deleted, expires_at FROM kv_log
                 WHERE key = k.key ORDER BY version DESC LIMIT 1
             ) AS l"
        }
        // All appends are to one key, `$10`. Reading its latest row locks it: a
        // key that many write would come to a standstill without.
        ServerKind::Cockroach { .. } => {
            "SELECT key, version, deleted, expires_at FROM kv_log
             WHERE key = $10 ORDER BY version DESC LIMIT 1 FOR UPDATE"
        }
    };
    // A point of the index: rows without an id of a client are not in it.
    let known = match (ids, kind) {
        (false, _) => "SELECT NULL::int8 AS place, NULL::int8 AS version,
            NULL::int8 AS \"timestamp\", NULL::bool AS same WHERE false"
            .to_owned(),
        (true, kind) => {
            let (key, id) = match kind {
                ServerKind::Postgres { .. } => ("batch.key", "batch.write_id"),
                // That of the first append, `$11`.
                ServerKind::Cockroach { .. } => ("$10", "$11"),
            };
            let remembered = REMEMBERED.as_micros();
            format!(
                "SELECT batch.place, l.version, l.\"timestamp\", l.deleted = batch.deleted
                    AND l.content_type IS NOT DISTINCT FROM batch.content_type
                    AND l.value IS NOT DISTINCT FROM batch.value
                    AND l.expires_at IS NOT DISTINCT FROM {} AS same
                FROM batch CROSS JOIN clock CROSS JOIN LATERAL (
                    SELECT version, \"timestamp\", deleted, content_type, expires_at, value
                    FROM kv_log WHERE key = {key} AND write_id = {id} AND write_id < 0
                    ORDER BY version DESC LIMIT 1
                ) AS l
                WHERE batch.write_id < 0 AND l.\"timestamp\" > clock.now - {remembered}",
                expires_at("l.\"timestamp\"")
            )
        }
    };
    let now = now!();
    let expires_at = expires_at("now");
    format!(
        "WITH batch AS (
            SELECT * FROM unnest($1::bytea[], $2::int8[], $3::bool[], $4::text[], $5::int8[],
                $6::bytea[], $7::int8[]) WITH ORDINALITY
            AS b (key, write_id, deleted, content_type, ttl, value, condition, place)
        ), latest AS MATERIALIZED ({latest}),
        clock AS MATERIALIZED (SELECT {now} AS now),
        seen AS MATERIALIZED (
            SELECT latest.key, latest.version,
                CASE WHEN latest.deleted OR latest.expires_at <= clock.now THEN NULL
                     ELSE latest.version END AS live
            FROM latest CROSS JOIN clock
        ), known AS ({known}),
        tags AS MATERIALIZED (
            SELECT * FROM unnest($8::int8[], $9::int8[]) AS t (place, version)
        ), decided AS MATERIALIZED (
            SELECT batch.*, seen.version AS latest, seen.live, clock.now,
                known.version AS known_version, known.\"timestamp\" AS known_time, known.same,
                CASE batch.condition
                    WHEN {NONE} THEN true
                    WHEN {MATCH_ANY} THEN seen.live IS NOT NULL
                    WHEN {NONE_MATCH_ANY} THEN seen.live IS NULL
                    WHEN {MATCH} THEN tagged.place IS NOT NULL
                    ELSE tagged.place IS NULL
                END AS holds
            FROM batch CROSS JOIN clock
            LEFT JOIN seen ON seen.key = batch.key
            LEFT JOIN known ON known.place = batch.place
            LEFT JOIN (SELECT DISTINCT place, version FROM tags) AS tagged
                ON tagged.place = batch.place AND tagged.version = seen.live
        ), inserted AS (
            INSERT INTO kv_log
                (key, version, \"timestamp\", deleted, content_type, expires_at, write_id, value)
            SELECT key,
                greatest(coalesce(latest, 0) + 1, now)
                    + row_number() OVER (PARTITION BY key ORDER BY place) - 1,
                now, deleted, content_type, {expires_at}, write_id, value
            FROM decided WHERE holds AND same IS NULL
            RETURNING key, write_id, version
        )
        SELECT decided.holds, decided.live, coalesce(known_version, inserted.version),
            coalesce(known_time, decided.now), decided.same
        FROM decided LEFT JOIN inserted
            ON inserted.key = decided.key AND inserted.write_id = decided.write_id
        ORDER BY decided.place"
    )
}

/// When what is written at `since` stops existing.
fn expires_at(since: &str) -> String {
    // The least of nothing and something is something.
    format!(
        "CASE WHEN ttl IS NOT NULL THEN {since} + least(ttl, 9223372036854775807 - {since}) END"
    )
}

const NONE: i64 = 0;
const MATCH_ANY: i64 = 1;
const NONE_MATCH_ANY: i64 = 2;
const MATCH: i64 = 3;
const NONE_MATCH: i64 = 4;

/// A condition as the append has it: what it is, and its tags.
pub(super) fn condition(condition: &Condition) -> (i64, &[crate::model::Version]) {
    match condition {
        Condition::None => (NONE, &[]),
        Condition::IfMatch(Tags::Any) => (MATCH_ANY, &[]),
        Condition::IfNoneMatch(Tags::Any) => (NONE_MATCH_ANY, &[]),
        Condition::IfMatch(Tags::Versions(tags)) => (MATCH, tags),
        Condition::IfNoneMatch(Tags::Versions(tags)) => (NONE_MATCH, tags),
    }
}

/// The lock of a key: the same number on every host and in every release. Two keys
/// with one number only wait for each other.
pub(super) fn lock_of(key: &Key) -> i64 {
    let digest = Sha256::new()
        .chain_update(b"tidepool/kv_log/")
        .chain_update(key.as_str())
        .finalize();
    let mut number = [0; 8];
    number.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_read_is_as_old_as_it_says() {
        let age = format!("AS OF SYSTEM TIME '-{}s' ", REPLICA_AGE.as_secs());
        assert_eq!(READ_STALE.replacen(&age, "", 1), READ);
    }

    #[test]
    fn the_lock_of_a_key_is_the_same_everywhere() {
        // Hosts of two releases that disagreed would both write.
        let lock = |text| lock_of(&Key::new(text).unwrap());
        assert_eq!(lock("a"), lock("a"));
        assert_ne!(lock("a"), lock("b"));
        assert_eq!(lock("hello"), -8863449208806144930);
    }
}
