//! `matchPolicy: Equivalent`: a webhook whose rules name another version of a kind is asked about objects in that version.
//!
//! Built-in kinds convert by the hooks of their rows; custom ones where their versions differ in name only (conversion strategy
//! `None`).

use super::super::{Context, list};
use ferrokube_api::kinds::{self, Kind};
use serde_json::Value;

/// Another version of the resource of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Other {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
}

/// The other versions under which the resource of the request is served.
pub(super) fn equivalents(c: &Context<'_>) -> Vec<Other> {
    if let Some(own) = kinds::lookup(c.group, c.version, c.resource) {
        let same = |row: &&Kind| {
            row.resource == own.resource
                && row.storage_prefix == own.storage_prefix
                && own.storage_prefix.is_some()
                && (row.group != own.group || row.version != own.version)
        };
        let other = |row: &Kind| Other { group: row.group.to_string(), version: row.version.to_string(), kind: row.kind.to_string() };
        return kinds::builtin().iter().filter(same).map(other).collect();
    }
    let name = format!("{}.{}", c.resource, c.group);
    let crd = c.objects.get("apiextensions.k8s.io", "customresourcedefinitions", "", &name).and_then(|o| o.decode::<Value>().ok());
    let Some(spec) = crd.map(|mut crd| crd["spec"].take()).filter(|spec| spec["conversion"]["strategy"] != "Webhook") else {
        return Vec::new();
    };
    let kind = spec["names"]["kind"].as_str().unwrap_or_default();
    let versions = list(&spec, "versions").filter(|v| v["served"] == true).filter_map(|v| v["name"].as_str());
    let other = |version: &str| Other { group: c.group.to_owned(), version: version.to_owned(), kind: kind.to_owned() };
    versions.filter(|v| *v != c.version).map(other).collect()
}

/// The object in the version of `group/version`.
pub(super) fn converted(object: &Value, resource: &str, group: &str, version: &str) -> Value {
    let said = object["apiVersion"].as_str().unwrap_or_default();
    let (from_group, from_version) = said.split_once('/').unwrap_or(("", said));
    let mut value = object.clone();
    if let (Some(from), Some(to)) = (kinds::lookup(from_group, from_version, resource), kinds::lookup(group, version, resource)) {
        if let Some(convert) = from.hooks.to_storage {
            convert(&mut value);
        }
        if let Some(convert) = to.hooks.from_storage {
            convert(&mut value);
        }
        value["kind"] = to.kind.as_ref().into();
    }
    value["apiVersion"] = if group.is_empty() { version.into() } else { format!("{group}/{version}").into() };
    value
}
