//! OpenAPI v2 (Swagger) out of v3: the same facts in the older form.

use serde_json::{Map, Value, json};

fn retarget(reference: &Value) -> Value {
    reference.as_str().map_or(Value::Null, |r| r.replace("#/components/schemas/", "#/definitions/").into())
}

fn says(map: &Map<String, Value>, key: &str) -> bool {
    map.get(key) == Some(&Value::Bool(true))
}

/// The schema of a type. A custom kind that takes any field says so by saying nothing: readers of v2 take a list of fields for all there are.
pub(super) fn definition(v3: Value) -> Value {
    const KINDS: &str = "x-kubernetes-group-version-kind";
    match &v3 {
        Value::Object(map) if says(map, "x-kubernetes-preserve-unknown-fields") && map.contains_key(KINDS) => {
            json!({"type": "object", KINDS: map[KINDS]})
        }
        _ => schema(v3),
    }
}

/// A schema. What v2 cannot say (`oneOf`, `nullable`, defaults) is left out or said as the Go server says it.
pub(super) fn schema(v3: Value) -> Value {
    let Value::Object(map) = v3 else { return v3 };
    let mut out = Map::new();
    let preserves = says(&map, "x-kubernetes-preserve-unknown-fields");
    // Readers of v2 cannot have both: what may be null, or have any fields, has no type and no parts.
    let nullable = says(&map, "nullable");
    let open = preserves || nullable;
    let (either, list) = (says(&map, "x-kubernetes-int-or-string"), !open && map.contains_key("items"));
    let optional: Vec<String> = match map.get("properties") {
        Some(Value::Object(fields)) => {
            fields.iter().filter(|(_, f)| f.as_object().is_some_and(|f| says(f, "nullable"))).map(|(name, _)| name.clone()).collect()
        }
        _ => Vec::new(),
    };
    for (key, value) in map {
        match key.as_str() {
            "$ref" => _ = out.insert(key, retarget(&value)),
            "allOf" => {
                let first = if let Value::Array(mut list) = value { list.drain(..).next() } else { None };
                // Of a reference with a description of its own; others only check values.
                if let Some(Value::Object(inner)) = first.filter(|f| f.get("$ref").is_some()).map(schema) {
                    out.extend(inner);
                }
            }
            // Quantity and IntOrString are strings to v2.
            "oneOf" | "anyOf" if !either && !out.contains_key("type") => _ = out.insert("type".into(), "string".into()),
            "default" | "nullable" | "oneOf" | "anyOf" | "not" | "x-kubernetes-validations" => {}
            "type" if nullable || (preserves && value == "object") => {}
            "type" if value == "array" && !list => {}
            "required" if !optional.is_empty() => {
                let Value::Array(names) = value else { continue };
                let left: Vec<Value> = names.into_iter().filter(|n| !optional.iter().any(|o| n == o)).collect();
                if !left.is_empty() {
                    out.insert(key, left.into());
                }
            }
            "properties" if open => {}
            "properties" => {
                if let Value::Object(fields) = value {
                    out.insert(key, Value::Object(fields.into_iter().map(|(k, v)| (k, schema(v))).collect()));
                }
            }
            "items" if open => {}
            "additionalProperties" if preserves => {}
            "items" | "additionalProperties" => _ = out.insert(key, schema(value)),
            _ => _ = out.insert(key, value),
        }
    }
    Value::Object(out)
}

fn parameter(v3: &Value) -> Value {
    let mut out = Map::new();
    for (key, value) in v3.as_object().into_iter().flatten() {
        match (key.as_str(), value) {
            ("schema", Value::Object(inner)) => out.extend(inner.clone()),
            _ => _ = out.insert(key.clone(), value.clone()),
        }
    }
    Value::Object(out)
}

fn parameters(v3: Option<Value>) -> Vec<Value> {
    v3.as_ref().and_then(Value::as_array).into_iter().flatten().map(parameter).collect()
}

fn first_schema(content: &Value) -> Option<Value> {
    content.as_object()?.values().next()?.get("schema").cloned().map(schema)
}

fn media(content: Option<&Value>) -> Vec<Value> {
    content.and_then(Value::as_object).into_iter().flatten().map(|(m, _)| Value::from(m.as_str())).collect()
}

fn operation(v3: Value) -> Value {
    let Value::Object(mut map) = v3 else { return v3 };
    let mut list = parameters(map.remove("parameters"));
    let mut consumes = vec![Value::from("*/*")];
    if let Some(body) = map.remove("requestBody") {
        let content = body.get("content").cloned().unwrap_or_default();
        consumes = media(Some(&content));
        let mut parameter = json!({"name": "body", "in": "body", "schema": first_schema(&content)});
        if body.get("required") == Some(&Value::Bool(true)) {
            parameter["required"] = true.into();
        }
        list.push(parameter);
    }
    let mut produces = Vec::new();
    if let Some(Value::Object(responses)) = map.get_mut("responses") {
        for response in responses.values_mut() {
            let Value::Object(response) = response else { continue };
            if let Some(content) = response.remove("content") {
                produces = media(Some(&content));
                response.extend(first_schema(&content).map(|s| ("schema".to_owned(), s)));
            }
        }
    }
    if !list.is_empty() {
        map.insert("parameters".into(), list.into());
    }
    map.insert("consumes".into(), consumes.into());
    map.insert("produces".into(), produces.into());
    map.insert("schemes".into(), json!(["https"]));
    Value::Object(map)
}

/// A path with its operations.
pub(super) fn path_item(v3: Value) -> Value {
    let Value::Object(map) = v3 else { return v3 };
    let convert = |(key, value): (String, Value)| match key.as_str() {
        "parameters" => (key, parameters(Some(value)).into()),
        _ => (key, operation(value)),
    };
    Value::Object(map.into_iter().map(convert).collect())
}
