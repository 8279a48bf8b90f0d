//! What the feed asks. It must not write.

use tokio_postgres::{Client, Statement};

use crate::log::sql::rows::COLUMNS;

/// Keys that one statement walks over.
pub(super) const SCAN_KEYS: i64 = 4096;

/// What a position is of: the cluster and its history since a standby last took
/// over, the database, the table.
pub(super) const IDENTITY: &str = "SELECT concat_ws('-',
        (SELECT system_identifier FROM pg_control_system()),
        substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
        (SELECT oid FROM pg_database WHERE datname = current_database()),
        'kv_log'::regclass::oid),
    'kv_log'::regclass::oid";

/// The newest transaction before `$1` that has written.
pub(super) const NEWEST: &str = "SELECT max(xid) FROM kv_log WHERE xid < $1";

/// How many keys there are, as the server's statistics have it: a share of the rows,
/// whose number is that of the last ANALYZE times what the table has grown by; or a
/// number. None before the first ANALYZE. Counting would take as long as the scan.
/// `$1`: the table.
pub(super) const KEYS: &str = "SELECT (CASE WHEN s.n_distinct < 0
        THEN -s.n_distinct * c.reltuples / greatest(c.relpages, 1)
            * (pg_relation_size(c.oid) / current_setting('block_size')::int8)
        ELSE s.n_distinct END)::int8
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_stats AS s ON s.schemaname = n.nspname AND s.tablename = c.relname
        AND s.attname = 'key'
    WHERE c.oid = $1 AND c.reltuples >= 0";

/// See `horizon.rs`. `$1`: the table.
const HOLDERS: &str = "SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::int8,
    ARRAY(SELECT DISTINCT virtualtransaction FROM pg_locks
        WHERE locktype = 'relation' AND relation = $1 AND mode = 'RowExclusiveLock' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";

const SNAPSHOT: &str = "SELECT pg_current_snapshot()::text";

/// Those that are run again and again.
pub(super) struct Statements {
    /// The clock, and who may be writing.
    pub holders: Statement,
    /// Which transactions have ended.
    pub snapshot: Statement,
    /// The newest rows of the keys below `$1`, at most `$2`.
    pub scan: Statement,
    /// The rows of transactions: `$1` by name; `$2` to `$3` all of these, but not `$4`.
    pub range: Statement,
}

impl Statements {
    pub async fn prepare(client: &Client) -> Result<Statements, tokio_postgres::Error> {
        // One seek per key, past all its older versions: the newest row of the next
        // key is the first one below, in this order.
        let scan = format!(
            "WITH RECURSIVE newest AS (
                (SELECT {COLUMNS} FROM kv_log WHERE key < $1
                    ORDER BY key DESC, version DESC LIMIT 1)
                UNION ALL
                SELECT next.* FROM newest CROSS JOIN LATERAL (
                    SELECT {COLUMNS} FROM kv_log WHERE key < newest.key
                    ORDER BY key DESC, version DESC LIMIT 1
                ) AS next
            ) SELECT * FROM newest LIMIT $2"
        );
        let range = format!(
            "SELECT {COLUMNS}, xid FROM kv_log WHERE xid = ANY ($1::int8[])
             UNION ALL
             SELECT {COLUMNS}, xid FROM kv_log
             WHERE xid >= $2 AND xid < $3 AND xid <> ALL ($4::int8[])"
        );
        Ok(Statements {
            holders: client.prepare(HOLDERS).await?,
            snapshot: client.prepare(SNAPSHOT).await?,
            scan: client.prepare(&scan).await?,
            range: client.prepare(&range).await?,
        })
    }
}
