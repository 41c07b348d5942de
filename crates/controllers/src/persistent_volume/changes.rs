//! The objects as a binding leaves them. Pure: `None` when nothing would change.
//!
//! Source: `GetBindVolumeToClaim`, `bindClaimToVolume`, `updateClaimStatus`, `unbindVolume`.

use super::matching::{has_annotation, is_bound_to};
use super::plan::{BIND_COMPLETED, BOUND_BY_CONTROLLER};
use ferrokube_client::Named;
use ferrokube_client::events::reference;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

/// The volume with its reference to the claim.
pub(super) fn bound_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let known = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    if known.is_some_and(|r| r.uid.as_deref() == Some(claim.uid())) && is_bound_to(volume, claim) {
        return None;
    }
    let mut changed = volume.clone();
    // A reference that a user made is only completed.
    if !is_bound_to(volume, claim) {
        changed.metadata.annotations.get_or_insert_default().insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    changed.spec.get_or_insert_default().claim_ref = Some(reference(claim));
    Some(changed)
}

/// The claim with the name of its volume.
pub(super) fn bound_claim(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<PersistentVolumeClaim> {
    let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()) == Some(volume.name());
    if named && has_annotation(&claim.metadata, BIND_COMPLETED) {
        return None;
    }
    let mut changed = claim.clone();
    let annotations = changed.metadata.annotations.get_or_insert_default();
    annotations.insert(BIND_COMPLETED.into(), "yes".into());
    if !named {
        annotations.insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    changed.spec.get_or_insert_default().volume_name = Some(volume.name().to_owned());
    Some(changed)
}

/// The claim with this phase, and with what its volume gives it. The capacity is copied only when it becomes bound: from
/// then on it belongs to whoever expands the volume.
pub(super) fn claim_in_phase(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> Option<PersistentVolumeClaim> {
    let mut changed = claim.clone();
    let status = changed.status.get_or_insert_default();
    let becomes_bound = status.phase.as_deref() != Some("Bound") && phase == "Bound";
    status.phase = Some(phase.to_owned());
    match volume.and_then(|v| v.spec.as_ref()) {
        None => (status.access_modes, status.capacity) = (None, None),
        Some(spec) => {
            status.access_modes.clone_from(&spec.access_modes);
            if becomes_bound {
                status.capacity.clone_from(&spec.capacity);
                status.current_volume_attributes_class_name.clone_from(&spec.volume_attributes_class_name);
            }
        }
    }
    (changed.status != claim.status).then_some(changed)
}

/// The volume without its claim; of a reference that a user made, only the UID goes.
pub(super) fn unbound_volume(volume: &PersistentVolume) -> PersistentVolume {
    let mut changed = volume.clone();
    let spec = changed.spec.get_or_insert_default();
    if has_annotation(&volume.metadata, BOUND_BY_CONTROLLER) {
        spec.claim_ref = None;
        changed.metadata.annotations.get_or_insert_default().remove(BOUND_BY_CONTROLLER);
    } else if let Some(reference) = &mut spec.claim_ref {
        reference.uid = None;
    }
    changed
}

/// The volume in a phase. What others wrote about a volume that is in it already (deleters say why they fail) stays.
pub(super) fn volume_in_phase(volume: &PersistentVolume, phase: &str, message: &str) -> Option<PersistentVolume> {
    if volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase) {
        return None;
    }
    let mut changed = volume.clone();
    let status = changed.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    status.message = Some(message.to_owned()).filter(|m| !m.is_empty());
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(value: Value) -> PersistentVolumeClaim {
        let mut object = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}});
        object.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }

    fn volume(reference: Value) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "5Gi"},
            "claimRef": reference}}))
        .unwrap()
    }

    #[test]
    fn a_binding_is_marked_as_the_controllers_only_when_it_chose() {
        let claim = claim(json!({"spec": {}}));
        let chosen = bound_volume(&volume(json!(null)), &claim).unwrap();
        assert!(has_annotation(&chosen.metadata, BOUND_BY_CONTROLLER));
        assert!(bound_volume(&chosen, &claim).is_none());
        let reserved = bound_volume(&volume(json!({"name": "c", "namespace": "n"})), &claim).unwrap();
        assert!(!has_annotation(&reserved.metadata, BOUND_BY_CONTROLLER));
        assert_eq!(reserved.spec.clone().unwrap().claim_ref.unwrap().uid.as_deref(), Some("u"));
        assert!(unbound_volume(&chosen).spec.unwrap().claim_ref.is_none());
        assert!(unbound_volume(&reserved).spec.unwrap().claim_ref.is_some_and(|r| r.uid.is_none()));
    }

    #[test]
    fn the_message_of_a_volume_goes_with_its_phase() {
        let failed = volume_in_phase(&volume(json!(null)), "Failed", "why").unwrap();
        assert_eq!(failed.status.as_ref().unwrap().message.as_deref(), Some("why"));
        assert!(volume_in_phase(&failed, "Failed", "another").is_none());
        assert_eq!(volume_in_phase(&failed, "Available", "").unwrap().status.unwrap().message, None);
    }

    #[test]
    fn a_claim_gets_the_capacity_of_its_volume_once() {
        let mut bound = bound_claim(&claim(json!({"spec": {}})), &volume(json!(null))).unwrap();
        assert!(has_annotation(&bound.metadata, BIND_COMPLETED) && has_annotation(&bound.metadata, BOUND_BY_CONTROLLER));
        bound = claim_in_phase(&bound, "Bound", Some(&volume(json!(null)))).unwrap();
        assert_eq!(bound.status.as_ref().unwrap().capacity.as_ref().unwrap()["storage"].0, "5Gi");
        bound.status.as_mut().unwrap().capacity = Some([("storage".to_owned(), serde_json::from_value(json!("9Gi")).unwrap())].into());
        assert!(claim_in_phase(&bound, "Bound", Some(&volume(json!(null)))).is_none());
        let lost = claim_in_phase(&bound, "Lost", None).unwrap();
        assert!(lost.status.unwrap().capacity.is_none());
    }
}
