//! The facts that the checks look at, asked of a server. It must not judge: what a
//! server refuses to say is unknown, and the checks know what that means.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_postgres::{Client, SimpleQueryMessage};

use super::tables::Table;
use super::{cockroach, postgres};
use crate::sql::{PRIVILEGES, ServerKind, SqlConfig};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The rows of an answer as text, each with its columns; `None` when the server did
/// not answer, or refused to.
async fn rows(client: &Client, statement: &str) -> Option<Vec<Vec<Option<String>>>> {
    let answer = tokio::time::timeout(PATIENCE, client.simple_query(statement));
    let answer = answer.await.ok()?.ok()?;
    let rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let columns = |row: &tokio_postgres::SimpleQueryRow| {
        let columns = (0..row.len()).map(|column| row.try_get(column).ok().flatten());
        columns.map(|text| text.map(str::to_owned)).collect()
    };
    Some(rows.map(columns).collect())
}

/// The first column of the first row.
async fn text(client: &Client, statement: &str) -> Option<String> {
    let rows = rows(client, statement).await?;
    rows.into_iter().next()?.into_iter().next()?
}

async fn number(client: &Client, statement: &str) -> Option<i64> {
    text(client, statement).await?.parse().ok()
}

async fn flag(client: &Client, statement: &str) -> Option<bool> {
    let text = text(client, statement).await?;
    cockroach::boolean(&text)
}

/// By how many microseconds the server's clock is ahead of this host's, give or
/// take half the time of the question.
async fn clock_offset(client: &Client) -> Option<i64> {
    let micros = |time: Duration| i64::try_from(time.as_micros()).ok();
    let asked = Instant::now();
    let before = micros(SystemTime::now().duration_since(UNIX_EPOCH).ok()?)?;
    let theirs = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::INT8";
    let theirs = number(client, theirs).await?;
    let middle = before + micros(asked.elapsed())? / 2;
    Some(theirs - middle)
}

/// The tables beside `kv_log`; `there` is the question how many there are of a name. Who does
/// not make tables reads `tidepool_schema`, and nothing works when he may not.
async fn others(client: &Client, there: impl Fn(&str) -> String) -> Vec<Table> {
    let mut tables = Vec::new();
    for (name, privileges) in PRIVILEGES {
        if matches!(name, "kv_log" | "tidepool_schema") {
            continue;
        }
        let mut table = Table {
            name,
            there: number(client, &there(name)).await == Some(1),
            missing: Vec::new(),
        };
        for privilege in privileges.split(", ").filter(|_| table.there) {
            let may = format!("SELECT has_table_privilege('{name}', '{privilege}')");
            if flag(client, &may).await == Some(false) {
                table.missing.push(privilege);
            }
        }
        tables.push(table);
    }
    tables
}

/// Facts about a CockroachDB.
pub(super) async fn cockroach(client: &Client, server: ServerKind, role: &str) -> cockroach::Facts {
    let mut settings = Vec::new();
    for name in cockroach::SETTINGS {
        let value = text(client, &format!("SHOW CLUSTER SETTING {name}")).await;
        settings.push((*name, value));
    }
    let licence = text(client, "SHOW CLUSTER SETTING enterprise.license").await;
    let table = "SELECT count(*) FROM information_schema.tables \
                 WHERE table_name = 'kv_log' AND table_schema = current_schema()";
    let table = number(client, table).await == Some(1);
    let may = |privilege: &str| format!("SELECT has_table_privilege('kv_log', '{privilege}')");
    let names = |rows: Option<Vec<Vec<Option<String>>>>| -> Vec<String> {
        let rows = rows.unwrap_or_default().into_iter();
        let names = rows.filter_map(|row| row.into_iter().next().flatten());
        names.collect()
    };
    cockroach::Facts {
        server,
        role: role.to_owned(),
        database: text(client, "SELECT current_database()").await,
        settings,
        // The key itself stays where it is.
        licensed: licence.map(|key| !key.is_empty()),
        table,
        may_select: table && flag(client, &may("SELECT")).await == Some(true),
        may_insert: table && flag(client, &may("INSERT")).await == Some(true),
        may_create: {
            let create = "SELECT has_database_privilege(current_database(), 'CREATE') \
                          OR has_schema_privilege(current_schema(), 'CREATE')";
            flag(client, create).await == Some(true)
        },
        others: others(client, |name| {
            format!(
                "SELECT count(*) FROM information_schema.tables \
                 WHERE table_name = '{name}' AND table_schema = current_schema()"
            )
        })
        .await,
        definition: text(
            client,
            "SELECT create_statement FROM [SHOW CREATE TABLE kv_log]",
        )
        .await,
        zone: text(
            client,
            "SELECT raw_config_sql FROM [SHOW ZONE CONFIGURATION FROM TABLE kv_log]",
        )
        .await,
        cluster_regions: names(
            rows(
                client,
                "SELECT region FROM [SHOW REGIONS FROM CLUSTER] ORDER BY 1",
            )
            .await,
        ),
        database_regions: names(
            rows(
                client,
                "SELECT region FROM [SHOW REGIONS FROM DATABASE] ORDER BY 1",
            )
            .await,
        ),
        survival: text(
            client,
            "SELECT survival_goal FROM [SHOW SURVIVAL GOAL FROM DATABASE]",
        )
        .await,
        clock_offset_micros: clock_offset(client).await,
    }
}

/// Facts about a PostgreSQL.
pub(super) async fn postgres(client: &Client, config: &SqlConfig) -> postgres::Facts {
    let mut settings = Vec::new();
    for name in postgres::SETTINGS {
        let value = text(client, &format!("SHOW {name}")).await;
        settings.push((*name, value));
    }
    let table = "SELECT to_regclass('kv_log') IS NOT NULL";
    let table = flag(client, table).await == Some(true);
    let may = |privilege: &str| format!("SELECT has_table_privilege('kv_log', '{privilege}')");
    // Only those that have written hold the feed back.
    let oldest = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start))::INT8, 0) \
                  FROM pg_stat_activity \
                  WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()";
    let prepared = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - prepared))::INT8, -1) \
                    FROM pg_prepared_xacts";
    postgres::Facts {
        role: config.role().to_owned(),
        wanted_connections: config.connections,
        settings,
        standby: flag(client, "SELECT pg_is_in_recovery()").await == Some(true),
        table,
        may_select: table && flag(client, &may("SELECT")).await == Some(true),
        may_insert: table && flag(client, &may("INSERT")).await == Some(true),
        may_create: {
            let create = "SELECT has_schema_privilege(current_schema(), 'CREATE')";
            flag(client, create).await == Some(true)
        },
        others: others(client, |name| {
            format!("SELECT count(*) FROM pg_class WHERE oid = to_regclass('{name}')")
        })
        .await,
        sees_all: flag(client, "SELECT pg_has_role('pg_read_all_stats', 'USAGE')").await
            == Some(true),
        used_connections: number(
            client,
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'",
        )
        .await,
        oldest_writer_seconds: number(client, oldest).await,
        oldest_prepared_seconds: number(client, prepared).await.filter(|age| *age >= 0),
        tls: flag(
            client,
            "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
        )
        .await,
        // Nothing at all: a socket in the file system.
        client_address: text(client, "SELECT host(inet_client_addr())").await,
        clock_offset_micros: clock_offset(client).await,
    }
}
