//! The versions of a CustomResourceDefinition: names, columns, subresources, selectable fields. Their schemas are checked by the
//! API server, which evaluates them.

use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;

const SPEC: At<'static> = At::field("spec");
const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const FORMATS: [&str; 9] = ["binary", "byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const MOST_SELECTABLE: usize = 8;
const LONGEST_WARNING: usize = 256;

/// `spec.versions`.
pub fn all(spec: &Value, e: &mut Errors) {
    let path = SPEC.child("versions");
    let all = list(spec, "versions");
    if all.is_empty() {
        e.required(&path, "must have at least one version");
    }
    for (i, version) in all.iter().enumerate() {
        let at = path.index(i);
        if all[..i].iter().any(|v| text(v, "name") == text(version, "name")) {
            e.invalid(&path, &spec["versions"], "must contain unique version names");
        }
        self::version(version, &at, e);
    }
    if !all.is_empty() && all.iter().filter(|v| flag(v, "storage")).count() != 1 {
        e.invalid(&path, &spec["versions"], "must have exactly one version marked as storage version");
    }
}

fn version(version: &Value, at: &At, e: &mut Errors) {
    let name = text(version, "name");
    e.invalid_each(&at.child("name"), name, names::dns1035_label(name));
    if let Some(warning) = get(version, "deprecationWarning").and_then(Value::as_str) {
        let path = at.child("deprecationWarning");
        if !flag(version, "deprecated") {
            e.invalid(&path, &warning.into(), "can only be set for deprecated versions");
        }
        if warning.len() > LONGEST_WARNING {
            e.invalid(&path, &warning.into(), &format!("must be <= {LONGEST_WARNING} UTF-8 characters"));
        } else if warning.is_empty() {
            e.invalid(&path, &warning.into(), "must not be an empty string");
        }
    }
    if super::super::json::at(version, &["schema", "openAPIV3Schema"]).is_none() {
        let schema = at.child("schema");
        e.required(&schema.child("openAPIV3Schema"), "schemas are required");
    }
    let path = at.child("additionalPrinterColumns");
    for (i, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
        self::column(column, &path.index(i), e);
    }
    if let Some(scale) = super::super::json::at(version, &["subresources", "scale"]) {
        let path = at.child("subresources");
        self::scale(scale, &path.child("scale"), e);
    }
    selectable(version, at, e);
}

fn column(column: &Value, at: &At, e: &mut Errors) {
    if text(column, "name").is_empty() {
        e.required(&at.child("name"), "");
    }
    match text(column, "type") {
        "" => e.required(&at.child("type"), &format!("must be one of {}", TYPES.join(","))),
        kind if !TYPES.contains(&kind) => e.invalid(&at.child("type"), &kind.into(), &format!("must be one of {}", TYPES.join(","))),
        _ => {}
    }
    let format = text(column, "format");
    if !format.is_empty() && !FORMATS.contains(&format) {
        e.invalid(&at.child("format"), &format.into(), &format!("must be one of {}", FORMATS.join(",")));
    }
    let path = at.child("jsonPath");
    match text(column, "jsonPath") {
        "" => e.required(&path, ""),
        json_path if !json_path.starts_with('.') => {
            e.invalid(&path, &json_path.into(), "must be a simple json path starting with .");
        }
        _ => {}
    }
}

/// A path of plain fields under one of the roots.
fn plain_path(v: &Value, key: &str, roots: &[&str], why: &str, at: &At, e: &mut Errors) {
    let path = text(v, key);
    let under = roots.iter().any(|root| path.starts_with(&format!(".{root}.")));
    let plain = path.split('.').skip(1).all(|part| !part.is_empty() && !part.contains('['));
    if !under {
        e.invalid(&at.child(key), &path.into(), why);
    } else if !plain {
        e.invalid(&at.child(key), &path.into(), "array notation is not supported");
    }
}

fn scale(scale: &Value, at: &At, e: &mut Errors) {
    for (key, root) in [("specReplicasPath", "spec"), ("statusReplicasPath", "status")] {
        if text(scale, key).is_empty() {
            e.required(&at.child(key), "");
        } else {
            plain_path(scale, key, &[root], &format!("should be a json path under .{root}"), at, e);
        }
    }
    if !text(scale, "labelSelectorPath").is_empty() {
        let why = "should be a json path under either .spec or .status";
        plain_path(scale, "labelSelectorPath", &["spec", "status"], why, at, e);
    }
}

fn selectable(version: &Value, at: &At, e: &mut Errors) {
    let path = at.child("selectableFields");
    let all = list(version, "selectableFields");
    if all.len() > MOST_SELECTABLE {
        e.too_many(&path, all.len(), MOST_SELECTABLE);
    }
    for (i, field) in all.iter().enumerate() {
        let (at, json_path) = (path.index(i), text(field, "jsonPath"));
        if json_path.is_empty() {
            e.required(&at.child("jsonPath"), "");
        } else if !json_path.starts_with('.') {
            e.invalid(&at.child("jsonPath"), &json_path.into(), "must be a simple json path starting with .");
        } else if json_path == ".metadata" || json_path.starts_with(".metadata.") {
            e.invalid(&at.child("jsonPath"), &json_path.into(), "must not point to fields in metadata");
        }
        if all[..i].iter().any(|f| text(f, "jsonPath") == json_path) {
            e.duplicate(&at.child("jsonPath"), &json_path.into());
        }
    }
}
