//! Named formats: `format.dns1123Label().validate(text)` answers with the list of what is wrong, or with nothing.

use super::{Def, ONE, Price, Site, f};
use crate::value::{EvalError, Evaluated, Value};
use ferrokube_api::names;
use std::fmt;

pub(super) const TABLE: &[Def] = &[
    f("format.named", "(string) -> optional(format)", ONE, named),
    f("validate", "format.(string) -> optional(list(string))", Price::Text(1, 4), validate),
    f("format.dns1123Label", "() -> format", ONE, |_, _| one("dns1123Label")),
    f("format.dns1123Subdomain", "() -> format", ONE, |_, _| one("dns1123Subdomain")),
    f("format.dns1035Label", "() -> format", ONE, |_, _| one("dns1035Label")),
    f("format.qualifiedName", "() -> format", ONE, |_, _| one("qualifiedName")),
    f("format.dns1123LabelPrefix", "() -> format", ONE, |_, _| one("dns1123LabelPrefix")),
    f("format.dns1123SubdomainPrefix", "() -> format", ONE, |_, _| one("dns1123SubdomainPrefix")),
    f("format.dns1035LabelPrefix", "() -> format", ONE, |_, _| one("dns1035LabelPrefix")),
    f("format.labelValue", "() -> format", ONE, |_, _| one("labelValue")),
    f("format.uri", "() -> format", ONE, |_, _| one("uri")),
    f("format.uuid", "() -> format", ONE, |_, _| one("uuid")),
    f("format.byte", "() -> format", ONE, |_, _| one("byte")),
    f("format.date", "() -> format", ONE, |_, _| one("date")),
    f("format.datetime", "() -> format", ONE, |_, _| one("datetime")),
];

/// A format.
pub struct Format {
    /// As `format.named` knows it.
    pub name: &'static str,
    check: fn(&str) -> Vec<String>,
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A prefix may end with a dash: another character stands for what will follow.
fn prefix(text: &str, check: fn(&str) -> Vec<String>) -> Vec<String> {
    match text.strip_suffix('-') {
        Some(start) => check(&format!("{start}a")),
        None => check(text),
    }
}

fn unless(fine: bool, why: &str) -> Vec<String> {
    if fine { Vec::new() } else { vec![why.to_owned()] }
}

fn is_uuid(text: &str) -> bool {
    let plain = text.replace('-', "");
    let dashes = text.len() == 32 || (text.len() == 36 && [8, 13, 18, 23].iter().all(|i| text.as_bytes()[*i] == b'-'));
    dashes && plain.len() == 32 && plain.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_base64(text: &str) -> bool {
    use base64::Engine;
    !text.is_empty() && base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

static FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", check: |s| names::dns1123_label(s) },
    Format { name: "dns1123Subdomain", check: |s| names::dns1123_subdomain(s) },
    Format { name: "dns1035Label", check: |s| names::dns1035_label(s) },
    Format { name: "qualifiedName", check: |s| names::qualified_name(s) },
    Format { name: "dns1123LabelPrefix", check: |s| prefix(s, |s| names::dns1123_label(s)) },
    Format { name: "dns1123SubdomainPrefix", check: |s| prefix(s, |s| names::dns1123_subdomain(s)) },
    Format { name: "dns1035LabelPrefix", check: |s| prefix(s, |s| names::dns1035_label(s)) },
    Format { name: "labelValue", check: |s| names::label_value(s) },
    Format { name: "uri", check: |s| unless(s.parse::<http::Uri>().is_ok() && !s.is_empty(), "invalid URI for request") },
    Format { name: "uuid", check: |s| unless(is_uuid(s), "does not match the UUID format") },
    Format { name: "byte", check: |s| unless(is_base64(s), "invalid base64") },
    Format { name: "date", check: |s| unless(s.len() == 10 && s.parse::<jiff::civil::Date>().is_ok(), "invalid date") },
    Format { name: "datetime", check: |s| unless(super::time::parse(s).is_some(), "invalid datetime") },
];

fn find(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|f| f.name == name)
}

fn one<'a>(name: &str) -> Evaluated<'a> {
    find(name).map(Value::Format).ok_or_else(EvalError::overload)
}

fn named<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(name)] = args else { return Err(EvalError::overload()) };
    Ok(find(name).map_or(Value::Optional(None), |f| Value::some(Value::Format(f))))
}

fn validate<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::Format(format), Value::String(text)] = args else { return Err(EvalError::overload()) };
    let wrong = (format.check)(text);
    Ok(if wrong.is_empty() { Value::Optional(None) } else { Value::some(Value::list(wrong.into_iter().map(Value::text).collect())) })
}
