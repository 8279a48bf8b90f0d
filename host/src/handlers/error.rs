//! Why a call to a component has no answer.

use wasmtime::{Trap, WasmBacktrace};

use super::answer::BadAnswer;
use crate::config::Limits;
use crate::log::AppendError;
use crate::wit_host::context::{Exceeded, StaleHandle};

/// A call that failed. `Display` is for the client: it says what happened and
/// shows nothing of the inside. [`CallError::log_text`] has the trap and the
/// wasm backtrace.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The component trapped.
    #[error("the handler trapped: {summary}")]
    Trap {
        /// One line.
        summary: String,
        /// The whole error with its backtrace.
        detail: String,
    },
    /// It ran for too long.
    #[error("the handler used more than {0} ms of processor time (limits.cpu)")]
    CpuDeadline(u128),
    /// It took too long.
    #[error("the handler took more than {0} ms (limits.wall)")]
    WallDeadline(u128),
    /// It passed another bound.
    #[error("the handler passed a limit: {0}")]
    Exceeded(String),
    /// It answered with something that cannot be sent.
    #[error("the handler's answer cannot be used: {0}")]
    BadAnswer(#[from] BadAnswer),
    /// No instance can be made now.
    #[error("no instance of the handler can be made: {0}")]
    Instantiate(String),
    /// It failed after it had asked the log to append.
    #[error("{0}; the write may have happened: read the key to see")]
    AfterWrite(Box<CallError>),
    /// The request's `Idempotency-Key` came with another change of the key. The
    /// component was not asked what to make of it.
    #[error("{}", AppendError::IdReused)]
    IdReused,
    /// Too many calls at once.
    #[error("too many requests for this operation at once; try again later")]
    Overloaded,
}

impl CallError {
    /// Whether the component did it, not the load and not the client.
    pub fn is_the_components(&self) -> bool {
        !matches!(
            self,
            CallError::Overloaded | CallError::Instantiate(_) | CallError::IdReused
        )
    }

    /// Whether it took too long because the host waited for something on its behalf: a
    /// component that computes meets [`CallError::CpuDeadline`] long before.
    pub fn is_a_wait(&self) -> bool {
        match self {
            CallError::WallDeadline(_) => true,
            CallError::AfterWrite(error) => error.is_a_wait(),
            _ => false,
        }
    }

    /// What the log says.
    pub fn log_text(&self) -> String {
        match self {
            CallError::Trap { detail, .. } => detail.clone(),
            CallError::AfterWrite(error) => error.log_text(),
            other => other.to_string(),
        }
    }

    /// What an error out of wasmtime means. `growth_refused`: the instance had
    /// been refused memory before it died.
    pub(super) fn from_wasmtime(
        error: &wasmtime::Error,
        limits: &Limits,
        growth_refused: bool,
    ) -> CallError {
        match error.downcast_ref::<Exceeded>() {
            Some(Exceeded::Cpu(_)) => return CallError::CpuDeadline(limits.cpu.as_millis()),
            Some(exceeded) => return CallError::Exceeded(exceeded.to_string()),
            None => {}
        }
        if let Some(AppendError::IdReused) = error.downcast_ref() {
            return CallError::IdReused;
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::StackOverflow) => {
                return CallError::Exceeded(format!(
                    "more than {} bytes of stack (limits.stack_bytes)",
                    limits.stack_bytes
                ));
            }
            // What an allocator does when memory is refused differs from one
            // language to the next, but none survives it.
            Some(_) if growth_refused => {
                return CallError::Exceeded(format!(
                    "more than {} bytes of memory (limits.memory_bytes) or {} table elements (limits.table_elements)",
                    limits.memory_bytes, limits.table_elements
                ));
            }
            _ => {}
        }
        let summary = match (
            error.downcast_ref::<Trap>(),
            error.downcast_ref::<StaleHandle>(),
        ) {
            (Some(trap), _) => trap.to_string(),
            (None, Some(stale)) => stale.to_string(),
            // Only the outermost text: causes may name the inside.
            (None, None) => error.root_cause().to_string(),
        };
        let detail = match error.downcast_ref::<WasmBacktrace>() {
            Some(backtrace) => format!("{summary}\n{backtrace}"),
            None => format!("{error:?}"),
        };
        CallError::Trap { summary, detail }
    }
}
