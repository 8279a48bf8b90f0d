//! What has been built before the tests run: the binary beside the tests'
//! own, and the components under the same target folder.

use std::path::{Path, PathBuf};

/// The binary under test: beside the folder of the running test.
///
/// # Panics
///
/// It has not been built.
pub fn binary() -> PathBuf {
    let binary = profile().join("tidepool");
    assert!(
        binary.is_file(),
        "{} is missing: run `make build`",
        binary.display()
    );
    binary
}

/// A misbehaving component of `tests/guests`.
///
/// # Panics
///
/// It has not been built.
pub fn fixture(name: &str) -> PathBuf {
    component("fixtures", name, "make fixtures")
}

/// A default handler.
///
/// # Panics
///
/// It has not been built.
pub fn guest(operation: &str) -> PathBuf {
    component("guests", operation, "make guests")
}

/// The bytes of a file that was built.
///
/// # Panics
///
/// It cannot be read.
pub fn bytes(path: &Path) -> Vec<u8> {
    match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// The root of the repository.
///
/// # Panics
///
/// This package is not where it belongs.
pub fn repository() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    match package.parent() {
        Some(root) => root.to_owned(),
        None => panic!("{} is in no repository", package.display()),
    }
}

fn component(folder: &str, name: &str, command: &str) -> PathBuf {
    let mut path = profile();
    path.pop();
    path.push(folder);
    path.push(format!("{name}.wasm"));
    assert!(
        path.is_file(),
        "{} is missing: run `{command}`",
        path.display()
    );
    path
}

/// `target/release`: tests are in `deps` in there, and the benchmark beside it.
fn profile() -> PathBuf {
    let test = match std::env::current_exe() {
        Ok(test) => test,
        Err(error) => panic!("where this test is cannot be found out: {error}"),
    };
    let folder = test.parent().map(|folder| match folder.ends_with("deps") {
        true => folder.parent(),
        false => Some(folder),
    });
    match folder.flatten() {
        Some(profile) => profile.to_owned(),
        None => panic!("{} is in no target folder", test.display()),
    }
}
