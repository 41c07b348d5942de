//! Who owns the claims of a stateful set, so that they go when `persistentVolumeClaimRetentionPolicy` says so: pure.
//!
//! Deleting is left to the garbage collector: a claim that goes with the set is owned by the set, one that goes with a pod
//! beyond the wanted number by that pod. A claim that another controller manages, or that an earlier set or pod of the same
//! name has owned, is never touched. Source: `pkg/controller/statefulset/stateful_set_utils.go`.

use super::identity;
use crate::pods::controller_reference;
use ferrokube_client::{Named, Resource};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// What is to be deleted and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    with_set: bool,
    with_pod: bool,
}

impl Policy {
    fn of(set: &StatefulSet) -> Self {
        let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
        let deletes = |word: Option<&String>| word.is_some_and(|w| w == "Delete");
        Policy {
            with_set: deletes(policy.and_then(|p| p.when_deleted.as_ref())),
            with_pod: deletes(policy.and_then(|p| p.when_scaled.as_ref())),
        }
    }
}

/// New owners of a claim.
#[derive(Debug, PartialEq)]
pub struct Owners {
    /// All of them.
    pub references: Vec<OwnerReference>,
    /// Another controller manages the claim: the policy does not count for it, and people are told.
    pub conflict: bool,
}

/// Owners of a claim that is made for a wanted pod.
pub fn of_new(set: &StatefulSet) -> Option<Vec<OwnerReference>> {
    Policy::of(set).with_set.then(|| vec![controller_reference(set)])
}

fn is_kind<R: Resource>(reference: &OwnerReference) -> bool {
    let group = |version: &str| version.rsplit_once('/').map_or(String::new(), |(group, _)| group.to_owned());
    reference.kind == R::KIND && group(&reference.api_version) == group(R::API_VERSION)
}

fn refers<R: Resource>(reference: &OwnerReference, object: &R) -> bool {
    is_kind::<R>(reference) && reference.uid == object.uid()
}

/// Whether an earlier pod of this name owns the claim: then it is about to go, and no pod may start on it.
pub fn is_stale(set: &StatefulSet, pod_name: &str, claim: &PersistentVolumeClaim) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    Policy::of(set).with_pod && owners.into_iter().any(|r| is_kind::<Pod>(r) && r.name == pod_name)
}

/// Whether the claims of an ordinal go with its pod.
pub fn goes_with_pod(set: &StatefulSet, at: i32) -> bool {
    Policy::of(set).with_pod && !identity::wanted(set).contains(&at)
}

/// The owners that a claim of a pod should have; `None` when it has them or must not be touched.
pub fn owners(set: &StatefulSet, pod: &Pod, beyond: bool, claim: &PersistentVolumeClaim) -> Option<Owners> {
    let present = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let earlier = |r: &OwnerReference| {
        (is_kind::<StatefulSet>(r) && r.name == set.name() && r.uid != set.uid())
            || (is_kind::<Pod>(r) && r.name == pod.name() && r.uid != pod.uid())
    };
    if present.iter().any(earlier) {
        return None;
    }
    let policy = Policy::of(set);
    let ours = |r: &OwnerReference| refers(r, set) || refers(r, pod);
    let conflict = policy != Policy { with_set: false, with_pod: false } && present.iter().any(|r| r.controller == Some(true) && !ours(r));
    let mut wanted: Vec<OwnerReference> = present.iter().filter(|r| !ours(r)).cloned().collect();
    if !conflict && policy.with_pod && beyond {
        wanted.push(controller_reference(pod));
    } else if !conflict && policy.with_set {
        wanted.push(controller_reference(set));
    }
    let same =
        present.len() == wanted.len() && wanted.iter().all(|w| present.iter().any(|p| p.uid == w.uid && p.controller == w.controller));
    (!same).then_some(Owners { references: wanted, conflict })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(deleted: &str, scaled: &str) -> StatefulSet {
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "a", "uid": "set"}, "spec": {"selector": {}, "template": {},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}}))
        .unwrap()
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "db-1", "namespace": "a", "uid": "pod"}})).unwrap()
    }

    fn claim(owners: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "data-db-1", "namespace": "a", "ownerReferences": owners}})).unwrap()
    }

    fn owner(kind: &str, uid: &str, controller: bool) -> Value {
        let (version, name) = if kind == "Pod" { ("v1", "db-1") } else { ("apps/v1", "db") };
        json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": controller})
    }

    fn shown(set: &StatefulSet, beyond: bool, present: Value) -> Option<Vec<String>> {
        owners(set, &pod(), beyond, &claim(present)).map(|o| o.references.into_iter().map(|r| r.uid).collect())
    }

    #[test]
    fn a_claim_is_owned_by_what_it_goes_with() {
        let cases: [(&str, &str, bool, &[&str]); 8] = [
            ("Retain", "Retain", false, &[]),
            ("Retain", "Retain", true, &[]),
            ("Delete", "Retain", false, &["set"]),
            ("Delete", "Retain", true, &["set"]),
            ("Retain", "Delete", false, &[]),
            ("Retain", "Delete", true, &["pod"]),
            ("Delete", "Delete", false, &["set"]),
            ("Delete", "Delete", true, &["pod"]),
        ];
        for (deleted, scaled, beyond, expected) in cases {
            let set = set(deleted, scaled);
            for before in [json!([]), json!([owner("StatefulSet", "set", true)]), json!([owner("Pod", "pod", true)])] {
                let uids: Vec<&str> = before.as_array().unwrap().iter().map(|r| r["uid"].as_str().unwrap()).collect();
                let changed = shown(&set, beyond, before.clone());
                let expected = (uids != expected).then(|| expected.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
                assert_eq!(changed, expected, "{deleted} {scaled} {beyond} {before}");
            }
        }
    }

    #[test]
    fn a_claim_of_an_earlier_owner_or_of_another_controller_is_left_alone() {
        let set = set("Delete", "Delete");
        assert_eq!(shown(&set, true, json!([owner("Pod", "earlier", true)])), None);
        assert_eq!(shown(&set, false, json!([owner("StatefulSet", "earlier", true)])), None);
        let other = json!({"apiVersion": "x.io/v1", "kind": "Backup", "name": "b", "uid": "b", "controller": true});
        assert_eq!(shown(&set, false, json!([other])), None);
        let mixed = owners(&set, &pod(), false, &claim(json!([other, owner("StatefulSet", "set", false)]))).unwrap();
        assert!(mixed.conflict && mixed.references.len() == 1, "our own reference goes, the other stays");
        assert_eq!(shown(&set, false, json!([owner("StatefulSet", "set", false)])), Some(vec!["set".into()]), "it becomes the controller");
    }

    #[test]
    fn no_pod_starts_on_a_claim_that_goes_with_its_predecessor() {
        let going = claim(json!([owner("Pod", "earlier", true)]));
        assert!(is_stale(&set("Retain", "Delete"), "db-1", &going));
        assert!(!is_stale(&set("Delete", "Retain"), "db-1", &going));
        assert!(!is_stale(&set("Retain", "Delete"), "db-1", &claim(json!([]))));
        assert_eq!(of_new(&set("Retain", "Delete")), None);
        assert_eq!(of_new(&set("Delete", "Retain")).unwrap()[0].uid, "set");
    }
}
