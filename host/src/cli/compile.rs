//! This program as a compiler, when a host asks it to be one: see
//! [`crate::handlers::compile`]. Not a command for people.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, nice, setrlimit};

use super::output;
use crate::config::MAX_COMPONENT_BYTES_CEILING;
use crate::handlers::compile::{END, INVALID, Order, UNABLE};

/// The lowest priority that there is: whatever serves goes first.
const NICENESS: i32 = 19;

/// Compiles, if that is what the arguments (the program's name first) ask for.
/// A program that runs a host must call this before anything else in its
/// `main`, and end with what it answers: the host starts the program once more
/// for each component that it compiles.
pub fn answer_compile(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let order = Order::parse(arguments)?;
    Some(match compile(&order) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, text)) => {
            output::line(&text);
            ExitCode::from(code)
        }
    })
}

/// Bounds this process before it takes anything in; answers the exit code and
/// what to say when it fails.
fn compile(order: &Order) -> Result<(), (u8, String)> {
    let unable = |error: std::io::Error| (UNABLE, format!("the compiler cannot work: {error}"));
    bound(order).map_err(|error| unable(error.into()))?;
    let mut component = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_COMPONENT_BYTES_CEILING as u64)
        .read_to_end(&mut component)
        .map_err(unable)?;
    let compiled = order.recipe.compile(&component);
    let compiled = compiled.map_err(|error| (INVALID, format!("{error:#}")))?;
    let mut out = std::io::stdout().lock();
    out.write_all(&compiled)
        .and_then(|()| out.write_all(END))
        .and_then(|()| out.flush())
        .map_err(unable)
}

fn bound(order: &Order) -> rustix::io::Result<()> {
    let limit = |resource, most: u64| {
        let both = Some(most);
        setrlimit(
            resource,
            Rlimit {
                current: both,
                maximum: both,
            },
        )
    };
    limit(Resource::As, order.memory)?;
    limit(Resource::Cpu, order.seconds)?;
    // What it leaves behind when it runs into one of them.
    limit(Resource::Core, 0)?;
    nice(NICENESS)?;
    Ok(())
}
