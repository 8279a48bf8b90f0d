//! `tidepool dev --watch`: a component in the folder is deployed, a broken one
//! is reported and changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tidepool_tests::command::{self, Running};
use tidepool_tests::{REGIONS, Server, Setup, built};

use crate::tag;

/// A server that watches a folder, and the folder.
async fn watching() -> (Server, PathBuf) {
    let setup = Setup::new();
    let folder = setup.folder().join("built");
    fs::create_dir(&folder).unwrap();
    let watch = folder.display().to_string();
    let server = setup.arguments(&["--watch", &watch]).start().await;
    (server, folder)
}

/// Puts a file in place in one step, as a build tool does.
fn place(source: &Path, target: &Path) {
    let partial = target.with_extension("partial");
    fs::copy(source, &partial).unwrap();
    fs::rename(&partial, target).unwrap();
}

#[tokio::test]
async fn a_rebuilt_component_is_live_within_a_second() {
    let (server, folder) = watching().await;
    let here = server.region("us-east-1").clone();
    let mut fastest = Duration::MAX;
    for (round, build) in ["a", "b", "a"].into_iter().enumerate() {
        let start = Instant::now();
        place(
            &built::fixture(&format!("tagged-{build}")),
            &folder.join("get.wasm"),
        );
        let deployed = ["deployed a rebuilt component", "get.wasm"];
        server.log().lines(round + 1, &deployed).await;
        // Step by step, and a component that is loaded already has fewer of them.
        assert_eq!(server.log().count(&["live", "get.wasm"]), 3 * (round + 1));
        let tested = server.log().count(&["self-test", "get.wasm", "ms="]);
        assert_eq!(tested, (round + 1).min(2));
        fastest = fastest.min(start.elapsed());
        for region in REGIONS {
            let tag = tag(server.region(region)).await;
            assert_eq!(tag.as_deref(), Some(build), "{region}");
        }
        assert_eq!(server.active("us-east-1", "get").await, round as u64 + 2);
    }
    // Of three, so that a machine busy with other tests can be slow once.
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
    let by = &server.revisions("us-east-1", "get").await[0]["deployed_by"];
    assert_eq!(by, "watch");
    here.write("k", "v").await;
}

#[tokio::test]
async fn a_broken_component_is_reported_and_changes_nothing() {
    let (server, folder) = watching().await;
    let get = folder.join("get.wasm");
    place(&built::fixture("tagged-a"), &get);
    server.log().line(&["deployed a rebuilt component"]).await;

    let refused = |count| {
        let log = server.log().clone();
        async move {
            let texts = ["ERROR", "get.wasm", "not deployed, nothing has changed"];
            log.lines(count, &texts).await;
        }
    };
    fs::write(&get, "not wasm at all").unwrap();
    refused(1).await;
    place(&built::fixture("wrong-world"), &get);
    refused(2).await;
    place(&built::fixture("trap-always"), &get);
    refused(3).await;
    let whole = built::bytes(&built::fixture("tagged-b"));
    fs::write(&get, &whole[..whole.len() / 2]).unwrap();
    refused(4).await;
    for region in REGIONS {
        assert_eq!(server.active(region, "get").await, 2, "{region}");
        let tag = tag(server.region(region)).await;
        assert_eq!(tag.as_deref(), Some("a"), "{region}");
    }
    // The rest of it comes, and it is whole.
    fs::write(&get, &whole).unwrap();
    let deployed = ["deployed a rebuilt component"];
    server.log().lines(2, &deployed).await;
    let tag = tag(server.region("eu-west-1")).await;
    assert_eq!(tag.as_deref(), Some("b"));
}

#[tokio::test]
async fn what_was_deployed_before_is_left_alone_at_the_next_start() {
    let (server, folder) = watching().await;
    let (get, tagged) = (folder.join("get.wasm"), built::fixture("tagged-a"));
    place(&tagged, &get);
    server.log().line(&["deployed a rebuilt component"]).await;
    server.cli(&["rollback", "get"]).await.success();
    let setup = server.setup().clone();
    assert!(server.stop().await.success());

    // This one was built while nobody looked.
    let hydrate = folder.join("hydrate.wasm");
    place(&built::fixture("hydrate-evict"), &hydrate);
    let server = setup.start().await;
    let (left, deployed) = ("left alone", "deployed a rebuilt component");
    server.log().line(&[left, "get.wasm"]).await;
    server.log().line(&[deployed, "hydrate.wasm"]).await;
    for region in REGIONS {
        assert_eq!(server.active(region, "get").await, 1, "{region}");
        assert_eq!(server.active(region, "hydrate").await, 2, "{region}");
        assert_eq!(tag(server.region(region)).await, None, "{region}");
    }
    // Built again, though it comes to the same bytes, it is meant to run.
    place(&tagged, &get);
    server.log().line(&[deployed, "get.wasm"]).await;
    assert_eq!(tag(server.region("eu-west-1")).await.as_deref(), Some("a"));
    assert_eq!(server.log().count(&[left]), 1);
}

#[tokio::test]
async fn what_has_no_end_or_is_too_large_is_refused_once_and_stops_nothing() {
    let (server, folder) = watching().await;
    let mkfifo = Command::new("mkfifo").arg(folder.join("put.wasm")).status();
    assert!(mkfifo.unwrap().success());
    // It has holes only: it takes no room, and would take long to be read.
    let sparse = folder.join("sparse");
    let file = fs::File::create(&sparse).unwrap();
    file.set_len(1_500_000_000).unwrap();
    fs::rename(&sparse, folder.join("delete.wasm")).unwrap();
    let no_file = ["ERROR", "put.wasm", "is no regular file"];
    let too_large = ["ERROR", "delete.wasm", "handlers.max_component_bytes"];
    server.log().line(&no_file).await;
    server.log().line(&too_large).await;

    // The folder is still looked at.
    place(&built::fixture("tagged-a"), &folder.join("get.wasm"));
    let deployed = ["deployed a rebuilt component", "get.wasm"];
    server.log().line(&deployed).await;
    for refused in [no_file, too_large] {
        assert_eq!(server.log().count(&refused), 1, "{refused:?}");
    }
    for operation in ["put", "delete"] {
        let active = server.active("us-east-1", operation).await;
        assert_eq!(active, 1, "{operation}");
    }
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_folder_that_goes_away_is_looked_for_until_it_is_back() {
    let (server, folder) = watching().await;
    let get = folder.join("get.wasm");
    for (round, build) in ["a", "b"].into_iter().enumerate() {
        place(&built::fixture(&format!("tagged-{build}")), &get);
        let deployed = ["deployed a rebuilt component"];
        server.log().lines(round + 1, &deployed).await;
        let tag = tag(server.region("eu-west-1")).await;
        assert_eq!(tag.as_deref(), Some(build));
        // As `cargo clean` does, and the next build.
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
    }
}

#[tokio::test]
async fn the_banner_says_which_folder_is_watched() {
    let setup = Setup::new();
    let folder = setup.folder().display().to_string();
    let mut dev = command::command(&built::binary());
    dev.args(["dev", "--admin-listen", "127.0.0.1:0"]);
    dev.args(["--region", "r=127.0.0.1:0", "--watch", &folder, "--data"]);
    let dev = Running::start(dev.arg(setup.data()));
    dev.out().line(&["watching ", &folder]).await;
    dev.out().line(&["Ctrl-C"]).await;
    dev.interrupt().await;
    assert_eq!(dev.ended().await.code, Some(0));
}

#[tokio::test]
async fn only_the_four_operations_are_watched() {
    let (server, folder) = watching().await;
    let tagged = built::fixture("tagged-a");
    for other in ["list.wasm", "GET.wasm", "get.txt", "get.wasm.bak"] {
        place(&tagged, &folder.join(other));
    }
    fs::create_dir(folder.join("put.wasm")).unwrap();
    // A look at the folder that comes after them has passed them over.
    place(
        &built::fixture("hydrate-evict"),
        &folder.join("hydrate.wasm"),
    );
    let deployed = ["deployed a rebuilt component", "hydrate.wasm"];
    server.log().line(&deployed).await;
    for (operation, revision) in [("get", 1), ("put", 1), ("delete", 1), ("hydrate", 2)] {
        let active = server.active("us-east-1", operation).await;
        assert_eq!(active, revision, "{operation}");
    }
    server.region("us-east-1").write("k", "v").await;
}
