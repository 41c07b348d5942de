//! Which volume a claim gets. Pure.
//!
//! Source: `k8s.io/component-helpers/storage/volume` (`FindMatchingVolume`) and `pv_controller.go`
//! (`checkVolumeSatisfyClaim`).

use crate::pods::matches;
use ferrokube_api::quantity::Quantity;
use ferrokube_client::Named;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The class of a claim or a volume before there was a field for it.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// An annotation, empty when absent.
pub(crate) fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> &'a str {
    meta.annotations.as_ref().and_then(|a| a.get(key)).map_or("", String::as_str)
}

/// Whether an annotation is there, with any value.
pub(crate) fn has_annotation(meta: &ObjectMeta, key: &str) -> bool {
    meta.annotations.as_ref().is_some_and(|a| a.contains_key(key))
}

/// The class of a claim; empty when it has none.
pub(crate) fn claim_class(claim: &PersistentVolumeClaim) -> &str {
    match annotation(&claim.metadata, BETA_CLASS) {
        "" => claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()).unwrap_or_default(),
        class => class,
    }
}

/// Whether a claim says anything about its class; an empty one is said.
pub(crate) fn names_class(claim: &PersistentVolumeClaim) -> bool {
    has_annotation(&claim.metadata, BETA_CLASS) || claim.spec.as_ref().is_some_and(|s| s.storage_class_name.is_some())
}

/// The class of a volume; empty when it has none.
pub(crate) fn volume_class(volume: &PersistentVolume) -> &str {
    match annotation(&volume.metadata, BETA_CLASS) {
        "" => volume.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()).unwrap_or_default(),
        class => class,
    }
}

/// What a claim asks for.
pub(crate) fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    requests.and_then(|r| r.get("storage")).and_then(|q| Quantity::parse(&q.0).ok()).unwrap_or_default()
}

/// What a volume holds.
pub(crate) fn capacity(volume: &PersistentVolume) -> Quantity {
    let capacity = volume.spec.as_ref().and_then(|s| s.capacity.as_ref());
    capacity.and_then(|c| c.get("storage")).and_then(|q| Quantity::parse(&q.0).ok()).unwrap_or_default()
}

/// Whether the volume's reference is to this claim; a reference without a UID is to any claim of that name.
pub(crate) fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).is_some_and(|r| {
        let named = r.name.as_deref() == Some(claim.name()) && r.namespace.as_deref().unwrap_or_default() == claim.namespace();
        let uid = r.uid.as_deref().unwrap_or_default();
        named && (uid.is_empty() || uid == claim.uid())
    })
}

fn mode(mode: Option<&String>) -> &str {
    mode.map_or("Filesystem", String::as_str)
}

/// Whether both are block devices, or both file systems.
pub(crate) fn same_mode(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_mode.as_ref());
    mode(wanted) == mode(volume.spec.as_ref().and_then(|s| s.volume_mode.as_ref()))
}

fn access_modes(volume: &PersistentVolume) -> &[String] {
    volume.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default()
}

fn allows_access(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let offered = access_modes(volume);
    claim.spec.as_ref().and_then(|s| s.access_modes.as_ref()).into_iter().flatten().all(|m| offered.contains(m))
}

fn same_attributes(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref()).unwrap_or_default();
    wanted == volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref()).unwrap_or_default()
}

fn selects(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    claim.spec.as_ref().and_then(|s| s.selector.as_ref()).is_none_or(|s| matches(s, volume.metadata.labels.as_ref()))
}

/// Whether a volume that the claim asks for by name can be its own; else why not.
pub(crate) fn satisfies(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    if volume.metadata.deletion_timestamp.is_some() {
        return Err(format!("the volume is marked for deletion \"{}\"", volume.name()));
    }
    let reasons = [
        (capacity(volume) < requested(claim), "requested PV is too small"),
        (volume_class(volume) != claim_class(claim), "storageClassName does not match"),
        (!same_attributes(claim, volume), "volumeAttributesClassName does not match"),
        (!same_mode(claim, volume), "incompatible volumeMode"),
        (!allows_access(claim, volume), "incompatible accessMode"),
    ];
    reasons.iter().find(|(bad, _)| *bad).map_or(Ok(()), |(_, why)| Err((*why).to_owned()))
}

/// The best of these volumes: one that is reserved for the claim, else the one with the fewest access modes and then the
/// least capacity. While binding is delayed only a reserved one counts: the scheduler chooses the others.
pub(crate) fn best<'v>(claim: &PersistentVolumeClaim, volumes: &'v [PersistentVolume], delayed: bool) -> Option<&'v PersistentVolume> {
    let fits = |v: &&PersistentVolume| {
        v.metadata.deletion_timestamp.is_none()
            && same_mode(claim, v)
            && same_attributes(claim, v)
            && allows_access(claim, v)
            && capacity(v) >= requested(claim)
    };
    let reserved = volumes.iter().filter(fits).find(|v| is_bound_to(v, claim));
    if reserved.is_some() || delayed {
        return reserved;
    }
    let free = |v: &&PersistentVolume| {
        let available = v.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Available"));
        available && v.spec.as_ref().is_some_and(|s| s.claim_ref.is_none()) && volume_class(v) == claim_class(claim) && selects(claim, v)
    };
    let rank = |v: &&PersistentVolume| (access_modes(v).len(), capacity(v), v.name().to_owned());
    volumes.iter().filter(fits).filter(free).min_by_key(rank)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut object = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": "s", "resources": {"requests": {"storage": "5Gi"}}}});
        merge(&mut object["spec"], spec);
        serde_json::from_value(object).unwrap()
    }

    fn volume(name: &str, size: &str, spec: Value) -> PersistentVolume {
        let mut object = json!({"metadata": {"name": name, "labels": {"disk": name}}, "spec": {"capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"], "storageClassName": "s"}, "status": {"phase": "Available"}});
        merge(&mut object["spec"], spec);
        serde_json::from_value(object).unwrap()
    }

    fn merge(into: &mut Value, from: Value) {
        for (key, value) in from.as_object().unwrap() {
            into[key] = value.clone();
        }
    }

    #[test]
    fn the_smallest_volume_that_fits_is_chosen() {
        let both = json!({"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]});
        let small = volume("small", "1Gi", json!({}));
        let mid = volume("mid", "10Gi", json!({}));
        let large = volume("large", "20Gi", json!({}));
        let wide = volume("wide", "5Gi", both.clone());
        let other = volume("other", "5Gi", json!({"storageClassName": "t"}));
        let block = volume("block", "5Gi", json!({"volumeMode": "Block"}));
        let gold = volume("gold", "5Gi", json!({"volumeAttributesClassName": "gold"}));
        let taken = volume("taken", "5Gi", json!({"claimRef": {"name": "d", "namespace": "n", "uid": "x"}}));
        let reserved = volume("reserved", "50Gi", json!({"claimRef": {"name": "c", "namespace": "n"}}));
        let all = [&small, &large, &mid, &wide, &other, &block, &gold, &taken];
        let cases: Vec<(Value, Vec<&PersistentVolume>, bool, Option<&str>)> = vec![
            (json!({}), all.to_vec(), false, Some("mid")),
            (json!({}), all.to_vec(), true, None),
            (both, all.to_vec(), false, Some("wide")),
            (json!({"accessModes": ["ReadWriteMany"]}), all.to_vec(), false, None),
            (json!({"storageClassName": "t"}), all.to_vec(), false, Some("other")),
            (json!({"volumeMode": "Block"}), all.to_vec(), false, Some("block")),
            (json!({"volumeAttributesClassName": "gold"}), all.to_vec(), false, Some("gold")),
            (json!({"selector": {"matchLabels": {"disk": "large"}}}), all.to_vec(), false, Some("large")),
            (json!({"resources": {"requests": {"storage": "30Gi"}}}), all.to_vec(), false, None),
            (json!({}), vec![&mid, &reserved], false, Some("reserved")),
            (json!({}), vec![&mid, &reserved], true, Some("reserved")),
            (json!({"resources": {"requests": {"storage": "60Gi"}}}), vec![&reserved], false, None),
        ];
        for (spec, volumes, delayed, expected) in cases {
            let volumes: Vec<PersistentVolume> = volumes.into_iter().cloned().collect();
            assert_eq!(best(&claim(spec.clone()), &volumes, delayed).map(Named::name), expected, "{spec} {delayed}");
        }
    }

    #[test]
    fn a_volume_asked_for_by_name_must_satisfy_the_claim() {
        let cases = [
            ("5Gi", json!({}), Ok(())),
            ("1Gi", json!({}), Err("requested PV is too small")),
            ("5Gi", json!({"storageClassName": "t"}), Err("storageClassName does not match")),
            ("5Gi", json!({"volumeAttributesClassName": "x"}), Err("volumeAttributesClassName does not match")),
            ("5Gi", json!({"volumeMode": "Block"}), Err("incompatible volumeMode")),
            ("5Gi", json!({"accessModes": ["ReadOnlyMany"]}), Err("incompatible accessMode")),
        ];
        for (size, spec, expected) in cases {
            let result = satisfies(&volume("v", size, spec.clone()), &claim(json!({})));
            assert_eq!(result, expected.map_err(str::to_owned), "{spec}");
        }
    }

    #[test]
    fn the_class_of_old_annotations_counts_before_the_field() {
        let mut c = claim(json!({}));
        assert_eq!(claim_class(&c), "s");
        c.metadata.annotations = Some([(BETA_CLASS.to_owned(), "old".to_owned())].into());
        assert_eq!(claim_class(&c), "old");
        let mut none = claim(json!({}));
        none.spec.as_mut().unwrap().storage_class_name = None;
        assert!(!names_class(&none) && names_class(&c));
    }
}
