//! Field selectors: `metadata.name=a,status.phase!=Running`.

use crate::kinds::Kind;
use crate::object::{Object, ObjectKey};

/// One term: a field equals a value, or does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// Label of the field: `spec.nodeName`.
    pub field: Box<str>,
    /// The value compared with.
    pub value: Box<str>,
    /// Whether the field must equal the value; otherwise it must differ.
    pub equal: bool,
}

/// A field selector: all terms hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// The terms.
    pub requirements: Vec<FieldRequirement>,
}

/// Splits at commas that no backslash protects.
fn terms(text: &str) -> Vec<&str> {
    let (mut out, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                out.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn unescape(text: &str) -> Result<String, String> {
    const WRONG: &str = "invalid field selector:";
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(format!("{WRONG} invalid escape sequence: \\{c}")),
                None => return Err(format!("{WRONG} invalid escape sequence: \\")),
            },
            ',' | '=' => return Err(format!("{WRONG} unescaped character in value: {}", c as u32)),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn split_operator(term: &str) -> Option<(&str, bool, &str)> {
    for (at, _) in term.char_indices() {
        let rest = &term[at..];
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..at], equal, value));
            }
        }
    }
    None
}

/// Where a term's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Name,
    Namespace,
    Field(usize),
}

/// A field selector checked against a row, ready to run without look-ups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedFields {
    terms: Vec<(Source, bool, Box<str>)>,
}

impl FieldSelector {
    /// Reads the syntax of the `fieldSelector` query parameter. The error is the sentence the client gets.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for term in terms(text).into_iter().filter(|t| !t.is_empty()) {
            let Some((field, equal, value)) = split_operator(term) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{term}'"));
            };
            let (field, value) = (field.into(), unescape(value)?.into());
            requirements.push(FieldRequirement { field, value, equal });
        }
        Ok(FieldSelector { requirements })
    }

    /// Whether there is no term.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Checks the fields against what the row can select by. The error is the sentence the client gets.
    pub fn resolve(&self, kind: &Kind) -> Result<ResolvedFields, String> {
        let mut terms = Vec::with_capacity(self.requirements.len());
        for r in &self.requirements {
            let source = match &*r.field {
                "metadata.name" => Source::Name,
                "metadata.namespace" if kind.namespaced() => Source::Namespace,
                field => match kind.fields.iter().position(|f| f.label == field) {
                    Some(at) => Source::Field(at),
                    // Custom resources (they have no type of ours) are refused in the words of their own converter.
                    None if kind.fields.is_empty() && !kind.schema.is_empty() => {
                        let known = if kind.namespaced() { "\"metadata.name\", \"metadata.namespace\"" } else { "\"metadata.name\"" };
                        return Err(format!("{field:?} is not a known field selector: only {known}"));
                    }
                    None if kind.group == "batch" => return Err(format!("field label {field:?} not supported for batchv1.Job")),
                    None => return Err(format!("field label not supported: {field}")),
                },
            };
            terms.push((source, r.equal, r.value.clone()));
        }
        Ok(ResolvedFields { terms })
    }
}

impl ResolvedFields {
    /// Whether an object is selected.
    pub fn matches(&self, object: &Object) -> bool {
        self.hold(&object.key, |at| object.fields.get(at).map_or("", |v| v))
    }

    /// Whether an object is selected that has these fields in the version of the row ([`super::field_values`]), whatever those were
    /// read from that it carries.
    pub fn matches_with(&self, key: &ObjectKey, fields: &[Box<str>]) -> bool {
        self.hold(key, |at| fields.get(at).map_or("", |v| v))
    }

    fn hold<'a>(&self, key: &'a ObjectKey, field: impl Fn(usize) -> &'a str) -> bool {
        self.terms.iter().all(|(source, equal, wanted)| {
            let value = match source {
                Source::Name => &*key.name,
                Source::Namespace => &*key.namespace,
                Source::Field(at) => field(*at),
            };
            (value == &**wanted) == *equal
        })
    }

    /// The terms about the key of an object, and those about its fields.
    pub fn apart(self) -> (Self, Self) {
        let (fields, key) = self.terms.into_iter().partition(|term| matches!(term.0, Source::Field(_)));
        (ResolvedFields { terms: key }, ResolvedFields { terms: fields })
    }

    /// Whether every object is selected.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that `metadata.name` must have, if the selector says so: such lists and watches touch one object.
    pub fn exact_name(&self) -> Option<&str> {
        self.terms.iter().find(|t| t.0 == Source::Name && t.1).map(|t| &*t.2)
    }

    /// The value that the row's field at this index must have, if the selector says so.
    pub fn exact_field(&self, index: usize) -> Option<&str> {
        self.terms.iter().find(|t| t.0 == Source::Field(index) && t.1).map(|t| &*t.2)
    }

    /// The value that `metadata.namespace` must have, if the selector says so.
    pub fn exact_namespace(&self) -> Option<&str> {
        self.terms.iter().find(|t| t.0 == Source::Namespace && t.1).map(|t| &*t.2)
    }
}
