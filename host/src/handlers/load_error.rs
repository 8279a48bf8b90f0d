//! Why a component cannot be used. Each text says what to do next.

use std::time::Duration;

use super::secrets::SecretError;
use crate::model::Operation;
use crate::wit_host::worlds;

/// Why bytes do not become a component that the operation can use.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// Over `handlers.max_component_bytes`.
    #[error(
        "the component has {size} bytes; at most {limit} are allowed (handlers.max_component_bytes)"
    )]
    TooLarge {
        /// Bytes sent.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Nothing that looks like wasm.
    #[error(
        "this is not WebAssembly; send the .wasm file that `cargo component build --release` made"
    )]
    NotWasm,
    /// A module, not a component.
    #[error(
        "this is a core module, not a component; build it with `cargo component build`, \
         or turn it into a component with `wasm-tools component new`"
    )]
    CoreModule,
    /// It does not parse or validate: damaged or cut short, most likely.
    #[error("the component is not valid (cut short, or damaged?): {0}")]
    Invalid(String),
    /// Compiling it takes more memory than it may.
    #[error(
        "compiling the component takes more than {} MiB of memory; make it smaller, \
         or raise handlers.compile_memory", limit >> 20
    )]
    CompileMemory {
        /// The limit, in bytes.
        limit: usize,
    },
    /// Compiling it takes longer than it may.
    #[error(
        "compiling the component takes longer than {}; make it smaller, \
         or raise handlers.compile_timeout", humantime::format_duration(*limit)
    )]
    CompileTime {
        /// The limit.
        limit: Duration,
    },
    /// It asks for more than its world has.
    #[error(
        "a `{operation}` component may not import {}; it may import {} and WASI",
        forbidden.join(", "), allowed.join(", ")
    )]
    Forbidden {
        /// The operation.
        operation: Operation,
        /// Imports that it may not have.
        forbidden: Vec<String>,
        /// Interfaces that it may have.
        allowed: Vec<String>,
    },
    /// Its imports do not fit the interfaces' types.
    #[error(
        "the component's imports do not fit the interfaces of this host; build it against this host's wit/: {0}"
    )]
    ImportMismatch(String),
    /// It does not export what its world exports.
    #[error(
        "the component does not export the function `{}` of the world `{operation}`; \
         it exports {}",
        worlds::EXPORT,
        if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") }
    )]
    MissingExport {
        /// The operation.
        operation: Operation,
        /// What it does export.
        exports: Vec<String>,
    },
    /// The self-test failed.
    #[error("the component failed its self-test as `{operation}`: {reason}")]
    SelfTest {
        /// The operation.
        operation: Operation,
        /// For the client.
        reason: String,
        /// For the log: trap and backtrace.
        detail: String,
    },
    /// A secret of its configuration.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The host has no room, or no thread, for it now.
    #[error("the host cannot load the component now: {0}; try again")]
    Host(String),
}
