//! The first fill of a cache: from a log of many keys, through the hydrator
//! and the `hydrate` component, into one Redis.

use std::time::{Duration, Instant};

use serde_json::Value;
use tidepool_tests::servers::Redis;

use super::{Cluster, puts};
use crate::load::{self, Connection, http_whole};
use crate::report::{Bound, Part, Reach};
use crate::requests::VALUE_BYTES;
use crate::{Result, Sizes};

/// The database that it is from.
pub const DATABASE: &str = "fill";

/// Rows that one statement makes.
const CHUNK: u64 = 100_000;

/// Rows of keys `$1` to `$2`.
const ROWS: &str = "INSERT INTO kv_log (key, version, \"timestamp\", deleted, write_id, value)
    SELECT convert_to('key-' || lpad(n::text, 8, '0'), 'UTF8'),
        clock.now, clock.now, false, n, convert_to(lpad(n::text, $3::int4, '0'), 'UTF8')
    FROM generate_series($1::int8, $2::int8) AS n,
        (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 AS now) AS clock";

/// How often it is asked how far it is, and how often that is printed.
const LOOK: Duration = Duration::from_millis(20);
const PRINT: Duration = Duration::from_secs(1);

/// A fill that has not ended by then has failed.
const PATIENCE: Duration = Duration::from_secs(600);

/// What an entry is on top of its value, in Redis.
const ENTRY_HEAD_BYTES: usize = 43;

/// Commands sent together to see what Redis can do: as many as rows in a batch.
const PIPELINED: usize = 1024;

/// Measures it.
pub async fn measure(cluster: &Cluster, sizes: &Sizes, part: &mut Part) -> Result<()> {
    let url = puts::log_without_a_host(cluster, DATABASE).await?;
    generate(cluster, sizes.fill_keys).await?;
    let (mut fills, mut sets, mut pipelines) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..sizes.fills {
        let redis = &cluster.redis[0];
        let () = redis.command(&["FLUSHALL"]).await;
        sets.push(set_per_second(redis, sizes, 1).await?);
        pipelines.push(set_per_second(redis, sizes, PIPELINED).await?);
        fills.push(fill(cluster, &url, sizes.fill_keys).await?);
    }
    fills.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let fill = &fills[fills.len() / 2];
    let (set, pipelined) = (median(sets), median(pipelines));
    part.bounds.push(Bound {
        what: "hydrate: the better of rows/s over 50,000, and over ten times one SET per row"
            .to_owned(),
        measured: (fill.rate / 50_000.0).max(fill.rate / set / 10.0),
        reach: Reach::AtLeast(1.0),
    });
    part.fact("hydrate, keys", sizes.fill_keys as f64, "");
    part.fact("hydrate, rows", fill.rate, "/s");
    part.fact("hydrate over one SET per row", fill.rate / set, "times");
    part.fact(
        "Redis at work meanwhile",
        fill.redis_busy * 100.0,
        "% of a core",
    );
    part.fact("one SET per row, with a round trip each", set, "/s");
    part.fact("1,024 SETs sent together, Redis alone", pipelined, "/s");
    Ok(())
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Makes a log as it is after a while: at rest, nothing left to be tidied up.
async fn generate(cluster: &Cluster, keys: u64) -> Result<()> {
    let client = cluster.postgres.admin_client(DATABASE).await;
    let rows = client.prepare(ROWS).await?;
    let bytes = i32::try_from(VALUE_BYTES)?;
    let mut first = 1;
    while first <= keys {
        let last = keys.min(first + CHUNK - 1);
        let (from, to) = (i64::try_from(first)?, i64::try_from(last)?);
        client.execute(&rows, &[&from, &to, &bytes]).await?;
        eprintln!("hydrate: {last} of {keys} rows made");
        first = last + 1;
    }
    client.batch_execute("VACUUM ANALYZE kv_log").await?;
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}

/// One fill.
struct Fill {
    /// Rows per second.
    rate: f64,
    /// Part of the time that Redis was on a processor.
    redis_busy: f64,
}

/// From the start of a region until its position is saved for the first time,
/// which is after the last row.
async fn fill(cluster: &Cluster, url: &str, keys: u64) -> Result<Fill> {
    let redis = &cluster.redis[0];
    let region = cluster.region(0, url).await?;
    let (start, busy) = (Instant::now(), processor_seconds(redis).await?);
    let mut connection = Connection::open(region.address, http_whole).await?;
    let mut printed = start;
    let elapsed = loop {
        let report = report(&mut connection).await?;
        let elapsed = start.elapsed();
        if !report["lag_ms"].is_null() {
            break elapsed;
        }
        if elapsed > PATIENCE {
            return Err(format!("no end of the fill: {report}").into());
        }
        if printed.elapsed() >= PRINT {
            printed = Instant::now();
            let applied = report["rows_applied"].as_f64().unwrap_or(0.0);
            let rate = applied / elapsed.as_secs_f64();
            let left = (keys as f64 - applied).max(0.0) / rate.max(1.0);
            eprintln!("hydrate: {applied} of {keys} rows, {rate:.0}/s, {left:.0} s left");
        }
        tokio::time::sleep(LOOK).await;
    };
    let busy = processor_seconds(redis).await? - busy;
    let kept: u64 = redis.command(&["DBSIZE"]).await;
    region.app.stop().await;
    // The position and the lead are there too.
    if kept < keys {
        return Err(format!("only {kept} of {keys} keys are in Redis").into());
    }
    let rate = keys as f64 / elapsed.as_secs_f64();
    eprintln!("hydrate: {keys} rows in {elapsed:.2?}, {rate:.0}/s");
    Ok(Fill {
        rate,
        redis_busy: busy / elapsed.as_secs_f64(),
    })
}

/// What `/readyz` says, ready or not.
async fn report(connection: &mut Connection) -> Result<Value> {
    let request = b"GET /readyz HTTP/1.1\r\nhost: bench\r\n\r\n";
    let answer = connection.exchange(request).await?;
    let body = load::find(answer, b"\r\n\r\n").map_or(answer, |end| &answer[end + 4..]);
    Ok(serde_json::from_slice(body)?)
}

/// The time that Redis has spent on a processor, in seconds.
async fn processor_seconds(redis: &Redis) -> Result<f64> {
    let info: String = redis.command(&["INFO", "cpu"]).await;
    let mut seconds = 0.0;
    for name in ["used_cpu_user:", "used_cpu_sys:"] {
        let value = info.lines().find_map(|line| line.strip_prefix(name));
        seconds += value.ok_or("INFO does not say")?.trim().parse::<f64>()?;
    }
    Ok(seconds)
}

/// Entries of the same size, `together` of them in each round trip.
async fn set_per_second(redis: &Redis, sizes: &Sizes, together: usize) -> Result<f64> {
    let client = redis::Client::open(redis.url())?;
    let connection = client.get_multiplexed_async_connection().await?;
    let entry = "0".repeat(ENTRY_HEAD_BYTES + VALUE_BYTES);
    let caller = move |turn: u64| {
        let mut pipeline = redis::pipe();
        for place in 0..together {
            let number = turn * together as u64 + place as u64;
            let key = format!("set:key-{:08}", number % CHUNK);
            let command = pipeline.cmd("SET").arg(key).arg(&entry);
            command.arg("PX").arg(3_600_000).ignore();
        }
        let mut connection = connection.clone();
        async move { pipeline.exec_async(&mut connection).await.is_ok() }
    };
    let measured = load::calls([caller], sizes.turn).await;
    if measured.failures > 0 {
        return Err("Redis has refused a SET".into());
    }
    Ok(measured.rate() * together as f64)
}
