//! `wit/types.wit`: values, and the words of the model as components see them.

use bytes::Bytes;
use wasmtime::Result;
use wasmtime::component::Resource;

use super::bindings::tidepool::kv::types as wit;
use super::context::{Context, Exceeded, StoredValue};
use crate::model::{Condition, State, Tags, Version};

impl wit::Host for Context {}

impl wit::HostValue for Context {
    fn new(&mut self, bytes: Vec<u8>) -> Result<Resource<StoredValue>> {
        self.charge(bytes.len())?;
        Ok(self.give_value(StoredValue {
            bytes: Bytes::from(bytes),
            content_type: None,
            expires_at: None,
        })?)
    }

    fn size(&mut self, value: Resource<StoredValue>) -> Result<u32> {
        self.charge(0)?;
        Ok(super::http::length(&self.values.get(value.rep())?.bytes))
    }

    fn bytes(&mut self, value: Resource<StoredValue>) -> Result<Vec<u8>> {
        let bytes = self.values.get(value.rep())?.bytes.clone();
        self.charge(bytes.len())?;
        Ok(bytes.into())
    }

    fn expires_at(&mut self, value: Resource<StoredValue>) -> Result<Option<i64>> {
        self.charge(0)?;
        Ok(self.values.get(value.rep())?.expires_at)
    }

    fn drop(&mut self, value: Resource<StoredValue>) -> Result<()> {
        // A handle kept over the end of its call is void already.
        let _ = self.values.take(value.rep());
        Ok(())
    }
}

impl Context {
    pub(super) fn give_value(
        &mut self,
        value: StoredValue,
    ) -> Result<Resource<StoredValue>, Exceeded> {
        Ok(Resource::new_own(self.values.push(value)?))
    }

    /// A state as components see it.
    pub fn give_state(&mut self, state: State) -> Result<wit::State, Exceeded> {
        Ok(match state {
            State::Live { version, value } => {
                let content_type = value.content_type.as_deref().map(str::to_owned);
                let stored = StoredValue {
                    bytes: value.bytes,
                    content_type: value.content_type,
                    expires_at: value.expires_at,
                };
                wit::State::Live(wit::Entry {
                    version: version.0,
                    value: self.give_value(stored)?,
                    content_type,
                })
            }
            State::Deleted { version } => wit::State::Deleted(version.0),
            State::Absent => wit::State::Absent,
        })
    }
}

/// A condition as the host decides it.
pub(super) fn condition(condition: wit::Condition) -> Condition {
    match condition {
        wit::Condition::None => Condition::None,
        wit::Condition::IfMatch(t) => Condition::IfMatch(tags(t)),
        wit::Condition::IfNoneMatch(t) => Condition::IfNoneMatch(tags(t)),
    }
}

fn tags(tags: wit::Tags) -> Tags {
    match tags {
        wit::Tags::Any => Tags::Any,
        wit::Tags::Versions(list) => Tags::Versions(list.into_iter().map(Version).collect()),
    }
}
