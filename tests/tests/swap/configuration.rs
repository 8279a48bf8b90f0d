//! Code and configuration are one revision, and secrets stay where they are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tidepool_tests::{Plane, REGIONS, Server, Setup, built};

use crate::fixture;

const HIDDEN: &str = "a-secret-that-nobody-sees";

/// What the handler that tells its configuration has for a name.
async fn value(plane: &Plane, name: &str) -> String {
    let answer = plane.get(&format!("/kv/{name}")).send().await.expect(200);
    answer.text().to_owned()
}

/// Deploys the handler that tells its configuration.
async fn deploy(server: &Server, arguments: &[&str]) -> tidepool_tests::Ran {
    let component = fixture("configured");
    let deploy = ["deploy", "get", &component];
    server.cli(&[&deploy, arguments].concat()).await
}

#[tokio::test]
async fn code_and_configuration_are_swapped_at_once_and_back() {
    let server = Server::start().await;
    let east = server.region("us-east-1");
    // Its self-test is with its configuration.
    let without = deploy(&server, &[]).await;
    assert!(without.refused(1).contains("no greeting"));
    let set = ["--config", "greeting=hello = there", "--config", "a=1"];
    deploy(&server, &set).await.success();
    for region in REGIONS {
        let plane = server.region(region);
        assert_eq!(value(plane, "greeting").await, "hello = there");
        assert_eq!(value(plane, "other").await, "(not set)");
        assert_eq!(server.active(region, "get").await, 2);
    }
    // What runs already is left alone; what is not named stays.
    let same = deploy(&server, &["--config", "a=1"]).await;
    assert!(same.success().contains("ran it already"));
    let change = ["--config", "a=", "--region", "us-east-1"];
    deploy(&server, &change).await.success();
    assert_eq!(server.active("us-east-1", "get").await, 3);
    assert_eq!(value(east, "a").await, "");
    assert_eq!(value(east, "greeting").await, "hello = there");
    assert_eq!(value(server.region("eu-west-1"), "a").await, "1");
    deploy(&server, &["--unset", "a"]).await.success();
    assert_eq!(value(east, "a").await, "(not set)");
    let listed = server.cli(&["handlers"]).await;
    assert!(listed.success().contains(r#"greeting="hello = there""#));
    let back = ["rollback", "get", "--to", "2"];
    server.cli(&back).await.success();
    assert_eq!(value(east, "a").await, "1");
    // Another component has it too, and so has one after it.
    let component = fixture("tagged-a");
    let plain = ["deploy", "get", &component];
    server.cli(&plain).await.success();
    deploy(&server, &[]).await.success();
    assert_eq!(value(east, "a").await, "1");
    let unset = deploy(&server, &["--unset", "greeting"]).await;
    assert!(unset.refused(1).contains("self-test"));
}

#[tokio::test]
async fn a_secret_is_given_to_the_handler_and_to_nobody_else() {
    let setup = Setup::new().environment("TIDEPOOL_SECRET_KEY", HIDDEN);
    let secrets = setup.folder().join("secrets");
    std::fs::create_dir(&secrets).unwrap();
    std::fs::write(secrets.join("key"), format!("file-{HIDDEN}\n")).unwrap();
    let setup = setup.set(&format!("handlers.secrets_dir={}", secrets.display()));
    let server = setup.start().await;
    let set = [
        "--config",
        "greeting=hi",
        "--secret",
        "key=env:TIDEPOOL_SECRET_KEY",
        "--secret",
        "file=file:key",
    ];
    let deployed = deploy(&server, &set).await;
    let east = server.region("us-east-1");
    assert_eq!(value(east, "key").await, HIDDEN);
    assert_eq!(value(east, "file").await, format!("file-{HIDDEN}"));
    let listed = server.cli(&["handlers", "--json"]).await;
    let audit = server.cli(&["audit", "--json"]).await;
    for text in [deployed.success(), listed.success(), audit.success()] {
        assert!(!text.contains(HIDDEN), "{text}");
    }
    assert!(listed.success().contains("env:TIDEPOOL_SECRET_KEY"));
    assert!(!server.log().text().contains(HIDDEN));
    server.stop().await;
    for entry in std::fs::read_dir(setup.data()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes
                .windows(HIDDEN.len())
                .any(|it| it == HIDDEN.as_bytes());
            assert!(!found, "{} has the secret", path.display());
        }
    }
    let server = setup.start().await;
    assert_eq!(value(server.region("us-east-1"), "key").await, HIDDEN);
}

#[tokio::test]
async fn a_secret_that_is_not_there_is_named_and_nothing_changes() {
    let setup = Setup::new();
    let server = setup
        .clone()
        .environment("TIDEPOOL_SECRET_A", "a")
        .start()
        .await;
    for (secret, why) in [
        ("key=env:TIDEPOOL_SECRET_B", "TIDEPOOL_SECRET_B"),
        ("key=file:b", "handlers.secrets_dir"),
    ] {
        let refused = deploy(&server, &["--config", "greeting=hi", "--secret", secret]).await;
        let text = refused.refused(1);
        assert!(text.contains("\"key\"") && text.contains(why), "{text}");
    }
    for secret in ["key=env:HOME", "key=file:/etc/hostname", "key=file:../a"] {
        let refused = deploy(&server, &["--secret", secret]).await;
        assert!(refused.refused(2).contains("refers to no secret"));
    }
    assert_eq!(server.active("us-east-1", "get").await, 1);
    let set = [
        "--config",
        "greeting=hi",
        "--secret",
        "key=env:TIDEPOOL_SECRET_A",
    ];
    deploy(&server, &set).await.success();
    server.stop().await;
    // A host that has it no longer lets nothing else stand in for the handler that may
    // check who asks, and says why; everything else it does.
    let server = setup.start().await;
    let east = server.region("us-east-1");
    let version = east.write("k", "v").await;
    server.caught_up("us-east-1", version).await;
    east.get("/kv/k").send().await.problem(503, "unavailable");
    let ready = east.get("/readyz").send().await.expect(503).json();
    assert_eq!(ready["has_handlers"], false);
    let listed = server.cli(&["handlers"]).await;
    assert!(listed.success().contains("TIDEPOOL_SECRET_A"));
    // Nor can it be rolled back to, and what needs it not can be.
    server
        .cli(&["rollback", "get", "--to", "1"])
        .await
        .success();
    east.get("/kv/k").send().await.expect(200);
    east.get("/readyz").send().await.expect(200);
    let back = server.cli(&["rollback", "get", "--to", "2"]).await;
    assert!(back.refused(1).contains("TIDEPOOL_SECRET_A"));
    assert_eq!(server.active("us-east-1", "get").await, 1);
}

#[tokio::test]
async fn a_configuration_is_bounded_and_checked_before_anything_else() {
    let server = Server::start().await;
    let component = built::bytes(&built::fixture("configured"));
    let post = |admin: &Plane, json: &str| {
        let call = admin.post("/v1/handlers/get").body(component.clone());
        call.header("tidepool-config", BASE64.encode(json))
    };
    let admin = server.admin();
    let values = |sizes: &[usize]| {
        let names = sizes.iter().enumerate();
        let pairs: Vec<_> = names
            .map(|(n, size)| format!(r#""n{n}":"{}""#, "v".repeat(*size)))
            .collect();
        format!(r#"{{"greeting":"hi",{}}}"#, pairs.join(","))
    };
    // 10 bytes of the greeting, and 2 for each name.
    let largest = [4096, 4096, 4096, 16 * 1024 - 3 * 4096 - 18];
    post(admin, &values(&largest)).send().await.expect(200);
    post(&admin.http2(), &values(&largest))
        .send()
        .await
        .expect(200);
    let larger = [4096, 4096, 4096, 16 * 1024 - 3 * 4096 - 17];
    for (json, why) in [
        (values(&larger), "16385 bytes"),
        (values(&[4097]), "4097 bytes"),
        (r#"{"a b":"1"}"#.to_owned(), "a b"),
        (r#"{"a":1}"#.to_owned(), "Tidepool-Config"),
        (
            r#"{"a":{"secret":"env:PATH"}}"#.to_owned(),
            "Tidepool-Config",
        ),
        ("{".to_owned(), "Tidepool-Config"),
    ] {
        let refused = post(admin, &json).send().await.problem(400, "bad-request");
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains(why), "{json:.60}: {detail}");
    }
    assert_eq!(server.active("us-east-1", "get").await, 2);
}
