//! What both servers serve, as one: the order of groups and versions, and a remote server's part of the documents.

use super::{Remote, Remotes};
use crate::discovery::classic::version_order;
use serde_json::{Map, Value, json};

/// `groupPriorityMinimum` of groups that no built-in row and no APIService with a service names.
const CUSTOM: u64 = 1000;

fn built_in(group: &str, version: &str) -> Option<(u64, u64)> {
    use ferrokube_api::kinds::group_versions;
    let exact = group_versions().find(|gv| gv.group == group && gv.version == version);
    let found = exact.or_else(|| group_versions().find(|gv| gv.group == group))?;
    Some((found.group_priority.into(), found.version_priority.into()))
}

/// Adds remote groups and versions to the local ones, by priority and then by name
/// (`apiregistration/v1/helper.SortedByGroupAndVersion`).
pub fn group_versions(mut groups: Vec<(String, Vec<String>)>, remotes: &Remotes) -> Vec<(String, Vec<String>)> {
    let minimum = |group: &str| {
        let asked = remotes.all.iter().filter(|r| r.spec.group == group).map(|r| r.spec.group_minimum);
        asked.chain(built_in(group, "").map(|(minimum, _)| minimum)).max().unwrap_or(CUSTOM)
    };
    let priority = |group: &str, version: &str| match remotes.get(group, version) {
        Some(remote) => remote.spec.priority,
        None => built_in(group, version).map_or(100, |(_, priority)| priority),
    };
    for remote in &remotes.all {
        let (group, version) = (&remote.spec.group, &remote.spec.version);
        match groups.iter_mut().find(|(g, _)| g == group) {
            Some((_, versions)) => {
                if !versions.contains(version) {
                    versions.push(version.clone());
                }
                versions.sort_by(|a, b| priority(group, b).cmp(&priority(group, a)).then_with(|| version_order(a, b)));
            }
            None => {
                let own = minimum(group);
                let after = |other: &str| (minimum(other), group.as_str()) < (own, other);
                let at = groups.iter().position(|(other, _)| after(other)).unwrap_or(groups.len());
                groups.insert(at, (group.clone(), vec![version.clone()]));
            }
        }
    }
    groups
}

impl Remotes {
    /// A remote version in the aggregated discovery: `Stale` while the server is away. `None` when the version is ours.
    pub fn discovery(&self, group: &str, version: &str) -> Option<Value> {
        let state = self.get(group, version)?.state();
        let mut out = json!({"version": version, "freshness": if state.available { "Current" } else { "Stale" }});
        if let Some(resources) = state.resources {
            out["resources"] = (*resources).clone();
        }
        Some(out)
    }

    /// Adds descriptions of remote groups and versions to the index of `/openapi/v3`.
    pub fn describe(&self, index: &mut Value) {
        for remote in &self.all {
            let path = format!("apis/{}/{}", remote.spec.group, remote.spec.version);
            match (remote.state().openapi, index["paths"].as_object_mut()) {
                (Some(url), Some(paths)) => drop(paths.insert(path, json!({"serverRelativeURL": url}))),
                (None, Some(paths)) => drop(paths.remove(&path)),
                _ => {}
            }
        }
    }

    /// Whether there is nothing to add anywhere.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.spec.version, self.spec.group)
    }
}

/// From an `APIResourceList` to the resources of a version in the aggregated discovery.
pub(super) fn resources(list: &Value, group: &str, version: &str) -> Value {
    let kind = |resource: &Value| {
        let own = |field: &str, default: &str| resource[field].as_str().filter(|t| !t.is_empty()).unwrap_or(default).to_owned();
        json!({"group": own("group", group), "version": own("version", version), "kind": own("kind", "")})
    };
    let all = || list["resources"].as_array().into_iter().flatten();
    let name = |resource: &Value| resource["name"].as_str().unwrap_or_default().to_owned();
    let mut out = Vec::new();
    for resource in all().filter(|r| !name(r).contains('/')) {
        let mut entry = Map::new();
        let own = name(resource);
        entry.insert("resource".into(), json!(own));
        entry.insert("responseKind".into(), kind(resource));
        entry.insert("scope".into(), json!(if resource["namespaced"] == true { "Namespaced" } else { "Cluster" }));
        entry.insert("singularResource".into(), json!(resource["singularName"].as_str().unwrap_or_default()));
        for field in ["verbs", "shortNames", "categories"] {
            if let Some(value) = resource.get(field).filter(|v| v.is_array()) {
                entry.insert(field.into(), value.clone());
            }
        }
        let below = all().filter_map(|r| {
            let full = name(r);
            let sub = full.strip_prefix(&own)?.strip_prefix('/')?.to_owned();
            Some(json!({"subresource": sub, "responseKind": kind(r), "verbs": r["verbs"]}))
        });
        let below: Vec<Value> = below.collect();
        if !below.is_empty() {
            entry.insert("subresources".into(), json!(below));
        }
        out.push(Value::Object(entry));
    }
    Value::Array(out)
}

#[cfg(test)]
mod tests {
    use super::super::backend::Backend;
    use super::super::spec::Spec;
    use super::*;
    use std::sync::Arc;

    fn remotes(all: &[(&str, &str, u64, u64)]) -> Remotes {
        let remote = |(group, version, minimum, priority): &(&str, &str, u64, u64)| {
            let object = json!({"spec": {"group": group, "version": version, "groupPriorityMinimum": minimum, "versionPriority": priority,
                "service": {"namespace": "n", "name": "s"}}});
            let spec = Spec::of(&object).expect("a service");
            Arc::new(Remote { backend: Backend::new(&spec, None), spec, state: Default::default() })
        };
        Remotes { all: all.iter().map(remote).collect(), generation: 1 }
    }

    #[test]
    fn remote_groups_stand_where_their_priority_puts_them() {
        let local = || {
            vec![
                ("apps".to_owned(), vec!["v1".to_owned()]),
                ("discovery.k8s.io".to_owned(), vec!["v1".to_owned()]),
                ("example.com".to_owned(), vec!["v1".to_owned()]),
            ]
        };
        let names = |remotes: &Remotes| {
            group_versions(local(), remotes).into_iter().map(|(g, v)| format!("{g}:{}", v.join(","))).collect::<Vec<_>>()
        };
        assert_eq!(names(&remotes(&[])), ["apps:v1", "discovery.k8s.io:v1", "example.com:v1"]);
        assert_eq!(
            names(&remotes(&[("metrics.k8s.io", "v1beta1", 100, 100)])),
            ["apps:v1", "discovery.k8s.io:v1", "example.com:v1", "metrics.k8s.io:v1beta1"]
        );
        assert_eq!(names(&remotes(&[("aaa.io", "v1", 17000, 1)]))[1], "aaa.io:v1");
        assert_eq!(names(&remotes(&[("aaa.io", "v1", 1000, 1)]))[2], "aaa.io:v1", "equal priorities go by name");
        assert_eq!(names(&remotes(&[("apps", "v2", 1, 99)]))[0], "apps:v2,v1");
    }

    #[test]
    fn a_list_of_resources_becomes_a_version_of_the_aggregated_discovery() {
        let list = json!({"resources": [
            {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"], "shortNames": ["pm"]},
            {"name": "pods/log", "namespaced": true, "kind": "Log", "group": "other", "version": "v2", "verbs": ["get"]},
        ]});
        let want = json!([{"resource": "pods", "singularResource": "pod", "scope": "Namespaced", "verbs": ["get", "list"], "shortNames": ["pm"],
            "responseKind": {"group": "metrics.k8s.io", "version": "v1beta1", "kind": "PodMetrics"},
            "subresources": [{"subresource": "log", "verbs": ["get"], "responseKind": {"group": "other", "version": "v2", "kind": "Log"}}]}]);
        assert_eq!(resources(&list, "metrics.k8s.io", "v1beta1"), want);
    }
}
