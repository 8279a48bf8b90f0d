//! Whether a Redis is fit to be a region's cache, and what to do where it is not.
//! It changes nothing there but a key of its own, which it removes.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, ServerErrorKind};
use tokio::time::timeout;

use super::RedisCacheSettings;
use super::error::{RedisCacheError, rights};
use super::info::Info;
use super::server::Server;
use crate::doctor::{Finding, Severity};

/// Looks at the Redis of these settings. Every wait is bounded by their timeouts.
pub async fn inspect(settings: &RedisCacheSettings) -> Vec<Finding> {
    let server = match Server::new(settings) {
        Ok(server) => server,
        Err(error) => return vec![unusable(&error)],
    };
    let bound = settings.connect_timeout;
    let mut connection = match timeout(bound, server.open()).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return vec![unusable(&error)],
        Err(_) => {
            let server = server.shown().to_owned();
            return vec![unusable(&RedisCacheError::Timeout { server, bound })];
        }
    };
    let bound = settings.command_timeout;
    let mut found = match ask(&mut connection, bound, &redis::cmd("INFO")).await {
        Ok(text) => findings(Info(&text), server.shown(), server.is_cluster()),
        Err(_) => Vec::new(),
    };
    let mut missing = Vec::new();
    for (name, command) in probes(server.key_prefix()) {
        let outcome = timeout(bound, command.query_async::<redis::Value>(&mut connection)).await;
        if let Ok(Err(error)) = outcome
            && error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
        {
            missing.push(name);
        }
    }
    let rights = rights(server.key_prefix(), server.is_cluster());
    found.push(may(&missing, server.user(), &rights));
    found
}

async fn ask(
    connection: &mut MultiplexedConnection,
    bound: Duration,
    command: &Cmd,
) -> Result<String, ()> {
    match timeout(bound, command.query_async(connection)).await {
        Ok(Ok(text)) => Ok(text),
        _ => Err(()),
    }
}

/// One harmless use of every command that a cache needs, but for what is used to
/// connect.
fn probes(prefix: &str) -> Vec<(&'static str, Cmd)> {
    let key = format!("{prefix}:doctor");
    let probe = |name: &'static str, arguments: &[&str]| {
        let mut command = redis::cmd(name);
        command.arg(arguments);
        (name, command)
    };
    vec![
        probe("get", &[&key]),
        probe("set", &[&key, "x", "PX", "1000"]),
        probe("getrange", &[&key, "0", "0"]),
        probe("pexpire", &[&key, "1000"]),
        probe("pttl", &[&key]),
        probe("exists", &[&key]),
        probe("unlink", &[&key]),
        probe("del", &[&key]),
        probe("hsetnx", &[&key, "x", "x"]),
        probe("hset", &[&key, "x", "x"]),
        probe("hget", &[&key, "x"]),
        probe("hmget", &[&key, "x"]),
        probe("hdel", &[&key, "x"]),
        probe("time", &[]),
        probe("info", &["server"]),
        probe("dbsize", &[]),
        probe("scan", &["0", "MATCH", &key, "COUNT", "1"]),
        probe("eval", &["return 1", "1", &key]),
        probe(
            "evalsha",
            &["e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "1", &key],
        ),
    ]
}

fn may(missing: &[&str], user: &str, rights: &str) -> Finding {
    let subject = "rights".to_owned();
    if missing.is_empty() {
        return Finding {
            severity: Severity::Ok,
            subject,
            what: format!("the user `{user}` may do everything that a cache needs"),
            cost: None,
            fix: None,
        };
    }
    // Without these everything is right, but less is kept, or shown.
    let cost = |name: &&str| match *name {
        "info" => Some(
            "what Redis has evicted cannot be told, so rows are kept only when they are newer than all before",
        ),
        "pttl" => Some("how long an entry has left is not shown"),
        _ => None,
    };
    let costs: Option<Vec<&str>> = missing.iter().map(cost).collect();
    Finding {
        severity: match costs {
            Some(_) => Severity::Advice,
            None => Severity::Problem,
        },
        subject,
        what: format!("the user `{user}` may not use {}", missing.join(", ")),
        cost: Some(match costs {
            Some(costs) => costs.join("; "),
            None => "the cache does not work".to_owned(),
        }),
        fix: Some(format!("ACL SETUSER {user} {rights}")),
    }
}

fn unusable(error: &RedisCacheError) -> Finding {
    Finding {
        severity: Severity::Problem,
        subject: "connection".to_owned(),
        what: error.to_string(),
        cost: Some("every read goes to the log".to_owned()),
        fix: match error {
            RedisCacheError::Permission { user, rights, .. } => {
                Some(format!("ACL SETUSER {user} {rights}"))
            }
            _ => None,
        },
    }
}

/// What `INFO` says about it.
fn findings(info: Info<'_>, server: &str, cluster: bool) -> Vec<Finding> {
    let version = info.get("redis_version").unwrap_or("of an unknown release");
    let mut found = Vec::new();
    let primary = match cluster {
        true => "and has a primary for the cache; what is to be run is to be run on every node",
        false => "a primary",
    };
    found.push(match info.usable(server, cluster) {
        Ok(()) => ok("server", format!("{server} is Redis {version}, {primary}")),
        Err(error) => unusable(&error),
    });
    found.push(memory(info));
    found.push(policy(info));
    found.push(persistence(info));
    found
}

fn memory(info: Info<'_>) -> Finding {
    match info.number("maxmemory") {
        Some(0) | None => advice(
            "maxmemory",
            "there is no bound on memory",
            "it grows until the machine has none left, and is killed",
            "CONFIG SET maxmemory 1gb",
        ),
        Some(bytes) => ok("maxmemory", format!("bounded to {bytes} bytes")),
    }
}

fn policy(info: Info<'_>) -> Finding {
    const FIX: &str = "CONFIG SET maxmemory-policy volatile-lru";
    let policy = info.get("maxmemory_policy").unwrap_or("unknown");
    match policy {
        "volatile-lru" | "volatile-lfu" => ok(
            "maxmemory-policy",
            format!("{policy}: entries are evicted, the feed position never is"),
        ),
        "noeviction" => advice(
            "maxmemory-policy",
            "noeviction: when memory is used up nothing new is kept",
            "reads of keys that are not in the cache go to the log from then on",
            FIX,
        ),
        _ if policy.starts_with("allkeys-") => advice(
            "maxmemory-policy",
            &format!("{policy} may evict the feed position"),
            "when that happens the cache is emptied and filled again by a scan of the log",
            FIX,
        ),
        _ => advice(
            "maxmemory-policy",
            &format!("{policy} evicts keys that are in use"),
            "more reads go to the log than need to",
            FIX,
        ),
    }
}

fn persistence(info: Info<'_>) -> Finding {
    if info.get("aof_enabled") == Some("1") {
        return ok("persistence", "append-only file".to_owned());
    }
    advice(
        "persistence",
        "there is no append-only file",
        "after a restart everything since the last snapshot is read from the log again",
        "CONFIG SET appendonly yes",
    )
}

fn ok(subject: &str, what: String) -> Finding {
    Finding {
        severity: Severity::Ok,
        subject: subject.to_owned(),
        what,
        cost: None,
        fix: None,
    }
}

fn advice(subject: &str, what: &str, cost: &str, fix: &str) -> Finding {
    Finding {
        severity: Severity::Advice,
        subject: subject.to_owned(),
        what: what.to_owned(),
        cost: Some(cost.to_owned()),
        fix: Some(fix.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "redis_version:7.0.15\r\nredis_mode:standalone\r\nrole:master\r\nloading:0\r\nmaxmemory:1000\r\nmaxmemory_policy:volatile-lru\r\naof_enabled:1\r\n";

    #[test]
    fn a_good_server_gives_no_advice() {
        let found = findings(Info(GOOD), "s", false);
        assert_eq!(found.len(), 4);
        assert!(
            found.iter().all(|f| f.severity == Severity::Ok),
            "{found:?}"
        );
    }

    #[test]
    fn what_could_be_better_comes_with_its_command() {
        for (from, to, subject) in [
            ("maxmemory:1000", "maxmemory:0", "maxmemory"),
            ("volatile-lru", "noeviction", "maxmemory-policy"),
            ("volatile-lru", "allkeys-lru", "maxmemory-policy"),
            ("volatile-lru", "volatile-ttl", "maxmemory-policy"),
            ("aof_enabled:1", "aof_enabled:0", "persistence"),
        ] {
            let text = GOOD.replace(from, to);
            let found = findings(Info(&text), "s", false);
            let advice: Vec<&Finding> = found
                .iter()
                .filter(|f| f.severity != Severity::Ok)
                .collect();
            assert_eq!(advice.len(), 1, "{advice:?}");
            assert_eq!(advice[0].subject, subject);
            assert!(advice[0].cost.is_some());
            assert!(advice[0].fix.as_ref().unwrap().starts_with("CONFIG SET "));
        }
        let replica = GOOD.replace("role:master", "role:slave");
        let found = findings(Info(&replica), "s", false);
        assert_eq!(found[0].severity, Severity::Problem);
        // A cluster's URL, and no cluster.
        let found = findings(Info(GOOD), "s", true);
        assert_eq!(found[0].severity, Severity::Problem);
        let cluster = GOOD.replace("standalone", "cluster");
        let found = findings(Info(&cluster), "s", true);
        assert!(found[0].what.contains("every node"), "{found:?}");
    }

    #[test]
    fn a_missing_right_is_named_and_how_much_it_matters() {
        let rights = rights("p", false);
        assert_eq!(may(&[], "u", &rights).severity, Severity::Ok);
        assert_eq!(may(&["info"], "u", &rights).severity, Severity::Advice);
        let found = may(&["get", "info"], "u", &rights);
        assert_eq!(found.severity, Severity::Problem);
        assert!(found.what.contains("get, info"));
        assert!(found.fix.unwrap().starts_with("ACL SETUSER u ~p:* +get"));
    }

    #[test]
    fn every_command_that_is_needed_is_probed() {
        let probed: Vec<&str> = probes("p").iter().map(|(name, _)| *name).collect();
        for command in super::super::COMMANDS {
            // Those two are used to connect, and to nothing else.
            let connecting = ["select", "ping"].contains(&command);
            assert!(connecting || probed.contains(&command), "{command}");
        }
    }
}
