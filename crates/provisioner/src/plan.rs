//! What a claim and a volume need of the provisioner of a node. Pure.
//!
//! Source: the contract of external provisioners (`sig-storage-lib-external-provisioner`).

use crate::PROVISIONER;
use crate::directories::Directories;
use ferrokube_client::Named;
use ferrokube_client::events::reference;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use std::path::PathBuf;

/// The volume outlives its deletion until its directory is gone.
pub(crate) const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
const ASKED: &str = "volume.kubernetes.io/storage-provisioner";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const HOSTNAME: &str = "kubernetes.io/hostname";

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> &'a str {
    meta.annotations.as_ref().and_then(|a| a.get(key)).map_or("", String::as_str)
}

/// The class of a claim.
pub(crate) fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.storage_class_name.as_deref()
}

/// Where the data of a volume is; empty for a volume of another kind.
pub(crate) fn path_of(volume: &PersistentVolume) -> PathBuf {
    volume.spec.as_ref().and_then(|s| s.local.as_ref()).map(|l| PathBuf::from(&l.path)).unwrap_or_default()
}

/// What a claim needs.
#[derive(Debug, PartialEq)]
pub(crate) enum ClaimStep {
    Nothing,
    /// It asks for what a directory cannot be.
    Refuse(String),
    Provision(Box<PersistentVolume>),
}

pub(crate) fn plan_claim(claim: &PersistentVolumeClaim, class: Option<&StorageClass>, node: &str, directories: &Directories) -> ClaimStep {
    let spec = claim.spec.clone().unwrap_or_default();
    let ours = annotation(&claim.metadata, ASKED) == PROVISIONER && annotation(&claim.metadata, SELECTED_NODE) == node;
    let open = spec.volume_name.as_deref().unwrap_or_default().is_empty() && claim.metadata.deletion_timestamp.is_none();
    let Some(class) = class.filter(|c| ours && open && c.provisioner == PROVISIONER) else { return ClaimStep::Nothing };
    if spec.volume_mode.as_deref() == Some("Block") {
        return ClaimStep::Refuse("a directory cannot be a block device".to_owned());
    }
    let modes = spec.access_modes.clone().unwrap_or_default();
    if let Some(mode) = modes.iter().find(|m| !m.starts_with("ReadWriteOnce")) {
        return ClaimStep::Refuse(format!("access mode {mode} is not possible: the volume is on one node"));
    }
    if spec.selector.is_some() {
        return ClaimStep::Refuse("claim.Spec.Selector is not supported".to_owned());
    }
    if spec.data_source_ref.is_some() {
        return ClaimStep::Refuse("a directory cannot be made from a data source".to_owned());
    }
    ClaimStep::Provision(Box::new(volume(claim, class, node, directories)))
}

fn volume(claim: &PersistentVolumeClaim, class: &StorageClass, node: &str, directories: &Directories) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    // Named after the claim's UID: made twice, it is still one.
    let name = format!("pvc-{}", claim.uid());
    let path = directories.path(&format!("{name}_{}_{}", claim.namespace(), claim.name()));
    let capacity = spec.resources.and_then(|r| r.requests);
    let affinity =
        json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [node]}]}]}});
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name),
            annotations: Some([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())].into()),
            finalizers: Some(vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(k8s_openapi::api::core::v1::PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity,
            claim_ref: Some(reference(claim)),
            local: Some(k8s_openapi::api::core::v1::LocalVolumeSource { fs_type: None, path: path.display().to_string() }),
            mount_options: class.mount_options.clone(),
            node_affinity: serde_json::from_value(affinity).ok(),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
            storage_class_name: Some(class.name().to_owned()),
            volume_mode: Some("Filesystem".to_owned()),
            ..Default::default()
        }),
        status: None,
    }
}

/// What a volume needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum VolumeStep {
    Nothing,
    /// The directory goes, then the volume.
    Remove,
    /// Somebody deletes the volume and its data stays.
    LetGo,
}

pub(crate) fn plan_volume(volume: &PersistentVolume, node: &str) -> VolumeStep {
    let spec = volume.spec.clone().unwrap_or_default();
    let ours = annotation(&volume.metadata, PROVISIONED_BY) == PROVISIONER && is_of(volume, node);
    let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    let deleting = volume.metadata.deletion_timestamp.is_some();
    if !ours || !matches!(phase, "Released" | "Failed") {
        return VolumeStep::Nothing;
    }
    let held = volume.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    match spec.persistent_volume_reclaim_policy.as_deref() {
        Some("Delete") if held || !deleting => VolumeStep::Remove,
        _ if deleting && held => VolumeStep::LetGo,
        _ => VolumeStep::Nothing,
    }
}

/// Whether a volume is on a node.
fn is_of(volume: &PersistentVolume, node: &str) -> bool {
    let required = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()).and_then(|a| a.required.as_ref());
    let terms = required.iter().flat_map(|r| &r.node_selector_terms).flat_map(|t| t.match_expressions.iter().flatten());
    terms.into_iter().any(|e| e.key == HOSTNAME && e.values.iter().flatten().any(|v| v == node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn class() -> StorageClass {
        serde_json::from_value(json!({"metadata": {"name": "local-path"}, "provisioner": PROVISIONER, "reclaimPolicy": "Delete"})).unwrap()
    }

    fn claim(node: &str, more: Value) -> PersistentVolumeClaim {
        let mut spec =
            json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "local-path", "resources": {"requests": {"storage": "1Gi"}}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u",
            "annotations": {ASKED: PROVISIONER, SELECTED_NODE: node}}, "spec": spec}))
        .unwrap()
    }

    fn plan(claim: &PersistentVolumeClaim) -> ClaimStep {
        plan_claim(claim, Some(&class()), "n1", &Directories::new("/data".into()))
    }

    #[test]
    fn a_claim_for_this_node_gets_a_directory_if_it_can_be_one() {
        let ClaimStep::Provision(made) = plan(&claim("n1", json!({}))) else { panic!("not provisioned") };
        assert_eq!((made.name(), path_of(&made).to_str()), ("pvc-u", Some("/data/pvc-u_n_c")));
        assert!(is_of(&made, "n1") && !is_of(&made, "n2"));
        for other in [claim("n2", json!({})), claim("", json!({})), claim("n1", json!({"volumeName": "v"}))] {
            assert_eq!(plan(&other), ClaimStep::Nothing);
        }
        for refused in [json!({"volumeMode": "Block"}), json!({"accessModes": ["ReadWriteMany"]}), json!({"selector": {}})] {
            assert!(matches!(plan(&claim("n1", refused.clone())), ClaimStep::Refuse(_)), "{refused}");
        }
    }

    #[test]
    fn data_goes_with_a_released_volume_when_its_policy_says_so() {
        let ClaimStep::Provision(made) = plan(&claim("n1", json!({}))) else { panic!("not provisioned") };
        let volume = |phase: &str, policy: &str, deleting: bool| {
            let mut v = (*made).clone();
            v.status = serde_json::from_value(json!({"phase": phase})).unwrap();
            v.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some(policy.into());
            v.metadata.deletion_timestamp = deleting.then(|| serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
            v
        };
        let cases = [
            ("Bound", "Delete", false, VolumeStep::Nothing),
            ("Bound", "Delete", true, VolumeStep::Nothing),
            ("Released", "Delete", false, VolumeStep::Remove),
            ("Released", "Delete", true, VolumeStep::Remove),
            ("Released", "Retain", false, VolumeStep::Nothing),
            ("Released", "Retain", true, VolumeStep::LetGo),
        ];
        for (phase, policy, deleting, expected) in cases {
            assert_eq!(plan_volume(&volume(phase, policy, deleting), "n1"), expected, "{phase} {policy} {deleting}");
            assert_eq!(plan_volume(&volume(phase, policy, deleting), "n2"), VolumeStep::Nothing, "another node's");
        }
    }
}
