//! What a CRD's schemas must be like: structural, with defaults that fit, and rules that compile. Source: apiextensions
//! `apiserver/schema/validation.go`, `apis/apiextensions/validation`.

use super::{rules, schema};
use ferrokube_api::field::{Errors, Path};
use serde_json::Value;

/// Keywords that no structural schema may use.
const FORBIDDEN: [(&str, &str); 6] = [
    ("$ref", "$ref is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("additionalItems", "additionalItems is not supported"),
    ("patternProperties", "patternProperties is not supported"),
    ("deprecated", "deprecated is not supported"),
];
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// Checks the schemas of all versions of a CRD. What was there before and is unchanged is accepted.
pub fn check(definition: &Value, old: Option<&Value>, errors: &mut Errors) {
    let versions = |d: &Value| d["spec"]["versions"].as_array().cloned().unwrap_or_default();
    let before = old.map(versions).unwrap_or_default();
    for (i, version) in versions(definition).iter().enumerate() {
        let Some(schema) = version["schema"].get("openAPIV3Schema").filter(|s| s.is_object()) else { continue };
        if before.iter().any(|b| b["name"] == version["name"] && b["schema"] == version["schema"]) {
            continue;
        }
        let path = schema_path(i);
        let count = errors.len();
        root(schema, &path, errors);
        if errors.len() == count {
            rules::check(schema, &path, errors);
        }
        selectable(version, schema, &Path::new("spec").child("versions").index(i), errors);
    }
}

fn schema_path(version: usize) -> Path {
    Path::new("spec").child("versions").index(version).child("schema").child("openAPIV3Schema")
}

fn root(schema: &Value, path: &Path, errors: &mut Errors) {
    if schema["type"] != "object" {
        errors.invalid(&path.child("type"), &schema["type"], "must be object at the root");
    }
    structural(schema, true, path, errors);
}

/// What is not structural in a CRD that is stored: no CRD that came through here, but one of an older server.
pub fn violations(definition: &Value) -> Errors {
    let mut errors = Errors::default();
    if definition["spec"]["preserveUnknownFields"] == true {
        errors.invalid(&Path::new("spec").child("preserveUnknownFields"), &true.into(), "must be false");
    }
    for (i, version) in definition["spec"]["versions"].as_array().into_iter().flatten().enumerate() {
        match version["schema"].get("openAPIV3Schema").filter(|s| s.is_object()) {
            Some(schema) => root(schema, &schema_path(i), &mut errors),
            None => errors.required(&schema_path(i), "schemas are required"),
        }
    }
    errors
}

fn flag(schema: &Value, key: &str) -> bool {
    schema[key] == true
}

fn structural(schema: &Value, root: bool, path: &Path, errors: &mut Errors) {
    for (key, why) in FORBIDDEN.iter().filter(|(key, _)| schema.get(*key).is_some_and(|v| !v.is_null())) {
        errors.forbidden(&path.child(key), why);
    }
    if flag(schema, "uniqueItems") {
        errors.forbidden(&path.child("uniqueItems"), "uniqueItems cannot be set to true since the runtime complexity becomes quadratic");
    }
    typed(schema, root, path, errors);
    extensions(schema, path, errors);
    list_keys(schema, path, errors);
    if let Some(default) = schema.get("default").filter(|d| !d.is_null()) {
        let mut found = Errors::default();
        schema::check_value(default, schema, &path.child("default"), &mut found);
        errors.append(found);
    }
    if schema["properties"].as_object().is_some_and(|p| !p.is_empty()) && schema.get("additionalProperties").is_some_and(|a| a != false) {
        errors.forbidden(&path.child("additionalProperties"), "additionalProperties and properties are mutual exclusive");
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let at = path.child("properties").key(name);
        if root && name == "metadata" {
            metadata(inner, &at, errors);
        } else {
            structural(inner, false, &at, errors);
        }
    }
    for key in ["items", "additionalProperties"] {
        match schema.get(key) {
            Some(inner) if inner.is_object() => structural(inner, false, &path.child(key), errors),
            Some(Value::Array(_)) => errors.forbidden(&path.child(key), "items must be a schema object and not an array"),
            _ => {}
        }
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, inner) in schema[key].as_array().into_iter().flatten().enumerate() {
            nested(inner, flag(schema, "x-kubernetes-int-or-string"), &path.child(key).index(i), errors);
        }
    }
    if let Some(inner) = schema.get("not").filter(|n| n.is_object()) {
        nested(inner, false, &path.child("not"), errors);
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(error) = regex::Regex::new(pattern)
    {
        errors.invalid(&path.child("pattern"), &pattern.into(), &format!("must be a valid regular expression, but isn't: {error}"));
    }
}

fn typed(schema: &Value, root: bool, path: &Path, errors: &mut Errors) {
    let either = flag(schema, "x-kubernetes-int-or-string");
    match schema["type"].as_str().unwrap_or_default() {
        "" if !either && !flag(schema, "x-kubernetes-preserve-unknown-fields") => {
            let what = if root { "must not be empty at the root" } else { "must not be empty for specified object fields" };
            let what = if path.as_str().ends_with(".items") { "must not be empty for specified array items" } else { what };
            errors.required(&path.child("type"), what);
        }
        "" => {}
        kind if either => {
            errors.forbidden(&path.child("type"), &format!("must be empty if x-kubernetes-int-or-string is true, not {kind}"))
        }
        "array" if schema.get("items").is_none_or(|i| !i.is_object()) => errors.required(&path.child("items"), "must be specified"),
        kind if !TYPES.contains(&kind) => errors.not_supported(&path.child("type"), &kind.into(), &TYPES),
        _ => {}
    }
}

fn extensions(schema: &Value, path: &Path, errors: &mut Errors) {
    for key in ["x-kubernetes-preserve-unknown-fields"] {
        if schema[key] == false {
            errors.invalid(&path.child(key), &false.into(), "must be true or undefined");
        }
    }
    let object = schema["type"] == "object";
    if flag(schema, "x-kubernetes-embedded-resource") {
        if !object {
            errors.invalid(&path.child("type"), &schema["type"], "must be object if x-kubernetes-embedded-resource is true");
        }
        if !flag(schema, "x-kubernetes-preserve-unknown-fields") && schema["properties"].as_object().is_none_or(|p| p.is_empty()) {
            errors.required(
                &path.child("properties"),
                "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
            );
        }
    }
    if let Some(kind) = schema["x-kubernetes-list-type"].as_str() {
        if !["atomic", "set", "map"].contains(&kind) {
            errors.not_supported(&path.child("x-kubernetes-list-type"), &kind.into(), &["atomic", "set", "map"]);
        }
        if schema["type"] != "array" {
            errors.invalid(&path.child("type"), &schema["type"], "must be array if x-kubernetes-list-type is specified");
        }
    }
    if let Some(kind) = schema["x-kubernetes-map-type"].as_str() {
        if !["granular", "atomic"].contains(&kind) {
            errors.not_supported(&path.child("x-kubernetes-map-type"), &kind.into(), &["atomic", "granular"]);
        }
        if !object {
            errors.invalid(&path.child("type"), &schema["type"], "must be object if x-kubernetes-map-type is specified");
        }
    }
}

/// The keys of a list map are scalar properties of its items that are always there.
fn list_keys(schema: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("x-kubernetes-list-map-keys");
    let keys = schema["x-kubernetes-list-map-keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    if schema["x-kubernetes-list-type"] != "map" {
        if !keys.is_empty() {
            errors.forbidden(&at, "must not be specified unless x-kubernetes-list-type is map");
        }
        return;
    }
    if keys.is_empty() {
        return errors.required(&at, "must not be empty if x-kubernetes-list-type is map");
    }
    let items = &schema["items"];
    if items["type"] != "object" {
        errors.invalid(
            &path.child("items").child("type"),
            &items["type"],
            "must be object if parent array's x-kubernetes-list-type is map",
        );
    }
    let required: Vec<&str> = items["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (i, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        let Some(property) = items["properties"].get(name) else {
            errors.invalid(&at.index(i), key, "must be specified in the items' properties");
            continue;
        };
        let here = path.child("items").child("properties").key(name);
        if matches!(property["type"].as_str(), Some("object" | "array")) {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.invalid(&here.child("type"), &property["type"], why);
        }
        if !required.contains(&name) && property.get("default").is_none() {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(&here.child("default"), why);
        }
    }
}

/// `metadata` at the root may only restrict the name.
fn metadata(schema: &Value, path: &Path, errors: &mut Errors) {
    if !matches!(schema["type"].as_str(), None | Some("object")) {
        errors.invalid(&path.child("type"), &schema["type"], "must be object");
    }
    let names = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    if names.into_iter().any(|n| !matches!(n, "name" | "generateName")) {
        errors.forbidden(path, "must not specify anything other than name and generateName, but metadata is implicitly specified");
    }
}

/// Inside `allOf` and its like only values may be restricted.
fn nested(schema: &Value, either: bool, path: &Path, errors: &mut Errors) {
    if !either && schema["type"].as_str().is_some_and(|t| !t.is_empty()) {
        errors.forbidden(&path.child("type"), "must be empty to be structural");
    }
    for key in
        ["title", "description", "default", "additionalProperties", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations"]
    {
        if schema.get(key).is_some_and(|v| !v.is_null() && *v != "" && *v != false) {
            errors.forbidden(
                &path.child(key),
                if key == "title" || key == "description" {
                    "must be empty to be structural"
                } else {
                    "must be undefined to be structural"
                },
            );
        }
    }
    if flag(schema, "nullable") {
        errors.forbidden(&path.child("nullable"), "must be false to be structural");
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        nested(inner, false, &path.child("properties").key(name), errors);
    }
    if let Some(items) = schema.get("items").filter(|i| i.is_object()) {
        nested(items, false, &path.child("items"), errors);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, inner) in schema[key].as_array().into_iter().flatten().enumerate() {
            nested(inner, either, &path.child(key).index(i), errors);
        }
    }
}

/// Selectable fields must be fields of the schema, and of types that can be compared as text.
fn selectable(version: &Value, schema: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("selectableFields");
    for (i, field) in version["selectableFields"].as_array().into_iter().flatten().enumerate() {
        let (at, json_path) = (at.index(i).child("jsonPath"), field["jsonPath"].as_str().unwrap_or_default());
        // Other paths have been refused already.
        let Some(below) = json_path.strip_prefix('.').filter(|p| *p != "metadata" && !p.starts_with("metadata.")) else { continue };
        let why = match below.split('.').try_fold(schema, |s, name| s["properties"].get(name)) {
            None => "is an invalid path: does not refer to a valid field",
            Some(target) if matches!(target["type"].as_str(), Some("string" | "integer" | "boolean")) => continue,
            Some(_) => "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
        };
        errors.invalid(&at, &json_path.into(), why);
    }
}
