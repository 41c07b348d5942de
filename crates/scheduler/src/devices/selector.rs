//! Expressions that choose devices.
//!
//! What they see is `device`: `driver`, `attributes[domain].name`, `capacity[domain].name`.

use super::Device;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A compiled expression, or why it is none.
#[derive(Clone, Debug)]
pub struct Selector {
    source: String,
}

impl Selector {
    /// Compiles an expression. A wrong one is kept: it is an error where it is used.
    pub fn compile(source: &str) -> Self {
        Selector { source: source.to_owned() }
    }

    /// Whether a device is chosen.
    pub fn matches(&self, _device: &Device) -> Result<bool, String> {
        // The language has a room of its own that this one is not connected to yet; saying so beats choosing wrongly.
        Err(format!("CEL selectors of devices are not evaluated yet: {}", self.source))
    }
}

/// What an expression sees of a device.
pub fn seen(driver: &str, attributes: &BTreeMap<Box<str>, Value>, capacity: &BTreeMap<Box<str>, Value>) -> Value {
    let mut seen = json!({"driver": driver, "attributes": {}, "capacity": {}});
    let mut put = |kind: &str, name: &str, value: Value| {
        if let Some((domain, name)) = name.split_once('/') {
            seen[kind][domain][name] = value;
        }
    };
    for (name, attribute) in attributes {
        // An attribute is an object with one field, named after its type.
        let value = attribute.as_object().and_then(|o| o.values().next()).cloned().unwrap_or_default();
        put("attributes", name, value);
    }
    for (name, amount) in capacity {
        put("capacity", name, amount["value"].clone());
    }
    seen
}
