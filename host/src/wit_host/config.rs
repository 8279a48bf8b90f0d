//! `wit/config.wit`: the configuration of the revision that an instance is of.

use std::collections::BTreeMap;
use std::fmt;

use wasmtime::Result;

use super::bindings::tidepool::kv::config as wit;
use super::context::Context;

/// Names and what a component reads under them, secrets included: never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<String, String>);

impl Values {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, String)> for Values {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(values: I) -> Values {
        Values(values.into_iter().collect())
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl wit::Host for Context {
    fn get(&mut self, name: String) -> Result<Option<String>> {
        let value = self.values_of_config().get(&name).map(str::to_owned);
        self.charge(name.len() + value.as_ref().map_or(0, String::len))?;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wit_host::context::CallBounds;
    use crate::wit_host::wasi::HandlerOutput;

    #[test]
    fn values_are_read_by_name_counted_and_never_printed() {
        let bounds = CallBounds {
            host_calls: 2,
            host_bytes: 100,
            memory_bytes: 0,
            table_elements: 0,
        };
        let values: Values = [("key".to_owned(), "hidden".to_owned())]
            .into_iter()
            .collect();
        assert_eq!(format!("{values:?}"), r#"{"key"}"#);
        let mut context = Context::new(bounds, None, HandlerOutput::discard())
            .with_config(std::sync::Arc::new(values));
        let mut get = |name: &str| wit::Host::get(&mut context, name.to_owned());
        assert_eq!(get("key").unwrap().as_deref(), Some("hidden"));
        assert_eq!(get("other").unwrap(), None);
        assert!(get("key").is_err());
    }
}
