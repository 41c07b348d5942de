//! Which owners (sets, services, budgets) select an object by its labels.
//!
//! A pod without an owner, or one that becomes ready behind services, must not cost a look at every owner of its
//! namespace. A selector with labels is found under the first of them; the few that have only expressions are all tried.

use crate::pods::selects;
use ferrokube_client::cache::decoded;
use ferrokube_client::{Cache, Object, ObjectKey, Resource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A key and a value.
type Label = (Arc<str>, Arc<str>);

/// The selectors of one namespace.
#[derive(Default)]
struct Namespace {
    known: BTreeMap<Arc<str>, LabelSelector>,
    by_label: HashMap<Label, BTreeSet<Arc<str>>>,
    unlabelled: BTreeSet<Arc<str>>,
}

/// The selectors of all owners of a kind, kept up to date.
#[derive(Default)]
pub(crate) struct Selectors {
    namespaces: RwLock<HashMap<Arc<str>, Namespace>>,
}

impl Selectors {
    /// Follows the owners of a cache. One that selects nothing has no selector.
    pub fn of<R: Resource>(owners: &Cache<R>, selector: impl Fn(R) -> Option<LabelSelector> + Send + Sync + 'static) -> Arc<Self> {
        let all = Arc::new(Selectors::default());
        let writer = all.clone();
        owners.on_change(move |d| writer.set(d.key(), d.new.and_then(|o| decoded::<R>(o)).and_then(&selector)));
        all
    }

    fn set(&self, owner: &ObjectKey, selector: Option<LabelSelector>) {
        let mut namespaces = self.namespaces.write();
        let known = namespaces.get(&owner.namespace).and_then(|n| n.known.get(&owner.name));
        if known == selector.as_ref() {
            return;
        }
        let namespace = namespaces.entry(owner.namespace.clone()).or_default();
        namespace.remove(&owner.name);
        if let Some(selector) = selector {
            namespace.insert(&owner.name, selector);
        } else if namespace.known.is_empty() {
            namespaces.remove(&owner.namespace);
        }
    }

    /// The owners in the object's namespace that select it, by name.
    pub fn matching(&self, object: &Object) -> Vec<ObjectKey> {
        let namespaces = self.namespaces.read();
        let Some(namespace) = namespaces.get(&object.key.namespace) else { return Vec::new() };
        let labelled = object.labels.iter().filter_map(|label| namespace.by_label.get(label)).flatten();
        let candidates: BTreeSet<&Arc<str>> = labelled.chain(&namespace.unlabelled).collect();
        let selecting = candidates.into_iter().filter(|name| namespace.known.get(*name).is_some_and(|s| selects(s, object)));
        selecting.map(|name| ObjectKey { namespace: object.key.namespace.clone(), name: name.clone() }).collect()
    }
}

/// Where a selector is found.
fn place(selector: &LabelSelector) -> Option<Label> {
    let (key, value) = selector.match_labels.iter().flatten().next()?;
    Some((key.as_str().into(), value.as_str().into()))
}

impl Namespace {
    fn insert(&mut self, name: &Arc<str>, selector: LabelSelector) {
        let names = place(&selector).map_or(&mut self.unlabelled, |label| self.by_label.entry(label).or_default());
        names.insert(name.clone());
        self.known.insert(name.clone(), selector);
    }

    fn remove(&mut self, name: &str) {
        let Some(selector) = self.known.remove(name) else { return };
        let Some(label) = place(&selector) else {
            self.unlabelled.remove(name);
            return;
        };
        if let Some(names) = self.by_label.get_mut(&label) {
            names.remove(name);
            if names.is_empty() {
                self.by_label.remove(&label);
            }
        }
    }
}

/// A selector that is only labels (of services, of replication controllers): without any, nothing is selected.
pub(crate) fn plain(labels: Option<BTreeMap<String, String>>) -> Option<LabelSelector> {
    labels.filter(|l| !l.is_empty()).map(|l| LabelSelector { match_labels: Some(l), ..LabelSelector::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(namespace: &str, labels: Value) -> Object {
        let pod = json!({"metadata": {"name": "p", "namespace": namespace, "uid": "u", "labels": labels}});
        Object::from_json(pod.to_string().into()).unwrap()
    }

    fn set(all: &Selectors, name: &str, selector: Value) {
        all.set(&ObjectKey::new("n", name), serde_json::from_value(selector).unwrap());
    }

    fn found(all: &Selectors, pod: &Object) -> String {
        all.matching(pod).iter().map(|k| &*k.name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_owners_whose_whole_selector_matches_are_found() {
        let all = Selectors::default();
        set(&all, "web", json!({"matchLabels": {"app": "web"}}));
        set(&all, "front", json!({"matchLabels": {"app": "web", "tier": "front"}}));
        set(&all, "tiered", json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}));
        set(&all, "old", json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}));
        assert_eq!(found(&all, &pod("n", json!({"app": "web"}))), "old web");
        assert_eq!(found(&all, &pod("n", json!({"app": "web", "tier": "front"}))), "front tiered web");
        assert_eq!(found(&all, &pod("n", json!({"app": "db"}))), "");
        assert_eq!(found(&all, &pod("other", json!({"app": "web"}))), "");
    }

    #[test]
    fn an_owner_is_found_by_what_it_selects_now() {
        let all = Selectors::default();
        set(&all, "a", json!({"matchLabels": {"app": "web"}}));
        set(&all, "b", json!({"matchLabels": {"app": "web"}}));
        set(&all, "a", json!({"matchLabels": {"app": "db"}}));
        assert_eq!(found(&all, &pod("n", json!({"app": "web"}))), "b");
        assert_eq!(found(&all, &pod("n", json!({"app": "db"}))), "a");
        all.set(&ObjectKey::new("n", "a"), None);
        all.set(&ObjectKey::new("n", "b"), None);
        assert!(all.namespaces.read().is_empty(), "nothing is left of owners that are gone");
    }
}
