//! Aggregated discovery: every group in one document (`apidiscovery.k8s.io/v2`). Its beta is
//! gone (AggregatedDiscoveryRemoveBetaType): who knows no other gets the classic documents.

use super::classic::group_versions;
use crate::aggregate::{self, Remotes};
use crate::output::{Format, protobuf, yaml};
use crate::registry::{Entry, Table};
use ferrokube_api::Status;
use ferrokube_api::kinds::Subresource;
use serde_json::{Value, json};

/// The format in which `Accept` asks for the document, if it asks for it before the classic one.
pub fn wanted(accept: &str) -> Option<Format> {
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: Vec<&str> = parts.collect();
        let format = [Format::Json, Format::Yaml, Format::Protobuf].into_iter().find(|f| f.media_type() == media);
        let all = ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"].iter().all(|p| parameters.contains(p));
        match format {
            Some(_) if all => return format,
            Some(_) if !parameters.iter().any(|p| p.starts_with("as=")) => return None,
            _ => {}
        }
    }
    None
}

/// The media type of the answer.
pub fn media_type(format: Format) -> &'static str {
    match format {
        Format::Json => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        Format::Yaml => "application/yaml;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        Format::Protobuf => "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
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
pub fn document(table: &Table, remotes: &Remotes, core: bool, format: Format) -> Result<Vec<u8>, Status> {
    let all = || aggregate::group_versions(group_versions(table), remotes);
    let groups = if core { vec![(String::new(), vec!["v1".to_owned()])] } else { all() };
    let of = |group: &str, v: &String| remotes.discovery(group, v).unwrap_or_else(|| version(table, group, v));
    let item = |(group, versions): &(String, Vec<String>)| {
        let metadata = if core { json!({"creationTimestamp": null}) } else { json!({"name": group, "creationTimestamp": null}) };
        json!({"metadata": metadata, "versions": versions.iter().map(|v| of(group, v)).collect::<Vec<_>>()})
    };
    let items: Vec<Value> = groups.iter().map(item).collect();
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    let json = list.to_string().into_bytes();
    match format {
        Format::Json => Ok(json),
        Format::Yaml => yaml::from_json(&json),
        Format::Protobuf => protobuf::value(&json).map(Vec::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_had_in_every_format_and_its_beta_no_more() {
        let name = "g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        assert_eq!(wanted(&format!("application/json;{name},{beta},application/json")), Some(Format::Json));
        assert_eq!(wanted(&format!("application/vnd.kubernetes.protobuf;{name},application/json")), Some(Format::Protobuf));
        assert_eq!(wanted(&format!("application/yaml; {name}")), Some(Format::Yaml));
        assert_eq!(wanted(&format!("{beta},application/json")), None);
        assert_eq!(wanted(&format!("application/json,application/json;{name}")), None, "the first one counts");
        assert_eq!(wanted("*/*"), None);
    }
}
