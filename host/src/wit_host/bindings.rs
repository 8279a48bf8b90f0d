//! What `bindgen!` makes of `wit/`: the only place where it is invoked.
//!
//! One world that imports every interface gives the types and the host traits
//! once. What an operation's world may import of them is in
//! [`worlds`](super::worlds); the one export, `handle`, is called through a
//! typed function, so that a key is lowered from shared memory and not copied
//! first.

#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]

wasmtime::component::bindgen!({
    inline: "
        package tidepool:host@0.1.0;
        world host {
            import tidepool:kv/types@0.1.0;
            import tidepool:kv/config@0.1.0;
            import tidepool:kv/http@0.1.0;
            import tidepool:kv/cache@0.1.0;
            import tidepool:kv/log-reader@0.1.0;
            import tidepool:kv/log-put@0.1.0;
            import tidepool:kv/log-delete@0.1.0;
            import tidepool:kv/feed@0.1.0;
        }
    ",
    path: "../wit",
    imports: {
        "tidepool:kv/cache.lookup": async | trappable,
        "tidepool:kv/cache.[static]lease.fill": async | trappable,
        "tidepool:kv/log-reader.read": async | trappable,
        "tidepool:kv/log-put.put": async | trappable,
        "tidepool:kv/log-delete.delete": async | trappable,
        default: trappable,
    },
    with: {
        "tidepool:kv/types.value": crate::wit_host::context::StoredValue,
        "tidepool:kv/cache.lease": crate::cache::Lease,
        "tidepool:kv/log-reader.latest": crate::model::State,
    },
    require_store_data_send: true,
});
