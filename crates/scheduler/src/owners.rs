//! What selects pods from outside: services and workloads (for the default spreading) and disruption budgets.

use crate::class::{Class, label};
use ferrokube_api::labels::Selector;
use ferrokube_api::{Object, ObjectKey};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A disruption budget.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Its pods.
    pub selector: Selector,
    /// How many may go now.
    pub allowed: i64,
    /// Pods whose disruption is already counted, by name.
    pub disrupted: Vec<Arc<str>>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    services: HashMap<Arc<str>, BTreeMap<Arc<str>, Selector>>,
    /// By kind and key.
    workloads: HashMap<(Box<str>, ObjectKey), Selector>,
    budgets: HashMap<Arc<str>, BTreeMap<Arc<str>, Budget>>,
    changes: u64,
    budget_changes: u64,
}

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
struct Spec {
    #[serde(default)]
    selector: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    disruptions_allowed: i64,
    #[serde(default)]
    disrupted_pods: Option<BTreeMap<Box<str>, serde::de::IgnoredAny>>,
}

impl Owners {
    /// The selector of the default spreading: that of the services of a pod and of its workload together
    /// (`DefaultSelector`). `None`: nothing selects it, so it is not spread.
    pub fn default_selector(&self, class: &Class) -> Option<Selector> {
        let mut merged = Selector::everything();
        let services = self.services.get(&class.namespace).into_iter().flat_map(BTreeMap::values);
        let mine = services.filter(|s| !s.is_everything() && s.matches_with(|key| label(&class.labels, key)));
        let workload = class.owner.as_ref().and_then(|(kind, name)| {
            let key = (kind.clone(), ObjectKey::new(&class.namespace, name));
            self.workloads.get(&key)
        });
        for selector in mine.chain(workload) {
            for requirement in selector.requirements() {
                merged = merged.and(requirement.clone());
            }
        }
        (!merged.is_everything()).then_some(merged)
    }

    /// How often a service or a workload came, changed or went.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// How often a disruption budget came, changed or went.
    pub fn budget_changes(&self) -> u64 {
        self.budget_changes
    }

    /// Budgets of a namespace, in name order.
    pub fn budgets(&self, namespace: &str) -> impl Iterator<Item = &Budget> {
        self.budgets.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    /// A service is as it is now, or gone.
    pub fn set_service(&mut self, key: &ObjectKey, object: Option<&Object>) -> Result<(), serde_json::Error> {
        let of_namespace = self.services.entry(key.namespace.clone()).or_default();
        let selector = match object {
            None => None,
            Some(object) => Some(Selector::from_map(serde_json::from_slice::<View>(&object.json())?.spec.selector.as_ref())),
        };
        let old = match selector.clone() {
            None => of_namespace.remove(&key.name),
            Some(selector) => of_namespace.insert(key.name.clone(), selector),
        };
        self.changes += u64::from(old != selector);
        Ok(())
    }

    /// A workload of a kind is as it is now, or gone.
    pub fn set_workload(&mut self, kind: &str, key: &ObjectKey, object: Option<&Object>) -> Result<(), serde_json::Error> {
        let at = (Box::from(kind), key.clone());
        let Some(object) = object else {
            self.changes += u64::from(self.workloads.remove(&at).is_some());
            return Ok(());
        };
        let view: View = serde_json::from_slice(&object.json())?;
        let selector = match kind {
            "ReplicationController" => Ok(Selector::from_map(view.spec.selector.as_ref())),
            _ => Selector::from_label_selector(view.spec.selector.as_ref()),
        };
        let selector = selector.unwrap_or_else(|_| Selector::nothing());
        let old = self.workloads.insert(at, selector.clone());
        self.changes += u64::from(old != Some(selector));
        Ok(())
    }

    /// A disruption budget is as it is now, or gone.
    pub fn set_budget(&mut self, key: &ObjectKey, object: Option<&Object>) -> Result<(), serde_json::Error> {
        self.budget_changes += 1;
        let of_namespace = self.budgets.entry(key.namespace.clone()).or_default();
        let Some(object) = object else {
            of_namespace.remove(&key.name);
            return Ok(());
        };
        let view: View = serde_json::from_slice(&object.json())?;
        let selector = Selector::from_label_selector(view.spec.selector.as_ref()).unwrap_or_else(|_| Selector::nothing());
        let disrupted = view.status.disrupted_pods.into_iter().flatten().map(|(name, _)| name.into()).collect();
        of_namespace.insert(key.name.clone(), Budget { selector, allowed: view.status.disruptions_allowed, disrupted });
        Ok(())
    }
}
