//! The tables on a server, as a list of migrations, and bringing a server to them:
//! safe when many hosts start at once, refused by a host that is older than the
//! tables, and needing no privilege that is not needed.
//!
//! A migration, once released, is never edited: a change is another entry at the
//! end. `tidepool_schema` has a row for each that the database has seen.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::sql::{Backoff, Class, PRIVILEGES, ServerKind, SqlConfig, SqlError, classify, quote};

/// How long bringing the tables up to date may take, waiting for other hosts that
/// do it included.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a step on CockroachDB is tried again.
const TRIES: usize = 20;

/// What hosts that migrate a PostgreSQL wait for each other on: "tidepool".
const LOCK: i64 = 0x7469_6465_706f_6f6c;

/// A migration for each dialect.
struct Migration {
    postgres: &'static str,
    /// Statements that can be repeated, since CockroachDB changes tables outside of
    /// transactions; each after another.
    cockroach: &'static [&'static str],
}

/// All migrations, oldest first.
///
/// `key` is bytes: text cannot hold NUL on PostgreSQL, and bytes have no collation.
/// A primary key of PostgreSQL has no direction; it is read backwards. `xid` is the
/// feed's position: the transaction that wrote the row.
///
/// Ids of clients are below 0, and their index has nothing of other writes: those
/// neither pay for it nor reach into another range of a CockroachDB.
const MIGRATIONS: &[Migration] = &[
    Migration {
        postgres: "CREATE TABLE kv_log (
            key bytea NOT NULL,
            version int8 NOT NULL,
            \"timestamp\" int8 NOT NULL, -- microseconds since the Unix epoch
            deleted bool NOT NULL,
            content_type text,
            expires_at int8, -- microseconds since the Unix epoch
            write_id int8 NOT NULL, -- random, tells rows of a key apart
            xid int8 NOT NULL DEFAULT pg_current_xact_id()::text::int8,
            value bytea,
            PRIMARY KEY (key, version)
        );
        CREATE INDEX kv_log_xid ON kv_log (xid);",
        cockroach: &["CREATE TABLE IF NOT EXISTS kv_log (
            key BYTES NOT NULL,
            version INT8 NOT NULL,
            \"timestamp\" INT8 NOT NULL,
            deleted BOOL NOT NULL,
            content_type STRING,
            expires_at INT8,
            write_id INT8 NOT NULL,
            value BYTES,
            PRIMARY KEY (key, version DESC)
        )"],
    },
    Migration {
        postgres: "CREATE INDEX kv_log_write_id ON kv_log (key, write_id, version)
            WHERE write_id < 0;",
        cockroach: &[
            "CREATE INDEX IF NOT EXISTS kv_log_write_id ON kv_log (key, write_id, version DESC)
            WHERE write_id < 0",
        ],
    },
    // What is deployed: see `deployments`. These tables outlive a `kv_log` that is
    // begun anew.
    Migration {
        postgres: "CREATE TABLE IF NOT EXISTS tidepool_deployments (
            seq int8 PRIMARY KEY,
            at int8 NOT NULL, -- microseconds since the Unix epoch
            id int8 NOT NULL, -- random, tells entries apart
            actor text NOT NULL,
            source text NOT NULL,
            body text NOT NULL -- JSON
        );
        CREATE TABLE IF NOT EXISTS tidepool_components (
            digest bytea NOT NULL,
            chunk int4 NOT NULL, -- from 0
            put_at int8 NOT NULL, -- microseconds since the Unix epoch
            bytes bytea NOT NULL,
            PRIMARY KEY (digest, chunk)
        );
        CREATE TABLE IF NOT EXISTS tidepool_hosts (
            host text PRIMARY KEY,
            body text NOT NULL, -- JSON
            seen_at int8 NOT NULL -- microseconds since the Unix epoch
        );",
        cockroach: &[
            "CREATE TABLE IF NOT EXISTS tidepool_deployments (
            seq INT8 NOT NULL PRIMARY KEY,
            at INT8 NOT NULL,
            id INT8 NOT NULL,
            actor STRING NOT NULL,
            source STRING NOT NULL,
            body STRING NOT NULL
        )",
            "CREATE TABLE IF NOT EXISTS tidepool_components (
            digest BYTES NOT NULL,
            chunk INT4 NOT NULL,
            put_at INT8 NOT NULL,
            bytes BYTES NOT NULL,
            PRIMARY KEY (digest, chunk)
        )",
            "CREATE TABLE IF NOT EXISTS tidepool_hosts (
            host STRING NOT NULL PRIMARY KEY,
            body STRING NOT NULL,
            seen_at INT8 NOT NULL
        )",
        ],
    },
    // Rows of the feed that were set aside: see `quarantine`.
    Migration {
        postgres: "CREATE TABLE IF NOT EXISTS tidepool_quarantine (
            region text NOT NULL,
            key bytea NOT NULL,
            version int8 NOT NULL,
            at int8 NOT NULL, -- microseconds since the Unix epoch
            why text NOT NULL,
            PRIMARY KEY (region, key)
        );",
        cockroach: &["CREATE TABLE IF NOT EXISTS tidepool_quarantine (
            region STRING NOT NULL,
            key BYTES NOT NULL,
            version INT8 NOT NULL,
            at INT8 NOT NULL,
            why STRING NOT NULL,
            PRIMARY KEY (region, key)
        )"],
    },
];

/// The migration that makes the tables of the deployments.
const DEPLOYMENTS: i64 = 3;

/// Tables that changefeeds follow.
const FOLLOWED: [&str; 3] = ["kv_log", "tidepool_deployments", "tidepool_hosts"];

const SCHEMA_TABLE: &str = "CREATE TABLE IF NOT EXISTS tidepool_schema (
    version int8 PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
)";

/// Why the tables cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MigrateError {
    /// The server.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// They are from a newer release.
    #[error(
        "the tables in the database {database} are from a newer Tidepool (version {found}, this one knows {known}); upgrade this host, or name another database"
    )]
    Newer {
        /// The database.
        database: String,
        /// Migrations that it has seen.
        found: i64,
        /// Migrations that this release knows.
        known: i64,
    },
    /// Some other program's.
    #[error(
        "the table kv_log in the database {database} is not Tidepool's ({why}); name another database"
    )]
    Foreign {
        /// The database.
        database: String,
        /// What is wrong with it.
        why: String,
    },
    /// One of them is gone.
    #[error(
        "the table {table} in the database {database} was removed; restore it from a backup, or to have it made again, without what was in it, run: DELETE FROM tidepool_schema WHERE version >= {DEPLOYMENTS}; and start Tidepool anew"
    )]
    Removed {
        /// The table.
        table: &'static str,
        /// The database.
        database: String,
    },
    /// The role may not use them.
    #[error(
        "the role {role} may not do in the database {database} what it has to; an administrator has to run: {grants}"
    )]
    NoPrivilege {
        /// The role.
        role: String,
        /// The database.
        database: String,
        /// The statements that give what is missing.
        grants: String,
    },
    /// It took too long.
    #[error(
        "the tables in the database {database} could not be brought up to date within {PATIENCE:?}; see on the server what holds locks on them"
    )]
    Slow {
        /// The database.
        database: String,
    },
}

/// Brings the tables up to date and sees whether they can be used.
pub(crate) async fn migrate(
    client: &Client,
    kind: ServerKind,
    config: &SqlConfig,
) -> Result<(), MigrateError> {
    let work = Migrator {
        client,
        kind,
        config,
    };
    match timeout(PATIENCE, work.run()).await {
        Ok(done) => done,
        Err(_) => Err(MigrateError::Slow {
            database: config.target().to_owned(),
        }),
    }
}

struct Migrator<'a> {
    client: &'a Client,
    kind: ServerKind,
    config: &'a SqlConfig,
}

impl Migrator<'_> {
    async fn run(&self) -> Result<(), MigrateError> {
        // Without a lock and without a privilege but to read: the usual start.
        if self.up_to_date(self.seen().await?)? {
            return self.usable().await;
        }
        match self.kind {
            ServerKind::Postgres { .. } => self.postgres().await?,
            ServerKind::Cockroach { .. } => self.cockroach().await?,
        }
        self.usable().await
    }

    fn failed(&self, error: &tokio_postgres::Error) -> MigrateError {
        if error.code() == Some(&SqlState::DUPLICATE_TABLE) {
            return self.foreign("it is older than tidepool_schema");
        }
        MigrateError::Sql(self.config.statement_error(error))
    }

    fn foreign(&self, why: &str) -> MigrateError {
        MigrateError::Foreign {
            database: self.config.target().to_owned(),
            why: why.to_owned(),
        }
    }

    /// How many migrations the database has seen.
    async fn seen(&self) -> Result<i64, MigrateError> {
        const SEEN: &str = "SELECT coalesce(max(version), 0)::int8 FROM tidepool_schema";
        let row = match self.client.query_one(SEEN, &[]).await {
            Ok(row) => row,
            Err(error) if classify(&error) == Class::NoTable => return Ok(0),
            Err(error) => return Err(self.failed(&error)),
        };
        row.try_get(0).map_err(|error| self.failed(&error))
    }

    fn up_to_date(&self, seen: i64) -> Result<bool, MigrateError> {
        let known = MIGRATIONS.len() as i64;
        if seen > known {
            return Err(MigrateError::Newer {
                database: self.config.target().to_owned(),
                found: seen,
                known,
            });
        }
        Ok(seen == known)
    }

    /// All or nothing, one host at a time. A failure cuts the connection, and the
    /// server takes back what was done.
    async fn postgres(&self) -> Result<(), MigrateError> {
        let failed = |error: tokio_postgres::Error| self.failed(&error);
        let run = async |text: &str| self.client.batch_execute(text).await.map_err(failed);
        run(super::statements::BEGIN).await?;
        run(&format!("SELECT pg_advisory_xact_lock({LOCK})")).await?;
        run(SCHEMA_TABLE).await?;
        let seen = self.seen().await?;
        self.up_to_date(seen)?;
        for (number, migration) in (1..).zip(MIGRATIONS) {
            if number > seen {
                run(migration.postgres).await?;
                run(&format!(
                    "INSERT INTO tidepool_schema (version) VALUES ({number})"
                ))
                .await?;
            }
        }
        run("COMMIT").await
    }

    /// Steps that can be repeated, and are when others get in the way.
    async fn cockroach(&self) -> Result<(), MigrateError> {
        self.repeat(SCHEMA_TABLE).await?;
        let seen = self.seen().await?;
        self.up_to_date(seen)?;
        // As it was left by the last one, and no index can be made then.
        if seen > 0 && self.kind.cockroach_since(23, 1) {
            self.repeat("ALTER TABLE kv_log SET (schema_locked = false)")
                .await?;
        }
        for (number, migration) in (1..).zip(MIGRATIONS) {
            if number > seen {
                for statement in migration.cockroach {
                    self.repeat(statement).await?;
                }
                self.repeat(&format!(
                    "INSERT INTO tidepool_schema (version) VALUES ({number}) ON CONFLICT DO NOTHING"
                ))
                .await?;
            }
        }
        // Without it a changefeed holds rows back to see whether the table changes.
        if self.kind.cockroach_since(23, 1) {
            for table in FOLLOWED {
                let lock = format!("ALTER TABLE {table} SET (schema_locked = true)");
                if let Err(error) = self.repeat(&lock).await {
                    tracing::warn!(
                        %error,
                        "feeds will be slower; an administrator can run: {lock}"
                    );
                }
            }
        }
        Ok(())
    }

    async fn repeat(&self, statement: &str) -> Result<(), MigrateError> {
        let mut backoff = Backoff::new(self.config.request_timeout);
        for _ in 1..TRIES {
            match self.client.batch_execute(statement).await {
                Ok(()) => return Ok(()),
                Err(error) if matches!(classify(&error), Class::Retry | Class::Ambiguous) => {
                    backoff.wait().await;
                }
                Err(error) => return Err(self.failed(&error)),
            }
        }
        let last = self.client.batch_execute(statement).await;
        last.map_err(|error| self.failed(&error))
    }

    /// Whether the tables are ours and we may use them.
    async fn usable(&self) -> Result<(), MigrateError> {
        const COLUMNS: &str =
            "SELECT key, version, \"timestamp\", deleted, content_type, expires_at,
            write_id, value FROM kv_log LIMIT 0";
        let gone = |error: &tokio_postgres::Error| match classify(error) {
            Class::NoTable => self.foreign("tidepool_schema is there and it is not"),
            _ => self.failed(error),
        };
        let mut grants = Vec::new();
        for (table, privileges) in PRIVILEGES {
            // A host that does not migrate only reads this one, and has.
            if table == "tidepool_schema" {
                continue;
            }
            let each = privileges.split(", ");
            let each = each.map(|one| format!("has_table_privilege('{table}', '{one}')"));
            let allowed = format!("SELECT {}", each.collect::<Vec<_>>().join(" AND "));
            let allowed = self.client.query_one(&allowed, &[]).await;
            let allowed = match allowed.and_then(|row| row.try_get(0)) {
                Err(error) if classify(&error) == Class::NoTable && table != "kv_log" => {
                    return Err(MigrateError::Removed {
                        table,
                        database: self.config.target().to_owned(),
                    });
                }
                allowed => allowed.map_err(|error| gone(&error)),
            };
            if !allowed? {
                let role = quote(self.config.role());
                grants.push(format!("GRANT {privileges} ON TABLE {table} TO {role};"));
            }
        }
        if !grants.is_empty() {
            return Err(MigrateError::NoPrivilege {
                role: self.config.role().to_owned(),
                database: self.config.target().to_owned(),
                grants: grants.join(" "),
            });
        }
        match self.client.batch_execute(COLUMNS).await {
            Ok(()) => Ok(()),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => {
                Err(self.foreign("it has other columns"))
            }
            Err(error) => Err(gone(&error)),
        }
    }
}
