//! placeholder until merged
use super::*;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
/// x
pub struct SqlLedger;
impl SqlLedger {
    /// x
    pub fn new(_c: crate::sql::SqlConfig, _k: crate::sql::ServerKind) -> SqlLedger {
        SqlLedger
    }
}
#[async_trait]
impl Ledger for SqlLedger {
    async fn after(&self, _: u64) -> Result<Vec<Entry>, LedgerError> {
        Err(LedgerError("x".into()))
    }
    async fn append(&self, _: u64, _: NewEntry) -> Result<(), AppendError> {
        Err(LedgerError("x".into()).into())
    }
    async fn put_component(&self, _: Digest, _: Bytes) -> Result<(), LedgerError> {
        Err(LedgerError("x".into()))
    }
    async fn component(&self, _: Digest) -> Result<Bytes, LedgerError> {
        Err(LedgerError("x".into()))
    }
    async fn keep_components(&self, _: Vec<Digest>) -> Result<(), LedgerError> {
        Err(LedgerError("x".into()))
    }
    async fn report(&self, _: HostReport) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn hosts(&self) -> Result<Vec<HostReport>, LedgerError> {
        Ok(vec![])
    }
    async fn changed(&self) {}
}
