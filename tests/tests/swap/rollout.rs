//! Canaries, and handlers that take themselves back.

use serde_json::Value;
use tidepool_tests::{Answer, Plane, REGIONS, Server, Setup};

use crate::fixture;

/// Which of some keys a tagged handler answers in a region.
async fn tagged(plane: &Plane, keys: usize) -> Vec<usize> {
    let mut tagged = Vec::new();
    for key in 0..keys {
        let answer = plane.get(&format!("/kv/key-{key}")).send().await;
        if answer.header("x-tag").is_some() {
            tagged.push(key);
        }
    }
    tagged
}

/// The revision with this number.
async fn revision(server: &Server, region: &str, operation: &str, number: u64) -> Value {
    let revisions = server.revisions(region, operation).await;
    let mut its = revisions
        .into_iter()
        .filter(|one| one["revision"] == number);
    its.next().unwrap()
}

#[tokio::test]
async fn a_canary_gets_a_share_of_the_keys_that_only_grows() {
    let server = Server::start().await;
    let component = fixture("tagged-a");
    let ran = server
        .cli(&["deploy", "get", &component, "--canary", "10%"])
        .await;
    assert!(ran.success().contains("canary 10%"));
    let east = server.region("us-east-1");
    let some = tagged(east, 300).await;
    assert!((5..80).contains(&some.len()), "{some:?}");
    // The same everywhere, and the next time.
    for region in REGIONS {
        assert_eq!(tagged(server.region(region), 300).await, some, "{region}");
        assert_eq!(server.active(region, "get").await, 1);
        let canary = revision(&server, region, "get", 2).await;
        assert_eq!(
            (&canary["state"], &canary["share"]),
            (&"canary".into(), &"10%".into())
        );
    }
    server
        .cli(&["promote", "get", "--canary", "40%"])
        .await
        .success();
    let more = tagged(east, 300).await;
    assert!(more.len() > some.len(), "{more:?}");
    assert!(
        some.iter().all(|key| more.contains(key)),
        "{some:?} {more:?}"
    );
    let said = server.cli(&["promote", "get", "--canary", "5%"]).await;
    assert!(said.refused(1).contains("does not go back"));
    let said = server.cli(&["deploy", "get", &fixture("tagged-b")]).await;
    assert!(said.refused(1).contains("has a canary"));
    let promote = ["promote", "get", "--region", "us-east-1,us-west-1"];
    server.cli(&promote).await.success();
    assert_eq!(tagged(east, 50).await.len(), 50);
    assert_eq!(tagged(server.region("eu-west-1"), 300).await, more);
    server.cli(&["abort", "get"]).await.success();
    assert_eq!(tagged(server.region("eu-west-1"), 50).await.len(), 0);
    assert_eq!(tagged(east, 50).await.len(), 50);
    let said = server.cli(&["abort", "get"]).await;
    assert!(said.refused(1).contains("no canary"));
}

#[tokio::test]
async fn a_canary_survives_a_kill() {
    let server = Server::start().await;
    let component = fixture("tagged-a");
    server
        .cli(&["deploy", "get", &component, "--canary", "30"])
        .await
        .success();
    let before = tagged(server.region("us-west-1"), 100).await;
    let setup = server.setup().clone();
    server.kill().await;
    let server = setup.start().await;
    assert_eq!(tagged(server.region("us-west-1"), 100).await, before);
    server.cli(&["promote", "get"]).await.success();
    assert_eq!(server.active("eu-west-1", "get").await, 2);
}

/// Asks until a key that failed does no more; how many have failed.
async fn until_taken_back(plane: &Plane) -> usize {
    let mut failed: Vec<Answer> = Vec::new();
    let mut asked = 0;
    loop {
        let answer = plane.get(&format!("/kv/key-{asked}")).send().await;
        asked += 1;
        match answer.status {
            500 => failed.push(answer),
            _ => assert_eq!(answer.status, 404),
        }
        let Some(first) = failed.first() else {
            continue;
        };
        if failed.len() >= 20 && plane.get(&first.to[4..]).send().await.status == 404 {
            return failed.len();
        }
        assert!(failed.len() < 40, "{} of {asked} have failed", failed.len());
    }
}

#[tokio::test]
async fn a_canary_that_traps_takes_itself_back() {
    let server = Server::start().await;
    let deploy = ["deploy", "get", &fixture("trap"), "--canary", "20%"];
    server.cli(&deploy).await.success();
    // Fewer failures than twice the least number of calls.
    until_taken_back(server.region("us-east-1")).await;
    server.log().line(&["is taken back", "us-east-1"]).await;
    let taken = revision(&server, "us-east-1", "get", 2).await;
    assert_eq!(taken["state"], "retired");
    assert!(taken["note"].as_str().unwrap().contains("took itself back"));
    // The others have not met it yet.
    assert_eq!(
        revision(&server, "eu-west-1", "get", 2).await["state"],
        "canary"
    );
    let audit = server.cli(&["audit"]).await;
    assert!(
        audit
            .success()
            .contains("get revision 2 took itself back in us-east-1")
    );
}

#[tokio::test]
async fn a_revision_for_all_that_traps_gives_way_to_what_it_replaced() {
    let server = Setup::new().regions(&["here"]).start().await;
    server
        .cli(&["deploy", "get", &fixture("tagged-a")])
        .await
        .success();
    server.cli(&["rollback", "get"]).await.success();
    server
        .cli(&["deploy", "get", &fixture("trap")])
        .await
        .success();
    until_taken_back(server.region("here")).await;
    assert_eq!(server.active("here", "get").await, 1);
    let setup = server.setup().clone();
    server.kill().await;
    let server = setup.start().await;
    assert_eq!(server.active("here", "get").await, 1);
    // Whoever wants it again can have it.
    server
        .cli(&["rollback", "get", "--to", "3"])
        .await
        .success();
    assert_eq!(server.active("here", "get").await, 3);
}

#[tokio::test]
async fn a_restart_does_not_end_a_trial() {
    let server = Setup::new().regions(&["here"]).start().await;
    for (operation, component) in [("get", "trap"), ("hydrate", "hydrate-trap")] {
        let deploy = ["deploy", operation, &fixture(component)];
        server.cli(&deploy).await.success();
    }
    let setup = server.setup().clone();
    server.kill().await;
    let server = setup.start().await;
    let here = server.region("here");
    until_taken_back(here).await;
    assert_eq!(server.active("here", "get").await, 1);
    let version = here.write("k", "v").await;
    server.caught_up("here", version).await;
    let answer = here.get("/kv/k").send().await;
    assert_eq!(answer.header("x-cache"), Some("HIT"));
    assert_eq!(server.active("here", "hydrate").await, 1);
    assert_eq!(report(&server).await["rows_set_aside"], 0);
}

#[tokio::test]
async fn a_revision_that_is_much_slower_takes_itself_back() {
    let setup = Setup::new().regions(&["here"]);
    let setup = setup
        .set("limits.response_bytes=120MiB")
        .set("limits.cpu=20s");
    let setup = setup.set("limits.wall=1min");
    let server = setup.set("limits.memory_bytes=400MiB").start().await;
    let here = server.region("here");
    // What is usual: of calls in quick succession one of 16 is measured.
    for _ in 0..600 {
        here.get("/kv/40000000").send().await.expect(404);
    }
    let deploy = ["deploy", "get", &fixture("huge-result")];
    server.cli(&deploy).await.success();
    let mut asked = 0;
    while here.get("/kv/40000000").send().await.status != 404 {
        asked += 1;
        assert!(asked <= 40, "{asked}");
    }
    let taken = revision(&server, "here", "get", 2).await;
    let note = taken["note"].as_str().unwrap();
    assert!(note.contains("nine of ten calls took up to"), "{note}");
}

/// What the only region says of its hydrator.
async fn report(server: &Server) -> Value {
    let reports = server.admin().get("/v1/regions").send().await.expect(200);
    reports.json()[0].clone()
}

#[tokio::test]
async fn a_hydrate_that_traps_takes_itself_back_and_no_row_is_lost() {
    let server = Setup::new().regions(&["here", "there"]).start().await;
    let deploy = [
        "deploy",
        "hydrate",
        &fixture("hydrate-trap"),
        "--region",
        "here",
    ];
    server.cli(&deploy).await.success();
    let here = server.region("here");
    let version = server.region("there").write("k", "v").await;
    server.caught_up("here", version).await;
    let answer = here.get("/kv/k").send().await;
    assert_eq!(answer.header("x-cache"), Some("HIT"));
    assert_eq!(server.active("here", "hydrate").await, 1);
    let taken = revision(&server, "here", "hydrate", 2).await;
    assert!(taken["note"].as_str().unwrap().contains("took itself back"));
}

#[tokio::test]
async fn of_two_deployments_at_once_one_wins_and_the_other_is_told() {
    let server = Server::start().await;
    let [a, b] = ["tagged-a", "tagged-b"].map(fixture);
    let deploy = |component: &str| {
        let component = component.to_owned();
        let server = &server;
        async move { server.cli(&["deploy", "get", &component]).await }
    };
    let (first, second) = tokio::join!(deploy(&a), deploy(&b));
    let won = [&first, &second]
        .iter()
        .filter(|ran| ran.code == Some(0))
        .count();
    assert!(won >= 1);
    for ran in [&first, &second] {
        if ran.code != Some(0) {
            assert!(ran.refused(1).contains("at the same time"));
        }
    }
    // None is half done.
    let active = server.active("us-east-1", "get").await;
    for region in REGIONS {
        assert_eq!(server.active(region, "get").await, active);
    }
    assert_eq!(active as usize, 1 + won);
}
