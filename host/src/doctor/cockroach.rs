//! What is to be said about a CockroachDB, from facts about it. Pure.

use std::time::Duration;

use super::Finding;
use super::tables::{self, Table};
use crate::sql::{ServerKind, quote};

/// A cluster setting that makes the feed faster.
pub(super) struct Fast {
    /// Its name.
    pub name: &'static str,
    /// At most this is fast.
    pub at_most: Duration,
    /// What is set.
    pub to: &'static str,
    /// What a larger value costs.
    pub cost: &'static str,
}

/// Rangefeeds, without which there are no changefeeds.
pub(super) const RANGEFEEDS: &str = "kv.rangefeed.enabled";

/// How long rows may wait while it is looked up whether the table has changed. Not
/// with `schema_locked`.
pub(super) const POLL: Fast = Fast {
    name: "changefeed.experimental_poll_interval",
    at_most: Duration::from_millis(10),
    to: "10ms",
    cost: "a committed row waits for up to this long before it is sent; half of it at the median",
};

/// What bounds how far behind a resolved position is.
pub(super) const CLOSED: [Fast; 2] = [
    Fast {
        name: "kv.closed_timestamp.target_duration",
        at_most: Duration::from_secs(1),
        to: "1s",
        cost: "what is resolved, and so what a region knows to be complete, is this far behind; \
               a write that takes longer than this is moved to a later time and done again",
    },
    Fast {
        name: "kv.rangefeed.closed_timestamp_refresh_interval",
        at_most: Duration::from_millis(250),
        to: "250ms",
        cost: "what is resolved is this much further behind; less of it costs some processor time \
               for each range",
    },
];

/// The settings that are asked for.
pub(super) const SETTINGS: &[&str] = &[RANGEFEEDS, POLL.name, CLOSED[0].name, CLOSED[1].name];

/// The release that knows `schema_locked`.
pub(super) const SCHEMA_LOCKED_SINCE: (u32, u32) = (23, 1);

/// The statement that locks the schema.
pub(super) const LOCK_SCHEMA: &str = "ALTER TABLE kv_log SET (schema_locked = true);";

/// Absences of a region that should not need a scan.
const SHORT_ABSENCE: Duration = Duration::from_secs(60 * 60);

/// Clocks that differ by more than this blur what is measured; by more than
/// `CLOCKS_WRONG` they make it useless.
const CLOCKS_APART: Duration = Duration::from_millis(250);
const CLOCKS_WRONG: Duration = Duration::from_secs(5);

/// What was asked of the server. `None`: it did not say.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub server: ServerKind,
    pub role: String,
    pub database: Option<String>,
    /// Values of [`SETTINGS`].
    pub settings: Vec<(&'static str, Option<String>)>,
    /// Whether a licence key is set.
    pub licensed: Option<bool>,
    /// Whether `kv_log` is there.
    pub table: bool,
    pub may_select: bool,
    pub may_insert: bool,
    pub may_create: bool,
    /// The tables beside it.
    pub others: Vec<Table>,
    /// The table's CREATE statement.
    pub definition: Option<String>,
    /// The table's zone configuration.
    pub zone: Option<String>,
    pub cluster_regions: Vec<String>,
    pub database_regions: Vec<String>,
    pub survival: Option<String>,
    pub clock_offset_micros: Option<i64>,
}

/// What is to be said.
pub(super) fn evaluate(facts: &Facts) -> Vec<Finding> {
    let mut findings = privileges(facts);
    findings.push(rangefeeds(facts));
    findings.extend(latency(facts));
    findings.extend(facts.table.then(|| garbage(facts)));
    findings.push(regions(facts));
    findings.push(licence(facts));
    findings.push(clock(facts.clock_offset_micros));
    findings
}

/// What could be set to make the feed work, and fast: each has a statement as its
/// fix.
pub(super) fn tunable(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![rangefeeds(facts)];
    findings.extend(latency(facts));
    findings.retain(|finding| finding.fix.is_some());
    findings
}

fn privileges(facts: &Facts) -> Vec<Finding> {
    let role = quote(&facts.role);
    let database = quote(facts.database.as_deref().unwrap_or("defaultdb"));
    let create = format!("GRANT CREATE ON DATABASE {database} TO {role};");
    if !facts.table {
        let subject = "table kv_log";
        return vec![match facts.may_create {
            true => Finding::ok(
                subject,
                "it is not there yet; Tidepool creates it when it starts",
            ),
            false => Finding::problem(subject, "it is not there, and this user may not create it")
                .fixed_by(create),
        }];
    }
    let privilege = |name: &str, held: bool, without: &str| match held {
        true => Finding::ok(&format!("privilege {name}"), "held on kv_log"),
        false => Finding::problem(&format!("privilege {name}"), "missing on kv_log")
            .costs(without)
            .fixed_by(format!("GRANT {name} ON TABLE kv_log TO {role};")),
    };
    let mut findings = vec![
        privilege("SELECT", facts.may_select, "nothing can be read"),
        privilege("INSERT", facts.may_insert, "nothing can be written"),
    ];
    let others = tables::evaluate(&facts.others, &role, facts.may_create, &create);
    findings.extend(others);
    findings
}

fn setting<'a>(facts: &'a Facts, name: &str) -> Option<&'a str> {
    let (_, value) = facts.settings.iter().find(|(found, _)| *found == name)?;
    value.as_deref()
}

fn rangefeeds(facts: &Facts) -> Finding {
    let fix = format!("SET CLUSTER SETTING {RANGEFEEDS} = true;");
    match setting(facts, RANGEFEEDS).and_then(boolean) {
        Some(true) => Finding::ok(RANGEFEEDS, "on"),
        Some(false) => Finding::problem(RANGEFEEDS, "off")
            .costs(
                "without it there are no changefeeds, and no cache learns of a write; \
                    with it every range keeps a little more in memory",
            )
            .fixed_by(fix),
        // The changefeed is tried too.
        None => Finding::advice(RANGEFEEDS, "this user may not see it").fixed_by(fix),
    }
}

fn latency(facts: &Facts) -> Vec<Finding> {
    let (major, minor) = SCHEMA_LOCKED_SINCE;
    let can_lock = facts.server.cockroach_since(major, minor);
    let locked = facts.definition.as_deref().is_some_and(is_locked);
    let mut findings = Vec::new();
    if locked {
        findings.push(Finding::ok(
            "schema_locked",
            "on: rows are sent as they are committed",
        ));
    } else {
        if can_lock && facts.table {
            findings.push(
                Finding::advice("schema_locked", "off")
                    .costs(
                        "every row may wait for a look at the table's definition; with it, \
                            changes of the table by hand have to unlock it first",
                    )
                    .fixed_by(LOCK_SCHEMA),
            );
        }
        findings.push(fast(facts, &POLL));
    }
    findings.extend(CLOSED.iter().map(|setting| fast(facts, setting)));
    findings
}

/// Whether a CREATE statement says that the schema is locked.
pub(super) fn is_locked(definition: &str) -> bool {
    let spaceless: String = definition.split_whitespace().collect();
    spaceless.contains("schema_locked=true")
}

fn fast(facts: &Facts, wanted: &Fast) -> Finding {
    let fix = format!("SET CLUSTER SETTING {} = '{}';", wanted.name, wanted.to);
    match setting(facts, wanted.name) {
        Some(value) => match interval(value) {
            Some(time) if time <= wanted.at_most => Finding::ok(wanted.name, value),
            _ => Finding::advice(wanted.name, value)
                .costs(wanted.cost)
                .fixed_by(fix),
        },
        None => Finding::advice(
            wanted.name,
            "this user may not see it, or this release has none",
        )
        .costs(wanted.cost)
        .fixed_by(fix),
    }
}

fn garbage(facts: &Facts) -> Finding {
    const SUBJECT: &str = "gc.ttlseconds";
    let fix = "ALTER TABLE kv_log CONFIGURE ZONE USING gc.ttlseconds = 14400;";
    let cost = "a region that is away for longer fills its cache by a scan of the whole log \
                instead of going on where it was";
    match facts.zone.as_deref().and_then(kept) {
        Some(kept) => {
            let what = format!(
                "a region that was away for less than {} goes on where it was",
                humantime::format_duration(kept)
            );
            match kept >= SHORT_ABSENCE {
                true => Finding::ok(SUBJECT, what),
                false => Finding::advice(SUBJECT, what).costs(cost).fixed_by(fix),
            }
        }
        None => Finding::advice(SUBJECT, "this user may not see it").costs(cost),
    }
}

/// `gc.ttlseconds` of a zone configuration.
fn kept(zone: &str) -> Option<Duration> {
    let (_, rest) = zone.split_once("gc.ttlseconds")?;
    let digits = rest.trim_start_matches([' ', '=']);
    let end = digits.find(|c: char| !c.is_ascii_digit());
    let digits = digits.get(..end.unwrap_or(digits.len()))?;
    Some(Duration::from_secs(digits.parse::<u32>().ok()?.into()))
}

fn regions(facts: &Facts) -> Finding {
    const SUBJECT: &str = "regions";
    let there = facts.cluster_regions.join(", ");
    let database = quote(facts.database.as_deref().unwrap_or("defaultdb"));
    let Some((first, others)) = facts
        .cluster_regions
        .split_first()
        .filter(|(_, o)| !o.is_empty())
    else {
        return Finding::ok(
            SUBJECT,
            match there.as_str() {
                "" => "the nodes have no locality: one region".into(),
                one => format!("one: {one}"),
            },
        );
    };
    if facts.database_regions.is_empty() {
        let mut fix = format!(
            "ALTER DATABASE {database} SET PRIMARY REGION {};",
            quote(first)
        );
        for region in others {
            fix.push_str(&format!(
                " ALTER DATABASE {database} ADD REGION {};",
                quote(region)
            ));
        }
        return Finding::advice(
            SUBJECT,
            format!("the cluster has {there}; the database has none"),
        )
        .costs(
            "replicas are not placed by region, so that reads and writes may cross oceans; \
                    the order matters: the first, primary region has the fastest writes",
        )
        .fixed_by(fix);
    }
    let survival = facts.survival.as_deref().unwrap_or("unknown");
    let what = format!(
        "{}; survives a {survival} failure",
        facts.database_regions.join(", ")
    );
    match survival {
        "zone" if facts.database_regions.len() >= 3 => Finding::advice(SUBJECT, what)
            .costs(
                "when the primary region is lost nothing can be written; surviving it costs \
                    every write a round trip to another region",
            )
            .fixed_by(format!("ALTER DATABASE {database} SURVIVE REGION FAILURE;")),
        _ => Finding::ok(SUBJECT, what),
    }
}

fn licence(facts: &Facts) -> Finding {
    const SUBJECT: &str = "licence";
    let since = facts.server.cockroach_since(24, 3);
    match facts.licensed {
        Some(true) => Finding::ok(SUBJECT, "a key is set"),
        _ if !since => Finding::ok(SUBJECT, "not needed for what Tidepool uses in this release"),
        Some(false) => Finding::advice(SUBJECT, "no key is set")
            .costs("a cluster of more than one node is slowed down 7 days after its start")
            .fixed_by("SET CLUSTER SETTING enterprise.license = '<key>';"),
        None => Finding::ok(
            SUBJECT,
            "this user may not see whether a key is set; see to it",
        ),
    }
}

/// How far two clocks are apart.
pub(super) fn clock(offset_micros: Option<i64>) -> Finding {
    const SUBJECT: &str = "clock";
    let Some(offset) = offset_micros else {
        return Finding::advice(SUBJECT, "the server did not tell its time");
    };
    let apart = Duration::from_micros(offset.unsigned_abs());
    let direction = if offset < 0 { "behind" } else { "ahead of" };
    let millis = apart.as_secs_f64() * 1000.0;
    let what = format!("the server's is {millis:.0} ms {direction} this host's");
    let cost = "times to live end early or late, and how far a region is behind is measured wrong";
    let fix = "synchronise the clocks of all machines, with chrony for example";
    if apart > CLOCKS_WRONG {
        Finding::problem(SUBJECT, what).costs(cost).fixed_by(fix)
    } else if apart > CLOCKS_APART {
        Finding::advice(SUBJECT, what).costs(cost).fixed_by(fix)
    } else {
        Finding::ok(SUBJECT, what)
    }
}

/// A truth value as servers write it.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "t" | "true" | "on" => Some(true),
        "f" | "false" | "off" => Some(false),
        _ => None,
    }
}

/// A duration as servers write it: `00:00:01.5`, or `1.5s`, `250ms`, `1h2m`.
pub(super) fn interval(text: &str) -> Option<Duration> {
    let mut clock = text.rsplit(':');
    if let (Some(seconds), Some(minutes), Some(hours), None) =
        (clock.next(), clock.next(), clock.next(), clock.next())
    {
        let part = |text: &str| text.parse::<f64>().ok();
        let seconds = part(hours)? * 3600.0 + part(minutes)? * 60.0 + part(seconds)?;
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let unit = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(unit);
        let end = after.find(|c: char| c.is_ascii_digit());
        let (unit, after) = after.split_at(end.unwrap_or(after.len()));
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok())?
}

#[cfg(test)]
#[path = "cockroach_tests.rs"]
mod tests;
