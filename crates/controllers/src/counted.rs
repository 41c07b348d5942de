//! Pods as a controller sees them that only counts and ranks them: where they are and how they are.
//!
//! A set of ten thousand is looked at whenever one of its pods changes. So a pod is read once for each change of its own,
//! and then kept as the few facts that say something here, next to the object that all caches share.

use crate::pods::{self, View};
use ferrokube_client::{Error, Object, Resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Set by people to say which pods go first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// `status.phase`, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Unknown,
    Running,
    /// Succeeded or failed.
    Over,
}

/// What counts of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Facts {
    pub phase: Phase,
    pub ready: bool,
    /// Since when it is ready, or is not.
    pub since: Option<Timestamp>,
    pub deleting: bool,
    /// Empty before it has one.
    pub node: Box<str>,
    pub cost: i32,
    pub restarts: i32,
    pub born: Option<Timestamp>,
}

/// A pod that is counted. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Counted(Arc<(Arc<Object>, Facts)>);

impl std::ops::Deref for Counted {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.0.1
    }
}

impl Counted {
    pub fn new(object: Arc<Object>, facts: Facts) -> Self {
        Counted(Arc::new((object, facts)))
    }

    /// The pod, encoded.
    pub fn object(&self) -> &Object {
        &self.0.0
    }

    /// Not over and not being deleted.
    pub fn is_active(&self) -> bool {
        self.phase != Phase::Over && !self.deleting
    }

    /// Whether it has been ready for long enough; else, when it will be.
    pub fn availability(&self, min_ready_seconds: i32, now: Timestamp) -> Result<(), Option<Duration>> {
        pods::available(self.ready, self.since, min_ready_seconds, now)
    }
}

impl View for Counted {
    type Kept = Option<Counted>;

    fn keep(object: &Arc<Object>) -> Option<Counted> {
        let facts = facts(object).inspect_err(|e| tracing::warn!(key = %object.key, "pod cannot be counted: {e}")).ok()?;
        Some(Counted::new(object.clone(), facts))
    }

    fn see(kept: &Option<Counted>) -> Result<Self, Error> {
        let broken = || serde::de::Error::custom("a pod of the set makes no sense");
        kept.clone().ok_or_else(|| Error::Decode { what: Pod::KIND, source: broken() })
    }

    fn adopted(before: &Arc<Object>, now: Pod) -> Self {
        Counted::new(before.clone(), of_pod(now))
    }

    fn identity(&self) -> (&str, &str, &str) {
        let object = self.object();
        (&object.key.namespace, &object.key.name, &object.uid)
    }

    fn is_selected(&self, selector: &LabelSelector) -> bool {
        pods::selects(selector, self.object())
    }

    fn is_deleting(&self) -> bool {
        self.deleting
    }
}

fn of_pod(pod: Pod) -> Facts {
    let (meta, status) = (pod.metadata, pod.status.unwrap_or_default());
    Facts::from(PodView {
        metadata: Meta {
            annotations: meta.annotations,
            creation_timestamp: meta.creation_timestamp,
            deletion_timestamp: meta.deletion_timestamp,
        },
        spec: Spec { node_name: pod.spec.and_then(|s| s.node_name) },
        status: State {
            phase: status.phase,
            conditions: status.conditions,
            container_statuses: status
                .container_statuses
                .map(|all| all.into_iter().map(|c| Restarts { restart_count: c.restart_count }).collect()),
        },
    })
}

#[derive(Deserialize)]
struct PodView {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: State,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct State {
    phase: Option<String>,
    conditions: Option<Vec<PodCondition>>,
    container_statuses: Option<Vec<Restarts>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Restarts {
    #[serde(default)]
    restart_count: i32,
}

/// Reads what counts of a pod. What is there and makes no sense is an error, as with all of it.
fn facts(object: &Object) -> Result<Facts, Error> {
    let view: PodView = object.decode().map_err(|source| Error::Decode { what: Pod::KIND, source })?;
    Ok(view.into())
}

impl From<PodView> for Facts {
    fn from(PodView { metadata, spec, status }: PodView) -> Self {
        let phase = match status.phase.as_deref() {
            Some("Pending") | None => Phase::Pending,
            Some("Unknown") => Phase::Unknown,
            Some("Succeeded" | "Failed") => Phase::Over,
            Some(_) => Phase::Running,
        };
        let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
        Facts {
            phase,
            ready: ready.is_some_and(|c| c.status == "True"),
            since: ready.and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0),
            deleting: metadata.deletion_timestamp.is_some(),
            node: spec.node_name.unwrap_or_default().into(),
            cost: metadata.annotations.iter().flatten().find(|(k, _)| *k == DELETION_COST).and_then(|(_, c)| c.parse().ok()).unwrap_or(0),
            restarts: status.container_statuses.iter().flatten().map(|c| c.restart_count).max().unwrap_or(0),
            born: metadata.creation_timestamp.map(|t| t.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrokube_client::cache::readable;
    use serde_json::json;

    fn object(more: &serde_json::Value) -> Object {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}, "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {"controller.kubernetes.io/pod-deletion-cost": "3"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "o", "controller": true}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"}],
                "containerStatuses": [{"name": "c", "restartCount": 4, "ready": true, "image": "i", "imageID": ""}]}});
        for (key, value) in more.as_object().into_iter().flatten() {
            pod[key] = value.clone();
        }
        Object::from_json(pod.to_string().into()).unwrap()
    }

    #[test]
    fn what_counts_is_as_in_the_whole_pod() {
        let object = object(&json!({}));
        let facts = facts(&object).unwrap();
        assert_eq!(facts, of_pod(readable(&object).unwrap()));
        let time = |text: &str| Some(text.parse().unwrap());
        let expected = Facts {
            phase: Phase::Running,
            ready: true,
            since: time("2026-01-01T00:00:01Z"),
            deleting: false,
            node: "n1".into(),
            cost: 3,
            restarts: 4,
            born: time("2026-01-01T00:00:00Z"),
        };
        assert_eq!(facts, expected);
    }

    #[test]
    fn a_pod_that_makes_no_sense_is_an_error_and_not_nothing() {
        for broken in [json!({"status": {"phase": 7}}), json!({"spec": {"nodeName": []}}), json!({"status": {"conditions": "none"}})] {
            let kept = Counted::keep(&Arc::new(object(&broken)));
            assert!(Counted::see(&kept).is_err(), "{broken}");
        }
    }
}
