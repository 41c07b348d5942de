//! From a CRD to rows: one per served version.

use crate::registry::{Custom, Entry};
use crate::server::metrics::Times;
use ferrokube_api::kinds::{Column, Hooks, Kind, Scope, SelectableField, Subresource, SubresourceKind, Text, Verbs};
use ferrokube_api::schema::{Gvk, NotStructural, Schema};
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

fn texts(list: &Value) -> Vec<Text> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(|t| Text::Owned(t.to_owned())).collect()
}

fn owned(text: &str) -> Text {
    Text::Owned(text.to_owned())
}

/// Storage prefix and storage version.
pub fn place(definition: &Value) -> (String, String) {
    let spec = &definition["spec"];
    let prefix = format!("{}/{}", text(spec, "group"), text(&spec["names"], "plural"));
    let storage = spec["versions"].as_array().into_iter().flatten().find(|v| v["storage"] == true).map(|v| text(v, "name").to_owned());
    (prefix, storage.unwrap_or_default())
}

fn subresources(version: &Value) -> Vec<Subresource> {
    let mut out = Vec::new();
    if version["subresources"].get("scale").is_some_and(|s| !s.is_null()) {
        let kind = Some((owned("autoscaling"), owned("v1"), owned("Scale")));
        out.push(Subresource { name: owned("scale"), behaviour: SubresourceKind::Scale, verbs: Verbs::GET_PATCH_UPDATE, kind });
    }
    if version["subresources"].get("status").is_some_and(|s| !s.is_null()) {
        out.push(Subresource { name: owned("status"), behaviour: SubresourceKind::Status, verbs: Verbs::GET_PATCH_UPDATE, kind: None });
    }
    out
}

fn name_column() -> Column {
    let description = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically.";
    Column { name: owned("Name"), kind: owned("string"), format: owned("name"), description: owned(description), priority: 0 }
}

/// Columns with their JSON paths (the name has none).
fn columns(version: &Value) -> (Vec<Column>, Vec<String>) {
    let declared = version["additionalPrinterColumns"].as_array().cloned().unwrap_or_default();
    let (mut columns, mut paths) = (vec![name_column()], Vec::new());
    for column in &declared {
        let priority = column["priority"].as_u64().unwrap_or(0);
        columns.push(Column {
            name: owned(text(column, "name")),
            kind: owned(text(column, "type")),
            format: owned(text(column, "format")),
            description: owned(text(column, "description")),
            priority: u8::try_from(priority).unwrap_or(1),
        });
        paths.push(text(column, "jsonPath").to_owned());
    }
    if declared.is_empty() {
        let description = "CreationTimestamp is a timestamp representing the server time when this object was created.";
        columns.push(Column { name: owned("Age"), kind: owned("date"), format: owned(""), description: owned(description), priority: 0 });
        paths.push(".metadata.creationTimestamp".to_owned());
    }
    (columns, paths)
}

fn fields(version: &Value) -> Vec<SelectableField> {
    let one = |field: &Value| {
        let path = text(field, "jsonPath").trim_start_matches('.');
        SelectableField { label: owned(path), path: path.split('.').map(owned).collect::<Vec<_>>().into(), absent: owned("") }
    };
    version["selectableFields"].as_array().into_iter().flatten().map(one).collect()
}

fn scale(version: &Value) -> Option<(String, String, Option<String>)> {
    let scale = version["subresources"].get("scale").filter(|s| !s.is_null())?;
    let selector = scale["labelSelectorPath"].as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    Some((text(scale, "specReplicasPath").to_owned(), text(scale, "statusReplicasPath").to_owned(), selector))
}

fn deprecation(definition: &Value, version: &Value) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    let own = version["deprecationWarning"].as_str().filter(|w| !w.is_empty()).map(str::to_owned);
    let spec = &definition["spec"];
    Some(own.unwrap_or_else(|| format!("{}/{} {} is deprecated", text(spec, "group"), text(version, "name"), text(&spec["names"], "kind"))))
}

/// The rows of a CRD under its accepted names, one per served version.
pub fn entries(definition: &Value, names: &Value, times: &Times) -> Result<Vec<Arc<Entry>>, NotStructural> {
    let spec = &definition["spec"];
    let (prefix, storage) = place(definition);
    let served = spec["versions"].as_array().into_iter().flatten().filter(|v| v["served"] == true);
    served.map(|version| entry(definition, names, version, &prefix, &storage, times)).collect()
}

fn entry(
    definition: &Value,
    names: &Value,
    version: &Value,
    prefix: &str,
    storage: &str,
    times: &Times,
) -> Result<Arc<Entry>, NotStructural> {
    let spec = &definition["spec"];
    let (group, kind, name) = (owned(text(spec, "group")), owned(text(names, "kind")), owned(text(version, "name")));
    let openapi = version["schema"].get("openAPIV3Schema").filter(|s| !s.is_null()).cloned().map(Arc::new);
    let gvk = Gvk { group: group.clone(), version: name.clone(), kind: kind.clone() };
    let schema = Schema::custom(gvk, openapi.as_deref())?;
    let (columns, paths) = columns(version);
    let singular = names["singular"].as_str().filter(|s| !s.is_empty()).map_or_else(|| kind.to_lowercase(), str::to_owned);
    let list_kind = names["listKind"].as_str().filter(|s| !s.is_empty()).map_or_else(|| format!("{kind}List"), str::to_owned);
    let row = Kind {
        group: group.clone(),
        version: name.clone(),
        kind: kind.clone(),
        resource: owned(text(names, "plural")),
        singular: singular.into(),
        short_names: texts(&names["shortNames"]).into(),
        categories: texts(&names["categories"]).into(),
        scope: if spec["scope"] == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
        verbs: Verbs::ALL,
        subresources: subresources(version).into(),
        storage_prefix: Some(owned(prefix)),
        stored_as: (name != storage).then(|| (group, owned(storage))),
        schema: owned(""),
        fields: fields(version).into(),
        columns: columns.into(),
        hooks: Hooks::NONE,
    };
    let start = Instant::now();
    let rules = openapi.as_deref().and_then(|s| super::rules::compile(s, true)).map(Arc::new);
    if rules.is_some() {
        times.cel_compilation.record(String::new(), start.elapsed());
    }
    let conversion = super::Converter::of(definition);
    let stored = spec["versions"].as_array().into_iter().flatten().find(|v| v["name"] == storage);
    let custom = Custom {
        list_kind,
        crd: text(&definition["metadata"], "name").to_owned(),
        own_fields: conversion.is_some() || stored.is_some_and(|stored| stored["selectableFields"] != version["selectableFields"]),
        conversion,
        rules,
        openapi,
        scale: scale(version),
        columns: paths,
        deprecation: deprecation(definition, version),
        terminating: definition["metadata"].get("deletionTimestamp").is_some(),
    };
    Ok(Arc::new(Entry::new(Arc::new(row), schema, Some(custom))))
}
