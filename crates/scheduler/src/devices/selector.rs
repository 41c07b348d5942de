//! Expressions that choose devices (`dra/cel`).
//!
//! What they see is `device`: `driver`, `attributes[domain].name`, `capacity[domain].name`, `allowMultipleAllocations`. Attributes have the types
//! that the driver gave them, capacities are quantities.

use super::Device;
use ferrokube_cel::{Budget, Env, Program, Type, Value};
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What one evaluation may cost (`CELSelectorExpressionMaxCost`).
const MOST_COST: u64 = 1_000_000;

/// Why an expression has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is none, whatever the device.
    Expression(String),
    /// It went wrong for a device.
    Evaluation(String),
}

impl Wrong {
    /// In words, for a selector that stands in a place.
    pub fn told(&self, place: &str, device: &Device) -> String {
        let (driver, pool, name) = &device.key;
        match self {
            Wrong::Expression(why) => format!("{place}: CEL compile error: {why}"),
            Wrong::Evaluation(why) => format!("{place} on device {driver}/{pool}/{name}: CEL runtime error: {why}"),
        }
    }
}

/// A compiled expression, or why it is none.
#[derive(Clone, Debug)]
pub struct Selector {
    program: Arc<Result<Program, Wrong>>,
    number: u64,
}

/// Expressions that are in use, or were a moment ago: those of all claims of a template are one.
#[derive(Clone, Debug, Default)]
pub struct Selectors {
    known: HashMap<Box<str>, Selector>,
    last: u64,
    /// Those that nobody has are thrown away when there are so many.
    many: usize,
}

impl Selectors {
    /// Compiles an expression, unless it is known. A wrong one is kept: it is an error where it is used.
    pub fn compile(&mut self, source: &str) -> Selector {
        if let Some(known) = self.known.get(source) {
            return known.clone();
        }
        if self.known.len() >= self.many.max(64) {
            self.known.retain(|_, selector| Arc::strong_count(&selector.program) > 1);
            self.many = 2 * self.known.len();
        }
        self.last += 1;
        let selector = Selector::compile(source, self.last);
        self.known.insert(source.into(), selector.clone());
        selector
    }
}

impl Selector {
    fn compile(source: &str, number: u64) -> Self {
        let env = Env::new().with_type("device", Type::Dyn);
        let program = env.compile(source).map_err(|issues| Wrong::Expression(format!("compilation failed: {issues}")));
        Selector { program: Arc::new(program), number }
    }

    /// The same for equal expressions, and never that of another.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether a device is chosen.
    pub fn matches(&self, device: &Device) -> Result<bool, Wrong> {
        let program = self.program.as_ref().as_ref().map_err(Clone::clone)?;
        match program.eval(&[seen(device)], &Budget::new(MOST_COST)) {
            Ok(Value::Bool(chosen)) => Ok(chosen),
            Ok(other) => Err(Wrong::Evaluation(format!("result of type {} and not bool: {}", other.type_name(), program.source()))),
            Err(error) => Err(Wrong::Evaluation(error.message.to_string())),
        }
    }
}

/// What an expression sees of a device.
fn seen(device: &Device) -> Value<'_> {
    let attributes = device.attributes.iter().filter_map(|(name, value)| Some((&**name, attribute(value)?)));
    let capacity = device.capacity.iter().map(|(name, amount)| (&**name, Value::Quantity(amount.value)));
    Value::map([
        ("driver", Value::text(&*device.key.0)),
        ("attributes", by_domain(attributes)),
        ("capacity", by_domain(capacity)),
        ("allowMultipleAllocations", Value::Bool(device.shared)),
    ])
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
