//! Field paths and field errors, in the words of apimachinery's `field` package.
//!
//! A validator walks the object with a [`Path`] and pushes what it finds into [`Errors`]; the API server turns them
//! into the causes of a 422 `Status`. Messages are part of the API.

use crate::status::Cause;
use serde_json::Value;
use std::fmt;

/// A path to a field: `spec.containers[0].name`, `metadata.labels[app]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The path of a field at the root; empty for the object itself.
    pub fn new(name: &str) -> Self {
        Path(name.to_owned())
    }

    /// A field below this one.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Path(name.to_owned()) } else { Path(format!("{}.{name}", self.0)) }
    }

    /// An element of a list.
    pub fn index(&self, index: usize) -> Self {
        Path(format!("{}[{index}]", self.0))
    }

    /// An entry of a map.
    pub fn key(&self, key: &str) -> Self {
        Path(format!("{}[{key}]", self.0))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path that borrows its parents: a validator walks with it for free, and it becomes text only in an error.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> At<'a> {
    /// The object itself.
    pub const ROOT: At<'static> = At { parent: None, step: Step::Root };

    /// A field at the root.
    pub const fn field(name: &'a str) -> At<'a> {
        At { parent: None, step: Step::Field(name) }
    }

    /// A field below this one.
    pub const fn child(&'a self, name: &'a str) -> At<'a> {
        At { parent: Some(self), step: Step::Field(name) }
    }

    /// An element of a list.
    pub const fn index(&'a self, index: usize) -> At<'a> {
        At { parent: Some(self), step: Step::Index(index) }
    }

    /// An entry of a map.
    pub const fn key(&'a self, key: &'a str) -> At<'a> {
        At { parent: Some(self), step: Step::Key(key) }
    }

    fn is_empty(&self) -> bool {
        matches!(self.step, Step::Root) && self.parent.is_none_or(At::is_empty)
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parent = self.parent.filter(|p| !p.is_empty());
        if let Some(parent) = parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if parent.is_none() => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// Everything that is wrong with an object, in the order found.
#[derive(Clone, Debug, Default)]
pub struct Errors {
    list: Vec<Cause>,
}

/// A value as apimachinery quotes it in messages: strings in quotes, the rest as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{s:?}"),
        // A missing value is shown as the text "null", quotes included.
        Value::Null => "\"null\"".to_owned(),
        other => other.to_string(),
    }
}

impl Errors {
    fn push(&mut self, kind: &str, path: &impl fmt::Display, message: String) {
        self.list.push(Cause { kind: kind.to_owned(), message, field: path.to_string() });
    }

    /// `Invalid value: "x": detail`.
    pub fn invalid(&mut self, path: &impl fmt::Display, value: &Value, detail: &str) {
        let colon = if detail.is_empty() { "" } else { ": " };
        self.push("FieldValueInvalid", path, format!("Invalid value: {}{colon}{detail}", shown(value)));
    }

    /// `Invalid value: detail`, for values too large to be quoted.
    pub fn invalid_omitted(&mut self, path: &impl fmt::Display, detail: &str) {
        self.push("FieldValueInvalid", path, format!("Invalid value: {detail}"));
    }

    /// `Invalid value: shown: detail`, for values that are quoted in a form of their own.
    pub fn invalid_shown(&mut self, path: &impl fmt::Display, shown: &str, detail: &str) {
        self.push("FieldValueInvalid", path, format!("Invalid value: {shown}: {detail}"));
    }

    /// `Unsupported value: shown: supported values: "a", "b"`, likewise.
    pub fn not_supported_shown(&mut self, path: &impl fmt::Display, shown: &str, supported: &[&str]) {
        let list = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        self.push("FieldValueNotSupported", path, format!("Unsupported value: {shown}: supported values: {list}"));
    }

    /// Everything that another walk found.
    pub fn append(&mut self, other: Errors) {
        self.list.extend(other.list);
    }

    /// One `Invalid value` for each message.
    pub fn invalid_each(&mut self, path: &impl fmt::Display, value: impl Into<Value>, details: Vec<String>) {
        if details.is_empty() {
            return;
        }
        let value = value.into();
        details.iter().for_each(|detail| self.invalid(path, &value, detail));
    }

    /// How many errors there are so far.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// `Required value: detail`.
    pub fn required(&mut self, path: &impl fmt::Display, detail: &str) {
        let message = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        self.push("FieldValueRequired", path, message);
    }

    /// `Duplicate value: "x"`.
    pub fn duplicate(&mut self, path: &impl fmt::Display, value: &Value) {
        self.push("FieldValueDuplicate", path, format!("Duplicate value: {}", shown(value)));
    }

    /// `Duplicate value: shown`, for values that are quoted in a form of their own.
    pub fn duplicate_shown(&mut self, path: &impl fmt::Display, shown: &str) {
        self.push("FieldValueDuplicate", path, format!("Duplicate value: {shown}"));
    }

    /// `Not found: "x"`.
    pub fn not_found(&mut self, path: &impl fmt::Display, value: &Value) {
        self.push("FieldValueNotFound", path, format!("Not found: {}", shown(value)));
    }

    /// `Not found: "x": detail`.
    pub fn not_found_because(&mut self, path: &impl fmt::Display, value: &Value, detail: &str) {
        self.push("FieldValueNotFound", path, format!("Not found: {}: {detail}", shown(value)));
    }

    /// `Unsupported value: "x": supported values: "a", "b"`.
    pub fn not_supported(&mut self, path: &impl fmt::Display, value: &Value, supported: &[&str]) {
        let list = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        self.push("FieldValueNotSupported", path, format!("Unsupported value: {}: supported values: {list}", shown(value)));
    }

    /// `Forbidden: detail`.
    pub fn forbidden(&mut self, path: &impl fmt::Display, detail: &str) {
        self.push("FieldValueForbidden", path, format!("Forbidden: {detail}"));
    }

    /// `Too long: may not be more than N bytes`.
    pub fn too_long(&mut self, path: &impl fmt::Display, max: usize) {
        self.push("FieldValueTooLong", path, format!("Too long: may not be more than {max} bytes"));
    }

    /// `Too many: N: must have at most M items`.
    pub fn too_many(&mut self, path: &impl fmt::Display, actual: usize, max: usize) {
        self.push("FieldValueTooMany", path, format!("Too many: {actual}: must have at most {max} items"));
    }

    /// `Invalid value: "x": must be of type T`.
    pub fn type_invalid(&mut self, path: &impl fmt::Display, value: &Value, detail: &str) {
        self.push("FieldValueTypeInvalid", path, format!("Invalid value: {}: {detail}", shown(value)));
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What was found so far.
    pub fn causes(&self) -> &[Cause] {
        &self.list
    }

    /// Takes back what was found since there were `before` errors, where `keep` says no.
    pub fn retain_since(&mut self, before: usize, keep: impl Fn(&Cause) -> bool) {
        let mut i = 0;
        self.list.retain(|cause| {
            i += 1;
            i <= before || keep(cause)
        });
    }

    /// The causes, in the order found.
    pub fn into_causes(self) -> Vec<Cause> {
        self.list
    }
}
