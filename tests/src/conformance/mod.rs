//! What every backend of a contract has to do, as suites that drive a backend only
//! through its contract.

pub mod cache;
