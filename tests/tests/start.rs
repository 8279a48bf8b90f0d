//! Starting: what cannot work is refused with its exit code and one line that
//! says what to do, and what was there is left as it was.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tidepool_tests::{Ran, Server, Setup, built, command};

/// A token for the admin plane.
const TOKEN: &str = "0123456789abcdef-token";

/// Every file below a folder with its bytes, without the lock file: a refused
/// start may leave one.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("tidepool.lock") {
                let bytes = built::bytes(&path);
                found.insert(path, bytes);
            }
        }
    }
    found
}

/// Asserts that everything in the folder of a server is as it was.
#[track_caller]
fn left_alone(setup: &Setup, before: &BTreeMap<PathBuf, Vec<u8>>, ran: &Ran) {
    let after = files(setup.folder());
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&after), names(before), "{ran:#?}");
    assert!(after == *before, "a file was changed: {ran:#?}");
}

/// Asserts that a start is refused with this exit code, by a line with all of
/// these texts, and that nothing has changed.
async fn refuses(setup: &Setup, code: i32, says: &[&str]) {
    let before = files(setup.folder());
    let ran = setup.run().await;
    let line = ran.refused(code);
    for text in says {
        assert!(line.contains(text), "no {text:?} in: {line}");
    }
    assert_eq!(ran.stdout, "", "nothing runs, so nothing is announced");
    left_alone(setup, &before, &ran);
}

/// A data folder in which a key was written, by a server that has stopped.
async fn written() -> Setup {
    let server = Server::start().await;
    for n in 0..200 {
        let key = format!("key-{n}");
        server
            .region("us-east-1")
            .write(&key, &"x".repeat(500))
            .await;
    }
    let setup = server.setup().clone();
    assert!(server.stop().await.success());
    setup
}

#[tokio::test]
async fn a_data_folder_that_is_a_file() {
    let setup = Setup::new();
    std::fs::write(setup.data(), "mine").expect("a file");
    refuses(&setup, 1, &["is not a folder", "--data"]).await;
    let below = setup.data().join("deeper");
    refuses(&setup.data_at(&below), 1, &["is not a folder", "--data"]).await;
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_made() {
    let setup = Setup::new();
    // Longer than any file system allows.
    let name = setup.folder().join("n".repeat(300));
    let setup = setup.data_at(&name);
    refuses(&setup, 1, &["cannot be opened", "--data"]).await;
}

#[tokio::test]
async fn a_data_folder_that_may_not_be_written() {
    let setup = Setup::new();
    let binary = setup.folder().join("tidepool");
    std::fs::copy(built::binary(), &binary).expect("a copy of the binary");
    let read_only = std::fs::Permissions::from_mode(0o555);
    std::fs::set_permissions(setup.folder(), read_only).expect("a read-only folder");
    let mut dev = command::command(&binary);
    dev.args(["dev", "--admin-listen", "127.0.0.1:0"]);
    dev.args(["--region", "r=127.0.0.1:0", "--data"]);
    dev.arg(setup.data()).current_dir(setup.folder());
    let folder = std::fs::metadata(setup.folder()).expect("a folder");
    if folder.uid() == 0 {
        // To root nothing is read-only: run it as somebody who has nothing.
        dev.uid(65534);
    }
    let ran = command::run_to_end(&mut dev).await;
    let line = ran.refused(1);
    assert!(line.contains("cannot be written"), "{line}");
    assert!(line.contains("permissions"), "{line}");
    assert!(!setup.data().exists());
}

#[tokio::test]
async fn a_data_folder_that_another_tidepool_has() {
    let server = Server::start().await;
    let version = server.region("us-east-1").write("key", "value").await;
    let ran = server.setup().run().await;
    let line = ran.refused(1);
    assert!(line.contains("in use by another tidepool"), "{line}");
    // The one that runs has not noticed.
    let answer = server.region("eu-west-1").get("/kv/key");
    let answer = answer.header("tidepool-consistency", "log").send().await;
    assert_eq!(answer.expect(200).version(), version);
    server.region("us-east-1").write("key", "again").await;
}

#[tokio::test]
async fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let setup = Setup::new();
    let region = setup.clone().region_at(&format!("r={address}"));
    let says = ["cannot listen on", &address, "choose another port"];
    refuses(&region, 1, &says).await;
    refuses(&setup.clone().admin_at(&address), 1, &says).await;
    assert!(!setup.data().exists(), "a folder was made for nothing");
    // Whoever has the port still gets its connections.
    let _connection = std::net::TcpStream::connect(&address).expect("a connection");
    taken.accept().expect("the connection");
}

#[tokio::test]
async fn what_is_made_is_for_nobody_else_and_what_is_there_stays_as_it_is() {
    let mode = |path: &Path| {
        let about = std::fs::metadata(path).expect("what was made");
        about.permissions().mode() & 0o777
    };
    let made = Setup::new();
    let existing = Setup::new();
    std::fs::create_dir(existing.data()).expect("a folder");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(existing.data(), open).expect("an open folder");
    for (setup, folder) in [(made, 0o700), (existing, 0o755)] {
        let server = setup.start().await;
        server.region("us-east-1").write("key", "value").await;
        assert_eq!(mode(setup.data()), folder);
        for name in ["tidepool.db", "tidepool.db-wal", "tidepool.db-shm"] {
            assert_eq!(mode(&setup.data().join(name)), 0o600, "{name}");
        }
        let open = std::fs::Permissions::from_mode(0o640);
        let database = setup.data().join("tidepool.db");
        assert!(server.stop().await.success());
        std::fs::set_permissions(&database, open).expect("an opened database");
        let _server = setup.start().await;
        assert_eq!(mode(&database), 0o640, "it was changed");
    }
}

#[tokio::test]
async fn a_folder_to_watch_that_is_none() {
    let setup = Setup::new();
    let (missing, file) = (setup.folder().join("missing"), setup.folder().join("file"));
    std::fs::write(&file, "mine").expect("a file");
    // It is said before anything is bound.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for folder in [missing, file] {
        let folder = folder.to_str().expect("a name");
        let watching = setup.clone().admin_at(&address);
        let watching = watching.arguments(&["--watch", folder]);
        refuses(&watching, 1, &["cannot watch", folder, "--watch"]).await;
    }
    assert!(!setup.data().exists(), "a folder was made for nothing");
}

#[tokio::test]
async fn a_database_that_is_none() {
    for (bytes, what) in [
        (b"not a database, but somebody's notes".repeat(10), "text"),
        (vec![0; 8192], "zeros"),
        (b"SQLite format 3\0".to_vec(), "cut in its header"),
    ] {
        let setup = Setup::new();
        std::fs::create_dir(setup.data()).expect("a folder");
        let file = setup.data().join("tidepool.db");
        std::fs::write(&file, &bytes).expect(what);
        refuses(&setup, 1, &["tidepool.db", "is damaged", "restore"]).await;
    }
}

#[tokio::test]
async fn a_database_with_damaged_pages() {
    let setup = written().await;
    let file = setup.data().join("tidepool.db");
    let whole = built::bytes(&file);
    assert!(whole.len() > 100_000, "{} bytes", whole.len());

    let mut damaged = whole.clone();
    let end = damaged.len();
    damaged[8192..end / 2].fill(0xa5);
    std::fs::write(&file, &damaged).expect("a damaged file");
    refuses(&setup, 1, &["tidepool.db", "is damaged", "restore"]).await;

    std::fs::write(&file, &whole[..end / 2]).expect("a cut file");
    refuses(&setup, 1, &["tidepool.db", "is damaged", "restore"]).await;

    // Restored from a copy, as the line says.
    std::fs::write(&file, &whole).expect("a whole file");
    let server = setup.start().await;
    let answer = server.region("us-west-1").get("/kv/key-0");
    answer.send().await.expect(200);
}

#[tokio::test]
async fn a_damaged_database_keeps_its_write_ahead_log() {
    let server = Server::start().await;
    server.region("us-east-1").write("key", "value").await;
    let setup = server.setup().clone();
    server.kill().await;
    let log = setup.data().join("tidepool.db-wal");
    let rows = built::bytes(&log);
    assert!(!rows.is_empty(), "the row is in the write-ahead log");
    let file = setup.data().join("tidepool.db");
    let main = built::bytes(&file);
    std::fs::write(&file, vec![0x5a; main.len().max(8192)]).expect("a damaged file");
    let ran = setup.run().await;
    assert!(ran.refused(1).contains("is damaged"), "{ran:#?}");
    assert_eq!(built::bytes(&log), rows, "what could be rescued is gone");
    // Restored from a copy, the row is there.
    std::fs::write(&file, main).expect("a whole file");
    let server = setup.start().await;
    let answer = server.region("us-east-1").get("/kv/key").send().await;
    assert_eq!(answer.expect(200).json()["value"], "value");
}

#[tokio::test]
async fn a_database_of_another_program() {
    let setup = Setup::new();
    std::fs::create_dir(setup.data()).expect("a folder");
    let other = Connection::open(setup.data().join("tidepool.db")).expect("a database");
    let made =
        other.execute_batch("CREATE TABLE songs (title TEXT); INSERT INTO songs VALUES ('x')");
    made.expect("a table");
    drop(other);
    refuses(&setup, 1, &["of another program", "--data"]).await;
}

#[tokio::test]
async fn a_database_of_a_newer_tidepool() {
    let setup = written().await;
    let database = Connection::open(setup.data().join("tidepool.db")).expect("a database");
    let known: i64 = database
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .expect("a schema");
    database
        .pragma_update(None, "user_version", known + 1)
        .expect("a newer schema");
    drop(database);
    refuses(
        &setup,
        1,
        &["newer tidepool", &format!("schema {}", known + 1)],
    )
    .await;
}

#[tokio::test]
async fn an_unknown_flag() {
    let setup = Setup::new();
    let flag = setup.clone().arguments(&["--dta", "x"]);
    refuses(&flag, 2, &["--dta", "--data", "tidepool --help"]).await;
    refuses(&setup.clone().set("limits.cpu"), 2, &["key=value"]).await;
    let command = command::run(["srve"]).await;
    assert!(command.refused(2).contains("srve"), "{command:#?}");
}

#[tokio::test]
async fn an_unknown_setting_names_the_nearest() {
    let setup = Setup::new();
    let nearest = "did you mean `limits.cpu`?";
    refuses(
        &setup.clone().set("limits.cpuu=1s"),
        2,
        &["`limits.cpuu`", nearest],
    )
    .await;

    let file = setup.folder().join("settings.toml");
    std::fs::write(&file, "[limits]\ncpuu = \"1s\"\n").expect("a file");
    let name = file.to_str().expect("a name");
    let from_file = setup.clone().arguments(&["--config", name]);
    refuses(&from_file, 1, &[name, "`limits.cpuu`", nearest]).await;

    let variable = setup.clone().environment("TIDEPOOL_LIMITS_CPUU", "1s");
    refuses(
        &variable,
        1,
        &["TIDEPOOL_LIMITS_CPUU", "`TIDEPOOL_LIMITS_CPU`?"],
    )
    .await;
}

#[tokio::test]
async fn a_setting_that_cannot_be_read_or_cannot_work() {
    let setup = Setup::new();
    let variable = setup.clone().environment("TIDEPOOL_LIMITS_CPU", "soon");
    refuses(&variable, 1, &["TIDEPOOL_LIMITS_CPU", "limits.cpu", "soon"]).await;
    refuses(
        &setup.clone().set("log.max_queue=many"),
        2,
        &["log.max_queue", "`many`"],
    )
    .await;
    refuses(
        &setup.clone().set("handlers.keep_revisions=1"),
        1,
        &["handlers.keep_revisions"],
    )
    .await;

    let file = setup.folder().join("settings.toml");
    let name = file.to_str().expect("a name").to_owned();
    let from_file = setup.arguments(&["--config", &name]);
    refuses(&from_file, 1, &["cannot read the configuration", &name]).await;
    std::fs::write(&file, "[limits]\ncpu = \n").expect("a file");
    refuses(&from_file, 1, &[&name, "line 2"]).await;
}

#[tokio::test]
async fn settings_that_were_printed_can_be_started_with() {
    let printed = command::run(["config", "print"]).await;
    let setup = Setup::new();
    let file = setup.folder().join("settings.toml");
    std::fs::write(&file, printed.success()).expect("a file");
    let file = file.to_str().expect("a name");
    let server = setup.environment("TIDEPOOL_CONFIG", file).start().await;
    server.region("us-east-1").write("key", "value").await;
}

#[tokio::test]
async fn an_admin_plane_for_everybody_needs_a_token() {
    let open = Setup::new().admin_at("0.0.0.0:0");
    refuses(&open, 1, &["admin.listen", "TIDEPOOL_ADMIN_TOKEN"]).await;
    let short = open.clone().environment("TIDEPOOL_ADMIN_TOKEN", "secret");
    let ran = short.run().await;
    assert!(ran.refused(1).contains("at least 16 bytes"), "{ran:#?}");
    assert!(!ran.stderr.contains("secret"), "{ran:#?}");
    let guarded = open.environment("TIDEPOOL_ADMIN_TOKEN", TOKEN);
    guarded.start().await;
}

#[tokio::test]
async fn a_token_that_is_set_has_to_be_sent() {
    let setup = Setup::new().environment("TIDEPOOL_ADMIN_TOKEN", TOKEN);
    let server = setup.start().await;
    let wrong = format!("Bearer {}x", &TOKEN[1..]);
    let basic = format!("Basic {TOKEN}");
    for path in ["/v1/handlers", "/v1/regions"] {
        server
            .admin()
            .get(path)
            .send()
            .await
            .problem(401, "unauthorized");
        for sent in [
            &*wrong,
            &basic,
            "Bearer",
            "Bearer ",
            &format!("Bearer {TOKEN} ")[..10],
        ] {
            let answer = server.admin().get(path).header("authorization", sent);
            let answer = answer.send().await;
            answer.problem(401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
        let right = server.admin().get(path);
        let right = right.header("authorization", format!("Bearer {TOKEN}"));
        right.send().await.expect(200);
    }
    let deploy = server.admin().post("/v1/handlers/get");
    let deploy = deploy.body(built::bytes(&built::guest("get")));
    let answer = deploy.send().await;
    answer.problem(401, "unauthorized");
    // The component was not read, so nothing can follow it.
    assert_eq!(answer.header("connection"), Some("close"));
    // Probes have no token, and data planes ask for none.
    server.admin().get("/healthz").send().await.expect(200);
    server.region("us-east-1").write("key", "value").await;

    let ran = server.cli(&["handlers"]).await;
    assert!(ran.refused(1).contains("--token"), "{ran:#?}");
    server
        .cli(&["handlers", "--token", &wrong])
        .await
        .refused(1);
    server.cli(&["handlers", "--token", TOKEN]).await.success();
    assert!(!server.log().text().contains(TOKEN), "it is in the log");
}

#[tokio::test]
async fn the_binary_runs_alone_in_another_folder() {
    let setup = Setup::new();
    let binary = setup.folder().join("tidepool");
    std::fs::copy(built::binary(), &binary).expect("a copy of the binary");
    // A data folder that is relative, as the default is.
    let setup = setup.binary(&binary).data_at(Path::new("here/data"));
    let server = setup.start().await;
    assert!(setup.folder().join("here/data/tidepool.db").is_file());
    let version = server.region("us-east-1").write("key", "value").await;
    server.caught_up("eu-west-1", version).await;
    server
        .region("eu-west-1")
        .get("/kv/key")
        .send()
        .await
        .expect(200);
    server.region("eu-west-1").remove("key").await;
    server.cli(&["handlers"]).await.success();
    assert!(server.stop().await.success());
}
