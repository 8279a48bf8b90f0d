//! Compiling away from what serves: a process of its own compiles one
//! component, with a bound on its memory and its time, and is gone. What an
//! attacker's component can do to the compiler, it does there.
//!
//! The process is this program again, asked by [`SUBCOMMAND`] (see
//! [`crate::cli`] for its side): the component on standard input, the compiled
//! code on standard output, an error as one line on standard error.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::engine::Recipe;
use super::load_error::LoadError;
use crate::config::Handlers;

/// The argument that makes this program a compiler.
pub const SUBCOMMAND: &str = "compile-component";

/// What compiled code ends with on standard output: neither half of it, nor a
/// program that does not know [`SUBCOMMAND`], may be taken for all of it.
pub const END: &[u8; 8] = b"compiled";

/// Exit code: the component cannot be compiled, for the reason on standard error.
pub const INVALID: u8 = 1;

/// Exit code: the process cannot do its work, for the reason on standard error.
pub const UNABLE: u8 = 2;

/// This program, even after its file has been replaced by another version.
const SELF: &str = "/proc/self/exe";

/// Most of standard error that is read, in bytes.
const MAX_SAID_BYTES: u64 = 16 << 10;

/// How an out-of-memory sounds: Rust's allocator, the system, wasmtime.
const OUT_OF_MEMORY: [&str; 3] = ["memory allocation of", "os error 12", "out of memory"];

/// What the compiling process is told on its command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Order {
    /// Bytes of address space that it may use.
    pub memory: u64,
    /// Seconds on the processor after which it ends, should nobody be left to
    /// end it.
    pub seconds: u64,
    /// How to compile.
    pub recipe: Recipe,
}

impl Order {
    /// As arguments.
    fn arguments(&self) -> [String; 5] {
        let Order {
            memory,
            seconds,
            recipe,
        } = self;
        [
            SUBCOMMAND.to_owned(),
            memory.to_string(),
            seconds.to_string(),
            recipe.reservation.to_string(),
            recipe.stack_bytes.to_string(),
        ]
    }

    /// From a whole command line, the program's name first. `None` when it asks
    /// for something else.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<Order> {
        let mut arguments = arguments.into_iter().skip(1);
        if arguments.next()? != OsStr::new(SUBCOMMAND) {
            return None;
        }
        let mut number = || arguments.next()?.to_str()?.parse::<u64>().ok();
        Some(Order {
            memory: number()?,
            seconds: number()?,
            recipe: Recipe {
                reservation: number()?,
                stack_bytes: usize::try_from(number()?).ok()?,
            },
        })
    }
}

/// What compiles.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// A process for each component.
    Process {
        /// A program whose `main` answers by [`crate::cli::answer_compile`].
        program: PathBuf,
        /// `handlers.compile_memory`.
        memory: usize,
        /// `handlers.compile_timeout`.
        timeout: Duration,
    },
    /// This process, without bounds: for a program that cannot be started again
    /// to compile, and whose components are its own.
    InProcess,
}

impl Compiler {
    /// A process of this program for each component.
    ///
    /// # Errors
    ///
    /// The system does not say which program this is.
    pub fn process(handlers: &Handlers) -> Result<Compiler, LoadError> {
        let program = match Path::new(SELF) {
            path if path.exists() => path.to_owned(),
            _ => std::env::current_exe().map_err(|error| {
                LoadError::Host(format!(
                    "which program this is cannot be found out: {error}"
                ))
            })?,
        };
        Ok(Compiler::Process {
            program,
            memory: handlers.compile_memory,
            timeout: handlers.compile_timeout,
        })
    }

    /// Compiles a component.
    ///
    /// # Errors
    ///
    /// See [`LoadError`].
    pub(super) async fn compile(
        &self,
        recipe: Recipe,
        component: Bytes,
    ) -> Result<Vec<u8>, LoadError> {
        match self {
            Compiler::Process {
                program,
                memory,
                timeout,
            } => in_a_process(program, *memory, *timeout, recipe, component).await,
            Compiler::InProcess => {
                let work = move || recipe.compile(&component);
                match tokio::task::spawn_blocking(work).await {
                    Ok(Ok(compiled)) => Ok(compiled),
                    Ok(Err(error)) => Err(LoadError::Invalid(format!("{error:#}"))),
                    Err(error) => Err(gave_up(&error.to_string())),
                }
            }
        }
    }
}

async fn in_a_process(
    program: &Path,
    memory: usize,
    timeout: Duration,
    recipe: Recipe,
    component: Bytes,
) -> Result<Vec<u8>, LoadError> {
    let host = |what: &str, error| LoadError::Host(format!("{what} the compiler: {error}"));
    let order = Order {
        memory: memory as u64,
        seconds: timeout.as_secs() + 1,
        recipe,
    };
    let mut child = Command::new(program)
        .arg0("tidepool")
        .args(order.arguments())
        // It has no use for what the environment of a host knows.
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| host("cannot start", error))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let work = async {
        let feed = async {
            if let Some(mut stdin) = stdin {
                // One that ends early says why by itself.
                let _ = stdin.write_all(&component).await;
            }
        };
        let (compiled, said, ()) = tokio::join!(
            // It held all of this in its memory.
            read(stdout, memory as u64),
            read(stderr, MAX_SAID_BYTES),
            feed
        );
        let status = child.wait().await?;
        std::io::Result::Ok((status, compiled?, said?))
    };
    let Ok(done) = tokio::time::timeout(timeout, work).await else {
        // Its end is waited for: the next one is to find the processor free.
        if let Err(error) = child.kill().await {
            tracing::error!(%error, "a compiler that took too long cannot be ended");
        }
        return Err(LoadError::CompileTime { limit: timeout });
    };
    let (status, mut compiled, said) = done.map_err(|error| host("cannot hear", error))?;
    if status.success() {
        let Some(length) = compiled.strip_suffix(END).map(<[u8]>::len) else {
            return Err(LoadError::Host(
                "this program does not answer as a compiler; call `tidepool::cli::answer_compile` first in its `main`".to_owned(),
            ));
        };
        compiled.truncate(length);
        return Ok(compiled);
    }
    Err(why(
        status,
        &String::from_utf8_lossy(&said),
        memory,
        timeout,
    ))
}

/// Reads to the end, or as far as it may.
async fn read(stream: Option<impl AsyncRead + Unpin>, most: u64) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    if let Some(stream) = stream {
        stream.take(most).read_to_end(&mut all).await?;
    }
    Ok(all)
}

/// What the end of a compiler that has not compiled means.
fn why(status: ExitStatus, said: &str, memory: usize, timeout: Duration) -> LoadError {
    let line = one_line(said);
    if OUT_OF_MEMORY.iter().any(|text| line.contains(text)) {
        return LoadError::CompileMemory { limit: memory };
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    match (code, status.signal()) {
        (Some(INVALID), _) => LoadError::Invalid(line),
        (Some(UNABLE), _) => LoadError::Host(line),
        (_, Some(SIGXCPU)) => LoadError::CompileTime { limit: timeout },
        // Nobody here sends it: the system was short of memory, or somebody had
        // a reason.
        (_, Some(SIGKILL)) => LoadError::Host("the compiler was killed from outside".to_owned()),
        // A panic, an overflown stack: the component brought the compiler down.
        _ => gave_up(&format!("{status} {line}")),
    }
}

const SIGKILL: i32 = rustix::process::Signal::KILL.as_raw();
const SIGXCPU: i32 = rustix::process::Signal::XCPU.as_raw();

fn gave_up(why: &str) -> LoadError {
    LoadError::Invalid(format!("the compiler gave up on it: {}", why.trim()))
}

/// A text in one line.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[path = "compile_tests.rs"]
pub(super) mod tests;
