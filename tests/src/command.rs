//! One run of the binary: what it printed, and how it ended.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::log::Log;
use crate::{built, within};

/// What a run left.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Asserts that it went well; what it printed.
    #[track_caller]
    pub fn success(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:#?}");
        &self.stdout
    }

    /// Asserts that it ended with this exit code and exactly one line on
    /// standard error; the line without its `error: `.
    #[track_caller]
    pub fn refused(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert_eq!(
            self.stderr.lines().count(),
            1,
            "one line was expected: {self:#?}"
        );
        match self.stderr.trim_end().strip_prefix("error: ") {
            Some(line) => line,
            None => panic!("no line `error: ...`: {self:#?}"),
        }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs the binary to its end.
///
/// # Panics
///
/// It does not start, or does not end.
pub async fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    run_to_end(command(&built::binary()).args(arguments)).await
}

/// Runs a command that was made by [`command`] to its end.
///
/// # Panics
///
/// It does not start, or does not end.
pub async fn run_to_end(command: &mut Command) -> Ran {
    let what = format!("the end of {:?}", command.as_std());
    match within(&what, command.output()).await {
        Ok(output) => output.into(),
        Err(error) => panic!("{:?} does not start: {error}", command.as_std()),
    }
}

/// A run that goes on while the test does.
#[derive(Debug)]
pub struct Running {
    child: tokio::process::Child,
    out: Log,
    err: Log,
}

impl Running {
    /// Starts a command that was made by [`command`].
    ///
    /// # Panics
    ///
    /// It does not start.
    pub fn start(command: &mut Command) -> Running {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("{:?} does not start: {error}", command.as_std()),
        };
        let out = child.stdout.take().and_then(|it| it.into_owned_fd().ok());
        let err = child.stderr.take().and_then(|it| it.into_owned_fd().ok());
        Running {
            out: Log::of(out.map(std::fs::File::from)),
            err: Log::of(err.map(std::fs::File::from)),
            child,
        }
    }

    /// What it prints.
    pub fn out(&self) -> &Log {
        &self.out
    }

    /// Sends it what Ctrl-C sends.
    ///
    /// # Panics
    ///
    /// It cannot be sent.
    pub async fn interrupt(&self) {
        let id = self.child.id().unwrap_or_default().to_string();
        let kill = Command::new("kill").args(["-INT", &id]).status();
        let sent = within("kill", kill).await.is_ok_and(|it| it.success());
        assert!(sent, "no signal could be sent to {id}");
    }

    /// Waits until it has ended; what it left.
    ///
    /// # Panics
    ///
    /// It runs on.
    pub async fn ended(mut self) -> Ran {
        let ended = within("the end of a command", self.child.wait()).await;
        self.out.ended().await;
        self.err.ended().await;
        Ran {
            code: ended.ok().and_then(|status| status.code()),
            stdout: self.out.text(),
            stderr: self.err.text(),
        }
    }
}

/// A command that sees nothing of this process' environment that could change
/// what it does, and that does not outlive its test.
pub fn command(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEPOOL_") {
            command.env_remove(name);
        }
    }
    for name in ["RUST_LOG", "DATABASE_URL", "REDIS_URL", "PORT"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}
