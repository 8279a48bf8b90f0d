//! What the host makes of a compiling process, whatever that does: programs of
//! a shell stand in for it. The real one is in the end-to-end tests.

use std::process::Command;

use tempfile::TempDir;

use super::*;

const RECIPE: Recipe = Recipe {
    reservation: 4 << 30,
    stack_bytes: 512 << 10,
};

/// A compiler that is a script, and the folder that it is in.
pub(in crate::handlers) fn script(text: &str, timeout: Duration) -> (Compiler, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("compiler");
    // Written by another process: a fork of this one at the wrong moment would
    // keep it open for writing, and such a file cannot be run.
    let written = Command::new("/bin/sh")
        .args([
            OsStr::new("-c"),
            OsStr::new("printf '#!/bin/sh\n%s\n' \"$2\" > \"$1\" && chmod +x \"$1\""),
            OsStr::new("sh"),
        ])
        .arg(&program)
        .arg(text)
        .status();
    assert!(written.unwrap().success());
    let compiler = Compiler::Process {
        program,
        memory: 3 << 20,
        timeout,
    };
    (compiler, folder)
}

async fn compiled_by(text: &str) -> Result<Vec<u8>, LoadError> {
    let (compiler, _folder) = script(text, Duration::from_secs(60));
    // More than a pipe takes at once.
    let component = Bytes::from(vec![7; 1 << 20]);
    compiler.compile(RECIPE, component).await
}

#[test]
fn an_order_is_read_as_it_was_written() {
    let order = Order {
        memory: 1 << 30,
        seconds: 31,
        recipe: RECIPE,
    };
    let line = |rest: &[String]| {
        let rest = rest.iter().map(OsString::from);
        Order::parse(std::iter::once(OsString::from("tidepool")).chain(rest))
    };
    let arguments = order.arguments();
    assert_eq!(line(&arguments), Some(order));
    assert_eq!(line(&arguments[..4]), None);
    assert_eq!(line(&["dev".to_owned()]), None);
    assert_eq!(line(&[]), None);
}

#[tokio::test]
async fn what_comes_out_whole_is_taken() {
    let done = compiled_by("wc -c; printf 'code%s' compiled")
        .await
        .unwrap();
    assert_eq!(done, format!("{}\ncode", 1 << 20).into_bytes());
}

#[tokio::test]
async fn half_of_it_is_not_taken() {
    for script in ["cat >/dev/null; printf code", "exit 0", "printf compile"] {
        let error = compiled_by(script).await.unwrap_err();
        assert!(matches!(error, LoadError::Host(_)), "{script}: {error}");
    }
}

#[tokio::test]
async fn an_end_says_why() {
    let says = async |script: &str| compiled_by(script).await.unwrap_err().to_string();
    let invalid = says("echo 'bad\n magic' >&2; exit 1").await;
    assert!(invalid.ends_with("damaged?): bad magic"), "{invalid}");
    let unable = says("echo no such limit >&2; exit 2").await;
    assert!(unable.contains("no such limit; try again"), "{unable}");
    for crash in ["kill -SEGV $$", "echo a panic >&2; exit 101"] {
        let text = says(crash).await;
        assert!(text.contains("the compiler gave up on it"), "{text}");
    }
    for full in [
        "echo memory allocation of 77 bytes failed >&2; kill -ABRT $$",
        "echo 'Cannot allocate memory (os error 12)' >&2; exit 1",
    ] {
        let text = says(full).await;
        assert!(text.contains("more than 3 MiB of memory"), "{text}");
        assert!(text.contains("handlers.compile_memory"), "{text}");
    }
    let late = says("kill -XCPU $$").await;
    assert!(late.contains("handlers.compile_timeout"), "{late}");
    let killed = says("kill -KILL $$").await;
    assert!(killed.contains("from outside; try again"), "{killed}");
}

#[tokio::test]
async fn one_that_does_not_end_is_ended() {
    let (compiler, folder) = script(
        "echo $$ > \"$0.pid\"; exec sleep 600",
        Duration::from_millis(500),
    );
    let error = compiler.compile(RECIPE, Bytes::new()).await.unwrap_err();
    assert!(matches!(error, LoadError::CompileTime { .. }), "{error}");
    // Slow machines do not get to it in time; then there is nothing to end.
    if let Ok(pid) = std::fs::read_to_string(folder.path().join("compiler.pid")) {
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "{pid} lives");
    }
}

#[tokio::test]
async fn it_gets_nothing_of_the_environment() {
    let done = compiled_by("cat >/dev/null; /usr/bin/env; printf compiled").await;
    let text = String::from_utf8(done.unwrap()).unwrap();
    // What a shell sets by itself.
    let own = ["PWD", "SHLVL", "_", "OLDPWD"];
    for line in text.lines() {
        let name = line.split('=').next().unwrap();
        assert!(own.contains(&name), "{line}");
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_the_hosts_fault() {
    let compiler = Compiler::Process {
        program: PathBuf::from("/nowhere/tidepool"),
        memory: 1,
        timeout: Duration::from_secs(1),
    };
    let error = compiler.compile(RECIPE, Bytes::new()).await.unwrap_err();
    assert!(matches!(error, LoadError::Host(_)), "{error}");
}
