//! Pods as a controller sees them that only counts and ranks them: their metadata, their node and how they are.
//!
//! A set of ten thousand is looked at whenever one of its pods changes. What a pod is made of (containers, volumes, who
//! managed which field) is nine tenths of its bytes and of the time it takes to decode it, and says nothing here.

use ferrokube_client::{Error, Object, Resource};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct View {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: State,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    finalizers: Option<Vec<String>>,
    owner_references: Option<Vec<OwnerReference>>,
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
    reason: Option<String>,
    conditions: Option<Vec<PodCondition>>,
    container_statuses: Option<Vec<Restarts>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Restarts {
    #[serde(default)]
    restart_count: i32,
}

/// A pod without what it is made of. What is there and makes no sense is an error, as with all of it.
pub(crate) fn pod(object: &Object) -> Result<Pod, Error> {
    let View { metadata: m, spec, status } =
        serde_json::from_slice(&object.json()).map_err(|source| Error::Decode { what: Pod::KIND, source })?;
    let restarts = |r: Restarts| ContainerStatus { restart_count: r.restart_count, ..ContainerStatus::default() };
    Ok(Pod {
        metadata: ObjectMeta {
            name: m.name,
            namespace: m.namespace,
            uid: m.uid,
            resource_version: m.resource_version,
            generation: m.generation,
            labels: m.labels,
            annotations: m.annotations,
            creation_timestamp: m.creation_timestamp,
            deletion_timestamp: m.deletion_timestamp,
            deletion_grace_period_seconds: m.deletion_grace_period_seconds,
            finalizers: m.finalizers,
            owner_references: m.owner_references,
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { node_name: spec.node_name, ..PodSpec::default() }),
        status: Some(PodStatus {
            phase: status.phase,
            reason: status.reason,
            conditions: status.conditions,
            container_statuses: status.container_statuses.map(|all| all.into_iter().map(restarts).collect()),
            ..PodStatus::default()
        }),
    })
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
        let (counted, whole): (Pod, Pod) = (pod(&object).unwrap(), readable(&object).unwrap());
        assert_eq!(counted.metadata, whole.metadata);
        let (a, b) = (counted.status.unwrap(), whole.status.unwrap());
        assert_eq!((a.phase, a.conditions), (b.phase, b.conditions));
        assert_eq!(a.container_statuses.unwrap()[0].restart_count, 4);
        assert_eq!(counted.spec.unwrap().node_name, whole.spec.unwrap().node_name);
    }

    #[test]
    fn a_pod_that_makes_no_sense_is_an_error_and_not_nothing() {
        for broken in [json!({"status": {"phase": 7}}), json!({"spec": {"nodeName": []}}), json!({"status": {"conditions": "none"}})] {
            assert!(pod(&object(&broken)).is_err(), "{broken}");
        }
    }
}
