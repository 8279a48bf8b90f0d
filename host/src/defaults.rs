//! The handlers that come with the binary, so that it runs alone.

use crate::handlers::registry::Defaults;

/// One component per operation, in the order of `Operation::ALL`.
pub const HANDLERS: Defaults = [
    include_bytes!(concat!(env!("OUT_DIR"), "/get.wasm")),
    include_bytes!(concat!(env!("OUT_DIR"), "/put.wasm")),
    include_bytes!(concat!(env!("OUT_DIR"), "/delete.wasm")),
    include_bytes!(concat!(env!("OUT_DIR"), "/hydrate.wasm")),
];
