//! Devices that are asked for as if they were amounts: an extended resource that a device class stands for.
//!
//! A node whose device plugin offers the resource serves it as ever. On all others the amounts of each container become
//! requests of one claim, which the scheduler makes for the pod when it has its place, so what is asked for depends on the
//! node. The container an init container makes way for can have its devices. Source: KEP-5004.

use super::{Amount, Claim, Devices, Request};
use crate::node::Node;
use ferrokube_api::ObjectKey;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A class is also a resource of this name and its own.
const IMPLICIT: &str = "deviceclass.resource.kubernetes.io/";
/// Marks the claim of a pod.
pub const ANNOTATION: &str = "resource.kubernetes.io/extended-resource-claim";

/// What one container asks of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Place of the container among init containers and containers.
    pub place: usize,
    /// Its name.
    pub container: Box<str>,
    /// It ends before the containers after it begin.
    pub passes: bool,
    /// The resource.
    pub resource: Box<str>,
    /// Its place among the container's requests, by name.
    pub at: usize,
    /// How many.
    pub count: i64,
}

/// Classes by the resource they stand for: the newest wins, of two of an age the one with the lesser name.
#[derive(Clone, Debug, Default)]
pub(super) struct Backing(BTreeMap<Box<str>, BTreeSet<(std::cmp::Reverse<Box<str>>, Box<str>)>>);

impl Backing {
    pub(super) fn add(&mut self, resource: &str, created: &str, class: &str) {
        self.0.entry(resource.into()).or_default().insert((std::cmp::Reverse(created.into()), class.into()));
    }

    pub(super) fn forget(&mut self, class: &str) {
        self.0.retain(|_, classes| {
            classes.retain(|(_, name)| **name != *class);
            !classes.is_empty()
        });
    }
}

impl Devices {
    /// The class that stands for a resource.
    pub fn class_for<'a>(&'a self, resource: &'a str) -> Option<&'a str> {
        let named = self.backing.0.get(resource).and_then(|classes| classes.first()).map(|(_, class)| &**class);
        named.or_else(|| resource.strip_prefix(IMPLICIT).filter(|class| self.classes.contains_key(*class)))
    }

    /// Whether any of what is asked for may be devices.
    pub fn back(&self, asks: &[Ask]) -> bool {
        asks.iter().any(|ask| self.class_for(&ask.resource).is_some())
    }

    /// Whether a resource must come from devices on this node.
    pub fn serve(&self, resource: &str, node: &Node) -> bool {
        node.allocatable.scalar_amount(resource) == 0 && self.class_for(resource).is_some()
    }

    /// How many devices of a node stand for a resource that it does not offer itself, and of how many of them claims have all or parts;
    /// `None`: there are none.
    pub fn standing_for(&self, resource: &str, node: &Node) -> Option<(i64, i64)> {
        let class = self.class_for(resource).filter(|_| node.allocatable.scalar_amount(resource) == 0)?;
        let selectors = &self.class(class)?.selectors;
        let (mut all, mut taken) = (0, 0);
        for number in self.pools().for_node(node) {
            let pool = self.pools().get(number);
            let choices: Vec<_> = selectors.iter().map(|s| pool.choices(s)).collect();
            let chosen = |at: &usize| pool.devices()[*at].reach.reaches(node) && choices.iter().all(|c| c[*at] == Ok(true));
            for at in (0..pool.devices().len()).filter(chosen) {
                all += 1;
                taken += i64::from(pool.is_taken(at) || pool.parts(at).is_some());
            }
        }
        (all > 0).then_some((all, taken))
    }

    /// The claim that an earlier attempt to place a pod left behind.
    pub fn made_for(&self, pod: &str) -> Option<(&ObjectKey, &Claim)> {
        let key = self.special.get(pod)?;
        Some((key, self.claims.get(key)?))
    }

    /// What a pod's claim on a node would be; `None`: it needs none there.
    pub fn special(&self, asks: &[Ask], node: &Node) -> Option<Special> {
        let mut resources: Vec<(&str, &str)> = asks
            .iter()
            .filter(|a| self.serve(&a.resource, node))
            .filter_map(|a| Some((&*a.resource, self.class_for(&a.resource)?)))
            .collect();
        resources.sort_unstable();
        resources.dedup();
        let mut special = Special::default();
        for (resource, class) in &resources {
            let of: Vec<&Ask> = asks.iter().filter(|a| a.resource[..] == **resource).collect();
            special.add(class, &of);
        }
        special.wanted.sort_by(|a, b| a.name.cmp(&b.name));
        (!special.wanted.is_empty()).then_some(special)
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    name: String,
    class: String,
    count: i64,
}

/// The claim of a pod: its requests, and which container has the devices of which.
#[derive(Clone, Debug, Default)]
pub struct Special {
    wanted: Vec<Wanted>,
    mappings: Vec<Value>,
}

impl Special {
    /// The requests for one resource. What passes away has the devices of those that come after it, and of what it asks for
    /// besides the most that any of them does is enough.
    fn add(&mut self, class: &str, asks: &[&Ask]) {
        let name = |ask: &Ask| format!("container-{}-request-{}", ask.place, ask.at);
        let wanted = |ask: &Ask, count| Wanted { name: name(ask), class: class.to_owned(), count };
        let (passing, staying): (Vec<&Ask>, Vec<&Ask>) = asks.iter().partition(|a| a.passes);
        let mut most: Option<Wanted> = None;
        let mut beside: Vec<&Ask> = Vec::new();
        let mut borrowed: Vec<(&Ask, String)> = Vec::new();
        for ask in passing {
            let mut left = ask.count;
            for later in staying.iter().filter(|s| s.place > ask.place) {
                if left <= 0 {
                    break;
                }
                left -= later.count;
                borrowed.push((ask, name(later)));
            }
            if left > 0 {
                beside.push(ask);
                if most.as_ref().is_none_or(|m| m.count < left) {
                    most = Some(wanted(ask, left));
                }
            }
        }
        let mapping =
            |ask: &Ask, request: &str| json!({"containerName": ask.container, "resourceName": ask.resource, "requestName": request});
        self.mappings.extend(staying.iter().map(|ask| mapping(ask, &name(ask))));
        self.mappings.extend(borrowed.iter().map(|(ask, request)| mapping(ask, request)));
        if let Some(most) = &most {
            self.mappings.extend(beside.iter().map(|ask| mapping(ask, &most.name)));
        }
        self.wanted.extend(most);
        self.wanted.extend(staying.iter().map(|ask| wanted(ask, ask.count)));
    }

    /// As a claim that allocation understands.
    pub fn claim(&self) -> Claim {
        let request = |w: &Wanted| {
            let amount = Amount::Exactly(usize::try_from(w.count).unwrap_or(usize::MAX));
            vec![Request { amount, ..Request::of(&w.name, &w.class) }]
        };
        Claim::asking(self.wanted.iter().map(request).collect())
    }

    /// The object to be made for a pod, before it is allocated.
    pub fn object(&self, namespace: &str, pod: (&str, &str)) -> Value {
        let request =
            |w: &Wanted| json!({"name": w.name, "exactly": {"deviceClassName": w.class, "allocationMode": "ExactCount", "count": w.count}});
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": pod.0, "uid": pod.1, "controller": true, "blockOwnerDeletion": true});
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"namespace": namespace, "generateName": format!("{}-extended-resources-", pod.0), "finalizers": [super::FINALIZER],
                "annotations": {ANNOTATION: "true"}, "ownerReferences": [owner]},
            "spec": {"devices": {"requests": self.wanted.iter().map(request).collect::<Vec<_>>()}},
        })
    }

    /// Which container has the devices of which request.
    pub fn mappings(&self) -> &[Value] {
        &self.mappings
    }
}

/// By what name a claim that is not made yet is counted on.
pub fn key(namespace: &str, pod: &str) -> ObjectKey {
    ObjectKey::new(namespace, &format!("<extended-resources> {pod}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(place: usize, container: &str, passes: bool, count: i64) -> Ask {
        Ask { place, container: container.into(), passes, resource: "example.com/gpu".into(), at: 1, count }
    }

    fn requests(asks: &[Ask]) -> (Vec<(String, i64)>, Vec<(String, String)>) {
        let mut special = Special::default();
        special.add("gpu", &asks.iter().collect::<Vec<_>>());
        special.wanted.sort_by(|a, b| a.name.cmp(&b.name));
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        let mappings = special.mappings.iter().map(|m| (text(&m["containerName"]), text(&m["requestName"]))).collect();
        (special.wanted.into_iter().map(|w| (w.name, w.count)).collect(), mappings)
    }

    fn owned(list: &[(&str, i64)]) -> Vec<(String, i64)> {
        list.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
    }

    #[test]
    fn each_container_has_a_request_of_its_own() {
        let (wanted, mappings) = requests(&[ask(0, "a", false, 2), ask(1, "b", false, 1)]);
        assert_eq!(wanted, owned(&[("container-0-request-1", 2), ("container-1-request-1", 1)]));
        assert_eq!(mappings[1], ("b".to_owned(), "container-1-request-1".to_owned()));
    }

    #[test]
    fn an_init_container_has_the_devices_of_those_after_it() {
        let (wanted, mappings) = requests(&[ask(0, "init", true, 1), ask(1, "main", false, 2)]);
        assert_eq!(wanted, owned(&[("container-1-request-1", 2)]));
        assert_eq!(mappings[1], ("init".to_owned(), "container-1-request-1".to_owned()));
    }

    #[test]
    fn of_what_init_containers_need_besides_the_most_is_enough_for_all() {
        let (wanted, mappings) = requests(&[ask(0, "one", true, 3), ask(1, "two", true, 5), ask(2, "main", false, 2)]);
        assert_eq!(wanted, owned(&[("container-1-request-1", 3), ("container-2-request-1", 2)]));
        let of = |container: &str| mappings.iter().filter(|(c, _)| c == container).map(|(_, r)| r.as_str()).collect::<Vec<_>>();
        assert_eq!(of("one"), ["container-2-request-1", "container-1-request-1"]);
        assert_eq!(of("two"), ["container-2-request-1", "container-1-request-1"]);
    }
}
