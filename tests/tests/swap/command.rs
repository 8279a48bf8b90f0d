//! `tidepool deploy`, `handlers` and `rollback` against a running server.

use std::path::Path;

use serde_json::Value;
use tidepool_tests::{REGIONS, Server, command};

use crate::{fixture, tag};

/// Asserts which tags the three regions answer with.
async fn tags(server: &Server, expected: [Option<&str>; 3]) {
    for (region, expected) in REGIONS.into_iter().zip(expected) {
        let found = tag(server.region(region)).await;
        assert_eq!(found.as_deref(), expected, "{region}");
    }
}

/// The lines of a listing that have all of these words.
fn lines(listing: &str, words: &[&str]) -> usize {
    let has = |line: &&str| {
        let cells: Vec<_> = line.split_whitespace().collect();
        words.iter().all(|word| cells.contains(word))
    };
    listing.lines().filter(has).count()
}

/// What a deployment did, by its last line of JSON.
fn done(printed: &str) -> Value {
    let last: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    last["done"].clone()
}

#[tokio::test]
async fn a_deploy_to_one_region_changes_that_region_only() {
    let server = Server::start().await;
    tags(&server, [None, None, None]).await;
    let tagged = fixture("tagged-a");
    let ran = server
        .cli(&["deploy", "get", &tagged, "--region", "us-east-1"])
        .await;
    let said = ran.success();
    assert_eq!(lines(said, &["us-east-1", "2", "active"]), 1, "{said}");
    assert_eq!(lines(said, &["us-west-1"]), 0, "{said}");
    tags(&server, [Some("a"), None, None]).await;
    for (region, expected) in REGIONS.into_iter().zip([2, 1, 1]) {
        assert_eq!(server.active(region, "get").await, expected, "{region}");
        assert_eq!(server.active(region, "put").await, 1, "{region}");
    }
    // The default handlers of the others still do their work.
    let version = server.region("us-west-1").write("k", "v").await;
    server.caught_up("us-west-1", version).await;
    let answer = server.region("us-west-1").get("/kv/k").send().await;
    assert_eq!(answer.expect(200).json()["value"], "v");
}

#[tokio::test]
async fn a_deploy_without_a_region_changes_all() {
    let server = Server::start().await;
    let ran = server.cli(&["deploy", "get", &fixture("tagged-b")]).await;
    let said = ran.success();
    for region in REGIONS {
        assert_eq!(lines(said, &[region, "2", "active"]), 1, "{said}");
    }
    tags(&server, [Some("b"), Some("b"), Some("b")]).await;
}

#[tokio::test]
async fn handlers_lists_what_every_slot_runs_and_ran() {
    let server = Server::start().await;
    server
        .cli(&["deploy", "get", &fixture("tagged-a")])
        .await
        .success();
    server.region("us-east-1").get("/kv/k").send().await;
    let ran = server.cli(&["handlers"]).await;
    let listing = ran.success();
    assert_eq!(listing.lines().count(), 1 + 12, "{listing}");
    for region in REGIONS {
        for operation in ["get", "put", "delete", "hydrate"] {
            let revision = if operation == "get" { "2" } else { "1" };
            let words = [region, operation, revision, "active"];
            assert_eq!(lines(listing, &words), 1, "{words:?}: {listing}");
        }
    }
    let ran = server.cli(&["handlers", "--all"]).await;
    let listing = ran.success();
    let old = lines(listing, &["get", "1", "built-in"]);
    assert_eq!(old, 3, "{listing}");
    // As JSON it is the document of the admin plane.
    let ran = server.cli(&["handlers", "--json"]).await;
    let document: Value = serde_json::from_str(ran.success()).unwrap();
    let handlers = document["handlers"].as_array().unwrap();
    assert_eq!(handlers.len(), 15);
    let newest = server.revisions("us-east-1", "get").await.remove(0);
    assert_eq!(newest["calls"], 1);
    assert_eq!(newest["failures"], 0);
    let by = newest["deployed_by"].as_str().unwrap();
    assert!(by.contains('@'), "{by}");
    let digest = newest["digest"].as_str().unwrap();
    assert!(digest.starts_with("sha256:") && digest.len() == 71);
    let short = &digest[7..19];
    assert_eq!(lines(listing, &["us-east-1", "get", "2", short]), 1);
}

#[tokio::test]
async fn a_rollback_returns_to_the_revision_before() {
    let server = Server::start().await;
    for tagged in ["tagged-a", "tagged-b"] {
        let tagged = fixture(tagged);
        server.cli(&["deploy", "get", &tagged]).await.success();
    }
    let in_west = ["rollback", "get", "--region", "us-west-1"];
    let ran = server.cli(&in_west).await;
    assert!(ran.success().contains("revision 3 -> 2"), "{ran:#?}");
    tags(&server, [Some("b"), Some("a"), Some("b")]).await;
    // Again: one further back.
    let ran = server.cli(&in_west).await;
    assert!(ran.success().contains("revision 2 -> 1"), "{ran:#?}");
    tags(&server, [Some("b"), None, Some("b")]).await;
    // There is nothing before the first.
    let ran = server.cli(&in_west).await;
    assert!(ran.refused(1).contains("before 1"), "{ran:#?}");
    // In all regions, each from where it is: one of them has nothing before.
    let ran = server.cli(&["rollback", "get"]).await;
    ran.refused(1);
    tags(&server, [Some("b"), None, Some("b")]).await;
}

#[tokio::test]
async fn a_rollback_goes_to_any_revision_also_a_later_one() {
    let server = Server::start().await;
    for tagged in ["tagged-a", "tagged-b"] {
        let tagged = fixture(tagged);
        server.cli(&["deploy", "get", &tagged]).await.success();
    }
    let to = |revision: &'static str| ["rollback", "get", "--to", revision];
    server.cli(&to("1")).await.success();
    tags(&server, [None, None, None]).await;
    server.cli(&to("3")).await.success();
    tags(&server, [Some("b"), Some("b"), Some("b")]).await;
    let in_east = ["rollback", "get", "--to", "2", "--region", "us-east-1"];
    server.cli(&in_east).await.success();
    tags(&server, [Some("a"), Some("b"), Some("b")]).await;
    for revision in ["4", "99"] {
        let ran = server.cli(&to(revision)).await;
        let line = ran.refused(1);
        assert!(line.contains("handlers --all"), "{line}");
    }
    tags(&server, [Some("a"), Some("b"), Some("b")]).await;
    // The next deployment gets a number that was never used.
    let deploy = ["deploy", "get", &fixture("stateful"), "--json"];
    let ran = server.cli(&deploy).await;
    for slot in done(ran.success())["slots"].as_array().unwrap() {
        assert_eq!(slot["revision"], 4);
    }
}

#[tokio::test]
async fn a_deploy_of_what_runs_already_changes_nothing_and_says_so() {
    let server = Server::start().await;
    let tagged = fixture("tagged-a");
    server
        .cli(&["deploy", "get", &tagged, "--region", "us-east-1"])
        .await
        .success();
    let before = server.revisions("us-east-1", "get").await;
    let ran = server.cli(&["deploy", "get", &tagged]).await;
    let said = ran.success();
    assert_eq!(said.matches("ran it already").count(), 1, "{said}");
    let ran = server.cli(&["deploy", "get", &tagged, "--json"]).await;
    for slot in done(ran.success())["slots"].as_array().unwrap() {
        assert_eq!(slot["unchanged"], true, "{slot}");
        assert_eq!(slot["revision"], 2, "{slot}");
    }
    let after = server.revisions("us-east-1", "get").await;
    assert_eq!(before.len(), after.len());
    assert_eq!(before[0]["deployed_at"], after[0]["deployed_at"]);
}

#[tokio::test]
async fn what_has_no_end_or_is_too_large_is_not_read() {
    let folder = tempfile::TempDir::new().unwrap();
    let (fifo, sparse) = (folder.path().join("fifo"), folder.path().join("sparse"));
    let mkfifo = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(mkfifo.unwrap().success());
    let file = std::fs::File::create(&sparse).unwrap();
    file.set_len(1_500_000_000).unwrap();
    for (file, says) in [
        (Path::new("/dev/zero"), "is no regular file"),
        (&fifo, "is no regular file"),
        (&sparse, "handlers.max_component_bytes"),
    ] {
        let name = file.to_str().unwrap();
        // It is said before anybody is asked.
        let nobody = ["deploy", "get", name, "--admin", "http://127.0.0.1:1"];
        for arguments in [&nobody[..], &["check", name, "--operation", "get"]] {
            let ran = command::run(arguments).await;
            let line = ran.refused(1);
            assert!(line.contains(name) && line.contains(says), "{line}");
        }
    }
}

#[tokio::test]
async fn a_refusal_is_json_where_json_is_wanted() {
    let server = Server::start().await;
    let tagged = fixture("tagged-a");
    for (refused, says) in [
        (&["rollback", "get", "--to", "9"][..], "conflict"),
        (&["promote", "get"], "conflict"),
        (&["abort", "get"], "conflict"),
        (
            &["deploy", "get", &tagged, "--region", "nowhere"],
            "no-such-path",
        ),
        // This one is refused on the way.
        (&["deploy", "put", &tagged], "unprocessable"),
    ] {
        let ran = server.cli(&[refused, &["--json"]].concat()).await;
        let line = ran.refused(1);
        let last = ran.stdout.lines().last().unwrap_or_default();
        let document: Value = serde_json::from_str(last).unwrap();
        let problem = &document["problem"];
        assert_eq!(problem["type"], format!("/problems/{says}"), "{ran:#?}");
        // What people read says the same.
        let title = problem["title"].as_str().unwrap();
        assert!(line.starts_with(title), "{line}");
        let people = server.cli(refused).await;
        assert_eq!(people.refused(1), line);
    }
}

#[tokio::test]
async fn a_wrong_command_line_is_exit_code_2() {
    let tagged = fixture("tagged-a");
    // Nobody is asked.
    let deploy = ["deploy", "get", &tagged, "--admin", "http://127.0.0.1:1"];
    let check = ["check", &tagged, "--operation", "get"];
    for (wrong, says) in [
        (&["--config", "foo"][..], "NAME=VALUE"),
        (&["--config", "a=b", "--unset", "a"], "named twice"),
        (&["--secret", "s=foo"], "foo"),
        (&["--secret", "a=env:HOME"], "env:HOME"),
    ] {
        for command in [&deploy[..], &check[..]] {
            let ran = command::run([command, wrong].concat()).await;
            let line = ran.refused(2);
            assert!(line.contains(says), "{line}");
        }
    }
    for set in ["foo=1", "limits.cpu=soon"] {
        let ran = command::run([&check[..], &["--set", set]].concat()).await;
        let line = ran.refused(2);
        assert!(line.contains("command line: "), "{line}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_exit_code_3() {
    let ran = command::run(["handlers", "--admin", "http://127.0.0.1:1"]).await;
    let line = ran.refused(3);
    assert!(line.contains("127.0.0.1:1"), "{line}");
}
