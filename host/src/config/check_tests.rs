//! Tests of `check`: every bound at its edge, and settings that contradict
//! each other.

use super::super::Secret;
use super::*;

fn refused(change: impl FnOnce(&mut Settings)) -> InvalidSetting {
    let mut settings = Settings::default();
    change(&mut settings);
    settings.check().unwrap_err()
}

fn accepted(change: impl FnOnce(&mut Settings)) {
    let mut settings = Settings::default();
    change(&mut settings);
    settings.check().unwrap();
}

fn region(name: &str, port: u16) -> RegionSetting {
    RegionSetting {
        name: name.to_owned(),
        listen: super::super::local(port),
    }
}

#[test]
fn the_defaults_are_accepted() {
    accepted(|_| {});
}

#[test]
fn a_value_has_1_byte_to_25_mib() {
    let with = |bytes, memory| {
        move |s: &mut Settings| {
            s.http.max_value_bytes = bytes;
            s.limits.memory_bytes = memory;
        }
    };
    accepted(with(1, 128 * MIB));
    accepted(|s| {
        with(25 * MIB, 208 * MIB)(s);
        s.limits.response_bytes = 64 * MIB;
    });
    assert_eq!(refused(with(0, 128 * MIB)).key, "http.max_value_bytes");
    let error = refused(with(25 * MIB + 1, 256 * MIB)).to_string();
    assert_eq!(
        error,
        "setting http.max_value_bytes = 26214401 B: use 1 B to 25 MiB"
    );
}

#[test]
fn memory_has_room_for_eight_values_and_8_mib() {
    let with = |memory| {
        move |s: &mut Settings| {
            s.http.max_value_bytes = 10 * MIB;
            s.limits.memory_bytes = memory;
        }
    };
    accepted(with(88 * MIB));
    let error = refused(with(88 * MIB - 1));
    assert_eq!(error.key, "limits.memory_bytes");
    assert!(error.advice.contains("88 MiB"), "{error}");
}

#[test]
fn regions_are_1_to_16_well_named_and_distinct() {
    let numbered = |n| {
        move |s: &mut Settings| s.regions = (0..n).map(|i| region(&format!("r{i}"), 0)).collect()
    };
    accepted(numbered(1));
    accepted(numbered(MAX_REGIONS));
    assert_eq!(refused(numbered(0)).key, "regions");
    assert_eq!(refused(numbered(MAX_REGIONS + 1)).key, "regions");
    accepted(|s| s.regions = vec![region(&"r".repeat(63), 0)]);
    for name in ["", "US", "a_b", "a b", "é", &"r".repeat(64)] {
        let error = refused(|s| s.regions = vec![region(name, 0)]);
        assert!(error.advice.contains("a-z"), "{error}");
    }
    assert!(
        refused(|s| s.regions = vec![region("a", 1), region("a", 2)])
            .advice
            .contains("name")
    );
    assert!(
        refused(|s| s.regions = vec![region("a", 1), region("b", 1)])
            .advice
            .contains("address")
    );
}

#[test]
fn a_token_is_asked_for_off_loopback_and_never_shown() {
    let open = |s: &mut Settings| s.admin.listen = ([0, 0, 0, 0], 8090).into();
    let error = refused(open);
    assert_eq!(
        (error.key, error.value.as_str()),
        ("admin.listen", "0.0.0.0:8090")
    );
    accepted(|s| {
        open(s);
        s.admin.token = Some(Secret::new("0123456789abcdef"));
    });
    let error = refused(|s| s.admin.token = Some(Secret::new("0123456789abcde")));
    assert!(!error.to_string().contains("0123"), "{error}");
    assert_eq!(
        refused(|s| s.admin.token = Some(Secret::new("0123456789 abcdef"))).key,
        "admin.token"
    );
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let error = refused(|s| s.cache.lease_ttl = s.cache.tombstone_ttl);
    assert_eq!(error.key, "cache.tombstone_ttl");
    let error = refused(|s| s.limits.wall = s.limits.cpu - Duration::from_millis(1));
    assert_eq!(error.key, "limits.wall");
    accepted(|s| s.limits.wall = s.limits.cpu);
    assert_eq!(
        refused(|s| s.limits.response_bytes = 2 * MIB + 64 * KIB - 1).key,
        "limits.response_bytes"
    );
    assert_eq!(
        refused(|s| s.limits.host_bytes = MIB - 1).key,
        "limits.host_bytes"
    );
}

#[test]
fn counts_and_times_have_both_ends() {
    accepted(|s| s.http.max_connections = 1_000_000);
    assert_eq!(
        refused(|s| s.http.max_connections = 1_000_001).key,
        "http.max_connections"
    );
    assert_eq!(
        refused(|s| s.http.max_connections = 0).key,
        "http.max_connections"
    );
    accepted(|s| s.handlers.queue = 0);
    accepted(|s| s.handlers.keep_revisions = 2);
    assert_eq!(
        refused(|s| s.handlers.keep_revisions = 1).key,
        "handlers.keep_revisions"
    );
    accepted(|s| s.handlers.trial = Duration::ZERO);
    assert_eq!(
        refused(|s| s.handlers.take_back_calls = 0).key,
        "handlers.take_back_calls"
    );
    for percent in [0, 101] {
        assert_eq!(
            refused(|s| s.handlers.take_back_percent = percent).key,
            "handlers.take_back_percent"
        );
    }
    accepted(|s| s.handlers.take_back_percent = 100);
    accepted(|s| s.handlers.instance_uses = 1);
    assert_eq!(
        refused(|s| s.handlers.instance_uses = 0).key,
        "handlers.instance_uses"
    );
    accepted(|s| s.http.drain_timeout = LONGEST);
    assert_eq!(
        refused(|s| s.http.drain_timeout = LONGEST * 2).key,
        "http.drain_timeout"
    );
    assert_eq!(refused(|s| s.limits.cpu = Duration::ZERO).key, "limits.cpu");
    accepted(|s| s.limits.stack_bytes = 64 * KIB);
    assert_eq!(
        refused(|s| s.limits.stack_bytes = 64 * KIB - 1).key,
        "limits.stack_bytes"
    );
    assert_eq!(
        refused(|s| s.limits.stack_bytes = 16 * MIB + 1).key,
        "limits.stack_bytes"
    );
    assert_eq!(
        refused(|s| s.handlers.max_component_bytes = MAX_COMPONENT_BYTES_CEILING + 1).key,
        "handlers.max_component_bytes"
    );
    assert_eq!(
        refused(|s| s.handlers.max_component_bytes = 64 * KIB - 1).key,
        "handlers.max_component_bytes"
    );
    accepted(|s| s.handlers.max_component_bytes = 64 * KIB);
    assert_eq!(
        refused(|s| s.cache.max_bytes = 64 * KIB - 1).key,
        "cache.max_bytes"
    );
}

#[test]
fn redis_settings_have_bounds() {
    accepted(|s| s.redis.url = Some(Secret::new("redis://localhost")));
    let error = refused(|s| s.redis.url = Some(Secret::new("")));
    assert_eq!(error.key, "redis.url");
    let long = "x".repeat(MAX_KEY_PREFIX_BYTES + 1);
    let braces = ["{}", "a{}b", "{a", "a}", "}a{b}", "{a}{b}", "{{a}}", "{a*}"];
    for prefix in ["", "a b", "a*", "é", &long].into_iter().chain(braces) {
        let error = refused(|s| s.redis.key_prefix = prefix.to_owned());
        assert_eq!(error.key, "redis.key_prefix");
    }
    for prefix in ["a:b.c_d-E9", "{a}", "a:{b}:c"] {
        accepted(|s| s.redis.key_prefix = prefix.to_owned());
    }
    for connections in [0, 65] {
        let error = refused(|s| s.redis.connections = connections);
        assert_eq!(error.key, "redis.connections");
    }
    for (key, set) in [
        (
            "redis.connect_timeout",
            (|s| s.redis.connect_timeout = Duration::ZERO) as fn(&mut Settings),
        ),
        ("redis.command_timeout", |s| {
            s.redis.command_timeout = Duration::ZERO
        }),
        ("redis.batch_timeout", |s| {
            s.redis.batch_timeout = Duration::ZERO
        }),
        ("redis.reconnect_backoff_max", |s| {
            s.redis.reconnect_backoff_max = Duration::ZERO
        }),
        ("redis.entry_ttl", |s| {
            s.redis.entry_ttl = Duration::from_secs(599)
        }),
        ("redis.entry_ttl", |s| s.redis.entry_ttl = LONGEST_ENTRY * 2),
    ] {
        assert_eq!(refused(set).key, key);
    }
}

#[test]
fn compiling_has_room_and_time_for_the_built_in_handlers() {
    accepted(|s| s.handlers.compile_memory = 256 * MIB);
    let error = refused(|s| s.handlers.compile_memory = 256 * MIB - 1);
    assert_eq!(error.key, "handlers.compile_memory");
    accepted(|s| s.handlers.compile_timeout = Duration::from_secs(1));
    for time in [Duration::from_millis(999), Duration::from_secs(86_401)] {
        let error = refused(|s| s.handlers.compile_timeout = time);
        assert_eq!(error.key, "handlers.compile_timeout");
    }
    accepted(|s| s.handlers.compiled_cache_bytes = 0);
    let error = refused(|s| s.handlers.compiled_cache_bytes = LARGEST + 1);
    assert_eq!(error.key, "handlers.compiled_cache_bytes");
}

#[test]
fn a_certificate_and_its_key_go_together() {
    let with = |cert: bool, key: bool| {
        move |s: &mut Settings| {
            s.admin.tls_cert = cert.then(|| "cert.pem".into());
            s.admin.tls_key = key.then(|| "key.pem".into());
        }
    };
    accepted(with(true, true));
    assert_eq!(refused(with(true, false)).key, "admin.tls_cert");
    assert_eq!(refused(with(false, true)).key, "admin.tls_key");
}

#[test]
fn a_required_signature_is_somebodys_and_no_way_around_it_is_left() {
    let with = |keys: &'static [&str], file: bool, watch: bool| {
        move |s: &mut Settings| {
            s.trust.require_signature = true;
            s.trust.keys = keys.iter().map(|key| (*key).to_owned()).collect();
            s.trust.keys_file = file.then(|| "keys".into());
            s.watch = watch.then(|| "target".into());
        }
    };
    accepted(with(&["ssh-ed25519 AAAA"], false, false));
    accepted(with(&[], true, false));
    let nobody = refused(with(&[], false, false));
    assert!(nobody.advice.contains("trust.keys_file"), "{nobody}");
    let watched = refused(with(&[], true, true));
    assert!(watched.advice.contains("watch"), "{watched}");
}
