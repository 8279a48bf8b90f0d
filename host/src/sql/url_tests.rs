//! URLs as people write them, and what no message of ours may show.

use proptest::prelude::*;

use super::*;
use crate::config::Secret;

fn read(url: &str) -> Result<SqlConfig, UrlError> {
    SqlConfig::new(&Database {
        url: Some(Secret::new(url)),
        ..Database::default()
    })
}

#[test]
fn a_url_is_read_as_libpq_reads_it() {
    let config = read(
        "postgresql://me:p%40ss@one:26257,two,[::1]:3/store?sslmode=require&application_name=x&connect_timeout=7",
    );
    // Ports go with the hosts, and the default fills the gaps.
    let config = config.unwrap();
    assert_eq!(config.target(), "me@one:26257,two:5432,::1:3/store");
    assert_eq!(config.connect_timeout, Duration::from_secs(7));
    assert_eq!((config.role(), config.database()), ("me", "store"));
    let at = config.at(&config.places()[1]);
    assert_eq!(at.get_hosts(), [Host::Tcp("two".into())]);
    assert_eq!(at.get_ports(), [5432]);
    assert_eq!(at.get_password(), Some(&b"p@ss"[..]));
    assert_eq!(at.get_ssl_mode(), SslMode::Require);
    assert_eq!(at.get_application_name(), Some("x"));
    assert_eq!(at.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    assert_eq!(at.get_keepalives_idle(), KEEPALIVE_IDLE);
}

#[test]
fn every_sslmode_of_libpq_but_allow_is_known() {
    for (mode, expected) in [
        ("disable", SslMode::Disable),
        ("prefer", SslMode::Prefer),
        ("require", SslMode::Require),
    ] {
        let config = read(&format!("postgres://h/d?sslmode={mode}")).unwrap();
        assert_eq!(config.at(&config.places()[0]).get_ssl_mode(), expected);
    }
    let error = read("postgres://h/d?sslmode=allow").unwrap_err();
    assert!(error.to_string().contains("verify-full"), "{error}");
    assert_eq!(
        read("postgres://h/d?sslmode=verify-ca").unwrap_err(),
        UrlError::Tls(TlsError::NoAuthority)
    );
}

#[test]
fn a_socket_is_a_host_too() {
    let config = read("postgresql://me@%2Frun%2Fpostgresql/d").unwrap();
    assert_eq!(config.target(), "me@/run/postgresql:5432/d");
}

#[test]
fn what_is_missing_is_said() {
    assert_eq!(
        SqlConfig::new(&Database::default()).unwrap_err(),
        UrlError::Missing
    );
    assert_eq!(
        read("postgres://user@host").unwrap_err(),
        UrlError::NoDatabase
    );
    assert_eq!(read("postgres:///d").unwrap_err(), UrlError::NoHost);
    assert_eq!(
        read("postgres://h/d?sslmod=require").unwrap_err(),
        UrlError::UnknownParameter("sslmod".into())
    );
    for url in ["", "mysql://h/d", "host=h dbname=d", "postgres://h:x/d"] {
        assert_eq!(read(url).unwrap_err(), UrlError::Syntax, "{url}");
    }
}

#[test]
fn no_message_shows_a_password() {
    for url in [
        "postgres://me:hunter2@h/d?x=1",
        "postgres://me:hunter2@h:port/d",
        "postgres://me:hun?ter2@h/d",
        "postgres://me:?hunter2=@h/d",
        "postgres://me:hunter2@/d",
        "me:hunter2@h/d",
        "postgres://me:hunter2@h/d?password=hunter2&sslmode=never",
        "postgres://h/d?password=hunter2&hunter2&x=y",
    ] {
        let error = read(url).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(
            !shown.contains("hunter") && !shown.contains("ter2"),
            "{shown}"
        );
    }
    let config = read("postgres://me:hunter2@h/d?password=hunter2").unwrap();
    assert!(!format!("{config:?}{}", config.target()).contains("hunter"));
}

proptest! {
    #[test]
    fn no_url_makes_it_panic(text in ".*") {
        let _ = read(&text);
        let _ = read(&format!("postgres://{text}"));
        let _ = read(&format!("postgres://h/d?{text}"));
    }
}
