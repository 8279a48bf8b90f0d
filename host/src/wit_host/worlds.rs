//! What the component of each operation may import, and the signature of what
//! it must export. A test keeps this in step with `wit/worlds.wit`.

use wasmtime::component::{Component, Linker};

use super::bindings::tidepool::kv::types::{Failure, Request, Response, State};
use super::bindings::tidepool::kv::{
    cache, config, feed, http, log_delete, log_put, log_reader, log_types, types,
};
use super::context::Context;
use crate::model::Operation;

/// The function that every component exports.
pub const EXPORT: &str = "handle";

/// The package and version of the interfaces.
pub const PACKAGE: &str = "tidepool:kv";

/// Version of [`PACKAGE`].
pub const PACKAGE_VERSION: &str = "0.1.0";

/// Parameters of `handle` in the world `get`. They fit the 16 values that cross
/// the border without memory of the component's.
pub type GetParams = (Request, Option<State>);
/// Parameters of `handle` in the worlds `put` and `delete`.
pub type RequestParams = (Request,);
/// Result of `handle` in these three.
pub type RequestResult = (Result<Response, Failure>,);
/// Parameters of `handle` in the world `hydrate`.
pub type HydrateParams = (Vec<feed::Change>,);
/// Result of `handle` in that world.
pub type HydrateResult = (Result<Vec<feed::Decision>, Failure>,);

/// The interfaces that the operation's world imports, by name. WASI beside
/// them: see [`super::wasi`].
pub fn imports(operation: Operation) -> &'static [&'static str] {
    match operation {
        Operation::Get => &["types", "config", "http", "cache", "log-reader"],
        Operation::Put => &["types", "config", "http", "log-types", "log-put"],
        Operation::Delete => &["types", "config", "http", "log-types", "log-delete"],
        Operation::Hydrate => &["types", "config", "feed"],
    }
}

/// A linker that serves the operation's world and nothing else.
pub fn linker(
    engine: &wasmtime::Engine,
    operation: Operation,
) -> wasmtime::Result<Linker<Context>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    for interface in imports(operation) {
        match *interface {
            "types" => types::add_to_linker::<_, Own>(&mut linker, own)?,
            "config" => config::add_to_linker::<_, Own>(&mut linker, own)?,
            "http" => http::add_to_linker::<_, Own>(&mut linker, own)?,
            "cache" => cache::add_to_linker::<_, Own>(&mut linker, own)?,
            "log-reader" => log_reader::add_to_linker::<_, Own>(&mut linker, own)?,
            "log-types" => log_types::add_to_linker::<_, Own>(&mut linker, own)?,
            "log-put" => log_put::add_to_linker::<_, Own>(&mut linker, own)?,
            "log-delete" => log_delete::add_to_linker::<_, Own>(&mut linker, own)?,
            "feed" => feed::add_to_linker::<_, Own>(&mut linker, own)?,
            other => wasmtime::bail!("no host implementation of interface {other}"),
        }
    }
    Ok(linker)
}

/// A linker that serves what can be answered without a wait, for the component of
/// the world `get`; everything else that it imports traps. `None`: it imports WASI,
/// which may wait.
pub fn linker_at_hand(
    engine: &wasmtime::Engine,
    component: &Component,
) -> wasmtime::Result<Option<Linker<Context>>> {
    let ty = component.component_type();
    if ty
        .imports(engine)
        .any(|(name, _)| name.starts_with("wasi:"))
    {
        return Ok(None);
    }
    let mut linker = Linker::new(engine);
    types::add_to_linker::<_, Own>(&mut linker, own)?;
    config::add_to_linker::<_, Own>(&mut linker, own)?;
    http::add_to_linker::<_, Own>(&mut linker, own)?;
    linker.define_unknown_imports_as_traps(component)?;
    Ok(Some(linker))
}

/// The store's data serves every interface itself.
struct Own;

impl wasmtime::component::HasData for Own {
    type Data<'a> = &'a mut Context;
}

fn own(context: &mut Context) -> &mut Context {
    context
}
