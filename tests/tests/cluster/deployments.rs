//! What is deployed reaches every host through the database, whichever was asked.

use tidepool_tests::{REGIONS, built};

use crate::{report, says, three};

/// Which tagged handler answers GET in a region.
async fn tag(plane: &tidepool_tests::Plane) -> Option<String> {
    let answer = plane.get("/kv/k").send().await;
    answer.header("x-tag").map(str::to_owned)
}

#[tokio::test]
async fn a_deployment_to_any_host_reaches_all_and_so_does_a_rollback() {
    let cluster = three().await;
    let component = built::fixture("tagged-a");
    let asked = &cluster.member("us-west-1").host;
    let done = asked.deploy("get", &component, None).await;
    let slots = done["slots"].as_array().unwrap();
    assert_eq!(slots.len(), 3);
    for slot in slots {
        assert!(slot["live_ms"].as_f64().is_some(), "{done:#}");
    }
    // Every host has said that it runs it.
    for region in REGIONS {
        let tag = tag(cluster.region(region)).await;
        assert_eq!(tag.as_deref(), Some("a"), "{region}");
        let host = &cluster.member(region).host;
        for other in REGIONS {
            assert_eq!(host.active(other, "get").await, 2);
        }
    }
    let other = &cluster.member("eu-west-1").host;
    let region = ["rollback", "get", "--region", "us-east-1"];
    other.cli(&region).await.success();
    assert_eq!(tag(cluster.region("us-east-1")).await, None);
    assert!(tag(cluster.region("us-west-1")).await.is_some());
    let audit = asked.cli(&["audit"]).await;
    assert!(
        audit
            .success()
            .contains("rolled get back in us-east-1 to revision 1")
    );
}

#[tokio::test]
async fn a_host_that_was_away_catches_up_before_it_answers() {
    let cluster = three().await;
    let component = built::fixture("tagged-b");
    let asked = &cluster.member("us-east-1").host;
    let away = &cluster.member("eu-west-1").host;
    away.signal("STOP").await;
    // It is not waited for without an end.
    let done = asked.deploy("get", &component, None).await;
    let live = |region: &str| {
        let mut slots = done["slots"].as_array().unwrap().iter();
        let slot = slots.find(|slot| slot["region"] == region).unwrap();
        slot["live_ms"].is_number()
    };
    assert!(live("us-east-1") && live("us-west-1") && !live("eu-west-1"));
    away.signal("CONT").await;
    away.log().line(&["now serving", "get", "revision=2"]).await;
    assert_eq!(tag(cluster.region("eu-west-1")).await.as_deref(), Some("b"));
}

#[tokio::test]
async fn what_takes_itself_back_in_one_region_is_seen_in_all() {
    let cluster = three().await;
    let asked = &cluster.member("us-east-1").host;
    let version = cluster.region("us-east-1").write("k", "v").await;
    cluster.all_caught_up(version).await;
    let component = built::fixture("trap");
    asked.deploy("get", &component, Some("us-west-1")).await;
    let west = cluster.region("us-west-1");
    let mut failed = 0;
    loop {
        let answer = west.get("/kv/k").send().await;
        if answer.status == 200 {
            says(answer, "v", "HIT");
            break;
        }
        assert_eq!(answer.status, 500);
        failed += 1;
        assert!(failed < 40);
    }
    assert!(failed >= 20, "{failed}");
    let west = &cluster.member("us-west-1").host;
    west.log().line(&["is taken back"]).await;
    assert_eq!(west.active("us-west-1", "get").await, 1);
    assert_eq!(asked.active("us-west-1", "get").await, 1);
    let listed = asked.cli(&["handlers", "--all"]).await;
    assert!(listed.success().contains("took itself back: "));
    assert!(report(west).await["ready"].as_bool().unwrap());
}

#[tokio::test]
async fn a_database_that_fails_in_the_middle_leaves_all_or_nothing() {
    let mut database = tidepool_tests::servers::postgres::Postgres::start().await;
    let url = database.database("kv").await;
    let redis = tidepool_tests::servers::redis::Redis::start().await;
    let setup = tidepool_tests::Setup::new().over("here", &url, &redis.url());
    let setup = setup.set("database.request_timeout=1s");
    let host = setup.start().await;
    database.kill();
    let deploy = [
        "deploy",
        "get",
        &built::fixture("tagged-a").display().to_string(),
    ];
    let ran = host.cli(&deploy).await;
    assert!(
        ran.refused(1).contains("the record of deployments"),
        "{ran:?}"
    );
    assert_eq!(tag(host.region("here")).await, None);
    database.restart().await;
    // The same command, again.
    loop {
        let ran = host.cli(&deploy).await;
        if ran.code == Some(0) {
            break;
        }
    }
    assert_eq!(tag(host.region("here")).await.as_deref(), Some("a"));
    assert_eq!(host.active("here", "get").await, 2);
}
