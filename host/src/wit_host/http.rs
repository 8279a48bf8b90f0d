//! `wit/http.wit`: the request in progress.

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use wasmtime::Result;
use wasmtime::component::Resource;

use super::bindings::tidepool::kv::http::Host;
use super::context::{Context, Incoming, OutsideCall, StoredValue, Subject};

impl Host for Context {
    fn method(&mut self) -> Result<String> {
        let method = self.incoming()?.parts.method.as_str().to_owned();
        self.charge(method.len())?;
        Ok(method)
    }

    fn key(&mut self) -> Result<String> {
        let key = self.incoming()?.key.as_str().to_owned();
        self.charge(key.len())?;
        Ok(key)
    }

    fn header(&mut self, name: String) -> Result<Option<String>> {
        self.charge(name.len())?;
        let value = self.incoming()?.parts.headers.get(name);
        // Of a write every header is text, or it would have no route.
        let value = value
            .and_then(|v| std::str::from_utf8(v.as_bytes()).ok())
            .map(str::to_owned);
        self.charge_bytes(value.as_ref().map_or(0, String::len))?;
        Ok(value)
    }

    fn headers(&mut self) -> Result<Vec<(String, String)>> {
        let headers = &self.incoming()?.parts.headers;
        let list: Vec<(String, String)> = headers
            .iter()
            .filter_map(|(name, value)| {
                let value = std::str::from_utf8(value.as_bytes()).ok()?;
                Some((name.as_str().to_owned(), value.to_owned()))
            })
            .collect();
        self.charge(list.iter().map(|h| h.0.len() + h.1.len()).sum())?;
        Ok(list)
    }

    fn query(&mut self, name: String) -> Result<Option<String>> {
        self.charge(name.len())?;
        let query = self.incoming()?.parts.uri.query().unwrap_or_default();
        let value = query_value(query, &name);
        self.charge_bytes(value.as_ref().map_or(0, String::len))?;
        Ok(value)
    }

    fn body_size(&mut self) -> Result<u32> {
        self.charge(0)?;
        Ok(length(&self.incoming()?.body))
    }

    fn body(&mut self) -> Result<Vec<u8>> {
        let body = self.incoming()?.body.clone();
        self.charge(body.len())?;
        Ok(body.into())
    }

    fn body_value(&mut self) -> Result<Resource<StoredValue>> {
        self.charge(0)?;
        let bytes = self.incoming()?.body.clone();
        Ok(self.give_value(StoredValue {
            bytes,
            content_type: None,
            expires_at: None,
        })?)
    }
}

impl Context {
    pub(super) fn incoming(&self) -> Result<&Incoming> {
        match &self.subject {
            Subject::Request(incoming) => Ok(incoming),
            Subject::None | Subject::Batch(_) => Err(OutsideCall.into()),
        }
    }
}

pub(super) fn length(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
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
