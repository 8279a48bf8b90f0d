//! From bytes to a component that a slot can run: size, kind, compilation,
//! imports, exports, and a call to see that it works. A component that passes
//! is shared by every slot that runs it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant as Stopwatch};

use parking_lot::Mutex;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre, Linker};

use super::engine::ServingEngine;
use super::error::CallError;
use super::selftest;
use crate::deployments::Digest;
use crate::model::Operation;
use crate::wit_host::context::Context;
use crate::wit_host::worlds;

/// Components kept ready though no slot may run them.
const RECENT: usize = 8;

/// Why bytes do not become a component that the operation can use.
#[derive(Debug, thiserror::Error)]
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
    /// The host has no room, or no thread, for it now.
    #[error("the host cannot load the component now: {0}; try again")]
    Host(String),
}

/// How long each step took. Zero for one that was not needed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Imports and exports.
    pub verify: Duration,
    /// Compilation.
    pub compile: Duration,
    /// The self-test.
    pub self_test: Duration,
}

/// A component, compiled and linked for one operation.
pub struct Loaded {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Length of its bytes.
    pub size: usize,
    /// The operation that it is linked for.
    pub operation: Operation,
    /// Ready to be instantiated.
    pub pre: InstancePre<Context>,
}

/// Loads components, each digest once at a time.
pub struct Loader {
    engine: ServingEngine,
    linkers: HashMap<Operation, Linker<Context>>,
    max_bytes: usize,
    loaded: Mutex<HashMap<(Digest, Operation), Weak<Loaded>>>,
    /// Kept for a while though no slot runs them: what is rolled back to is
    /// mostly what ran before.
    recent: Mutex<VecDeque<Arc<Loaded>>>,
    /// One compilation at a time: two would take both cores from requests.
    compiling: tokio::sync::Mutex<()>,
}

impl Loader {
    /// A loader for `engine`.
    ///
    /// # Errors
    ///
    /// An interface has no implementation: a defect of the host.
    pub fn new(engine: ServingEngine, max_bytes: usize) -> Result<Loader, LoadError> {
        let mut linkers = HashMap::new();
        for operation in Operation::ALL {
            let linker = worlds::linker(engine.engine(), operation)
                .map_err(|error| LoadError::Host(format!("{error:#}")))?;
            linkers.insert(operation, linker);
        }
        Ok(Loader {
            engine,
            linkers,
            max_bytes,
            loaded: Mutex::default(),
            recent: Mutex::default(),
            compiling: tokio::sync::Mutex::default(),
        })
    }

    /// The engine that it loads for.
    pub fn engine(&self) -> &ServingEngine {
        &self.engine
    }

    /// A component that is loaded for an operation.
    pub fn loaded(&self, operation: Operation, digest: Digest) -> Option<Arc<Loaded>> {
        let loaded = self.loaded.lock().get(&(digest, operation))?.upgrade()?;
        self.keep(&loaded);
        Some(loaded)
    }

    /// Loads a component for an operation, or finds it loaded.
    ///
    /// # Errors
    ///
    /// See [`LoadError`]; nothing has changed then.
    pub async fn load(
        &self,
        operation: Operation,
        bytes: bytes::Bytes,
    ) -> Result<(Arc<Loaded>, Timings), LoadError> {
        check_kind(&bytes, self.max_bytes)?;
        let digest = Digest::of(&bytes);
        let _one_at_a_time = self.compiling.lock().await;
        if let Some(loaded) = self.loaded(operation, digest) {
            return Ok((loaded, Timings::default()));
        }
        let mut timings = Timings::default();

        let start = Stopwatch::now();
        let component = self.compile(bytes.clone()).await?;
        timings.compile = start.elapsed();

        let start = Stopwatch::now();
        let pre = self.link(operation, &component)?;
        timings.verify = start.elapsed();

        let start = Stopwatch::now();
        let loaded = Arc::new(Loaded {
            digest,
            size: bytes.len(),
            operation,
            pre,
        });
        self.self_test(&loaded).await?;
        timings.self_test = start.elapsed();

        let mut all = self.loaded.lock();
        all.retain(|_, loaded| loaded.strong_count() > 0);
        all.insert((digest, operation), Arc::downgrade(&loaded));
        drop(all);
        self.keep(&loaded);
        Ok((loaded, timings))
    }

    /// Moves a component to the front of the recent ones.
    fn keep(&self, loaded: &Arc<Loaded>) {
        let mut recent = self.recent.lock();
        recent.retain(|other| !Arc::ptr_eq(other, loaded));
        recent.push_front(Arc::clone(loaded));
        recent.truncate(RECENT);
    }

    async fn compile(&self, bytes: bytes::Bytes) -> Result<Component, LoadError> {
        let engine = self.engine.clone();
        let work = move || {
            let compiled = engine
                .compile(&bytes)
                .map_err(|error| LoadError::Invalid(one_line(&error)))?;
            engine
                .load(&compiled)
                .map_err(|error| LoadError::Host(one_line(&error)))
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|error| {
                Err(LoadError::Invalid(format!(
                    "the compiler gave up on it: {error}"
                )))
            })
    }

    /// Checks the component against the operation's world.
    fn link(
        &self,
        operation: Operation,
        component: &Component,
    ) -> Result<InstancePre<Context>, LoadError> {
        let engine = self.engine.engine();
        let ty = component.component_type();
        let mut forbidden: Vec<_> = ty
            .imports(engine)
            // A type that the world takes out of an interface is listed too,
            // and carries no authority.
            .filter(|(_, item)| {
                !matches!(item.ty, ComponentItem::Type(_) | ComponentItem::Resource(_))
            })
            .filter(|(name, _)| !may_import(operation, name))
            .collect();
        // An interface of types only comes along with one that uses them, and
        // would go with it: naming it would mislead.
        let is_used = |item: &ComponentItem| match item {
            ComponentItem::ComponentInstance(instance) => instance
                .exports(engine)
                .any(|(_, export)| matches!(export.ty, ComponentItem::ComponentFunc(_))),
            _ => true,
        };
        if forbidden.iter().any(|(_, item)| is_used(&item.ty)) {
            forbidden.retain(|(_, item)| is_used(&item.ty));
        }
        if !forbidden.is_empty() {
            let forbidden = forbidden
                .into_iter()
                .map(|(name, _)| name.to_owned())
                .collect();
            let allowed = worlds::imports(operation)
                .iter()
                .map(|i| interface_name(i))
                .collect();
            return Err(LoadError::Forbidden {
                operation,
                forbidden,
                allowed,
            });
        }
        let handle = ty.exports(engine).find(|(name, _)| *name == worlds::EXPORT);
        if !matches!(handle, Some((_, item)) if matches!(item.ty, ComponentItem::ComponentFunc(_)))
        {
            let exports = ty
                .exports(engine)
                .map(|(name, _)| name.to_owned())
                .collect();
            return Err(LoadError::MissingExport { operation, exports });
        }
        let linker = self
            .linkers
            .get(&operation)
            .ok_or_else(|| LoadError::Host("no linker".into()))?;
        linker
            .instantiate_pre(component)
            .map_err(|error| LoadError::ImportMismatch(one_line(&error)))
    }

    async fn self_test(&self, loaded: &Loaded) -> Result<(), LoadError> {
        let operation = loaded.operation;
        selftest::run(&self.engine, loaded)
            .await
            .map_err(|error| match error {
                CallError::Overloaded => LoadError::Host(error.to_string()),
                error => LoadError::SelfTest {
                    operation,
                    reason: error.to_string(),
                    detail: error.log_text(),
                },
            })
    }
}

/// Checks what can be told from the first bytes.
fn check_kind(bytes: &[u8], limit: usize) -> Result<(), LoadError> {
    const MODULE: &[u8] = b"\0asm\x01\0\0\0";
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
    if bytes.len() > limit {
        return Err(LoadError::TooLarge {
            size: bytes.len(),
            limit,
        });
    }
    if bytes.starts_with(MODULE) {
        return Err(LoadError::CoreModule);
    }
    if !bytes.starts_with(COMPONENT) {
        return Err(LoadError::NotWasm);
    }
    Ok(())
}

fn interface_name(interface: &str) -> String {
    format!(
        "{}/{interface}@{}",
        worlds::PACKAGE,
        worlds::PACKAGE_VERSION
    )
}

/// Whether the world of the operation has the import. WASI is served without
/// anything behind it that could be reached.
fn may_import(operation: Operation, name: &str) -> bool {
    const WASI: [&str; 6] = [
        "wasi:cli/",
        "wasi:clocks/",
        "wasi:filesystem/",
        "wasi:io/",
        "wasi:random/",
        "wasi:sockets/",
    ];
    WASI.iter().any(|package| name.starts_with(package))
        || worlds::imports(operation)
            .iter()
            .any(|interface| name == interface_name(interface))
}

/// The whole chain of an error in one line.
fn one_line(error: &wasmtime::Error) -> String {
    format!("{error:#}")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_sizes_are_told_apart_before_compiling() {
        let component = b"\0asm\x0d\0\x01\0".to_vec();
        assert!(check_kind(&component, 8).is_ok());
        assert!(matches!(
            check_kind(&component, 7),
            Err(LoadError::TooLarge { size: 8, limit: 7 })
        ));
        assert!(matches!(
            check_kind(b"\0asm\x01\0\0\0", 8),
            Err(LoadError::CoreModule)
        ));
        assert!(matches!(check_kind(b"hello", 8), Err(LoadError::NotWasm)));
        assert!(matches!(check_kind(b"", 8), Err(LoadError::NotWasm)));
    }

    #[test]
    fn each_operation_has_its_own_authority() {
        let may = |op, interface| may_import(op, &interface_name(interface));
        assert!(may(Operation::Get, "cache") && may(Operation::Get, "log-reader"));
        assert!(!may(Operation::Get, "log-put") && !may(Operation::Get, "log-delete"));
        assert!(may(Operation::Put, "log-put"));
        assert!(
            !may(Operation::Put, "cache")
                && !may(Operation::Put, "log-delete")
                && !may(Operation::Put, "log-reader")
        );
        assert!(may(Operation::Delete, "log-delete"));
        assert!(!may(Operation::Delete, "log-put") && !may(Operation::Delete, "cache"));
        for interface in ["cache", "log-reader", "log-put", "log-delete"] {
            assert!(!may(Operation::Hydrate, interface), "{interface}");
        }
        assert!(!may_import(
            Operation::Get,
            "wasi:http/outgoing-handler@0.2.0"
        ));
        assert!(!may_import(Operation::Get, "tidepool:kv/cache@0.2.0"));
        assert!(may_import(Operation::Get, "wasi:clocks/wall-clock@0.2.9"));
    }
}
