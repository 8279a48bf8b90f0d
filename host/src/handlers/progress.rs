//! What a deployment tells of itself as it goes: each step when it is done, with
//! its time. Whoever listens must not hold it up.

use std::time::Duration;

/// A step of a deployment that is done. One that was not needed, because the
/// component is loaded already, is not told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// There is machine code: made now, or found on disk.
    Compile,
    /// Its imports and exports fit the operation's world.
    Verify,
    /// It has answered the call before the swap.
    SelfTest,
    /// The database has its bytes.
    Store,
    /// All hosts of a region have it, at this time after the deployment began.
    Live {
        /// The region.
        region: String,
        /// The number of its revision there.
        revision: u64,
    },
}

impl Step {
    /// As it is told.
    pub fn name(&self) -> &'static str {
        match self {
            Step::Compile => "compile",
            Step::Verify => "verify",
            Step::SelfTest => "self-test",
            Step::Store => "store",
            Step::Live { .. } => "live",
        }
    }

    /// The region that it is about, and its revision.
    pub fn slot(&self) -> Option<(&str, u64)> {
        match self {
            Step::Live { region, revision } => Some((region, *revision)),
            _ => None,
        }
    }
}

/// Who is told.
pub struct Progress(Box<dyn Fn(Step, Duration) + Send + Sync>);

impl Progress {
    /// Calls `tell` with every step and the time that it took. It is called by
    /// what deploys, so it must not wait.
    pub fn new(tell: impl Fn(Step, Duration) + Send + Sync + 'static) -> Progress {
        Progress(Box::new(tell))
    }

    /// Tells nobody.
    pub fn untold() -> Progress {
        Progress::new(|_, _| {})
    }

    /// A step is done.
    pub fn done(&self, step: Step, took: Duration) {
        (self.0)(step, took);
    }
}
