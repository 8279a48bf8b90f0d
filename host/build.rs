//! Puts the default handlers where `include_bytes!` finds them. They are
//! built before the host, by `make guests`: they need the wasm target, which
//! the set-up script finds.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=TIDEPOOL_GUESTS");
    let (Some(manifest), Some(out)) = (env::var_os("CARGO_MANIFEST_DIR"), env::var_os("OUT_DIR"))
    else {
        println!("cargo::error=run this through cargo");
        return ExitCode::FAILURE;
    };
    let guests = env::var_os("TIDEPOOL_GUESTS").map_or_else(
        || PathBuf::from(manifest).join("../target/guests"),
        PathBuf::from,
    );
    for operation in ["get", "put", "delete", "hydrate"] {
        let name = format!("{operation}.wasm");
        let from = guests.join(&name);
        println!("cargo::rerun-if-changed={}", from.display());
        if let Err(error) = fs::copy(&from, PathBuf::from(&out).join(&name)) {
            println!(
                "cargo::error=the default handler {} is not there ({error}); run `make guests` first",
                from.display()
            );
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
