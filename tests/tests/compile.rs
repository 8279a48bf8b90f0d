//! Compiling away from what serves: bounds on it, what is kept of it on disk,
//! and `tidepool check`, which does all of it without a server.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tidepool_tests::{Server, Setup, built, command};

/// What is logged for each compilation, and for nothing else.
const COMPILED: &[&str] = &["compiled a component"];

/// The handlers that a start loads.
const BUILT_IN: usize = 4;

/// The same component under another digest: with a custom section of its own.
fn variant(component: &[u8], n: u64) -> Vec<u8> {
    // Section 0, ten bytes long, a name of one byte and eight bytes of content.
    [component, &[0, 10, 1, b'n'], &n.to_le_bytes()].concat()
}

async fn deploy(server: &Server, component: Vec<u8>) {
    let call = server.admin().post("/v1/handlers/get?region=us-east-1");
    call.body(component).send().await.expect(200);
}

/// Deploys what has not been compiled before, and counts the compilations since
/// the start until then, without it. The log has its lines in their order.
async fn compilations(server: &Server, n: u64) -> usize {
    let before = server.log().count(&["now serving"]);
    deploy(server, variant(&built::bytes(&built::guest("get")), n)).await;
    server.log().lines(before + 1, &["now serving"]).await;
    server.log().count(COMPILED) - 1
}

/// The compiled components on disk.
fn kept(setup: &Setup) -> Vec<PathBuf> {
    let files = setup.data().join("compiled").read_dir().unwrap();
    let files = files.map(|file| file.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|it| it == "cwasm"))
        .collect()
}

fn damage(file: &Path) {
    let mut bytes = built::bytes(file);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn a_restart_compiles_only_what_is_damaged() {
    let server = Server::start().await;
    let setup = server.setup().clone();
    assert_eq!(compilations(&server, 1).await, BUILT_IN);
    assert_eq!(kept(&setup).len(), BUILT_IN + 1);

    server.stop().await;
    let server = setup.start().await;
    assert_eq!(compilations(&server, 2).await, 0);
    // What is kept is found for whoever deploys it, too.
    deploy(&server, variant(&built::bytes(&built::guest("get")), 1)).await;
    assert_eq!(server.log().count(COMPILED), 1);

    server.stop().await;
    kept(&setup).iter().for_each(|file| damage(file));
    let server = setup.start().await;
    // The handlers of four operations, the other `get` of a region, and what that has
    // replaced, which may have to run again.
    assert_eq!(compilations(&server, 3).await, BUILT_IN + 2);
    assert_eq!(server.log().count(&["is damaged"]), BUILT_IN + 2);
    server.region("eu-west-1").write("key", "value").await;

    server.stop().await;
    let server = setup.start().await;
    assert_eq!(compilations(&server, 4).await, 0);
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_costs_only_what_it_would_have_saved() {
    let setup = Setup::new();
    std::fs::create_dir(setup.data()).unwrap();
    std::fs::write(setup.data().join("compiled"), b"a file").unwrap();
    let server = setup.start().await;
    server
        .log()
        .line(&["WARN", "compiled components cannot be kept"])
        .await;
    assert_eq!(compilations(&server, 1).await, BUILT_IN);
}

#[tokio::test]
async fn another_version_on_disk_does_not_compile_for_a_host_that_runs() {
    let setup = Setup::new();
    let binary = setup.folder().join("tidepool");
    std::fs::copy(built::binary(), &binary).unwrap();
    let server = setup.binary(&binary).start().await;
    std::fs::remove_file(&binary).unwrap();
    std::fs::write(&binary, b"another version").unwrap();
    assert_eq!(compilations(&server, 1).await, BUILT_IN);
}

/// A number as WebAssembly has it.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &leb(content.len()), content].concat()
}

/// A component of one core module, whose functions each add up so many numbers.
fn sums(functions: usize, numbers: usize) -> Vec<u8> {
    // One local, an i32.
    let mut body = vec![1, 1, 0x7f];
    for n in 0..numbers {
        // local.get 0, local.get 0, i32.const, i32.mul, i32.add, local.set 0
        body.extend([0x20, 0, 0x20, 0, 0x41]);
        body.extend(leb(0x10_0000 + n % 0x1000));
        body.extend([0x6c, 0x6a, 0x21, 0]);
    }
    body.push(0x0b);
    let body = [leb(body.len()), body].concat();
    let count = leb(functions);
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        // Of no parameters and no results.
        section(1, &[1, 0x60, 0, 0]),
        section(3, &[count.clone(), vec![0; functions]].concat()),
        section(10, &[count, body.repeat(functions)].concat()),
    ]
    .concat();
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, &module)].concat()
}

#[tokio::test]
async fn compiling_has_a_bound_on_its_time() {
    let setup = Setup::new().set("handlers.compile_timeout=1s");
    let server = setup.start().await;
    let call = server.admin().post("/v1/handlers/get");
    let answer = call.body(sums(200, 10_000)).send().await;
    let document = answer.problem(422, "unprocessable");
    let detail = document["detail"].as_str().unwrap();
    assert!(detail.contains("handlers.compile_timeout"), "{detail}");
    // The next one is not kept waiting.
    assert_eq!(compilations(&server, 1).await, BUILT_IN);
}

#[tokio::test]
async fn compiling_has_a_bound_on_its_memory() {
    let setup = Setup::new().set("handlers.compile_memory=256MiB");
    let server = setup.start().await;
    let call = server.admin().post("/v1/handlers/get");
    let answer = call.body(sums(1, 500_000)).send().await;
    let document = answer.problem(422, "unprocessable");
    let detail = document["detail"].as_str().unwrap();
    assert!(detail.contains("handlers.compile_memory"), "{detail}");
    assert_eq!(compilations(&server, 1).await, BUILT_IN);
}

/// Runs `tidepool check` for a `get`.
async fn check(component: &Path, more: &[&str]) -> command::Ran {
    let file = component.to_str().unwrap();
    let arguments = ["check", file, "--operation", "get"];
    command::run(arguments.iter().chain(more)).await
}

#[tokio::test]
async fn check_shows_every_step_of_a_good_component() {
    let ran = check(&built::guest("get"), &[]).await;
    for text in [
        "can be deployed as `get`",
        "compile",
        "imports",
        "self-test",
    ] {
        assert!(ran.success().contains(text), "{ran:?}");
    }
    let ran = check(&built::guest("get"), &["--json"]).await;
    let report: Value = serde_json::from_str(ran.success()).unwrap();
    assert_eq!(report["ok"], true);
    assert!(report["digest"].as_str().unwrap().starts_with("sha256:"));
    for step in ["compile_ms", "verify_ms", "self_test_ms", "total_ms"] {
        assert!(report["timings"][step].as_f64().unwrap() > 0.0, "{report}");
    }
}

#[tokio::test]
async fn check_makes_the_self_test_with_a_configuration() {
    let configured = built::fixture("configured");
    check(&configured, &["--config", "greeting=hello"])
        .await
        .success();
    let without = check(&configured, &[]).await;
    assert!(without.refused(1).contains("no greeting"), "{without:?}");
    let nowhere = "key=env:TIDEPOOL_SECRET_NOT_THERE";
    let missing = check(&configured, &["--secret", nowhere]).await;
    assert!(
        missing.refused(1).contains("TIDEPOOL_SECRET_NOT_THERE"),
        "{missing:?}"
    );
    let wrong = check(&configured, &["--config", "greeting"]).await;
    assert!(wrong.refused(2).contains("NAME=VALUE"), "{wrong:?}");
}

#[tokio::test]
async fn check_refuses_what_a_deployment_refuses_with_the_same_words() {
    let setup = Setup::new();
    let module = setup.folder().join("module.wasm");
    std::fs::write(&module, b"\0asm\x01\0\0\0").unwrap();
    let server = setup.start().await;
    for (component, reached, says) in [
        (module, None, "core module"),
        (
            built::fixture("wrong-world"),
            Some("imports"),
            "does not export",
        ),
        (
            built::fixture("forbidden"),
            Some("imports"),
            "may not import",
        ),
        (built::fixture("trap-always"), Some("self-test"), "trapped"),
    ] {
        let call = server.admin().post("/v1/handlers/get");
        let answer = call.body(built::bytes(&component)).send().await;
        let document = answer.problem(422, "unprocessable");
        let ran = check(&component, &[]).await;
        assert_eq!(ran.refused(1), document["detail"].as_str().unwrap());
        assert!(ran.refused(1).contains(says), "{ran:?}");
        assert!(ran.stdout.contains("cannot be deployed"), "{ran:?}");
        let steps = ["compile", "imports", "self-test"];
        let last = steps.iter().rev().find(|step| ran.stdout.contains(**step));
        assert_eq!(last.copied(), reached, "{ran:?}");
        let ran = check(&component, &["--json"]).await;
        let report: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(ran.code, Some(1));
        assert_eq!(report["ok"], false);
        assert_eq!(report["error"], document["detail"]);
    }
    let ran = check(
        &built::guest("get"),
        &["--set", "handlers.max_component_bytes=64KiB"],
    )
    .await;
    ran.success();
    let ran = check(&built::guest("get"), &["--set", "limits.cpu=never"]).await;
    assert!(ran.refused(2).contains("limits.cpu"), "{ran:?}");
}

#[tokio::test]
async fn a_component_has_as_many_table_elements_as_it_may() {
    let with = async |elements: usize| {
        let setting = format!("limits.table_elements={elements}");
        check(&built::guest("get"), &["--set", &setting]).await
    };
    // How many it has is its compiler's choice: looked for between none and enough.
    let (mut too_few, mut enough) = (1, 4096);
    with(enough).await.success();
    while enough - too_few > 1 {
        let middle = usize::midpoint(too_few, enough);
        match with(middle).await.code {
            Some(0) => enough = middle,
            _ => too_few = middle,
        }
    }
    let refused = with(too_few).await;
    assert!(refused.refused(1).contains("table"), "{refused:?}");
}

#[tokio::test]
async fn a_shell_can_be_taught_the_commands() {
    let ran = command::run(["completions", "bash"]).await;
    let mut bash = tokio::process::Command::new("bash");
    let read = bash.args(["-n", "-c", ran.success()]);
    command::run_to_end(read).await.success();
    command::run(["completions", "cmd"]).await.refused(2);
}

/// Memory of a process that is in use, in bytes.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn deployments_leave_no_memory_behind() {
    const FIRST: u64 = 50;
    const ALL: u64 = 200;
    let server = Server::start().await;
    let get = built::bytes(&built::guest("get"));
    let mut first = 0;
    for n in 1..=ALL {
        deploy(&server, variant(&get, n)).await;
        if n == FIRST {
            first = resident(&server);
        }
    }
    let all = resident(&server);
    println!("{first} bytes after {FIRST}, {all} after {ALL}");
    assert!(
        all * 10 <= first * 11,
        "{first} bytes after {FIRST} deployments, {all} after {ALL}"
    );
}
