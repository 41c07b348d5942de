//! Writes `data/types.tsv`, the type table, from the published API description and the table of the protobuf wire.
//!
//! The table holds facts only: names, types, list and map semantics, patch strategies, numbers. It is written by this program and never by
//! hand, so that a new release of Kubernetes is one run:
//! `cargo run -p ferrokube-api --example gen_types -- ../shared/reference crates/api/data`.
//!
//! Format (tab-separated): a line that begins with `:` opens a type (`:name attributes...`), a line that begins with a letter adds a field
//! (`name type attributes...`). Types: `string bool int32 int64 double bytes any object`, `[]X`, `{}X` (map of), or the name of a type;
//! a name without dots is in the package of the type at hand. Attributes are explained in `schema/table.rs`, which reads them.

use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

type Protobuf = HashMap<String, Vec<[String; 4]>>;

const REF: &str = "#/components/schemas/";

/// `k8s.io.kube_aggregator.pkg` as the API description writes packages: `io.k8s.kube-aggregator.pkg`.
fn openapi_package(package: &str) -> String {
    let turned = package.strip_prefix("k8s.io.").map_or(package.to_owned(), |rest| format!("io.k8s.{rest}"));
    turned.replace("kube_aggregator", "kube-aggregator").replace("apiextensions_apiserver", "apiextensions-apiserver")
}

/// Message name (as the API description writes it) → rows of (field, number, label, type).
fn read_protobuf(path: &Path) -> Result<Protobuf, Box<dyn Error>> {
    let mut messages = Protobuf::new();
    for line in std::fs::read_to_string(path)?.lines().filter(|l| !l.starts_with('#')) {
        if let [package, message, field, number, label, kind] = line.split('\t').collect::<Vec<_>>()[..] {
            let name = format!("{}.{message}", openapi_package(package));
            messages.entry(name).or_default().push([field, number, label, kind].map(str::to_owned));
        }
    }
    Ok(messages)
}

fn read_schemas(folder: &Path) -> Result<BTreeMap<String, Value>, Box<dyn Error>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder.join("v3"))? {
        let mut document: Value = serde_json::from_slice(&std::fs::read(entry?.path())?)?;
        if let Some(Value::Object(schemas)) = document.pointer_mut("/components/schemas").map(Value::take) {
            all.extend(schemas);
        }
    }
    // The v2 document lists every group that a shared type (DeleteOptions, WatchEvent) is served in; each v3 document only its own.
    let mut v2: Value = serde_json::from_slice(&std::fs::read(folder.join("swagger.json"))?)?;
    for (name, schema) in &mut all {
        let gvks = v2.pointer_mut(&format!("/definitions/{name}/x-kubernetes-group-version-kind")).map(Value::take);
        if let (Some(gvks), Some(schema)) = (gvks, schema.as_object_mut()) {
            schema.insert("x-kubernetes-group-version-kind".into(), gvks);
        }
    }
    Ok(all)
}

fn package(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(package, _)| package)
}

/// The type expression of a schema, seen from a package.
fn expression(schema: &Value, from: &str) -> String {
    let reference = schema.get("$ref").or_else(|| schema.pointer("/allOf/0/$ref")).and_then(Value::as_str);
    if let Some(target) = reference.and_then(|r| r.strip_prefix(REF)) {
        let short = target.rsplit('.').next().unwrap_or(target);
        return if package(target) == from { short.to_owned() } else { target.to_owned() };
    }
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
    match (kind, format) {
        ("integer", "int32") => "int32".into(),
        ("integer", _) => "int64".into(),
        ("number", _) => "double".into(),
        ("boolean", _) => "bool".into(),
        ("string", "byte") => "bytes".into(),
        ("string", _) => "string".into(),
        ("array", _) => format!("[]{}", expression(&schema["items"], from)),
        ("object", _) => match schema.get("additionalProperties") {
            Some(inner) if inner.is_object() => format!("{{}}{}", expression(inner, from)),
            _ => "object".into(),
        },
        _ => "any".into(),
    }
}

fn text(schema: &Value, key: &str) -> Option<String> {
    schema.get(key).and_then(Value::as_str).map(str::to_owned)
}

/// List, map and patch semantics of a field.
fn semantics(schema: &Value, line: &mut String) {
    if let Some(list) = text(schema, "x-kubernetes-list-type") {
        let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        let keys: Vec<&str> = keys.into_iter().flatten().filter_map(Value::as_str).collect();
        let _ = if list == "map" { write!(line, "\tlist=map:{}", keys.join(",")) } else { write!(line, "\tlist={list}") };
    }
    for (key, short) in [("map-type", "map"), ("patch-strategy", "ps"), ("patch-merge-key", "mk")] {
        if let Some(value) = text(schema, &format!("x-kubernetes-{key}")) {
            let _ = write!(line, "\t{short}={value}");
        }
    }
}

/// Number of a field on the protobuf wire; a path (`2.5`) where the Go type inlines a struct that the wire nests.
fn number(messages: &Protobuf, message: &str, field: &str, list: bool, depth: usize) -> Option<String> {
    let rows = messages.get(message)?;
    let plain: String = field.chars().filter(char::is_ascii_alphanumeric).collect();
    if let Some(row) = rows.iter().find(|r| r[0].eq_ignore_ascii_case(&plain)) {
        // A named list type (`Verbs`, `ExtraValue`) is a message with one repeated field on the wire.
        let target = row[3].strip_prefix('.').map_or_else(|| format!("{}.{}", package(message), row[3]), openapi_package);
        let wraps = messages.get(&target).is_some_and(|m| m.len() == 1 && m[0][0] == "items");
        return Some(if list && row[2] == "optional" && wraps { format!("{}.1", row[1]) } else { row[1].clone() });
    }
    if depth == 2 {
        return None;
    }
    rows.iter().filter(|r| r[2] == "optional").find_map(|row| {
        let target = row[3].strip_prefix('.').map_or_else(|| format!("{}.{}", package(message), row[3]), openapi_package);
        INLINED
            .contains(&row[0].as_str())
            .then(|| number(messages, &target, field, list, depth + 1))
            .flatten()
            .map(|n| format!("{}.{n}", row[1]))
    })
}

/// Fields of the wire that the Go types embed without a name of their own in JSON.
const INLINED: [&str; 10] = [
    "localObjectReference",
    "ephemeralContainerCommon",
    "persistentVolumeSource",
    "handler",
    "volumeSource",
    "ruleWithOperations",
    "rule",
    "ingressRuleValue",
    "deviceConfiguration",
    "scopedResourceSelectorRequirement",
];

fn type_header(name: &str, schema: &Value) -> String {
    let mut line = format!(":{name}");
    for gvk in schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array).into_iter().flatten() {
        let part = |key: &str| text(gvk, key).unwrap_or_default();
        let _ = write!(line, "\tgvk={}/{}/{}", part("group"), part("version"), part("kind"));
    }
    if schema.get("properties").is_none() {
        let _ = write!(line, "\tas={}", expression(schema, package(name)));
    }
    semantics(schema, &mut line);
    if let Some(unions) = schema.get("x-kubernetes-unions") {
        let _ = write!(line, "\tunions={unions}");
    }
    line
}

fn field_line(name: &str, field: &str, schema: &Value, required: bool, by_value: bool, messages: &Protobuf) -> String {
    let kind = expression(schema, package(name));
    let mut line = format!("{field}\t{kind}");
    if required {
        line.push_str("\treq");
    }
    if let Some(default) = schema.get("default") {
        let _ = write!(line, "\tdef={default}");
    }
    if by_value {
        line.push_str("\tval");
    }
    semantics(schema, &mut line);
    match number(messages, name, field, kind.starts_with("[]"), 0) {
        Some(number) => _ = write!(line, "\tp={number}"),
        None if messages.contains_key(name) && !["kind", "apiVersion"].contains(&field) => eprintln!("no protobuf number: {name} {field}"),
        None => {}
    }
    line
}

/// Documents that the API description does not describe: group, version, kind and message.
const UNDESCRIBED: [(&str, &str, &str, &str); 1] =
    [("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList", "io.k8s.api.apidiscovery.v2.APIGroupDiscoveryList")];

/// A message, and those it is made of, as far as nothing else describes them: its JSON has the names of the wire.
fn from_wire(name: &str, header: &str, schemas: &BTreeMap<String, Value>, messages: &Protobuf, out: &mut BTreeMap<String, String>) {
    if schemas.contains_key(name) || out.contains_key(name) {
        return;
    }
    let mut text = format!(":{name}{header}\n");
    out.insert(name.to_owned(), String::new());
    let mut rows = messages.get(name).cloned().unwrap_or_default();
    rows.sort();
    for [field, number, label, kind] in rows {
        let full = kind.strip_prefix('.').map_or_else(|| format!("{}.{kind}", package(name)), openapi_package);
        let shown = if !messages.contains_key(&full) {
            kind
        } else {
            from_wire(&full, "", schemas, messages, out);
            if package(&full) == package(name) { kind } else { full }
        };
        let list = if label == "repeated" { "[]" } else { "" };
        let _ = writeln!(text, "{field}\t{list}{shown}\tp={number}");
    }
    out.insert(name.to_owned(), text);
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [reference, data] = &arguments[..] else { return Err("usage: gen_types REFERENCE DATA".into()) };
    let (reference, data) = (Path::new(reference), Path::new(data));
    let schemas = read_schemas(&reference.join("data/api/openapi-spec"))?;
    let messages = read_protobuf(&reference.join("wire/api-protobuf.tsv"))?;
    let by_value = std::fs::read_to_string(data.join("go_values.tsv"))?;
    let by_value: HashMap<&str, Vec<&str>> = by_value
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.split_once('\t'))
        .map(|(t, f)| (t, f.split(' ').collect()))
        .collect();
    for (name, fields) in &by_value {
        for field in fields.iter().filter(|f| !f.is_empty() && schemas.get(*name).is_none_or(|s| s["properties"].get(**f).is_none())) {
            eprintln!("go_values.tsv names an unknown field: {name} {field}");
        }
    }
    let mut out = String::from("# The type table of Kubernetes 1.36. Written by examples/gen_types.rs; do not edit.\n");
    for (name, schema) in &schemas {
        out.push_str(&type_header(name, schema));
        out.push('\n');
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        for (field, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let value = by_value.get(name.as_str()).is_some_and(|f| f.contains(&field.as_str()));
            out.push_str(&field_line(name, field, inner, required.contains(&field.as_str()), value, &messages));
            out.push('\n');
        }
    }
    let mut undescribed = BTreeMap::new();
    for (group, version, kind, message) in UNDESCRIBED {
        from_wire(message, &format!("\tgvk={group}/{version}/{kind}"), &schemas, &messages, &mut undescribed);
    }
    undescribed.values().for_each(|text| out.push_str(text));
    std::fs::write(data.join("types.tsv"), out)?;
    Ok(())
}
