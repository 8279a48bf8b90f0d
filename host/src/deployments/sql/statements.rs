//! The statements of the ledger, the same for both dialects. Pure text.

use tokio_postgres::{Client, Error, Statement};

use crate::sql::{ServerKind, now};

/// Entries in order. `$1`: those after this number, `$2`: at most so many.
const AFTER: &str = "SELECT seq, at, id, actor, source, body FROM tidepool_deployments
    WHERE seq > $1 ORDER BY seq LIMIT $2";

/// Of two for one number the second violates the primary key, also while the first
/// is not committed: then it waits for that. `$1`: the number; then id, actor, source
/// and body.
const APPEND: &str = concat!(
    "INSERT INTO tidepool_deployments (seq, at, id, actor, source, body) VALUES ($1, ",
    now!(),
    ", $2, $3, $4, $5)"
);

/// PostgreSQL: wakes the hosts. After the commit and not in it, as for the log.
const NOTIFY: &str = "SELECT pg_notify('tidepool_deployments', '')";

/// What `LISTEN` names for [`NOTIFY`].
pub(super) const CHANNEL: &str = "tidepool_deployments";

/// What a changefeed follows.
pub(super) const TABLES: &str = "tidepool_deployments, tidepool_hosts";

/// Writes chunks, over whatever was there. `$1`: the digest, `$2`: numbers of chunks,
/// `$3`: their bytes.
const PUT: &str = concat!(
    "INSERT INTO tidepool_components (digest, chunk, put_at, bytes)
    SELECT $1::bytea, part.chunk, ",
    now!(),
    ", part.content FROM unnest($2::int4[], $3::bytea[]) AS part (chunk, content)
    ON CONFLICT (digest, chunk) DO UPDATE SET put_at = excluded.put_at, bytes = excluded.bytes"
);

/// Removes chunks that a component does not have. `$1`: the digest, `$2`: how many
/// it has.
const TRIM: &str = "DELETE FROM tidepool_components WHERE digest = $1 AND chunk >= $2";

/// Chunks in order. `$1`: the digest, `$2`: the first, `$3`: at most so many.
const CHUNKS: &str = "SELECT bytes FROM tidepool_components WHERE digest = $1 AND chunk >= $2
    ORDER BY chunk LIMIT $3";

/// Removes components. `$1`: those that stay, `$2`: so do those that were put within
/// so many microseconds.
const KEEP: &str = concat!(
    "DELETE FROM tidepool_components WHERE put_at < ",
    now!(),
    " - $2::int8 AND digest <> ALL ($1::bytea[])"
);

/// `$1`: the host, `$2`: what it says.
const REPORT: &str = concat!(
    "INSERT INTO tidepool_hosts (host, body, seen_at) VALUES ($1, $2, ",
    now!(),
    ") ON CONFLICT (host) DO UPDATE SET body = excluded.body, seen_at = excluded.seen_at"
);

/// `$1`: hosts that were not seen for so many microseconds go.
const FORGET: &str = concat!(
    "DELETE FROM tidepool_hosts WHERE seen_at < ",
    now!(),
    " - $1::int8"
);

/// `$1`: the hosts that were seen within so many microseconds, `$2`: at most so many.
const HOSTS: &str = concat!(
    "SELECT body FROM tidepool_hosts WHERE seen_at >= ",
    now!(),
    " - $1::int8 ORDER BY host LIMIT $2"
);

/// The database's clock.
const NOW: &str = concat!("SELECT ", now!());

/// The statements, prepared on a connection.
#[derive(Debug)]
pub(super) struct Statements {
    pub after: Statement,
    pub append: Statement,
    /// PostgreSQL only.
    pub notify: Option<Statement>,
    pub put: Statement,
    pub trim: Statement,
    pub chunks: Statement,
    pub keep: Statement,
    pub report: Statement,
    pub forget: Statement,
    pub hosts: Statement,
    pub now: Statement,
}

impl Statements {
    /// All of them in one round trip.
    pub async fn prepare(client: &Client, server: ServerKind) -> Result<Statements, Error> {
        let notify = async {
            match server {
                ServerKind::Postgres { .. } => client.prepare(NOTIFY).await.map(Some),
                ServerKind::Cockroach { .. } => Ok(None),
            }
        };
        let (after, append, notify, put, trim, chunks, keep, report, forget, hosts, now) = tokio::try_join!(
            client.prepare(AFTER),
            client.prepare(APPEND),
            notify,
            client.prepare(PUT),
            client.prepare(TRIM),
            client.prepare(CHUNKS),
            client.prepare(KEEP),
            client.prepare(REPORT),
            client.prepare(FORGET),
            client.prepare(HOSTS),
            client.prepare(NOW),
        )?;
        Ok(Statements {
            after,
            append,
            notify,
            put,
            trim,
            chunks,
            keep,
            report,
            forget,
            hosts,
            now,
        })
    }
}
