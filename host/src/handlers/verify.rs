//! Whether a component can be one of its operation: its size and kind by the
//! first bytes, and once it is compiled its imports and exports against the
//! operation's world.

use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use super::load_error::LoadError;
use crate::model::Operation;
use crate::wit_host::worlds;

/// Checks what can be told from the first bytes.
pub(super) fn check_kind(bytes: &[u8], limit: usize) -> Result<(), LoadError> {
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

/// Checks a component's imports and exports against the operation's world.
pub(super) fn check_world(
    engine: &Engine,
    operation: Operation,
    component: &Component,
) -> Result<(), LoadError> {
    let ty = component.component_type();
    let mut forbidden: Vec<_> = ty
        .imports(engine)
        // A type that the world takes out of an interface is listed too,
        // and carries no authority.
        .filter(|(_, item)| !matches!(item.ty, ComponentItem::Type(_) | ComponentItem::Resource(_)))
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
    if !matches!(handle, Some((_, item)) if matches!(item.ty, ComponentItem::ComponentFunc(_))) {
        let exports = ty
            .exports(engine)
            .map(|(name, _)| name.to_owned())
            .collect();
        return Err(LoadError::MissingExport { operation, exports });
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
