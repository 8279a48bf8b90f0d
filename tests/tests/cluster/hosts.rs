//! Several hosts of one region on one Redis: one of them follows the log for all,
//! and another takes over when it is gone.

use tidepool_tests::cluster::Database;
use tidepool_tests::servers::Redis;
use tidepool_tests::{Server, Setup};

use crate::{ready, report, says, until};

/// Two hosts of one region; the first one leads.
async fn pair() -> (Server, Server) {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let url = redis.url();
    let keep = std::sync::Arc::new((database.clone(), redis));
    let setup = || {
        let setup = Setup::new().over("here", database.url(), &url);
        setup.keep(std::sync::Arc::clone(&keep))
    };
    let first = setup().start().await;
    let version = first.region("here").write("first", "1").await;
    // It has applied something, so it leads.
    first.caught_up("here", version).await;
    assert!(report(&first).await["rows_applied"].as_u64().unwrap() > 0);
    let second = setup().start().await;
    ready(second.region("here")).await;
    (first, second)
}

/// Asserts that both answer with a write to either, from their Redis.
async fn share(writer: &Server, reader: &Server, key: &str) {
    let version = writer.region("here").write(key, "shared").await;
    for host in [writer, reader] {
        host.caught_up("here", version).await;
        let get = host.region("here").get(&format!("/kv/{key}"));
        let answer = says(get.send().await, "shared", "HIT");
        assert_eq!(answer.version(), version);
    }
    let deleted = reader.region("here").remove(key).await;
    for host in [writer, reader] {
        host.caught_up("here", deleted).await;
        let answer = host.region("here").get(&format!("/kv/{key}")).send().await;
        answer.problem(404, "not-found");
        assert_eq!(answer.version(), deleted);
    }
}

#[tokio::test]
async fn one_leads_and_both_see_everything() {
    let (leader, other) = pair().await;
    for round in 0..5 {
        share(&leader, &other, &format!("a{round}")).await;
        share(&other, &leader, &format!("b{round}")).await;
    }
    // The other one has not done the work a second time.
    assert_eq!(report(&other).await["rows_applied"], 0);
    for host in [&leader, &other] {
        host.region("here").get("/readyz").send().await.expect(200);
    }
}

#[tokio::test]
async fn when_the_leader_is_killed_the_other_takes_over() {
    let (leader, other) = pair().await;
    let setup = leader.setup().clone();
    leader.kill().await;
    let here = other.region("here");
    let version = here.write("after", "it").await;
    other.caught_up("here", version).await;
    says(here.get("/kv/after").send().await, "it", "HIT");
    assert!(report(&other).await["rows_applied"].as_u64().unwrap() > 0);
    ready(here).await;
    // The one that was killed comes back beside it.
    let back = setup.start().await;
    ready(back.region("here")).await;
    share(&back, &other, "both").await;
    assert_eq!(report(&back).await["rows_applied"], 0);
}

#[tokio::test]
async fn a_leader_that_stops_hands_over_at_once() {
    let (leader, other) = pair().await;
    assert!(leader.stop().await.success());
    let here = other.region("here");
    let version = here.write("after", "it").await;
    let hit = |answer: &tidepool_tests::Answer| answer.header("x-cache") == Some("HIT");
    let (answer, _) = until(here, "/kv/after", hit).await;
    assert_eq!(answer.version(), version);
    ready(here).await;
}

#[tokio::test]
async fn a_host_that_has_stopped_is_not_waited_for() {
    let (leader, other) = pair().await;
    assert!(leader.stop().await.success());
    let component = tidepool_tests::built::fixture("tagged-a");
    let done = other.deploy("get", &component, None).await;
    assert!(done["slots"][0]["live_ms"].is_number(), "{done:#}");
}

#[tokio::test]
async fn what_one_of_the_hosts_cannot_run_is_not_done() {
    let (database, redis) = (Database::new().await, Redis::start().await);
    let setup = || Setup::new().over("here", database.url(), &redis.url());
    let first = setup().environment("TIDEPOOL_SECRET_A", "a").start().await;
    let second = setup().start().await;
    ready(second.region("here")).await;
    let component = tidepool_tests::built::fixture("configured");
    let file = component.display().to_string();
    let mut deploy = vec!["deploy", "get", &file, "--config", "greeting=hi"];
    deploy.extend(["--secret", "key=env:TIDEPOOL_SECRET_A"]);
    // The second time there is nothing to do, and it is not done all the same.
    for says in [
        "revision 2  active (not all",
        "revision 2  active (nothing to do, and not",
    ] {
        let ran = first.cli(&deploy).await;
        let error = ran.refused(1);
        assert!(
            error.contains("cannot run it") && error.contains("TIDEPOOL_SECRET_A"),
            "{error}"
        );
        assert!(ran.stdout.contains(says), "{ran:?}");
    }
    assert_eq!(first.active("here", "get").await, 2);
}

#[tokio::test]
async fn a_leader_that_hangs_loses_the_lead_and_may_come_back() {
    let (leader, other) = pair().await;
    leader.signal("STOP").await;
    let here = other.region("here");
    let version = here.write("k", "new").await;
    other.caught_up("here", version).await;
    says(here.get("/kv/k").send().await, "new", "HIT");
    leader.signal("CONT").await;
    ready(leader.region("here")).await;
    // Whatever it still had in hand, nothing has gone back.
    for round in 0..5 {
        share(&leader, &other, &format!("c{round}")).await;
    }
    says(here.get("/kv/k").send().await, "new", "HIT");
}
