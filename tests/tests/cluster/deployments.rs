//! What is deployed reaches every host through the database, whichever was asked.

use tidepool::deployments::Digest;
use tidepool_tests::{REGIONS, built, within};

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
async fn a_database_that_is_away_is_no_fault_of_a_new_handler() {
    let mut database = tidepool_tests::servers::postgres::Postgres::start().await;
    let url = database.database("kv").await;
    let redis = tidepool_tests::servers::redis::Redis::start().await;
    let setup = tidepool_tests::Setup::new().over("here", &url, &redis.url());
    let host = setup.set("database.request_timeout=1s").start().await;
    // The same handler in other bytes.
    let component = [built::bytes(&built::guest("get")), vec![0, 2, 1, b'n']].concat();
    let deploy = host.admin().post("/v1/handlers/get").body(component);
    deploy.send().await.expect(200);
    database.kill();
    // Twice as many as would take it back.
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..40 {
        let get = host.region("here").get(&format!("/kv/{n}"));
        asking.spawn(async move { get.send().await.status });
    }
    let statuses = asking.join_all().await;
    assert_eq!(statuses, [503; 40]);
    assert_eq!(host.log().count(&["is taken back"]), 0);
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

#[tokio::test]
async fn a_plan_goes_on_when_the_host_that_was_asked_is_gone() {
    let cluster = three().await;
    let component = built::fixture("tagged-a");
    let asked = &cluster.member("us-east-1").host;
    let steps = "us-west-1:50%25,100%25;eu-west-1:100%25";
    let path = format!("/v1/handlers/get?plan={steps}&pause=1s");
    let call = asked.admin().post(&path).body(built::bytes(&component));
    let done = call.send().await.expect(200).json();
    assert_eq!(done["plan"]["state"], "running", "{done:#}");
    asked.signal("KILL").await;
    let other = &cluster.member("eu-west-1").host;
    let ended = async {
        loop {
            let list = other.admin().get("/v1/handlers").send().await;
            let plan = list.expect(200).json()["plans"][0].clone();
            if plan["state"] != "running" {
                return plan;
            }
        }
    };
    let plan = within("the end of the plan", ended).await;
    assert_eq!(plan["state"], "done", "{plan:#}");
    for region in ["us-west-1", "eu-west-1"] {
        assert_eq!(other.active(region, "get").await, 2);
        assert_eq!(tag(cluster.region(region)).await.as_deref(), Some("a"));
    }
    assert_eq!(other.active("us-east-1", "get").await, 1);
}

#[tokio::test]
async fn a_host_that_is_older_than_an_entry_keeps_what_it_runs_and_says_why() {
    let cluster = three().await;
    let asked = &cluster.member("us-east-1").host;
    asked.deploy("get", &built::fixture("tagged-a"), None).await;
    let database = cluster.database();
    let insert = r#"INSERT INTO tidepool_deployments (seq, at, id, actor, source, body)
        SELECT max(seq) + 1, max(at), 0, 'newer', 'test', '{"type":"teleported"}'
        FROM tidepool_deployments"#;
    database.postgres().admin(database.name(), insert).await;
    let list = asked.cli(&["handlers"]).await;
    let told = "is from a newer Tidepool; upgrade this host";
    assert!(list.success().contains(told), "{list:?}");
    let component = built::fixture("tagged-b").display().to_string();
    let refused = asked.cli(&["deploy", "get", &component]).await;
    assert!(refused.refused(1).contains(told));
    for region in REGIONS {
        assert_eq!(tag(cluster.region(region)).await.as_deref(), Some("a"));
    }
}

#[tokio::test]
async fn a_component_for_a_newer_world_is_passed_over_by_hosts_that_do_not_know_it() {
    let cluster = three().await;
    let asked = &cluster.member("us-east-1").host;
    asked.deploy("get", &built::fixture("tagged-a"), None).await;
    // As a newer host would have taken it in.
    let mut bytes = built::bytes(&built::fixture("tagged-b")).to_vec();
    let (old, new) = (&b"tidepool:kv/http@0.1.0"[..], b"tidepool:kv/http@0.2.0");
    let mut found = 0;
    for at in 0..bytes.len() - old.len() {
        if &bytes[at..at + old.len()] == old {
            bytes[at..at + old.len()].copy_from_slice(new);
            found += 1;
        }
    }
    assert!(found > 0);
    let digest = Digest::of(&bytes);
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|it| format!("{it:02x}")).collect() };
    let regions = REGIONS.map(|region| format!("{region:?}")).join(",");
    let deployed = format!(
        r#"{{"type":"deployed","operation":"get","regions":[{regions}],"digest":"{digest}","size":{},"share":10000}}"#,
        bytes.len()
    );
    let statements = format!(
        r"INSERT INTO tidepool_components (digest, chunk, put_at, bytes)
            VALUES ('\x{}', 0, 0, '\x{}');
        INSERT INTO tidepool_deployments (seq, at, id, actor, source, body)
            SELECT max(seq) + 1, max(at), 0, 'newer', 'test', '{deployed}'
            FROM tidepool_deployments",
        hex(digest.as_bytes()),
        hex(&bytes)
    );
    let database = cluster.database();
    database
        .postgres()
        .admin(database.name(), &statements)
        .await;
    let told = ["revision 3 cannot be loaded", "0.2.0"];
    let list = asked.cli(&["handlers"]).await;
    for part in told {
        assert!(list.success().contains(part), "{list:?}");
    }
    for region in REGIONS {
        let host = &cluster.member(region).host;
        host.log().line(&["cannot be loaded", "revision=3"]).await;
        assert_eq!(tag(cluster.region(region)).await.as_deref(), Some("a"));
    }
    // What can be loaded is still taken.
    asked.deploy("get", &built::fixture("tagged-b"), None).await;
    assert_eq!(tag(cluster.region("eu-west-1")).await.as_deref(), Some("b"));
}

#[tokio::test]
async fn what_a_region_has_set_aside_is_seen_everywhere_and_replayed_there() {
    let cluster = tidepool_tests::Cluster::with(|setup| setup.set("handlers.trial=0s")).await;
    let (there, elsewhere) = ("us-east-1", "eu-west-1");
    let component = built::fixture("hydrate-poison");
    cluster.deploy("hydrate", &component, Some(there)).await;
    let version = cluster.region(elsewhere).write("poison", "v").await;
    cluster.all_caught_up(version).await;
    let get = || cluster.region(there).get("/kv/poison").send();
    says(get().await, "v", "MISS");
    let other = &cluster.member(elsewhere).host;
    let start = std::time::Instant::now();
    // It is written by the host of that region.
    loop {
        let listed = other.cli(&["feed", "quarantine"]).await;
        if listed.success().contains("poison") {
            assert!(listed.stdout.contains(there), "{listed:?}");
            break;
        }
        assert!(start.elapsed() < tidepool_tests::PATIENCE, "{listed:?}");
    }
    let back = ["rollback", "hydrate", "--region", there];
    other.cli(&back).await.success();
    let replay = ["feed", "quarantine", "replay"];
    let told = other.cli(&replay).await;
    let told = told.success();
    assert!(
        told.contains("replayed 0") && told.contains("us-east-1 is served by other hosts"),
        "{told}"
    );
    let here = &cluster.member(there).host;
    assert_eq!(here.cli(&replay).await.success().trim(), "replayed 1");
    says(get().await, "v", "HIT");
    let listed = other.cli(&["feed", "quarantine"]).await;
    assert_eq!(listed.success().trim(), "nothing is set aside");
}
