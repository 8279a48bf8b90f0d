//! What a revision runs: a component, ready to be instantiated, and a configuration.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use wasmtime::component::InstancePre;

use crate::deployments::Digest;
use crate::model::Operation;
use crate::wit_host::config::Values;
use crate::wit_host::context::Context;

/// Configurations of a component that are remembered to have passed.
const PASSED: usize = 16;

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
    /// The same for calls that do not wait, where there are such.
    pub quick: Option<InstancePre<Context>>,
    /// The configurations with which it has passed its self-test last.
    pub(super) passed: Mutex<VecDeque<Arc<Values>>>,
}

impl Loaded {
    /// Whether it has passed its self-test with a configuration.
    pub(super) fn has_passed(&self, config: &Values) -> bool {
        self.passed.lock().iter().any(|it| **it == *config)
    }

    /// It has.
    pub(super) fn passes(&self, config: &Arc<Values>) {
        let mut passed = self.passed.lock();
        passed.push_front(Arc::clone(config));
        passed.truncate(PASSED);
    }
}

/// What a revision runs: a component, and the configuration that it passed its
/// self-test with.
#[derive(Clone)]
pub struct Program {
    /// The component.
    pub loaded: Arc<Loaded>,
    /// The configuration.
    pub config: Arc<Values>,
}
