//! What makes a pod of a stateful set that pod: name, host name, labels, claims. Pure.
//!
//! Source: `pkg/controller/statefulset/stateful_set_utils.go`.

use super::retention;
use crate::revisions::HASH;
use ferrokube_client::Named;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// Ordinal of a pod name of this set.
pub fn ordinal(set: &str, pod: &str) -> Option<i32> {
    pod.strip_prefix(set)?.strip_prefix('-')?.parse().ok()
}

/// The ordinals that a set wants.
pub fn wanted(set: &StatefulSet) -> std::ops::Range<i32> {
    let start = set.spec.as_ref().and_then(|s| s.ordinals.as_ref()).and_then(|o| o.start).unwrap_or(0);
    start..start + set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, at: i32) -> String {
    format!("{}-{}-{at}", template.name(), set.name())
}

/// Claims of an ordinal.
pub fn claims(set: &StatefulSet, at: i32) -> Vec<PersistentVolumeClaim> {
    let templates = set.spec.iter().flat_map(|s| s.volume_claim_templates.iter().flatten());
    let selector = set.spec.as_ref().and_then(|s| s.selector.match_labels.clone()).unwrap_or_default();
    let claim = |template: &PersistentVolumeClaim| {
        let mut claim = PersistentVolumeClaim { status: None, ..template.clone() };
        claim.metadata.name = Some(claim_name(set, template, at));
        claim.metadata.namespace = set.metadata.namespace.clone();
        claim.metadata.labels.get_or_insert_default().extend(selector.clone());
        claim.metadata.owner_references = retention::of_new(set);
        claim
    };
    templates.map(claim).collect()
}

/// Labels by which a pod of this ordinal is found.
pub fn label(at: i32, pod: &mut Pod) {
    let name = pod.name().to_owned();
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), name);
    labels.insert(POD_INDEX.into(), at.to_string());
}

/// Whether a pod has them.
pub fn is_labelled(at: i32, pod: &Pod) -> bool {
    let has = |key: &str, value: &str| pod.metadata.labels.as_ref().and_then(|l| l.get(key)).is_some_and(|v| v == value);
    has(POD_NAME, pod.name()) && has(POD_INDEX, &at.to_string())
}

/// Gives a pod its identity.
pub fn shape(set: &StatefulSet, at: i32, revision: &str, pod: &mut Pod) {
    let name = format!("{}-{at}", set.name());
    pod.metadata.generate_name = Some(format!("{}-", set.name()));
    pod.metadata.name = Some(name.clone());
    label(at, pod);
    pod.metadata.labels.get_or_insert_default().insert(HASH.into(), revision.into());
    let Some(spec) = &mut pod.spec else { return };
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|s| s.service_name.clone()).filter(|s| !s.is_empty());
    let templates: Vec<&PersistentVolumeClaim> = set.spec.iter().flat_map(|s| s.volume_claim_templates.iter().flatten()).collect();
    let volumes = spec.volumes.get_or_insert_default();
    volumes.retain(|v| !templates.iter().any(|t| t.name() == v.name));
    for template in templates {
        let source = PersistentVolumeClaimVolumeSource { claim_name: claim_name(set, template, at), read_only: None };
        volumes.push(Volume { name: template.name().into(), persistent_volume_claim: Some(source), ..Volume::default() });
    }
    if volumes.is_empty() {
        spec.volumes = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_has_its_own_name_host_and_claims() {
        let set: StatefulSet = serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "a"}, "spec": {
            "selector": {"matchLabels": {"app": "db"}}, "serviceName": "peers", "template": {}, "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}}))
        .unwrap();
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": []}})).unwrap();
        shape(&set, 3, "db-abc", &mut pod);
        assert_eq!(pod.name(), "db-3");
        let spec = pod.spec.unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-3"), Some("peers")));
        assert_eq!(spec.volumes.unwrap()[0].persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-3");
        assert_eq!(claims(&set, 3)[0].name(), "data-db-3");
        assert_eq!((ordinal("db", "db-12"), ordinal("db", "db-x"), ordinal("db", "dbx-1")), (Some(12), None, None));
    }
}
