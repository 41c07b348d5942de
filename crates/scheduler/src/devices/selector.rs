//! Expressions that choose devices (`dra/cel`).
//!
//! What they see is `device`: `driver`, `attributes[domain].name` and `capacity[domain].name`. Attributes have the types
//! that the driver gave them, capacities are quantities.

use super::Device;
use ferrokube_cel::{Budget, Env, Program, Type, Value};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What one evaluation may cost (`CELSelectorExpressionMaxCost`).
const MOST_COST: u64 = 1_000_000;

/// A compiled expression, or why it is none.
#[derive(Clone, Debug)]
pub struct Selector {
    program: Arc<Result<Program, String>>,
}

impl Selector {
    /// Compiles an expression. A wrong one is kept: it is an error where it is used.
    pub fn compile(source: &str) -> Self {
        let env = Env::new().with_type("device", Type::Dyn);
        let program = env.compile(source).map_err(|issues| format!("CEL selector {source:?} does not compile: {issues}"));
        Selector { program: Arc::new(program) }
    }

    /// Whether a device is chosen.
    pub fn matches(&self, device: &Device) -> Result<bool, String> {
        let program = self.program.as_ref().as_ref().map_err(Clone::clone)?;
        match program.eval(&[seen(device)], &Budget::new(MOST_COST)) {
            Ok(Value::Bool(chosen)) => Ok(chosen),
            Ok(other) => Err(format!("CEL expression of type {} and not bool: {}", other.type_name(), program.source())),
            Err(error) => Err(format!("CEL runtime error: {}", error.message)),
        }
    }
}

/// What an expression sees of a device.
fn seen(device: &Device) -> Value<'_> {
    let attributes = device.attributes.iter().filter_map(|(name, value)| Some((&**name, attribute(value)?)));
    let capacity = device.capacity.iter().map(|(name, amount)| (&**name, Value::Quantity(*amount)));
    Value::map([("driver", Value::text(&*device.key.0)), ("attributes", by_domain(attributes)), ("capacity", by_domain(capacity))])
}

/// An attribute is an object with one field, named after its type.
fn attribute(value: &Json) -> Option<Value<'_>> {
    let (kind, value) = value.as_object()?.iter().next()?;
    match &**kind {
        "version" => Value::semver(value.as_str()?),
        _ => Some(Value::json(value)),
    }
}

fn by_domain<'a>(values: impl Iterator<Item = (&'a str, Value<'a>)>) -> Value<'a> {
    let mut domains: BTreeMap<&str, Vec<(&str, Value<'a>)>> = BTreeMap::new();
    for (qualified, value) in values {
        if let Some((domain, name)) = qualified.split_once('/') {
            domains.entry(domain).or_default().push((name, value));
        }
    }
    Value::map(domains.into_iter().map(|(domain, names)| (domain, Value::map(names))))
}
