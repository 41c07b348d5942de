//! Discovery as it always was: one document per group and version.

use crate::aggregate::{self, Remotes};
use crate::registry::{Entry, Table};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferrokube_api::kinds::Subresource;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// `/api`.
pub fn versions(address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

/// Groups in discovery's order with their versions, preferred first. Core is not among them.
pub fn group_versions(table: &Table) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    let mut add = |group: &str, version: &str| {
        if !table.serves(group, version) {
            return;
        }
        match groups.iter_mut().find(|(g, _)| g == group) {
            Some((_, versions)) if versions.iter().any(|v| v == version) => {}
            Some((_, versions)) => versions.push(version.to_owned()),
            None => groups.push((group.to_owned(), vec![version.to_owned()])),
        }
    };
    for known in ferrokube_api::kinds::group_versions().filter(|gv| !gv.group.is_empty()) {
        add(known.group, known.version);
    }
    // Custom groups follow by name.
    let mut custom: Vec<&Entry> = table.entries().iter().map(AsRef::as_ref).filter(|e| e.custom.is_some()).collect();
    custom.sort_by(|a, b| a.kind.group.cmp(&b.kind.group).then_with(|| version_order(&a.kind.version, &b.kind.version)));
    custom.iter().for_each(|e| add(&e.kind.group, &e.kind.version));
    groups
}

/// Stable versions before beta before alpha, newer before older (apimachinery `version.CompareKubeAwareVersionStrings`), greatest first.
pub fn version_order(a: &str, b: &str) -> std::cmp::Ordering {
    fn rank(v: &str) -> Option<(u8, u64, u64)> {
        let rest = v.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        let (level, tail) = match &rest[digits..] {
            "" => return Some((3, major, 0)),
            other => other.strip_prefix("beta").map(|t| (2, t)).or_else(|| other.strip_prefix("alpha").map(|t| (1, t)))?,
        };
        Some((level, major, tail.parse().ok()?))
    }
    match (rank(a), rank(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

fn group_value(group: &str, versions: &[String]) -> Map<String, Value> {
    let of = |v: &String| json!({"groupVersion": format!("{group}/{v}"), "version": v});
    let mut out = Map::new();
    out.insert("name".into(), json!(group));
    out.insert("versions".into(), versions.iter().map(of).collect());
    out.insert("preferredVersion".into(), versions.first().map(of).unwrap_or_default());
    out
}

/// `/apis`.
pub fn groups(table: &Table, remotes: &Remotes) -> Value {
    let groups: Vec<Value> =
        aggregate::group_versions(group_versions(table), remotes).iter().map(|(g, v)| Value::Object(group_value(g, v))).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
pub fn group(table: &Table, remotes: &Remotes, name: &str) -> Option<Value> {
    let groups = aggregate::group_versions(group_versions(table), remotes);
    let (group, versions) = groups.iter().find(|(g, _)| g == name)?;
    let mut value = group_value(group, versions);
    value.insert("kind".into(), json!("APIGroup"));
    value.insert("apiVersion".into(), json!("v1"));
    Some(Value::Object(value))
}

/// Tells clients when the storage version of a resource changed.
fn storage_hash(entry: &Entry) -> String {
    let kind = &entry.kind;
    let (group, version) = kind.stored_as.as_ref().map_or((&kind.group, &kind.version), |(g, v)| (g, v));
    STANDARD.encode(&Sha256::digest(format!("{group}/{version}/{}", kind.kind))[..8])
}

fn main_resource(entry: &Entry) -> Value {
    let kind = &entry.kind;
    let mut out = json!({
        "name": kind.resource, "singularName": kind.singular, "namespaced": kind.namespaced(), "kind": kind.kind,
        "verbs": kind.verbs.names().collect::<Vec<_>>(),
    });
    if !kind.short_names.is_empty() {
        out["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        out["categories"] = json!(kind.categories);
    }
    if kind.storage_prefix.is_some() {
        out["storageVersionHash"] = json!(storage_hash(entry));
    }
    out
}

fn subresource(entry: &Entry, sub: &Subresource) -> Value {
    let kind = &entry.kind;
    let mut out = json!({
        "name": format!("{}/{}", kind.resource, sub.name), "singularName": "", "namespaced": kind.namespaced(), "kind": kind.kind,
        "verbs": sub.verbs.names().collect::<Vec<_>>(),
    });
    if let Some((group, version, name)) = &sub.kind {
        out["kind"] = json!(name);
        if (group, version) != (&kind.group, &kind.version) {
            out["group"] = json!(group);
            out["version"] = json!(version);
        }
    }
    out
}

/// `/api/<version>` and `/apis/<group>/<version>`.
pub fn resources(table: &Table, group: &str, version: &str) -> Option<Value> {
    if !table.serves(group, version) {
        return None;
    }
    let mut entries: Vec<&Entry> =
        table.entries().iter().map(AsRef::as_ref).filter(|e| e.kind.group == group && e.kind.version == version).collect();
    entries.sort_by(|a, b| a.kind.resource.cmp(&b.kind.resource));
    let each =
        |e: &&Entry| std::iter::once(main_resource(e)).chain(e.kind.subresources.iter().map(|s| subresource(e, s))).collect::<Vec<_>>();
    let resources: Vec<Value> = entries.iter().flat_map(each).collect();
    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut out = json!({"kind": "APIResourceList", "groupVersion": name, "resources": resources});
    if !group.is_empty() {
        out["apiVersion"] = json!("v1");
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_as_kubernetes_does() {
        let mut versions = ["v1beta1", "v2", "foo", "v1", "v10alpha2", "v11", "v1alpha1", "v1beta2", "bar"];
        versions.sort_by(|a, b| version_order(a, b));
        assert_eq!(versions, ["v11", "v2", "v1", "v1beta2", "v1beta1", "v10alpha2", "v1alpha1", "bar", "foo"]);
    }
}
