//! Label selectors and field selectors: the query syntax, the `metav1.LabelSelector` object, and evaluation.
//!
//! Evaluation looks at an [`Object`]'s few parsed facts and allocates nothing: it runs for every object of a list and
//! every event of a watch. Messages are those of apimachinery `labels` and `fields`.

use crate::kinds::Kind;
use crate::names;
use crate::object::Object;
use serde_json::Value;

mod fields;
mod parse;

pub use fields::{FieldRequirement, FieldSelector, ResolvedFields};

/// What a requirement asks of the label with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Present, with one of the values. Also `=` and `==`.
    In,
    /// Absent, or with none of the values. Also `!=`.
    NotIn,
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
    /// Present, an integer, and greater than the value.
    Gt,
    /// Present, an integer, and less than the value.
    Lt,
}

/// One term of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: Box<str>,
    /// What is asked.
    pub operator: Operator,
    /// Values, sorted, without duplicates.
    pub values: Box<[Box<str>]>,
}

impl Requirement {
    /// Whether a label with this value (or its absence) satisfies the requirement.
    pub fn matches_value(&self, value: Option<&str>) -> bool {
        let integer = |v: &str| v.parse::<i64>().ok();
        let listed = |v: &str| self.values.iter().any(|x| **x == *v);
        let compared = |wanted: std::cmp::Ordering| {
            let (Some(v), Some(bound)) = (value.and_then(integer), self.values.first().and_then(|b| integer(b))) else {
                return false;
            };
            v.cmp(&bound) == wanted
        };
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => compared(std::cmp::Ordering::Greater),
            Operator::Lt => compared(std::cmp::Ordering::Less),
        }
    }
}

/// A label selector: all requirements hold. Without requirements it selects everything, unless it is [`Selector::nothing`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Selector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects nothing, as an absent `metav1.LabelSelector` does.
    pub fn nothing() -> Self {
        Selector { requirements: Vec::new(), nothing: true }
    }

    /// Reads the syntax of the `labelSelector` query parameter. The error is the sentence the client gets.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Selector { requirements: parse::requirements(text)?, nothing: false })
    }

    /// All labels equal to those of a map (the plain selector of Services and ReplicationControllers).
    pub fn from_map(map: Option<&Value>) -> Self {
        let Some(Value::Object(map)) = map else { return Self::everything() };
        let equal = |(k, v): (&String, &Value)| Requirement {
            key: k.as_str().into(),
            operator: Operator::In,
            values: [v.as_str().unwrap_or_default().into()].into(),
        };
        Selector { requirements: map.iter().map(equal).collect(), nothing: false }
    }

    /// Reads a `metav1.LabelSelector`: absent selects nothing, empty selects everything. The error is a sentence.
    pub fn from_label_selector(selector: Option<&Value>) -> Result<Self, String> {
        let Some(Value::Object(selector)) = selector else { return Ok(Self::nothing()) };
        let mut out = Self::from_map(selector.get("matchLabels"));
        for term in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |k: &str| term.get(k).and_then(Value::as_str).unwrap_or_default();
            let values = term.get("values").and_then(Value::as_array).into_iter().flatten();
            let values: Vec<&str> = values.filter_map(Value::as_str).collect();
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            out.requirements.push(requirement(text("key"), operator, &values)?);
        }
        Ok(out)
    }

    /// Whether an object is selected.
    pub fn matches(&self, object: &Object) -> bool {
        self.matches_with(|key| object.label(key))
    }

    /// Whether labels in a JSON map are selected (a pod template's, a decoded object's).
    pub fn matches_map(&self, labels: Option<&Value>) -> bool {
        self.matches_with(|key| labels?.get(key)?.as_str())
    }

    /// Whether labels that a function looks up are selected.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches_value(label(&r.key)))
    }

    /// Whether every object is selected.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether no object can be selected.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The terms, all of which must hold.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Adds a term.
    pub fn and(mut self, requirement: Requirement) -> Self {
        self.requirements.push(requirement);
        self
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let values = || r.values.join(",");
            match (&r.operator, r.values.len()) {
                (Operator::In, 1) => write!(f, "{}={}", r.key, r.values[0]),
                (Operator::In, _) => write!(f, "{} in ({})", r.key, values()),
                (Operator::NotIn, 1) => write!(f, "{}!={}", r.key, r.values[0]),
                (Operator::NotIn, _) => write!(f, "{} notin ({})", r.key, values()),
                (Operator::Exists, _) => f.write_str(&r.key),
                (Operator::DoesNotExist, _) => write!(f, "!{}", r.key),
                (Operator::Gt, _) => write!(f, "{}>{}", r.key, values()),
                (Operator::Lt, _) => write!(f, "{}<{}", r.key, values()),
            }?;
        }
        Ok(())
    }
}

/// A checked requirement, as `labels.NewRequirement` makes it.
pub fn requirement(key: &str, operator: Operator, values: &[&str]) -> Result<Requirement, String> {
    let mut errors = Vec::new();
    if let Some(e) = key_error("key", key) {
        errors.push(e);
    }
    let complain = |what: &str| format!("values: Invalid value: {}: {what}", Value::from(values.to_vec()));
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            errors.push(complain("for 'in', 'notin' operators, values set can't be empty"));
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            errors.push(complain("values set must be empty for exists and does not exist"));
        }
        Operator::Gt | Operator::Lt if values.len() != 1 => {
            errors.push(complain("for 'Gt', 'Lt' operators, exactly one value is required"));
        }
        Operator::Gt | Operator::Lt if values[0].parse::<i64>().is_err() => {
            let what = "for 'Gt', 'Lt' operators, the value must be an integer";
            errors.push(format!("values[0]: Invalid value: {:?}: {what}", values[0]));
        }
        _ => {}
    }
    for (i, value) in values.iter().enumerate() {
        let wrong = names::label_value(value);
        if !wrong.is_empty() {
            errors.push(format!("values[{i}][{key}]: Invalid value: {value:?}: {}", wrong.join("; ")));
        }
    }
    match errors.len() {
        0 => {
            let mut values: Vec<Box<str>> = values.iter().map(|v| (*v).into()).collect();
            values.sort_unstable();
            values.dedup();
            Ok(Requirement { key: key.into(), operator, values: values.into() })
        }
        1 => Err(errors.remove(0)),
        _ => Err(format!("[{}]", errors.join(", "))),
    }
}

/// What is wrong with a label key, as a field error on `path`.
fn key_error(path: &str, key: &str) -> Option<String> {
    let wrong = names::qualified_name(key);
    (!wrong.is_empty()).then(|| format!("{path}: Invalid value: {key:?}: {}", wrong.join("; ")))
}

/// Values of a row's selectable fields in a decoded object, in the order of the row (what [`Object::fields`] holds).
pub fn field_values(kind: &Kind, object: &Value) -> Box<[Box<str>]> {
    let value = |field: &crate::kinds::SelectableField| -> Box<str> {
        let mut at = Some(object);
        for key in field.path.iter() {
            at = at.and_then(|v| v.get(key.as_ref()));
        }
        match at {
            Some(Value::String(s)) if !s.is_empty() => s.as_str().into(),
            Some(Value::Bool(b)) => b.to_string().into(),
            Some(Value::Number(n)) => n.to_string().into(),
            _ => field.absent.as_ref().into(),
        }
    };
    kind.fields.iter().map(value).collect()
}

#[cfg(test)]
#[path = "labels/tests.rs"]
mod tests;
