//! Tokens: made, used for what they are for, and taken back.

use tidepool_tests::{Plane, Server, Setup};

use crate::fixture;

const ROOT: &str = "the-token-of-the-settings";

async fn guarded() -> (Server, Plane) {
    let setup = Setup::new().arguments(&["--set", &format!("admin.token={ROOT}")]);
    let server = setup.start().await;
    let root = server.admin().clone().with_token(ROOT);
    (server, root)
}

/// Makes a token; its text and its number.
async fn made(root: &Plane, scopes: &[&str]) -> (String, String) {
    let body = serde_json::json!({"name": "test", "scopes": scopes}).to_string();
    let answer = root.post("/v1/tokens").body(body).send().await.expect(201);
    let text = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
    (text("token"), text("id"))
}

async fn deploys(plane: &Plane, operation: &str, region: &str) -> u16 {
    let component = tidepool_tests::built::fixture("tagged-a");
    let component = tidepool_tests::built::bytes(&component);
    let path = format!("/v1/handlers/{operation}{region}");
    plane.post(&path).body(component).send().await.status
}

#[tokio::test]
async fn a_token_may_do_what_its_scopes_say_until_it_is_revoked() {
    let (server, root) = guarded().await;
    let list = |plane: &Plane| plane.get("/v1/handlers").send();
    list(server.admin()).await.problem(401, "unauthorized");
    let (reader, _) = made(&root, &["read"]).await;
    let (deployer, id) = made(&root, &["deploy:us-east-1:get"]).await;
    let reader = server.admin().clone().with_token(&reader);
    let deployer = server.admin().clone().with_token(&deployer);
    list(&reader).await.expect(200);
    assert_eq!(deploys(&reader, "get", "?region=us-east-1").await, 403);
    list(&deployer).await.expect(200);
    assert_eq!(deploys(&deployer, "get", "?region=us-east-1").await, 200);
    assert_eq!(
        deploys(&deployer, "get", "?region=us-east-1,us-west-1").await,
        403
    );
    let both = deployer.post("/v1/handlers/get?region=us-east-1,us-west-1");
    let problem = both.send().await.problem(403, "forbidden");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("needs deploy:us-west-1:get"), "{detail}");
    assert_eq!(deploys(&deployer, "get", "").await, 403);
    assert_eq!(deploys(&deployer, "put", "?region=us-east-1").await, 403);
    // What applications have stored is not for whoever watches the hosts.
    let cached = "/v1/regions/us-east-1/cache";
    root.get(cached).send().await.expect(200);
    for plane in [&reader, &deployer] {
        plane.get(cached).send().await.problem(403, "forbidden");
    }
    // What was set aside is replayed by who may change what hydrates.
    let (hydrates, _) = made(&root, &["deploy:us-east-1:hydrate"]).await;
    let hydrates = server.admin().clone().with_token(&hydrates);
    let east = "/v1/feed/quarantine/replay?region=us-east-1";
    let everywhere = "/v1/feed/quarantine/replay";
    for (plane, path, status) in [
        (&reader, east, 403),
        (&deployer, east, 403),
        (&hydrates, everywhere, 403),
        (&hydrates, east, 200),
    ] {
        assert_eq!(plane.post(path).send().await.status, status, "{path}");
    }
    let quarantine = "/v1/feed/quarantine";
    reader.get(quarantine).send().await.expect(200);
    let dropped = reader.delete(quarantine).send().await;
    dropped.problem(403, "forbidden");
    for plane in [&reader, &deployer] {
        let answer = plane.get("/v1/tokens").send().await;
        answer.problem(403, "forbidden");
    }
    let revoke = root.delete(&format!("/v1/tokens/{id}")).send().await;
    revoke.expect(200);
    list(&deployer).await.problem(401, "unauthorized");
    // Who it was is known, and from where; what proves it is not.
    let audit = root.get("/v1/audit").send().await.expect(200);
    assert!(!audit.text().contains("hash"), "{}", audit.text());
    let entries = audit.json()["entries"].as_array().unwrap().clone();
    let deployed = entries.iter().find(|it| it["event"]["type"] == "deployed");
    let deployed = deployed.unwrap();
    assert_eq!(
        (&deployed["actor"], &deployed["source"]),
        (&"test".into(), &"127.0.0.1".into())
    );
}

#[tokio::test]
async fn a_token_outlives_a_kill_and_ends_in_time() {
    let (server, root) = guarded().await;
    let (reader, _) = made(&root, &["read"]).await;
    let setup = server.setup().clone();
    server.kill().await;
    let server = setup.start().await;
    let reader = server.admin().clone().with_token(&reader);
    reader.get("/v1/regions").send().await.expect(200);
    let root = server.admin().clone().with_token(ROOT);
    let body = r#"{"name": "short", "scopes": ["read"], "expires_in_seconds": 1}"#;
    let made = root.post("/v1/tokens").body(body).send().await.expect(201);
    let short = made.json()["token"].as_str().unwrap().to_owned();
    let short = server.admin().clone().with_token(&short);
    let start = std::time::Instant::now();
    loop {
        let answer = short.get("/v1/regions").send().await;
        if answer.status == 401 {
            assert!(answer.text().contains("expired"), "{answer:?}");
            break;
        }
        answer.expect(200);
        assert!(start.elapsed() < tidepool_tests::PATIENCE);
    }
}

#[tokio::test]
async fn a_guesser_is_slowed_down_and_locks_nobody_out() {
    let (server, root) = guarded().await;
    let wrong = server.admin().clone().with_token("tp_00000000_wrong");
    let mut slowed = None;
    for _ in 0..12 {
        let answer = wrong.get("/v1/regions").send().await;
        if answer.status == 429 {
            slowed = Some(answer);
        }
    }
    let slowed = slowed.unwrap();
    assert!(slowed.header("retry-after").is_some(), "{slowed:?}");
    root.get("/v1/regions").send().await.expect(200);
}

#[tokio::test]
async fn tokens_by_command() {
    let server = Server::start().await;
    let create = [
        "token",
        "create",
        "--name",
        "ci",
        "--scope",
        "deploy:us-east-1",
        "--expires",
        "30d",
    ];
    let ran = server.cli(&create).await;
    let token = ran.success().trim().to_owned();
    assert!(token.starts_with("tp_") && token.len() == 55, "{token}");
    let list = server.cli(&["token", "list"]).await;
    assert!(list.success().contains("deploy:us-east-1"));
    assert!(!list.success().contains(&token));
    let id = &token[3..11];
    let component = fixture("tagged-a");
    let deploy = [
        "deploy",
        "get",
        &component,
        "--region",
        "us-east-1",
        "--token",
        &token,
    ];
    server.cli(&deploy).await.success();
    let audit = server.cli(&["audit"]).await;
    assert!(audit.success().contains("ci ("));
    let revoke = server.cli(&["token", "revoke", id]).await;
    assert!(revoke.success().contains("revoked"));
    let refused = server.cli(&deploy).await;
    assert!(refused.refused(1).contains("revoked"));
    let unknown = server.cli(&["token", "revoke", "nothing"]).await;
    assert!(unknown.refused(1).contains("tidepool token list"));
    let wrong = ["token", "create", "--name", "x", "--scope", "everything"];
    assert!(server.cli(&wrong).await.refused(2).contains("scope"));
}
