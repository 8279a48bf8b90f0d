//! Empty: the fixtures are the examples of this package, see `Cargo.toml`.
