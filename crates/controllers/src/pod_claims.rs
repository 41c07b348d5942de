//! Which claims a pod uses: those it names, and those made for its generic ephemeral volumes. Pure.
//!
//! Source: `k8s.io/component-helpers/storage/ephemeral`, the PVC index of `pkg/controller/volume/common`.

use ferrokube_client::Named;
use ferrokube_client::Object;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};

/// The claim behind a volume of a pod, by name.
pub(crate) fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    let named = volume.persistent_volume_claim.as_ref().map(|c| c.claim_name.clone());
    named.or_else(|| volume.ephemeral.as_ref().map(|_| ephemeral_name(pod.name(), &volume.name)))
}

/// The name of the claim of a generic ephemeral volume.
pub(crate) fn ephemeral_name(pod: &str, volume: &str) -> String {
    format!("{pod}-{volume}")
}

/// Whether a claim was made for this pod.
pub(crate) fn is_for_pod(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    claim.namespace() == pod.namespace() && owners.into_iter().any(|o| o.controller == Some(true) && o.uid == pod.uid())
}

/// Index keys `namespace/claim` of an encoded pod. Most pods have none: they are not decoded.
pub(crate) fn index_keys(object: &Object) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Outline {
        spec: Spec,
    }
    #[derive(serde::Deserialize)]
    struct Spec {
        #[serde(default)]
        volumes: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry {
        name: String,
        #[serde(default)]
        persistent_volume_claim: Option<Source>,
        #[serde(default)]
        ephemeral: Option<serde::de::IgnoredAny>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Source {
        claim_name: String,
    }
    if !object.mentions(b"\"persistentVolumeClaim\"") && !object.mentions(b"\"ephemeral\"") {
        return Vec::new();
    }
    let Ok(outline) = object.decode::<Outline>() else { return Vec::new() };
    let (namespace, pod) = (&object.key.namespace, &object.key.name);
    let name = |v: Entry| match (v.persistent_volume_claim, v.ephemeral) {
        (Some(source), _) => Some(source.claim_name),
        (None, Some(_)) => Some(ephemeral_name(pod, &v.name)),
        (None, None) => None,
    };
    outline.spec.volumes.into_iter().filter_map(name).map(|claim| format!("{namespace}/{claim}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_found_under_the_claims_it_names_and_those_made_for_it() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "1"}, "spec": {"volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "b", "ephemeral": {}}, {"name": "c", "emptyDir": {}}]}});
        let object = Object::from_json(pod.to_string().into()).unwrap();
        assert_eq!(index_keys(&object), ["n/data", "n/p-b"]);
    }
}
