//! The thread for what must not slow requests down: deploying, following the ledger,
//! and the admin plane that asks for both. It has a runtime of its own and a lower
//! priority, so that the system gives the processors to requests first; what it does
//! waits, and is done all the same.

use std::io;

use rustix::process::{getpriority_process, setpriority_process};
use tokio::runtime::{Builder, Handle, Runtime};

/// The thread's niceness, unless the process has more: while every processor has requests to answer, it
/// gets about a tenth of one.
const NICENESS: i32 = 10;

/// See the head of this file.
#[derive(Debug)]
pub struct Background {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Background {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn start() -> io::Result<Background> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("background")
            .on_thread_start(lower)
            .enable_all()
            .build()?;
        Ok(Background {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Where to spawn onto.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It is dropped on a thread that serves, which must not wait for it; whoever
        // wants what runs there to end has waited for it before.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Lowers the priority of the thread that calls it.
fn lower() {
    // On Linux the niceness is the thread's own, and no process means this thread.
    let lowered = getpriority_process(None).and_then(|now| match now < NICENESS {
        true => setpriority_process(None, NICENESS),
        false => Ok(()),
    });
    if let Err(error) = lowered {
        tracing::debug!(%error, "deployments have the priority of requests");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_runs_there_gives_way_and_what_it_blocks_on_too() {
        let background = Background::start().unwrap();
        let nice = || getpriority_process(None).unwrap();
        let before = nice();
        let there = background.handle().spawn(async move {
            let blocking = tokio::task::spawn_blocking(nice).await.unwrap();
            (nice(), blocking)
        });
        assert_eq!(there.await.unwrap(), (NICENESS, NICENESS));
        assert_eq!(nice(), before);
    }
}
