//! APIServices of groups that CRDs bring, kept in step with them (kube-aggregator's autoregister controller). Those of built-in groups are
//! made at the start (`bootstrap`). What somebody registered by hand is left alone.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The label that says who keeps an APIService; `true`: we do, for as long as the CRD is there.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// `groupPriorityMinimum` and `versionPriority` of a CRD's group.
const PRIORITY: (u64, u64) = (1000, 100);

/// What must be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Create(Value),
    Update(Value),
    Delete(String),
}

/// Group and served versions of a CRD.
pub(super) fn served(definition: &Value) -> BTreeSet<(String, String)> {
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten().filter(|v| v["served"] == true);
    versions.filter_map(|v| v["name"].as_str()).map(|v| (group.to_owned(), v.to_owned())).collect()
}

/// From what CRDs serve and what is registered, by name, to what must be written.
pub(super) fn plan(wanted: &BTreeSet<(String, String)>, registered: &BTreeMap<String, Value>) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut names = BTreeSet::new();
    for (group, version) in wanted {
        let name = format!("{version}.{group}");
        let spec = json!({"group": group, "version": version, "groupPriorityMinimum": PRIORITY.0, "versionPriority": PRIORITY.1});
        match registered.get(&name) {
            None => actions.push(Action::Create(json!({
                "kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1",
                "metadata": {"name": name, "labels": {MANAGED: "true"}}, "spec": spec,
            }))),
            Some(existing) if managed(existing) && existing["spec"] != spec => {
                let mut changed = existing.clone();
                changed["spec"] = spec;
                actions.push(Action::Update(changed));
            }
            Some(_) => {}
        }
        names.insert(name);
    }
    let stale = registered.iter().filter(|(name, existing)| managed(existing) && !names.contains(*name));
    actions.extend(stale.map(|(name, _)| Action::Delete(name.clone())));
    actions
}

fn managed(api_service: &Value) -> bool {
    api_service["metadata"]["labels"][MANAGED] == "true"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(versions: &[(&str, bool)]) -> Value {
        let versions: Vec<Value> = versions.iter().map(|(name, served)| json!({"name": name, "served": served})).collect();
        json!({"spec": {"group": "example.com", "versions": versions}})
    }

    #[test]
    fn served_versions_are_registered_and_others_taken_away() {
        let wanted = served(&definition(&[("v1", true), ("v1beta1", false)]));
        let [Action::Create(made)] = &plan(&wanted, &BTreeMap::new())[..] else { panic!("one is made") };
        assert_eq!(made["metadata"]["name"], "v1.example.com");
        let mut registered = BTreeMap::from([("v1.example.com".to_owned(), made.clone())]);
        assert_eq!(plan(&wanted, &registered), []);
        assert_eq!(plan(&BTreeSet::new(), &registered), [Action::Delete("v1.example.com".into())]);
        registered.get_mut("v1.example.com").expect("it")["spec"]["versionPriority"] = json!(7);
        assert_eq!(plan(&wanted, &registered), [Action::Update(made.clone())]);
    }

    #[test]
    fn what_is_not_managed_is_left_alone() {
        let by_hand = json!({"metadata": {"name": "v1.example.com"}, "spec": {"service": {"name": "s", "namespace": "n"}}});
        let built_in = json!({"metadata": {"name": "v1.apps", "labels": {MANAGED: "onstart"}}, "spec": {}});
        let registered = BTreeMap::from([("v1.example.com".to_owned(), by_hand), ("v1.apps".to_owned(), built_in)]);
        assert_eq!(plan(&served(&definition(&[("v1", true)])), &registered), []);
        assert_eq!(plan(&BTreeSet::new(), &registered), []);
    }
}
