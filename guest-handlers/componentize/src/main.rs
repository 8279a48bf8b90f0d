//! `componentize <core.wasm> -o <component.wasm>`: wraps a core module that
//! was built with wit-bindgen into a component.
//!
//! `cargo component build` does the same and more. This step is here so that
//! building Tidepool itself needs nothing but cargo. It gives modules no WASI
//! adapter: a handler that imports WASI does not come from these sources.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

const USAGE: &str = "usage: componentize <core.wasm> -o <component.wasm>";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("componentize: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let (core, component) = match arguments.as_slice() {
        [core, flag, component] if flag.as_os_str() == "-o" => (core, component),
        _ => return Err(USAGE.into()),
    };
    let module = fs::read(core).map_err(|error| format!("{}: {error}", core.display()))?;
    let bytes = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| format!("{}: {error:#}", core.display()))?;
    // An unchanged component keeps its time stamp, so that what embeds it is
    // not built again.
    if fs::read(component).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    // Through a neighbour and a rename: who watches the folder never sees
    // half a component.
    let partial = component.with_extension("partial");
    fs::write(&partial, &bytes)
        .and_then(|()| fs::rename(&partial, component))
        .map_err(|error| format!("{}: {error}", component.display()).into())
}
