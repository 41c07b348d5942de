//! Validation of custom objects by the structural schema of their version, in the words of go-openapi `validate`.

use super::formats;
use crate::registry::Custom;
use ferrokube_api::field::{Errors, Path};
use regex::Regex;
use serde_json::Value;

/// Checks a custom object against the schema of its version. What is unchanged since `old` is not looked at again.
pub fn validate(custom: &Custom, object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let Some(schema) = custom.openapi.as_deref() else { return };
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    for (name, schema) in properties.iter().filter(|(name, _)| !matches!(name.as_str(), "metadata" | "kind" | "apiVersion")) {
        if let Some(value) = object.get(name) {
            check(value, schema, old.and_then(|o| o.get(name)), &Path::new(name), errors);
        }
    }
    required(object, schema, &Path::default(), errors);
}

/// Checks a value on its own, such as a default in a schema.
pub fn check_value(value: &Value, schema: &Value, path: &Path, errors: &mut Errors) {
    check(value, schema, None, path, errors);
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_type(value: &Value, wanted: &str) -> bool {
    match (wanted, value) {
        ("number", Value::Number(_)) => true,
        ("integer", Value::Number(n)) => n.as_f64().is_some_and(|f| f.fract() == 0.0),
        _ => kind_of(value) == wanted,
    }
}

fn body(path: &Path, why: &str) -> String {
    format!("{path} in body {why}")
}

fn required(value: &Value, schema: &Value, path: &Path, errors: &mut Errors) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(name).is_none() {
            errors.required(&path.child(name), "");
        }
    }
}

fn check(value: &Value, schema: &Value, old: Option<&Value>, path: &Path, errors: &mut Errors) {
    if old == Some(value) {
        return;
    }
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    let either = schema["x-kubernetes-int-or-string"] == true;
    if either && !(value.is_string() || is_type(value, "integer")) {
        errors.invalid(path, value, &body(path, &format!("must be of type integer,string: {:?}", kind_of(value))));
        return;
    }
    if let Some(wanted) = schema["type"].as_str().filter(|_| !either)
        && !is_type(value, wanted)
    {
        let shown = kind_of(value);
        errors.type_invalid(path, &Value::from(shown), &body(path, &format!("must be of type {wanted}: {shown:?}")));
        return;
    }
    if let Some(list) = schema["enum"].as_array().filter(|list| !list.contains(value)) {
        let shown: Vec<String> = list.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
        errors.not_supported(path, value, &shown.iter().map(String::as_str).collect::<Vec<_>>());
    }
    match value {
        Value::String(text) => string(text, schema, path, errors),
        Value::Number(number) => numeric(number.as_f64().unwrap_or(0.0), value, schema, path, errors),
        Value::Array(list) => array(list, schema, old, path, errors),
        Value::Object(_) => object(value, schema, old, path, errors),
        _ => {}
    }
    combinations(value, schema, path, errors);
}

fn limit(schema: &Value, key: &str) -> Option<usize> {
    schema[key].as_u64().and_then(|n| usize::try_from(n).ok())
}

fn string(text: &str, schema: &Value, path: &Path, errors: &mut Errors) {
    let value = Value::from(text);
    let chars = text.chars().count();
    if let Some(max) = limit(schema, "maxLength").filter(|max| chars > *max) {
        errors.too_long(path, max);
    }
    if let Some(min) = limit(schema, "minLength").filter(|min| chars < *min) {
        errors.invalid(path, &value, &body(path, &format!("should be at least {min} chars long")));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && !Regex::new(pattern).is_ok_and(|r| r.is_match(text))
    {
        errors.invalid(path, &value, &body(path, &format!("should match '{pattern}'")));
    }
    if let Some(format) = schema["format"].as_str()
        && !formats::fits(format, text)
    {
        errors.invalid(path, &value, &body(path, &format!("must be of type {format}: {text:?}")));
    }
}

fn numeric(number: f64, value: &Value, schema: &Value, path: &Path, errors: &mut Errors) {
    if let Some(max) = schema["maximum"].as_f64() {
        let exclusive = schema["exclusiveMaximum"] == true;
        if number > max || (exclusive && number >= max) {
            let word = if exclusive { "less than" } else { "less than or equal to" };
            errors.invalid(path, value, &body(path, &format!("should be {word} {}", schema["maximum"])));
        }
    }
    if let Some(min) = schema["minimum"].as_f64() {
        let exclusive = schema["exclusiveMinimum"] == true;
        if number < min || (exclusive && number <= min) {
            let word = if exclusive { "greater than" } else { "greater than or equal to" };
            errors.invalid(path, value, &body(path, &format!("should be {word} {}", schema["minimum"])));
        }
    }
    if let Some(factor) = schema["multipleOf"].as_f64().filter(|f| *f > 0.0)
        && (number / factor).fract() != 0.0
    {
        errors.invalid(path, value, &body(path, &format!("should be a multiple of {}", schema["multipleOf"])));
    }
}

fn array(list: &[Value], schema: &Value, old: Option<&Value>, path: &Path, errors: &mut Errors) {
    if let Some(max) = limit(schema, "maxItems").filter(|max| list.len() > *max) {
        errors.too_many(path, list.len(), max);
    }
    if let Some(min) = limit(schema, "minItems").filter(|min| list.len() < *min) {
        errors.invalid(path, &Value::from(list.len()), &body(path, &format!("should have at least {min} items")));
    }
    let key = |item: &Value| -> Value {
        match schema["x-kubernetes-list-map-keys"].as_array() {
            Some(keys) => keys.iter().filter_map(Value::as_str).map(|k| item[k].clone()).collect(),
            None => item.clone(),
        }
    };
    if let Some(items) = schema.get("items") {
        // Only the items of a list map can be told apart from one version of the object to the next.
        let map = schema["x-kubernetes-list-type"] == "map";
        let before = old.and_then(Value::as_array).filter(|_| map).map(Vec::as_slice).unwrap_or_default();
        for (at, item) in list.iter().enumerate() {
            let old = before.iter().find(|o| key(o) == key(item));
            check(item, items, old, &path.index(at), errors);
        }
    }
    if matches!(schema["x-kubernetes-list-type"].as_str(), Some("set" | "map")) {
        let keys: Vec<Value> = list.iter().map(key).collect();
        for (at, found) in keys.iter().enumerate() {
            if keys[..at].contains(found) {
                errors.duplicate(&path.index(at), &list[at]);
            }
        }
    }
}

fn object(value: &Value, schema: &Value, old: Option<&Value>, path: &Path, errors: &mut Errors) {
    let Some(map) = value.as_object() else { return };
    if let Some(max) = limit(schema, "maxProperties").filter(|max| map.len() > *max) {
        errors.too_many(path, map.len(), max);
    }
    if let Some(min) = limit(schema, "minProperties").filter(|min| map.len() < *min) {
        errors.invalid(path, &Value::from(map.len()), &body(path, &format!("should have at least {min} properties")));
    }
    for (name, inner) in map {
        if let Some(schema) = schema["properties"].get(name) {
            check(inner, schema, old.and_then(|o| o.get(name)), &path.child(name), errors);
        } else if let Some(schema) = schema.get("additionalProperties").filter(|s| s.is_object()) {
            check(inner, schema, old.and_then(|o| o.get(name)), &path.child(name), errors);
        }
    }
    required(value, schema, path, errors);
}

fn passes(value: &Value, schema: &Value, path: &Path) -> bool {
    let mut errors = Errors::default();
    check(value, schema, None, path, &mut errors);
    errors.is_empty()
}

fn combinations(value: &Value, schema: &Value, path: &Path, errors: &mut Errors) {
    let list = |key: &str| schema[key].as_array().map(Vec::as_slice).unwrap_or_default();
    for part in list("allOf") {
        check(value, part, None, path, errors);
    }
    if !list("anyOf").is_empty() && !list("anyOf").iter().any(|s| passes(value, s, path)) {
        errors.invalid(path, value, &body(path, "must validate at least one schema (anyOf)"));
    }
    if !list("oneOf").is_empty() && list("oneOf").iter().filter(|s| passes(value, s, path)).count() != 1 {
        errors.invalid(path, value, &body(path, "must validate one and only one schema (oneOf)"));
    }
    if schema.get("not").is_some_and(|s| s.is_object() && passes(value, s, path)) {
        errors.invalid(path, value, &body(path, "must not validate the schema (not)"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn messages(value: Value, schema: Value) -> Vec<String> {
        let mut errors = Errors::default();
        check(&value, &schema, None, &Path::new("spec"), &mut errors);
        errors.into_causes().into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    #[test]
    fn values_are_refused_in_the_words_of_upstream() {
        let schema = json!({"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1},
            "mode": {"type": "string", "enum": ["a", "b"]},
            "name": {"type": "string", "pattern": "^x"},
            "port": {"x-kubernetes-int-or-string": true},
            "tags": {"type": "array", "maxItems": 1, "items": {"type": "string"}, "x-kubernetes-list-type": "set"}}});
        assert_eq!(messages(json!({}), schema.clone()), ["spec.size: Required value"]);
        assert_eq!(
            messages(json!({"size": 0}), schema.clone()),
            ["spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"]
        );
        assert_eq!(
            messages(json!({"size": "1"}), schema.clone()),
            ["spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\""]
        );
        assert_eq!(
            messages(json!({"size": 1, "mode": "c"}), schema.clone()),
            ["spec.mode: Unsupported value: \"c\": supported values: \"a\", \"b\""]
        );
        assert_eq!(
            messages(json!({"size": 1, "name": "y"}), schema.clone()),
            ["spec.name: Invalid value: \"y\": spec.name in body should match '^x'"]
        );
        assert_eq!(messages(json!({"size": 1, "port": true}), schema.clone()).len(), 1);
        assert_eq!(messages(json!({"size": 1, "port": 80, "tags": ["a"]}), schema.clone()), Vec::<String>::new());
        assert_eq!(
            messages(json!({"size": 1, "tags": ["a", "a"]}), schema),
            ["spec.tags: Too many: 2: must have at most 1 items", "spec.tags[1]: Duplicate value: \"a\""]
        );
    }
}
