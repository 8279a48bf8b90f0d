//! What every backend of a contract has to do, as one suite for each contract.
//! `tests/tests/conformance_*.rs` run them over every backend there is.
//!
//! A suite writes only through the contract and waits for nothing but events. A
//! panic is its report.

#![allow(clippy::unwrap_used)] // In a suite a panic is the report.

pub mod cache;
pub mod feed;
pub mod ledger;
pub mod log;
pub mod quarantine;
