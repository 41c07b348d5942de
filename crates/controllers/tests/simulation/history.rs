//! What was ever written, in order: the store keeps every event, so that what must not happen even for a moment can be looked
//! for when the run is over, without an observer that lags.

use ferrokube_store::Event;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// One write.
pub struct Change {
    /// Since the first one.
    pub at: Duration,
    /// The revision of the store that it made.
    pub revision: u64,
    pub before: Option<Rc<Value>>,
    /// `None`: it is gone.
    pub after: Option<Rc<Value>>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (object, verb) = (self.latest(), if self.is_new() { "new" } else { "" });
        write!(f, "({}, {:?}, {:?}, {verb:?}) ", self.at.as_millis(), text(&object["kind"]), self.name())?;
        match &self.after {
            Some(object) => object.fmt(f),
            None => f.write_str("gone"),
        }
    }
}

impl Change {
    pub fn latest(&self) -> &Value {
        self.after.as_ref().or(self.before.as_ref()).unwrap()
    }

    pub fn is(&self, kind: &str) -> bool {
        self.latest()["kind"] == kind
    }

    pub fn name(&self) -> &str {
        text(&self.latest()["metadata"]["name"])
    }

    /// It was not there before, or another one of its name was.
    pub fn is_new(&self) -> bool {
        self.after.is_some() && self.before.is_none()
    }

    /// It is gone, or is to go from now on.
    pub fn is_end(&self) -> bool {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => !is_leaving(before) && is_leaving(after),
            (Some(before), None) => !is_leaving(before),
            _ => false,
        }
    }
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub fn uid(object: &Value) -> &str {
    text(&object["metadata"]["uid"])
}

pub fn app(object: &Value) -> &str {
    text(&object["metadata"]["labels"]["app"])
}

pub fn is_leaving(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

pub fn phase(object: &Value) -> &str {
    text(&object["status"]["phase"])
}

pub fn is_over(pod: &Value) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub fn has_condition(object: &Value, kind: &str) -> bool {
    object["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
}

/// Running and Ready, and there to stay.
pub fn is_ready(pod: &Value) -> bool {
    !is_leaving(pod) && phase(pod) == "Running" && has_condition(pod, "Ready")
}

pub fn image(pod: &Value) -> &str {
    text(&pod["spec"]["containers"][0]["image"])
}

pub fn count(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap_or(0)).unwrap()
}

/// The controller that owns it: kind, name and UID.
pub fn owner(object: &Value) -> Option<(&str, &str, &str)> {
    let all = object["metadata"]["ownerReferences"].as_array()?;
    let owner = all.iter().find(|r| r["controller"] == true)?;
    Some((text(&owner["kind"]), text(&owner["name"]), text(&owner["uid"])))
}

/// The log as changes of objects.
pub fn read(log: Vec<(Instant, Event)>) -> Vec<Change> {
    let mut now: HashMap<bytes::Bytes, Rc<Value>> = HashMap::new();
    let Some(first) = log.first().map(|(at, _)| *at) else { return Vec::new() };
    let change = |(at, event): (Instant, Event)| {
        let revision = event.revision();
        let (before, after) = match event {
            Event::Put(kv) => {
                let after = Rc::new(serde_json::from_slice::<Value>(&kv.value).ok()?);
                (now.insert(kv.key, after.clone()), Some(after))
            }
            Event::Delete { key, .. } => (now.remove(&key), None),
        };
        (before.is_some() || after.is_some()).then_some(Change { at: at - first, revision, before, after })
    };
    log.into_iter().filter_map(change).collect()
}

/// What there has been at any time.
#[derive(Default)]
pub struct Seen {
    /// Most pods of each owner (by UID) at once that were neither over nor being deleted.
    pub peak_pods: BTreeMap<String, usize>,
    /// Most pods of each daemon set on one node at once, those that are on their way out with them.
    pub peak_on_node: BTreeMap<String, usize>,
    /// Kind and name of each.
    pub owners: BTreeMap<String, (String, String)>,
    /// Most that each replica set ever wanted.
    pub peak_replicas: BTreeMap<String, usize>,
    /// Most that all replica sets of the deployment wanted at once.
    pub peak_total: usize,
    /// Pods (by UID) that succeeded, by `app`.
    pub succeeded: BTreeMap<String, Vec<String>>,
    active: BTreeMap<String, Vec<String>>,
    /// Node of each pod of a daemon set that is not over.
    on_nodes: BTreeMap<String, (String, String)>,
    replicas: BTreeMap<String, usize>,
}

impl Seen {
    pub fn of(history: &[Change]) -> Self {
        let mut seen = Seen::default();
        for change in history {
            if change.is("Pod") {
                seen.pod(change);
            } else if change.is("ReplicaSet") {
                seen.set(change);
            }
        }
        seen
    }

    fn pod(&mut self, change: &Change) {
        let pod = change.latest();
        let id = uid(pod).to_owned();
        let there = change.after.as_deref().filter(|p| !is_over(p) && !is_leaving(p));
        if change.after.is_some() && phase(pod) == "Succeeded" {
            let all = self.succeeded.entry(app(pod).to_owned()).or_default();
            if !all.contains(&id) {
                all.push(id.clone());
            }
        }
        self.on_node(change);
        // It may have changed hands.
        self.active.values_mut().for_each(|pods| pods.retain(|p| *p != id));
        let Some((kind, name, owner)) = there.and_then(owner) else { return };
        self.owners.entry(owner.to_owned()).or_insert_with(|| (kind.to_owned(), name.to_owned()));
        let pods = self.active.entry(owner.to_owned()).or_default();
        pods.push(id);
        let peak = self.peak_pods.entry(owner.to_owned()).or_default();
        *peak = pods.len().max(*peak);
    }

    fn on_node(&mut self, change: &Change) {
        let pod = change.latest();
        let Some(("DaemonSet", _, set)) = owner(pod) else { return };
        let there = change.after.as_deref().filter(|p| !is_over(p));
        let Some(node) = there.and_then(|p| p["spec"]["nodeName"].as_str()) else {
            self.on_nodes.remove(uid(pod));
            return;
        };
        self.on_nodes.insert(uid(pod).to_owned(), (set.to_owned(), node.to_owned()));
        let here = self.on_nodes.values().filter(|(s, n)| s == set && n == node).count();
        let peak = self.peak_on_node.entry(set.to_owned()).or_default();
        *peak = here.max(*peak);
    }

    fn set(&mut self, change: &Change) {
        let id = uid(change.latest()).to_owned();
        let Some(set) = &change.after else {
            self.replicas.remove(&id);
            return;
        };
        let wanted = count(&set["spec"]["replicas"]);
        let peak = self.peak_replicas.entry(id.clone()).or_default();
        *peak = wanted.max(*peak);
        if app(set) == "web" {
            self.replicas.insert(id, wanted);
            self.peak_total = self.peak_total.max(self.replicas.values().sum());
        }
    }
}
