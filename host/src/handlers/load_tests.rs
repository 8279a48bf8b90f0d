//! What is compiled, and how often: scripts stand in for the compiler, and say
//! when they ran.

use std::path::Path;

use futures_util::future::join_all;
use tempfile::TempDir;

use super::*;
use crate::config::Limits;
use crate::defaults;
use crate::handlers::compile;

const PATIENCE: Duration = Duration::from_secs(60);

fn engine() -> ServingEngine {
    ServingEngine::new(Limits::default(), 8).unwrap()
}

fn component(operation: Operation) -> Bytes {
    Bytes::from_static(defaults::HANDLERS[operation as usize])
}

/// A loader whose compiler is a script. In its folder are `runs`, a line for
/// each run, and `code`, what `component` compiles to.
fn scripted(script: &str, component: &Bytes, data: Option<&Path>) -> (Loader, TempDir) {
    let engine = engine();
    let text = format!("echo run >> ${{0%/*}}/runs; cat > /dev/null; {script}");
    let (compiler, folder) = compile::tests::script(&text, PATIENCE);
    let Compiler::Process { program, .. } = &compiler else {
        panic!("not a process");
    };
    let compiler = Compiler::Process {
        program: program.clone(),
        memory: 1 << 30,
        timeout: PATIENCE,
    };
    let code = engine.recipe().compile(component).unwrap();
    std::fs::write(
        folder.path().join("code"),
        [&code[..], compile::END].concat(),
    )
    .unwrap();
    let compiled = data.map(|data| CompiledCache::open(data, engine.engine(), 1 << 30).unwrap());
    let loader = Loader::new(engine, 1 << 20, compiler, compiled).unwrap();
    (loader, folder)
}

fn runs(folder: &TempDir) -> usize {
    let runs = std::fs::read_to_string(folder.path().join("runs"));
    runs.unwrap_or_default().lines().count()
}

const GIVE: &str = "cat ${0%/*}/code";

#[tokio::test]
async fn however_many_ask_it_is_compiled_once() {
    let plain = Arc::default();
    let get = component(Operation::Get);
    let (loader, folder) = scripted(GIVE, &get, None);
    let all = join_all((0..20).map(|_| loader.load(Operation::Get, get.clone(), &plain))).await;
    let all: Vec<_> = all.into_iter().map(|loaded| loaded.unwrap().0).collect();
    assert!(all.iter().all(|it| Arc::ptr_eq(&it.loaded, &all[0].loaded)));
    assert_eq!(runs(&folder), 1);
    loader.load(Operation::Get, get, &plain).await.unwrap();
    assert_eq!(runs(&folder), 1);
}

#[tokio::test]
async fn a_failure_is_shared_and_not_remembered() {
    let plain = Arc::default();
    let get = component(Operation::Get);
    let (loader, folder) = scripted("echo no >&2; exit 1", &get, None);
    let all = join_all((0..20).map(|_| loader.load(Operation::Get, get.clone(), &plain))).await;
    for loaded in all {
        let Err(error) = loaded else {
            panic!("it was loaded");
        };
        assert!(matches!(error, LoadError::Invalid(_)), "{error}");
    }
    assert_eq!(runs(&folder), 1);
    assert!(loader.load(Operation::Get, get, &plain).await.is_err());
    assert_eq!(runs(&folder), 2);
}

#[tokio::test]
async fn when_one_gives_up_another_goes_on() {
    let plain = Arc::default();
    let get = component(Operation::Get);
    // The first run does not end.
    let script = format!("[ $(wc -l < ${{0%/*}}/runs) = 1 ] && exec sleep 600; {GIVE}");
    let (loader, folder) = scripted(&script, &get, None);
    let mut first = Box::pin(loader.load(Operation::Get, get.clone(), &plain));
    let mut second = Box::pin(loader.load(Operation::Get, get.clone(), &plain));
    let started = async {
        while runs(&folder) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = &mut first => panic!("it ended"),
        _ = &mut second => panic!("it ended"),
        () = started => {}
    }
    drop(first);
    second.await.unwrap();
    assert_eq!(runs(&folder), 2);
}

#[tokio::test]
async fn what_was_compiled_does_not_wait_for_what_is_being_compiled() {
    let plain = Arc::default();
    let (get, put) = (component(Operation::Get), component(Operation::Put));
    let data = tempfile::tempdir().unwrap();
    let (loader, _folder) = scripted(GIVE, &get, Some(data.path()));
    loader
        .load(Operation::Get, get.clone(), &plain)
        .await
        .unwrap();
    drop(loader);
    let (loader, folder) = scripted("exec sleep 600", &get, Some(data.path()));
    let mut endless = Box::pin(loader.load(Operation::Put, put, &plain));
    let found = async {
        while runs(&folder) == 0 {
            tokio::task::yield_now().await;
        }
        loader.load(Operation::Get, get, &plain).await.unwrap();
    };
    tokio::select! {
        _ = &mut endless => panic!("it ended"),
        () = found => {}
    }
    assert_eq!(runs(&folder), 1);
}

#[tokio::test]
async fn a_damaged_file_is_compiled_again_and_replaced() {
    let plain = Arc::default();
    let get = component(Operation::Get);
    let data = tempfile::tempdir().unwrap();
    let load = async |expected| {
        let (loader, folder) = scripted(GIVE, &get, Some(data.path()));
        loader
            .load(Operation::Get, get.clone(), &plain)
            .await
            .unwrap();
        assert_eq!(runs(&folder), expected);
    };
    load(1).await;
    load(0).await;
    let files = data.path().join("compiled").read_dir().unwrap();
    let file = files
        .map(|file| file.unwrap().path())
        .find(|path| path.extension().is_some())
        .unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    load(1).await;
    load(0).await;
}
