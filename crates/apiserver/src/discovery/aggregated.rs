//! Aggregated discovery: every group in one document (`apidiscovery.k8s.io` v2 and v2beta1).

use super::classic::group_versions;
use crate::aggregate::{self, Remotes};
use crate::registry::{Entry, Table};
use ferrokube_api::kinds::Subresource;
use serde_json::{Value, json};

/// The version of the document that `Accept` asks for first, if it asks for one that we have before plain JSON.
pub fn wanted(accept: &str) -> Option<&'static str> {
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: Vec<&str> = parts.collect();
        let list = parameters.contains(&"as=APIGroupDiscoveryList") && parameters.contains(&"g=apidiscovery.k8s.io");
        match media {
            "application/json" if list && parameters.contains(&"v=v2") => return Some("v2"),
            "application/json" if list && parameters.contains(&"v=v2beta1") => return Some("v2beta1"),
            "application/json" if !list => return None,
            _ => {}
        }
    }
    None
}

/// The media type of the answer.
pub fn media_type(version: &str) -> &'static str {
    match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    }
}

fn subresource(entry: &Entry, sub: &Subresource) -> Value {
    let kind = &entry.kind;
    let own = (kind.group.clone(), kind.version.clone(), kind.kind.clone());
    let (group, version, name) = sub.kind.as_ref().unwrap_or(&own);
    json!({
        "subresource": sub.name, "verbs": sub.verbs.names().collect::<Vec<_>>(),
        "responseKind": {"group": group, "version": version, "kind": name},
    })
}

fn resource(entry: &Entry) -> Value {
    let kind = &entry.kind;
    let mut out = json!({
        "resource": kind.resource, "singularResource": kind.singular,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" },
        "verbs": kind.verbs.names().collect::<Vec<_>>(),
    });
    if !kind.short_names.is_empty() {
        out["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        out["categories"] = json!(kind.categories);
    }
    if !kind.subresources.is_empty() {
        out["subresources"] = kind.subresources.iter().map(|s| subresource(entry, s)).collect();
    }
    out
}

fn version(table: &Table, group: &str, version: &str) -> Value {
    let mut entries: Vec<&Entry> =
        table.entries().iter().map(AsRef::as_ref).filter(|e| e.kind.group == group && e.kind.version == version).collect();
    entries.sort_by(|a, b| a.kind.resource.cmp(&b.kind.resource));
    json!({"version": version, "freshness": "Current", "resources": entries.iter().map(|e| resource(e)).collect::<Vec<_>>()})
}

/// The document of `/api` (core) or `/apis`.
pub fn document(table: &Table, remotes: &Remotes, core: bool, document_version: &str) -> Vec<u8> {
    let all = || aggregate::group_versions(group_versions(table), remotes);
    let groups = if core { vec![(String::new(), vec!["v1".to_owned()])] } else { all() };
    let of = |group: &str, v: &String| remotes.discovery(group, v).unwrap_or_else(|| version(table, group, v));
    let item = |(group, versions): &(String, Vec<String>)| {
        let metadata = if core { json!({"creationTimestamp": null}) } else { json!({"name": group, "creationTimestamp": null}) };
        json!({"metadata": metadata, "versions": versions.iter().map(|v| of(group, v)).collect::<Vec<_>>()})
    };
    let items: Vec<Value> = groups.iter().map(item).collect();
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{document_version}"), "metadata": {}, "items": items});
    list.to_string().into_bytes()
}
