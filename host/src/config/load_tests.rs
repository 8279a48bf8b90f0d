//! Tests of `load`: the order of the sources, and what each error says.

use std::io::Write;
use std::time::Duration;

use super::*;

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn with_env(environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    load(&Sources {
        environment: pairs(environment),
        ..Sources::default()
    })
}

fn with_flags(flags: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    load(&Sources {
        flags: pairs(flags),
        ..Sources::default()
    })
}

/// Settings from a file of this text; an error has the file's name cut to `F`.
fn with_file(text: &str) -> Result<Settings, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().to_owned();
    load(&Sources {
        file: Some(path.clone()),
        ..Sources::default()
    })
    .map_err(|error| error.to_string().replace(path.to_str().unwrap(), "F"))
}

#[test]
fn nothing_given_means_the_defaults() {
    assert_eq!(load(&Sources::default()).unwrap(), Settings::default());
}

#[test]
fn a_flag_beats_the_environment_and_that_beats_the_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"data = 'f'\n[limits]\ncpu = '1ms'\nwall = '1s'\nhost_calls = 1\n")
        .unwrap();
    let settings = load(&Sources {
        file: Some(file.path().to_owned()),
        environment: pairs(&[
            ("TIDEPOOL_LIMITS_CPU", "2ms"),
            ("TIDEPOOL_LIMITS_WALL", "2s"),
            ("HOME", "x"),
        ]),
        flags: pairs(&[("limits.cpu", "3ms")]),
    })
    .unwrap();
    assert_eq!(settings.limits.cpu, Duration::from_millis(3));
    assert_eq!(settings.limits.wall, Duration::from_secs(2));
    assert_eq!(settings.limits.host_calls, 1);
    assert_eq!(settings.data, PathBuf::from("f"));
    // What the file does not name keeps its default.
    assert_eq!(settings.limits.table_elements, 100_000);
}

#[test]
fn larger_values_take_more_of_what_is_left_out() {
    let with = |flags: &[(&str, &str)]| {
        let sources = Sources {
            flags: pairs(flags),
            ..Sources::default()
        };
        load(&sources)
    };
    const MIB: usize = 1 << 20;
    let large = ("http.max_value_bytes", "25MiB");
    let limits = with(&[large]).unwrap().limits;
    assert_eq!(limits.cpu, Duration::from_millis(2500));
    assert_eq!(limits.memory_bytes, 208 * MIB);
    assert_eq!(limits.response_bytes, 50 * MIB + (64 << 10));
    let limits = with(&[large, ("limits.cpu", "1s")]).unwrap().limits;
    assert_eq!(limits.cpu, Duration::from_secs(1));
    // What is given stays, and is refused where it cannot work.
    let refused = with(&[large, ("limits.memory_bytes", "128MiB")]);
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("208 MiB"), "{error}");
    let small = with(&[("http.max_value_bytes", "1KiB")]).unwrap().limits;
    assert_eq!(small, Settings::default().limits);
}

#[test]
fn every_key_has_a_variable_of_its_own() {
    let keys = Keys::of_defaults();
    let names: std::collections::BTreeSet<String> =
        keys.leaves.iter().map(|(key, _)| env_name(key)).collect();
    assert_eq!(names.len(), keys.leaves.len());
    for name in RESERVED {
        assert!(
            !names.contains(name),
            "{name} is a setting and read by the command line"
        );
    }
    assert!(names.contains("TIDEPOOL_ADMIN_TOKEN") && names.contains("TIDEPOOL_WATCH"));
}

#[test]
fn values_are_written_as_people_write_them() {
    let settings = with_env(&[
        ("TIDEPOOL_REGIONS", "a=127.0.0.1:0, b=[::1]:9000"),
        ("TIDEPOOL_HTTP_MAX_VALUE_BYTES", "2 MiB"),
        ("TIDEPOOL_CACHE_MAX_BYTES", "1048576"),
        ("TIDEPOOL_ADMIN_TOKEN", "1234567890123456"),
        ("TIDEPOOL_WATCH", "built"),
        ("TIDEPOOL_TEST_ANYTHING", "x"),
        ("TIDEPOOL_ADMIN_URL", "x"),
        ("TIDEPOOL_WASM", "debian"),
    ])
    .unwrap();
    assert_eq!(settings.regions.len(), 2);
    assert_eq!(settings.regions[1].to_string(), "b=[::1]:9000");
    assert_eq!(settings.http.max_value_bytes, 2 << 20);
    assert_eq!(settings.cache.max_bytes, 1 << 20);
    assert_eq!(settings.admin.token.unwrap().expose(), "1234567890123456");
    assert_eq!(settings.watch, Some(PathBuf::from("built")));
    let settings = with_file("[http]\nmax_value_bytes = 7\nidle_timeout = \"1m 30s\"").unwrap();
    assert_eq!(settings.http.max_value_bytes, 7);
    assert_eq!(settings.http.idle_timeout, Duration::from_secs(90));
}

#[test]
fn an_unknown_name_is_an_error_that_names_the_nearest() {
    assert_eq!(
        with_file("[limits]\ncpus = '1s'").unwrap_err(),
        "F: there is no setting `limits.cpus`; did you mean `limits.cpu`?"
    );
    assert_eq!(
        with_file("cpu = '1s'").unwrap_err(),
        "F: there is no setting `cpu`; did you mean `limits.cpu`?"
    );
    assert_eq!(
        with_file("[limit]\ncpu = '1s'").unwrap_err(),
        "F: there is no setting `limit`; did you mean `limits`?"
    );
    assert_eq!(
        with_env(&[("TIDEPOOL_LIMITS_CPUU", "1s")])
            .unwrap_err()
            .to_string(),
        "TIDEPOOL_LIMITS_CPUU: there is no setting `TIDEPOOL_LIMITS_CPUU`; did you mean `TIDEPOOL_LIMITS_CPU`?"
    );
    assert_eq!(
        with_flags(&[("admin.tokn", "x")]).unwrap_err().to_string(),
        "command line: there is no setting `admin.tokn`; did you mean `admin.token`?"
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_an_error_that_says_where_and_what() {
    let error = with_env(&[("TIDEPOOL_LIMITS_CPU", "fast")])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("TIDEPOOL_LIMITS_CPU: limits.cpu: "),
        "{error}"
    );
    assert!(
        error.contains("\"fast\"") && error.contains("250ms"),
        "{error}"
    );
    let error = with_flags(&[("limits.host_calls", "many")])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "command line: limits.host_calls: `many` is not a whole number"
    );
    let error = with_file("regions = ['a:1']").unwrap_err();
    assert!(
        error.starts_with("F: regions: ") && error.contains("name=address:port"),
        "{error}"
    );
    let error = with_file("limits = 5").unwrap_err();
    assert_eq!(
        error,
        "F: `limits` is a section; write [limits] and its settings below"
    );
    let error = with_file("[http]\nmax_value_bytes = -1").unwrap_err();
    assert!(error.starts_with("F: http.max_value_bytes: "), "{error}");
}

#[test]
fn a_token_of_the_wrong_kind_is_not_shown() {
    let error = with_file("[admin]\ntoken = 1234567890123456").unwrap_err();
    assert_eq!(
        error,
        "F: admin.token: the token is a text; write it in quotes"
    );
}

#[test]
fn a_damaged_or_missing_file_is_an_error_of_one_line() {
    let error = with_file("data = 'x'\n[limits\ncpu = 1").unwrap_err();
    assert!(
        error.starts_with("F, line 2: ") && !error.contains('\n'),
        "{error}"
    );
    let missing = load(&Sources {
        file: Some("no-such-file.toml".into()),
        ..Sources::default()
    });
    let error = missing.unwrap_err().to_string();
    assert!(
        error.contains("no-such-file.toml") && error.contains("--config"),
        "{error}"
    );
}

#[test]
fn a_configuration_that_cannot_work_is_not_loaded() {
    let error = with_env(&[("TIDEPOOL_HTTP_MAX_VALUE_BYTES", "26 MiB")])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "setting http.max_value_bytes = 26 MiB: use 1 B to 25 MiB"
    );
}

#[test]
fn a_truth_is_true_or_false() {
    let load = |text: &str| {
        load(&Sources {
            environment: vec![(
                "TIDEPOOL_TRUST_REQUIRE_SIGNATURE".to_owned(),
                text.to_owned(),
            )],
            flags: vec![("trust.keys_file".to_owned(), "keys".to_owned())],
            ..Sources::default()
        })
    };
    assert!(load("true").unwrap().trust.require_signature);
    assert!(!load(" false ").unwrap().trust.require_signature);
    let error = load("yes").unwrap_err().to_string();
    assert_eq!(
        error,
        "TIDEPOOL_TRUST_REQUIRE_SIGNATURE: trust.require_signature: `yes` is neither `true` nor `false`"
    );
}
