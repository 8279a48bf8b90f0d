//! `wit/types.wit`: values and the request in progress.

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use wasmtime::Result;
use wasmtime::component::Resource;

use super::bindings::tidepool::kv::types::{self as wit, Header};
use super::context::{Context, Incoming, IncomingHandle, StaleHandle, StoredValue, Subject};
use crate::model::{Condition, State, Tags, Version};

impl wit::Host for Context {}

impl wit::HostValue for Context {
    fn new(&mut self, bytes: Vec<u8>) -> Result<Resource<StoredValue>> {
        self.charge(bytes.len())?;
        self.give_value(StoredValue {
            bytes: Bytes::from(bytes),
            content_type: None,
        })
    }

    fn size(&mut self, value: Resource<StoredValue>) -> Result<u32> {
        self.charge(0)?;
        Ok(length(&self.values.get(value.rep())?.bytes))
    }

    fn bytes(&mut self, value: Resource<StoredValue>) -> Result<Vec<u8>> {
        let bytes = self.values.get(value.rep())?.bytes.clone();
        self.charge(bytes.len())?;
        Ok(bytes.into())
    }

    fn drop(&mut self, value: Resource<StoredValue>) -> Result<()> {
        // A handle kept over the end of its call is void already.
        let _ = self.values.take(value.rep());
        Ok(())
    }
}

impl wit::HostIncoming for Context {
    fn header(&mut self, _: Resource<IncomingHandle>, name: String) -> Result<Option<String>> {
        self.charge(name.len())?;
        let value = self.incoming()?.parts.headers.get(name);
        let value = value
            .and_then(|v| std::str::from_utf8(v.as_bytes()).ok())
            .map(str::to_owned);
        self.charge_bytes(value.as_ref().map_or(0, String::len))?;
        Ok(value)
    }

    fn headers(&mut self, _: Resource<IncomingHandle>) -> Result<Vec<Header>> {
        let headers = &self.incoming()?.parts.headers;
        let list: Vec<Header> = headers
            .iter()
            .filter_map(|(name, value)| {
                let value = std::str::from_utf8(value.as_bytes()).ok()?;
                Some(Header {
                    name: name.as_str().to_owned(),
                    value: value.to_owned(),
                })
            })
            .collect();
        self.charge(list.iter().map(|h| h.name.len() + h.value.len()).sum())?;
        Ok(list)
    }

    fn query(&mut self, _: Resource<IncomingHandle>, name: String) -> Result<Option<String>> {
        self.charge(name.len())?;
        let query = self.incoming()?.parts.uri.query().unwrap_or_default();
        let value = query_value(query, &name);
        self.charge_bytes(value.as_ref().map_or(0, String::len))?;
        Ok(value)
    }

    fn body_size(&mut self, _: Resource<IncomingHandle>) -> Result<u32> {
        self.charge(0)?;
        Ok(length(&self.incoming()?.body))
    }

    fn body(&mut self, _: Resource<IncomingHandle>) -> Result<Vec<u8>> {
        let body = self.incoming()?.body.clone();
        self.charge(body.len())?;
        Ok(body.into())
    }

    fn body_value(&mut self, _: Resource<IncomingHandle>) -> Result<Resource<StoredValue>> {
        self.charge(0)?;
        let bytes = self.incoming()?.body.clone();
        self.give_value(StoredValue {
            bytes,
            content_type: None,
        })
    }

    fn drop(&mut self, _: Resource<IncomingHandle>) -> Result<()> {
        Ok(())
    }
}

impl Context {
    fn incoming(&self) -> Result<&Incoming> {
        match &self.subject {
            Subject::Request(incoming) => Ok(incoming),
            Subject::None | Subject::Batch(_) => Err(StaleHandle.into()),
        }
    }

    pub(super) fn give_value(&mut self, value: StoredValue) -> Result<Resource<StoredValue>> {
        Ok(Resource::new_own(self.values.push(value)?))
    }

    /// A state as components see it.
    pub(super) fn give_state(&mut self, state: State) -> Result<wit::State> {
        Ok(match state {
            State::Live { version, value } => {
                let content_type = value.content_type.as_deref().map(str::to_owned);
                let expires_at = value.expires_at;
                let stored = StoredValue {
                    bytes: value.bytes,
                    content_type: value.content_type,
                };
                wit::State::Live(wit::Entry {
                    version: version.0,
                    value: self.give_value(stored)?,
                    content_type,
                    expires_at,
                })
            }
            State::Deleted { version } => wit::State::Deleted(version.0),
            State::Absent => wit::State::Absent,
        })
    }
}

fn length(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
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

/// The first value of a query parameter. `+` means a space, as forms send it.
fn query_value(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text: &str| {
            percent_decode_str(&text.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        (decode(key) == name).then(|| decode(value))
    })
}

#[cfg(test)]
mod tests {
    use super::query_value;

    #[test]
    fn query_values_are_decoded_and_the_first_wins() {
        assert_eq!(
            query_value("a=1&b=x%20y+z&b=2", "b").as_deref(),
            Some("x y z")
        );
        assert_eq!(query_value("raw", "raw").as_deref(), Some(""));
        assert_eq!(query_value("raw", "ra"), None);
        assert_eq!(query_value("", "a"), None);
        assert_eq!(query_value("a=%ff", "a").as_deref(), Some("\u{fffd}"));
    }
}
