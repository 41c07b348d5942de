//! What happens to one object: the live state decides.

use super::graph::{FOREGROUND, Graph, Node, ORPHAN};
use super::{AGAIN, DONE, Monitors, Sources};
use crate::Context;
use ferrokube_client::controller::Next;
use ferrokube_client::events::EventType;
use ferrokube_client::{DeleteOptions, Error, Optional, Patch, Target};
use http::Method;
use k8s_openapi::api::core::v1::ObjectReference;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Looking again at an owner whose kind is not known (its definition may come back).
const UNKNOWN_KIND: Duration = Duration::from_secs(30);

pub struct Collector {
    pub context: Context,
    pub graph: Arc<Mutex<Graph>>,
    pub monitors: Monitors,
    pub sources: Arc<Sources>,
}

/// What an owner reference leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    /// To an owner that stays.
    Solid,
    /// To nothing.
    Dangling,
    /// To an owner whose deletion waits for its dependents.
    Waiting,
    /// The kind is not served.
    Unknown,
    /// A cluster-scoped object cannot have an owner in a namespace.
    Invalid,
}

/// What to do with a dependent, from where its references lead.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    Nothing,
    /// Nothing yet: a reference cannot be resolved.
    Later,
    /// Only these references stay.
    Keep(Vec<usize>),
    /// Delete it; with its dependents first when an owner waits for it.
    Delete {
        foreground: bool,
    },
}

fn plan(leads: &[Lead], has_dependents: bool) -> Action {
    let any = |lead| leads.contains(&lead);
    if leads.is_empty() || any(Lead::Invalid) {
        return Action::Nothing;
    }
    if any(Lead::Unknown) {
        return Action::Later;
    }
    if any(Lead::Solid) {
        if !any(Lead::Dangling) && !any(Lead::Waiting) {
            return Action::Nothing;
        }
        return Action::Keep((0..leads.len()).filter(|i| leads[*i] == Lead::Solid).collect());
    }
    Action::Delete { foreground: any(Lead::Waiting) && has_dependents }
}

fn target(node: &Node) -> Target {
    Target { namespace: node.key.namespace.to_string(), name: node.key.name.to_string(), ..node.resource.target() }
}

impl Collector {
    /// Brings one object to where its owners and its own deletion want it.
    pub async fn reconcile(&self, uid: Arc<str>) -> Result<Next, Error> {
        let Some(node) = self.graph.lock().node(&uid).cloned() else { return DONE };
        let Some(live) = self.live(&target(&node), &uid).await? else { return DONE };
        if (node.orphan || node.foreground) && !self.monitors.are_listed() {
            return Ok(Next::After(AGAIN));
        }
        if node.orphan {
            self.orphan(&uid, &node, &live).await?;
        }
        if node.foreground {
            return self.foreground(&uid, &node, &live).await;
        }
        if node.deleting || live["metadata"]["deletionTimestamp"].is_string() {
            return DONE;
        }
        self.attempt(&uid, &node, &live).await
    }

    /// The object as it is now, when it is still the one of this UID.
    async fn live(&self, target: &Target, uid: &str) -> Result<Option<Value>, Error> {
        let found = self.context.client.request(Method::GET, target, "", None).await.optional()?;
        Ok(found.filter(|o| o["metadata"]["uid"] == *uid))
    }

    async fn attempt(&self, uid: &str, node: &Node, live: &Value) -> Result<Next, Error> {
        let owners = live["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let mut leads = Vec::with_capacity(owners.len());
        for owner in &owners {
            leads.push(self.follow(node, live, owner).await?);
        }
        let dependents = self.graph.lock().dependents(uid);
        match plan(&leads, !dependents.is_empty()) {
            Action::Nothing => DONE,
            Action::Later => Ok(Next::After(UNKNOWN_KIND)),
            Action::Keep(kept) => {
                let list: Vec<&Value> = kept.into_iter().map(|i| &owners[i]).collect();
                self.patch(&target(node), live, json!({"ownerReferences": list})).await
            }
            Action::Delete { foreground } => {
                // A circle of objects that wait for each other would never end.
                if foreground && dependents.iter().any(|(_, d)| d.foreground) {
                    let unblocked: Vec<Value> = owners
                        .iter()
                        .cloned()
                        .map(|mut o| {
                            o["blockOwnerDeletion"] = false.into();
                            o
                        })
                        .collect();
                    self.patch(&target(node), live, json!({"ownerReferences": unblocked})).await?;
                    let Some(live) = self.live(&target(node), uid).await? else { return DONE };
                    return self.delete(node, &live, true).await;
                }
                self.delete(node, live, foreground).await
            }
        }
    }

    async fn delete(&self, node: &Node, live: &Value, foreground: bool) -> Result<Next, Error> {
        let has = |name: &str| live["metadata"]["finalizers"].as_array().into_iter().flatten().any(|f| f == name);
        let propagation = match (foreground, has(ORPHAN), has(FOREGROUND)) {
            (true, ..) | (_, false, true) => "Foreground",
            (_, true, _) => "Orphan",
            _ => "Background",
        };
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let options = DeleteOptions {
            uid: text(&live["metadata"]["uid"]),
            resource_version: text(&live["metadata"]["resourceVersion"]),
            propagation: Some(propagation),
            ..DeleteOptions::default()
        };
        tracing::debug!(resource = node.resource.qualified(), key = %node.key, propagation, "owners are gone, deleting");
        self.context.client.delete_target(&target(node), &options).await.optional()?;
        DONE
    }

    /// Where a reference leads: a cache may say that the owner is there, only the API server that it is not.
    async fn follow(&self, node: &Node, live: &Value, owner: &Value) -> Result<Lead, Error> {
        let text = |name: &str| owner[name].as_str().unwrap_or_default();
        let (version, kind, name, uid) = (text("apiVersion"), text("kind"), text("name"), text("uid"));
        let group = version.split_once('/').map_or("", |(g, _)| g);
        let Some((resource, cache)) = self.monitors.of_kind(group, kind) else { return Ok(Lead::Unknown) };
        let namespace = if resource.namespaced { node.key.namespace.to_string() } else { String::new() };
        if resource.namespaced && namespace.is_empty() {
            self.complain(node, live, owner);
            return Ok(Lead::Invalid);
        }
        if cache.object(&namespace, name).is_some_and(|o| *o.uid == *uid) {
            let waiting = self.graph.lock().node(uid).is_some_and(|n| n.foreground);
            return Ok(if waiting { Lead::Waiting } else { Lead::Solid });
        }
        let target = Target { namespace, name: name.to_owned(), ..resource.target() };
        let Some(found) = self.live(&target, uid).await? else {
            if resource.namespaced && cache.objects().iter().any(|o| *o.uid == *uid) {
                self.complain(node, live, owner);
            }
            return Ok(Lead::Dangling);
        };
        let meta = &found["metadata"];
        let waiting = meta["deletionTimestamp"].is_string() && meta["finalizers"].as_array().into_iter().flatten().any(|f| f == FOREGROUND);
        Ok(if waiting { Lead::Waiting } else { Lead::Solid })
    }

    fn complain(&self, node: &Node, live: &Value, owner: &Value) {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let namespace = &*node.key.namespace;
        let shown = format!(
            "[{}/{}, namespace: {namespace}, name: {}, uid: {}]",
            text(&owner["apiVersion"]),
            text(&owner["kind"]),
            text(&owner["name"]),
            text(&owner["uid"])
        );
        let about = ObjectReference {
            api_version: live["apiVersion"].as_str().map(str::to_owned),
            kind: Some(node.resource.kind.clone()),
            namespace: Some(namespace.to_owned()).filter(|n| !n.is_empty()),
            name: Some(node.key.name.to_string()),
            uid: live["metadata"]["uid"].as_str().map(str::to_owned),
            ..ObjectReference::default()
        };
        let message = format!("ownerRef {shown} does not exist in namespace {namespace:?}");
        self.context.recorder.event(about, EventType::Warning, "OwnerRefInvalidNamespace", message);
    }

    /// An owner whose deletion waits: it may go when nothing blocks it, else its dependents must go first.
    async fn foreground(&self, uid: &str, node: &Node, live: &Value) -> Result<Next, Error> {
        let dependents = self.graph.lock().dependents(uid);
        let blocks = |d: &Node| d.owners.iter().any(|o| *o.uid == *uid && o.blocks);
        if !dependents.iter().any(|(_, d)| blocks(d)) {
            return self.remove_finalizer(node, live, FOREGROUND).await;
        }
        for (dependent, of) in dependents {
            if !of.deleting {
                let Some(live) = self.live(&target(&of), &dependent).await? else { continue };
                self.attempt(&dependent, &of, &live).await?;
            }
        }
        DONE
    }

    /// Lets all dependents go, then the owner. Afterwards nothing would tell one that was forgotten from one to be collected.
    async fn orphan(&self, uid: &str, node: &Node, live: &Value) -> Result<Next, Error> {
        let seen = self.graph.lock().dependents(uid);
        for (dependent, of) in &seen {
            self.let_go(uid, dependent, &target(of)).await?;
        }
        for (dependent, target) in self.unseen(uid, node).await? {
            self.let_go(uid, &dependent, &target).await?;
        }
        self.remove_finalizer(node, live, ORPHAN).await
    }

    /// Takes an owner out of a dependent's references.
    async fn let_go(&self, owner: &str, dependent: &str, target: &Target) -> Result<(), Error> {
        let Some(current) = self.live(target, dependent).await? else { return Ok(()) };
        let owners = current["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let kept: Vec<Value> = owners.iter().filter(|o| o["uid"] != *owner).cloned().collect();
        if kept.len() < owners.len() {
            self.patch(target, &current, json!({"ownerReferences": kept})).await?;
        }
        Ok(())
    }

    async fn remove_finalizer(&self, node: &Node, live: &Value, name: &str) -> Result<Next, Error> {
        let all = live["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let kept: Vec<&Value> = all.iter().filter(|f| *f != name).collect();
        if kept.len() == all.len() {
            return DONE;
        }
        self.patch(&target(node), live, json!({"finalizers": kept})).await
    }

    /// Changes metadata of exactly the revision that was looked at.
    async fn patch(&self, target: &Target, live: &Value, mut metadata: Value) -> Result<Next, Error> {
        metadata["uid"] = live["metadata"]["uid"].clone();
        metadata["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
        self.context.client.patch_target(target, &Patch::Merge(json!({"metadata": metadata}))).await.optional()?;
        DONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_goes_when_no_owner_stays_and_loses_references_otherwise() {
        use Lead::{Dangling, Invalid, Solid, Unknown, Waiting};
        let cases = [
            (vec![], false, Action::Nothing),
            (vec![Solid], false, Action::Nothing),
            (vec![Solid, Dangling], false, Action::Keep(vec![0])),
            (vec![Waiting, Solid], true, Action::Keep(vec![1])),
            (vec![Dangling], false, Action::Delete { foreground: false }),
            (vec![Waiting], false, Action::Delete { foreground: false }),
            (vec![Waiting, Dangling], true, Action::Delete { foreground: true }),
            (vec![Unknown], false, Action::Later),
            (vec![Unknown, Solid], false, Action::Later),
            (vec![Invalid], true, Action::Nothing),
        ];
        for (leads, dependents, expected) in cases {
            assert_eq!(plan(&leads, dependents), expected, "{leads:?}");
        }
    }
}
