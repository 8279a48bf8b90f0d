//! Writes: through a host, which puts those that come together into one
//! commit, and as everybody would write them first: a statement for each, on a
//! connection for each writer, on the same server. And one key that everybody
//! writes.

use std::cell::Cell;
use std::sync::Arc;

use bytes::Bytes;
use tidepool::clock::SystemEntropy;
use tidepool::log::sql::SqlLog;
use tidepool::log::{Change, Log};
use tidepool::model::{Condition, Key};
use tidepool::sql::SqlConfig;
use tokio::runtime::Runtime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};

use super::{Cluster, Region};
use crate::load::{self, Measured, Plan};
use crate::report::Part;
use crate::requests::{created, key_of, put_of, value_of};
use crate::{Result, Sizes, Variant, in_turns};

const PUT: &str = "PUT, on disk";
const ALONE: &str = "a statement for each write";
const APPEND: &str = "appends without HTTP, a key for each";
const SINGLE: &str = "PUT, log.max_batch = 1";
const AGAIN: &str = "PUT, log.max_batch as it is";
const HOT: &str = "appends without HTTP, one key";

/// Writers of one key.
const WRITERS: usize = 32;

/// The version rule, and nothing else.
const INSERT: &str = "INSERT INTO kv_log (key, version, \"timestamp\", deleted, write_id, value)
    SELECT $1::bytea,
        greatest(coalesce((SELECT version FROM kv_log WHERE key = $1
            ORDER BY version DESC LIMIT 1), 0) + 1, clock.now),
        clock.now, false, $2::int8, $3::bytea
    FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 AS now) AS clock
    RETURNING version";

/// The transactions that have written so far, and their rows.
const WRITTEN: &str = "SELECT count(DISTINCT xid), count(*) FROM kv_log";

/// A database with the tables of the log, and nobody who follows it.
pub async fn log_without_a_host(cluster: &Cluster, name: &str) -> Result<String> {
    let url = cluster.postgres.database(name).await;
    let settings = cluster.settings(0, &url);
    let config = SqlConfig::new(&settings.database)?;
    drop(SqlLog::open(config, &settings.log, Arc::new(SystemEntropy)).await?);
    Ok(url)
}

/// Measures writes of different keys.
pub fn measure(
    runtime: &Runtime,
    cluster: &Cluster,
    region: &Region,
    sizes: &Sizes,
    part: &mut Part,
) -> Result<()> {
    let url = runtime.block_on(log_without_a_host(cluster, "alone"))?;
    let admin = runtime.block_on(cluster.postgres.admin_client("one"));
    let written = || -> Result<(i64, i64)> {
        let row = runtime.block_on(admin.query_one(WRITTEN, &[]))?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    };
    for connections in [1, 64] {
        let writers = runtime.block_on(Writer::connect(&url, connections))?;
        let plan = Plan::http(region.address, connections, put_of, created);
        // What each has cost the server, in nanoseconds of its processors.
        let (alone_cost, put_cost) = (Cell::new(0.0), Cell::new(0.0));
        let metered = |cost: &Cell<f64>, run: &dyn Fn() -> Measured| {
            let before = runtime.block_on(processor_time(&admin));
            let measured = run();
            let spent = runtime.block_on(processor_time(&admin)) - before;
            cost.set(spent / measured.samples.len().max(1) as f64);
            measured
        };
        let alone = || runtime.block_on(Writer::run(&writers, sizes));
        let put = || load::run(&plan, sizes.turn);
        let before = written()?;
        let variants: Vec<Variant<'_>> = vec![
            (ALONE, Box::new(|| metered(&alone_cost, &alone))),
            (PUT, Box::new(|| metered(&put_cost, &put))),
        ];
        part.rows.extend(in_turns(sizes, connections, variants));
        let after = written()?;
        let of = format!("{connections} at a time");
        let in_one = (after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64;
        part.fact(format!("PUT, writes in a commit, {of}"), in_one, "");
        for (what, cost) in [(ALONE, alone_cost), (PUT, put_cost)] {
            let what = format!("processor time of PostgreSQL, {what}, {of}");
            part.fact(what, cost.get() / 1e3, "µs a write");
        }
    }
    part.ratio(PUT, ALONE, 64, 5.0);
    Ok(())
}

/// Measures a host that combines nothing, beside the one that does.
pub fn single(
    runtime: &Runtime,
    cluster: &Cluster,
    region: &Region,
    sizes: &Sizes,
    part: &mut Part,
) -> Result<()> {
    let single = runtime.block_on(async {
        let url = cluster.postgres.database("single").await;
        let mut settings = cluster.settings(1, &url);
        settings.log.max_batch = 1;
        Region::start(settings).await
    })?;
    let run = |region: &Region| -> Box<dyn FnMut() -> Measured> {
        let plan = Plan::http(region.address, 64, put_of, created);
        Box::new(move || load::run(&plan, sizes.turn))
    };
    let variants = vec![(SINGLE, run(&single)), (AGAIN, run(region))];
    part.rows.extend(in_turns(sizes, 64, variants));
    part.ratio(AGAIN, SINGLE, 64, 5.0);
    runtime.block_on(single.app.stop());
    Ok(())
}

/// Measures the log itself, without HTTP and components.
pub fn log_alone(runtime: &Runtime, region: &Region, sizes: &Sizes, part: &mut Part) -> Result<()> {
    let log = &region.app.backends[0].log;
    let run = |keys: Vec<Key>| -> Box<dyn FnMut() -> Measured + '_> {
        Box::new(move || runtime.block_on(appends(log, &keys, sizes)))
    };
    let spread = |writers: usize| -> Result<Vec<Key>> {
        let keys = (0..writers).map(|number| Key::new(&format!("spread-{number}")));
        Ok(keys.collect::<std::result::Result<_, _>>()?)
    };
    let hot = vec![Key::new("hot")?; WRITERS];
    let variants = vec![(HOT, run(hot)), (APPEND, run(spread(WRITERS)?))];
    part.rows.extend(in_turns(sizes, WRITERS, variants));
    let variants = vec![(APPEND, run(spread(64)?))];
    part.rows.extend(in_turns(sizes, 64, variants));
    part.ratio(HOT, APPEND, WRITERS, 0.5);
    Ok(())
}

/// The time that the processes of PostgreSQL which are there now have spent on
/// processors, in nanoseconds; not a number where the system does not say.
async fn processor_time(admin: &Client) -> f64 {
    let processes = admin.query("SELECT pid FROM pg_stat_activity", &[]).await;
    let Ok(processes) = processes else {
        return f64::NAN;
    };
    let spent = processes.iter().map(|row| -> Option<f64> {
        let process: i32 = row.try_get(0).ok()?;
        let file = format!("/proc/{process}/schedstat");
        let text = std::fs::read_to_string(file).ok()?;
        text.split(' ').next()?.parse().ok()
    });
    spent.sum::<Option<f64>>().unwrap_or(f64::NAN)
}

/// One that writes a statement at a time.
struct Writer {
    client: Client,
    insert: Statement,
}

impl Writer {
    async fn connect(url: &str, count: usize) -> Result<Vec<Arc<Writer>>> {
        let mut writers = Vec::new();
        for _ in 0..count {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            tokio::spawn(connection);
            let insert = client.prepare(INSERT).await?;
            writers.push(Arc::new(Writer { client, insert }));
        }
        Ok(writers)
    }

    async fn write(&self, number: usize, turn: u64) -> bool {
        let (key, value) = (key_of(number, turn), value_of(turn));
        let (key, value) = (key.as_bytes(), value.as_bytes());
        let write_id = turn.cast_signed();
        let parameters: [&(dyn ToSql + Sync); 3] = [&key, &write_id, &value];
        let row = self.client.query_one(&self.insert, &parameters);
        row.await.is_ok()
    }

    async fn run(writers: &[Arc<Writer>], sizes: &Sizes) -> Measured {
        let callers = writers.iter().enumerate().map(|(number, writer)| {
            let writer = Arc::clone(writer);
            move |turn| {
                let writer = Arc::clone(&writer);
                async move { writer.write(number, turn).await }
            }
        });
        load::calls(callers, sizes.turn).await
    }
}

/// A writer for each key, through the log itself.
async fn appends(log: &Arc<dyn Log>, keys: &[Key], sizes: &Sizes) -> Measured {
    let callers = keys.iter().map(|key| {
        let (log, key) = (Arc::clone(log), key.clone());
        move |turn| {
            let (log, key) = (Arc::clone(&log), key.clone());
            async move {
                let change = Change::Put {
                    value: Bytes::from(value_of(turn)),
                    content_type: None,
                    ttl: None,
                };
                log.append(key, change, Condition::None, None).await.is_ok()
            }
        }
    });
    load::calls(callers, sizes.turn).await
}
