//! What pods need of their resource claims, and claims of their pods. Pure.
//!
//! Source: `pkg/controller/resourceclaim`, `k8s.io/dynamic-resource-allocation/resourceclaim`.

use crate::pods::controller_reference;
use ferrokube_client::Named;
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Names the entry of the pod that a generated claim was made for.
pub(crate) const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
/// An allocated claim outlives its deletion until nobody uses it.
pub(super) const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Most reservations of a claim (`ResourceClaimReservedForMaxSize`).
const MOST_CONSUMERS: usize = 256;
/// Room for a name before the server's suffix.
const LONGEST_BASE: usize = 57;

/// Whether a pod will never use its claims (again).
pub(crate) fn is_done(pod: &Pod) -> bool {
    let never_ran = pod.spec.as_ref().is_none_or(|s| s.node_name.as_deref().unwrap_or_default().is_empty());
    matches!(crate::pods::phase(pod), "Succeeded" | "Failed") || (pod.metadata.deletion_timestamp.is_some() && never_ran)
}

/// The entries of a pod, with the name of the claim of each, as far as there is one.
pub(crate) fn claims_of(pod: &Pod) -> Vec<(&PodResourceClaim, Option<&str>)> {
    let statuses = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    let generated =
        |entry: &PodResourceClaim| statuses.clone().find(|s| s.name == entry.name).and_then(|s| s.resource_claim_name.as_deref());
    let entries = pod.spec.iter().flat_map(|s| s.resource_claims.iter().flatten());
    entries.map(|e| (e, e.resource_claim_name.as_deref().or_else(|| generated(e)))).collect()
}

/// Whether a claim is the pod's own.
pub(crate) fn is_owned(claim: &ResourceClaim, pod: &Pod) -> bool {
    claim.metadata.owner_references.iter().flatten().any(|o| o.controller == Some(true) && o.uid == pod.uid())
}

/// Whether a generated claim was made for this entry of the pod.
pub(super) fn is_made_for(claim: &ResourceClaim, pod: &Pod, entry: &str) -> bool {
    let named = claim.metadata.annotations.as_ref().and_then(|a| a.get(POD_CLAIM_NAME));
    is_owned(claim, pod) && named.is_some_and(|n| n == entry) && claim.metadata.deletion_timestamp.is_none()
}

/// The claim that a template makes for an entry of a pod.
pub(super) fn generated(pod: &Pod, entry: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let meta = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM_NAME.to_owned(), entry.to_owned());
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(base_name(pod.name(), entry)),
            namespace: pod.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

/// `<pod>-<entry>-`; of names that are too long, the beginning of both.
fn base_name(pod: &str, entry: &str) -> String {
    let room = LONGEST_BASE - 2;
    if pod.len() + entry.len() <= room {
        return format!("{pod}-{entry}-");
    }
    let half = room / 2;
    let entry = &entry[..entry.len().min(room - half.min(pod.len()))];
    let pod = &pod[..pod.len().min(room - entry.len())];
    format!("{pod}-{entry}-")
}

/// Whether a consumer is this pod.
pub(super) fn is_pod(consumer: &ResourceClaimConsumerReference) -> bool {
    consumer.api_group.as_deref().unwrap_or_default().is_empty() && consumer.resource == "pods"
}

/// The claim reserved for a pod that has a node already (it was bound past the scheduler); `None` when it needs nothing or
/// cannot be.
pub(super) fn reserved(claim: &ResourceClaim, pod: &Pod) -> Option<ResourceClaim> {
    let status = claim.status.as_ref().filter(|s| s.allocation.is_some())?;
    let consumers = status.reserved_for.as_deref().unwrap_or_default();
    let known = consumers.iter().any(|c| c.uid == pod.uid());
    if known || consumers.len() >= MOST_CONSUMERS || claim.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let mut changed = claim.clone();
    let consumer = ResourceClaimConsumerReference {
        api_group: None,
        name: pod.name().to_owned(),
        resource: "pods".to_owned(),
        uid: pod.uid().to_owned(),
    };
    changed.status.get_or_insert_default().reserved_for.get_or_insert_default().push(consumer);
    Some(changed)
}

/// What a claim needs.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ClaimSteps {
    /// Its status with only the consumers that are left, and without allocation when there are none.
    pub status: Option<Box<ResourceClaim>>,
    /// Nothing is allocated any more: it may go.
    pub remove_finalizer: bool,
    /// The pod it was made for is done.
    pub delete: bool,
}

/// `stays` tells which consumers may still use the claim, `owner_done` whether it was made for a pod that is done.
pub(super) fn plan_claim(claim: &ResourceClaim, stays: impl Fn(&ResourceClaimConsumerReference) -> bool, owner_done: bool) -> ClaimSteps {
    let status = claim.status.clone().unwrap_or_default();
    let consumers = status.reserved_for.clone().unwrap_or_default();
    let left: Vec<ResourceClaimConsumerReference> = consumers.iter().filter(|c| stays(c)).cloned().collect();
    let protected = claim.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let deleting = claim.metadata.deletion_timestamp.is_some();
    // A claim with the finalizer and without consumers may just be about to be allocated: the scheduler writes it first.
    let released = left.is_empty() && protected && (!consumers.is_empty() || deleting);
    let mut steps = ClaimSteps { remove_finalizer: released, delete: left.is_empty() && owner_done && !deleting, ..ClaimSteps::default() };
    let mut fresh = status.clone();
    fresh.reserved_for = Some(left).filter(|l| !l.is_empty());
    if released {
        fresh.allocation = None;
        // What drivers told about devices belongs to the allocation.
        fresh.devices = None;
    }
    if fresh.reserved_for.as_deref().unwrap_or_default().len() < consumers.len() || fresh.allocation != status.allocation {
        steps.status = Some(Box::new(ResourceClaim { status: Some(fresh), ..claim.clone() }));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(value: Value) -> Pod {
        let mut object = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": []}});
        for (key, part) in value.as_object().unwrap() {
            for (field, v) in part.as_object().unwrap() {
                object[key][field] = v.clone();
            }
        }
        serde_json::from_value(object).unwrap()
    }

    fn claim(finalizers: Value, deleting: bool, status: Value) -> ResourceClaim {
        let at = deleting.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "finalizers": finalizers, "deletionTimestamp": at},
            "spec": {}, "status": status}))
        .unwrap()
    }

    #[test]
    fn a_pod_is_done_when_it_ended_or_goes_without_ever_having_had_a_node() {
        let gone = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let cases = [
            (json!({}), false),
            (json!({"status": {"phase": "Succeeded"}}), true),
            (json!({"metadata": gone}), true),
            (json!({"metadata": gone, "spec": {"nodeName": "n1"}}), false),
        ];
        for (value, expected) in cases {
            assert_eq!(is_done(&pod(value.clone())), expected, "{value}");
        }
    }

    #[test]
    fn an_entry_leads_to_the_named_or_the_generated_claim() {
        let entries = json!([{"name": "a", "resourceClaimName": "shared"}, {"name": "b", "resourceClaimTemplateName": "t"},
            {"name": "c", "resourceClaimTemplateName": "t"}]);
        let pod = pod(
            json!({"spec": {"resourceClaims": entries}, "status": {"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "p-b-x"}]}}),
        );
        let names: Vec<Option<&str>> = claims_of(&pod).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, [Some("shared"), Some("p-b-x"), None]);
        let template: ResourceClaimTemplate =
            serde_json::from_value(json!({"metadata": {"name": "t"}, "spec": {"metadata": {"labels": {"l": "1"}}, "spec": {}}})).unwrap();
        let made = generated(&pod, "c", &template);
        assert_eq!(made.metadata.generate_name.as_deref(), Some("p-c-"));
        assert!(is_made_for(&made, &pod, "c") && !is_made_for(&made, &pod, "b"));
    }

    #[test]
    fn a_generated_name_leaves_room_for_the_servers_suffix() {
        let long = "x".repeat(200);
        for (p, e) in [(long.as_str(), "c"), ("p", long.as_str()), (long.as_str(), long.as_str())] {
            let name = base_name(p, e);
            assert!(name.len() <= LONGEST_BASE && name.ends_with('-'), "{name}");
        }
        assert_eq!(base_name("web-0", "gpu"), "web-0-gpu-");
    }

    #[test]
    fn a_claim_loses_dead_consumers_and_with_the_last_its_devices() {
        let consumer = |uid: &str| json!({"resource": "pods", "name": uid, "uid": uid});
        let allocated = |consumers: Value| json!({"allocation": {}, "reservedFor": consumers});
        let own = json!([FINALIZER]);
        let plan = |claim: ResourceClaim, owner_done| plan_claim(&claim, |c| c.uid == "alive", owner_done);
        let both = plan(claim(own.clone(), false, allocated(json!([consumer("alive"), consumer("dead")]))), false);
        let status = both.status.unwrap().status.unwrap();
        assert!(status.reserved_for.unwrap().len() == 1 && status.allocation.is_some() && !both.remove_finalizer);
        let last = plan(claim(own.clone(), false, allocated(json!([consumer("dead")]))), true);
        let status = last.status.unwrap().status.unwrap();
        assert!(status.reserved_for.is_none() && status.allocation.is_none() && last.remove_finalizer && last.delete);
        let kept = plan(claim(own.clone(), false, allocated(json!([]))), false);
        assert_eq!(kept, ClaimSteps::default(), "allocated ahead of its first consumer");
        let deleted = plan(claim(own, true, allocated(json!([]))), false);
        assert!(deleted.remove_finalizer && deleted.status.is_some());
        assert_eq!(plan(claim(json!([FINALIZER]), false, json!({})), false), ClaimSteps::default(), "about to be allocated");
        assert_eq!(plan(claim(json!([]), false, json!({})), false), ClaimSteps::default());
    }

    #[test]
    fn a_pod_that_has_a_node_gets_an_allocated_claim_reserved_once() {
        let pod = pod(json!({"spec": {"nodeName": "n1"}}));
        let made = reserved(&claim(json!([]), false, json!({"allocation": {}})), &pod).unwrap();
        assert_eq!(made.status.clone().unwrap().reserved_for.unwrap()[0].uid, "u");
        assert!(reserved(&made, &pod).is_none());
        assert!(reserved(&claim(json!([]), false, json!({})), &pod).is_none());
    }
}
