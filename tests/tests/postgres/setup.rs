//! What can be set up wrong: each is refused with what is wrong and what to do, and
//! never with a password.

use tidepool::deployments::sql::SqlLedger;
use tidepool::sql::{Class, SqlError};
use tidepool_tests::conformance::ledger;
use tidepool_tests::servers::free_port;
use tidepool_tests::servers::postgres::{PASSWORD, Postgres, ROLE};

use super::*;

/// Why a log cannot be opened.
async fn refused(url: &str) -> MigrateError {
    let error = open(url).await.expect_err("it was let in");
    let shown = format!("{error} {error:?}");
    for secret in [PASSWORD, "tide%2Fpool", "wrong-secret"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    error
}

fn class(error: &MigrateError) -> Option<Class> {
    match error {
        MigrateError::Sql(error) => Some(error.class()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mistake_in_a_url_has_its_own_answer() {
    let server = Postgres::start().await;
    let port = server.port();
    let right = server.database("setup").await;

    let wrong = format!("postgresql://{ROLE}:wrong-secret@127.0.0.1:{port}/setup");
    let error = refused(&wrong).await;
    assert_eq!(class(&error), Some(Class::Login));
    assert!(
        error.to_string().contains("check user and password"),
        "{error}"
    );

    let error = refused(&server.url(ROLE, "nowhere")).await;
    assert_eq!(class(&error), Some(Class::NoDatabase));
    assert!(error.to_string().contains("create the database"), "{error}");

    let closed = free_port();
    let error = refused(&format!(
        "postgresql://{ROLE}:wrong-secret@127.0.0.1:{closed}/setup"
    ))
    .await;
    assert_eq!(class(&error), Some(Class::Lost));
    let text = error.to_string();
    assert!(
        text.contains(&closed.to_string()) && text.contains("check that the server runs"),
        "{text}"
    );

    let error = refused(&format!("{right}?sslmode=require")).await;
    assert_eq!(class(&error), Some(Class::Tls));
    assert!(error.to_string().contains("switch TLS on"), "{error}");

    // The first host is dead, the second one serves.
    let both = right.replace("@127.0.0.1", &format!("@127.0.0.1:{closed},127.0.0.1"));
    write(&open(&both).await.unwrap(), "k").await;
}

/// An authority and a certificate for a name, as PEM.
fn certificates(name: &str) -> (String, String, String) {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::from_params(&authority, &authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    (authority_certificate.pem(), leaf.pem(), key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_checked_as_far_as_sslmode_says() {
    let folder = tempfile::TempDir::new().unwrap();
    let (ours, certificate, private) = certificates("database.test");
    let (theirs, ..) = certificates("database.test");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().replace('/', "%2F")
    };
    let (ours, theirs) = (file("ours.pem", &ours), file("theirs.pem", &theirs));
    let server = Postgres::start_with_tls(&certificate, &private).await;
    let url = server.database("tls").await;

    for good in [
        "sslmode=disable".to_owned(),
        "sslmode=prefer".to_owned(),
        "sslmode=require".to_owned(),
        format!("sslmode=require&sslrootcert={ours}"),
        format!("sslmode=verify-ca&sslrootcert={ours}"),
    ] {
        let log = open(&format!("{url}?{good}")).await;
        assert!(log.is_ok(), "{good}: {:?}", log.err());
    }
    // The name of the certificate, at the address of the server.
    let named = url.replace("@127.0.0.1", "@database.test");
    let named = format!("{named}?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={ours}");
    write(&open(&named).await.unwrap(), "k").await;

    for (bad, advice) in [
        (
            format!("sslmode=verify-ca&sslrootcert={theirs}"),
            "name the authority's file",
        ),
        (
            format!("sslmode=require&sslrootcert={theirs}"),
            "name the authority's file",
        ),
        (
            format!("sslmode=verify-full&sslrootcert={theirs}"),
            "name the authority's file",
        ),
        (
            format!("sslmode=verify-full&sslrootcert={ours}"),
            "for another name",
        ),
    ] {
        let error = refused(&format!("{url}?{bad}")).await;
        assert_eq!(class(&error), Some(Class::Tls), "{bad}: {error}");
        assert!(error.to_string().contains(advice), "{bad}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_privilege_names_its_grant() {
    let server = Postgres::start().await;
    let role = format!("CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'");
    server.admin("postgres", &role).await;
    let owner = server.database("privileges").await;
    let guest = server.url("guest", "privileges");

    // It may not make the tables,
    let error = refused(&guest).await;
    assert_eq!(class(&error), Some(Class::Privilege));
    let grant = "GRANT USAGE, CREATE ON SCHEMA public TO \"guest\"";
    assert!(error.to_string().contains(grant), "{error}");
    // nor see those that somebody else has made,
    open(&owner).await.unwrap();
    let error = refused(&guest).await;
    assert_eq!(class(&error), Some(Class::Privilege));
    assert!(
        error
            .to_string()
            .contains("ON TABLE tidepool_schema TO \"guest\""),
        "{error}"
    );
    server
        .admin("privileges", "GRANT SELECT ON tidepool_schema TO guest")
        .await;
    // nor append.
    server
        .admin("privileges", "GRANT SELECT ON kv_log TO guest")
        .await;
    let error = refused(&guest).await;
    assert!(matches!(error, MigrateError::NoPrivilege { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("GRANT SELECT, INSERT ON TABLE kv_log TO"),
        "{error}"
    );
    // What it says is enough is enough.
    let text = error.to_string();
    let (_, grants) = text.split_once("run: ").unwrap();
    for table in [
        "tidepool_deployments",
        "tidepool_components",
        "tidepool_hosts",
        "tidepool_quarantine",
    ] {
        assert!(
            grants.contains(&format!(" ON TABLE {table} TO ")),
            "{grants}"
        );
    }
    server.admin("privileges", grants).await;
    // It needs no more than that: neither for the log,
    let log = open(&guest).await.unwrap();
    write(&log, "k").await;
    // nor for the ledger,
    let ledger = SqlLedger::new(config(&guest).unwrap());
    ledger::run(Arc::new(ledger)).await;
    // nor for the feed.
    use tidepool::feed::FeedSource;
    let mut feed = feed(&guest).open(None).await.unwrap();
    assert!(matches!(
        feed.next().await.unwrap(),
        tidepool::feed::Event::Rows(_)
    ));

    // What is taken away later is said too.
    server
        .admin("privileges", "REVOKE INSERT ON kv_log FROM guest")
        .await;
    let error = log
        .append(key("k"), put("x"), Condition::None, None)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("GRANT SELECT, INSERT"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_removed_can_be_made_again() {
    let server = Postgres::start().await;
    let url = server.database("removed").await;
    let before = open(&url).await.unwrap();
    write(&before, "k").await;
    drop(before);
    server.admin("removed", "DROP TABLE tidepool_hosts").await;
    let error = refused(&url).await;
    assert!(matches!(error, MigrateError::Removed { .. }), "{error}");
    let text = error.to_string();
    let (_, fix) = text.split_once("run: ").unwrap();
    let fix = fix.split(';').next().unwrap();
    server.admin("removed", fix).await;
    open(&url).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hosts_that_start_at_once_make_the_tables_once() {
    let server = Postgres::start().await;
    for round in 0..5 {
        let url = server.database(&format!("at_once_{round}")).await;
        let hosts = (0..3).map(|_| {
            let url = url.clone();
            tokio::spawn(async move { write(&open(&url).await.unwrap(), "k").await })
        });
        for host in hosts.collect::<Vec<_>>() {
            host.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_others_are_refused() {
    let server = Postgres::start().await;
    let url = server.database("newer").await;
    open(&url).await.unwrap();
    server
        .admin(
            "newer",
            "INSERT INTO tidepool_schema (version) VALUES (1000)",
        )
        .await;
    let error = refused(&url).await;
    assert!(
        matches!(error, MigrateError::Newer { found: 1000, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("upgrade this host"), "{error}");

    let url = server.database("others").await;
    let table = "CREATE TABLE public.kv_log (key text); GRANT ALL ON kv_log TO tidepool";
    server.admin("others", table).await;
    let error = refused(&url).await;
    assert!(matches!(error, MigrateError::Foreign { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_is_given_up() {
    // It takes the connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("postgresql://{ROLE}:wrong-secret@127.0.0.1:{port}/x?connect_timeout=1");
    let error = refused(&url).await;
    let MigrateError::Sql(SqlError::Connect { class, why, .. }) = error else {
        panic!("{error}")
    };
    assert_eq!(class, Class::Lost);
    assert!(why.contains("database.connect_timeout"), "{why}");
}
