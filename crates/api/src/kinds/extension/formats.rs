//! Formats in the schemas of definitions: which there are, and a word about those that there are not. The checks themselves are the API
//! server's; a format that is not known means nothing.

use crate::kinds::json::*;
use serde_json::Value;

/// The formats of text, without dashes: `date-time` and `datetime` are one.
pub const TEXT_FORMATS: [&str; 26] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// What is said about a new definition.
pub(super) fn warnings(definition: &Value) -> Vec<String> {
    unknown(definition).into_iter().map(|format| format!("unrecognized format {format:?}")).collect()
}

/// What is said about a change: only of formats that were not there before.
pub(super) fn update_warnings(new: &Value, old: &Value) -> Vec<String> {
    let before = warnings(old);
    warnings(new).into_iter().filter(|warning| !before.contains(warning)).collect()
}

fn unknown(definition: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    for version in list_at(definition, &["spec", "versions"]) {
        if let Some(schema) = at(version, &["schema", "openAPIV3Schema"]) {
            collect(schema, &mut found);
        }
    }
    found
}

fn collect<'s>(schema: &'s Value, found: &mut Vec<&'s str>) {
    let format = text(schema, "format");
    if !format.is_empty() && !is_known(text(schema, "type"), format) && !found.contains(&format) {
        found.push(format);
    }
    for key in ["items", "additionalProperties", "not"] {
        schema.get(key).into_iter().for_each(|inner| collect(inner, found));
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        list(schema, key).iter().for_each(|inner| collect(inner, found));
    }
    entries(schema, "properties").for_each(|(_, inner)| collect(inner, found));
}

fn is_known(kind: &str, format: &str) -> bool {
    match kind {
        "" | "string" => TEXT_FORMATS.contains(&format.replace('-', "").as_str()),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}
