//! What is counted about claims (`dynamic_resource_allocation_*`); how many there are is counted when it is asked for.

use ferrokube_client::Cache;
use ferrokube_client::metrics::{Desc, Kind, Metrics};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A claim that was made for an entry of a pod says for which.
const OF_POD: &str = "resource.kubernetes.io/pod-claim-name";
/// A claim that the scheduler made for devices that were asked for as if they were amounts.
const EXTENDED: &str = "resource.kubernetes.io/extended-resource-claim";

static CREATES: Desc = Desc {
    name: "dynamic_resource_allocation_resourceclaim_creates_total",
    help: "[ALPHA] Number of ResourceClaims creation requests, categorized by creation status and admin access",
    kind: Kind::Counter,
    labels: &["status", "admin_access"],
};
static CLAIMS: Desc = Desc {
    name: "dynamic_resource_allocation_resource_claims",
    help: "[ALPHA] Number of ResourceClaims, categorized by allocation status, admin access, and source. Source can be 'resource_claim_template' (created from a template), 'extended_resource' (extended resources), or empty (manually created by a user).",
    kind: Kind::Gauge,
    labels: &["allocated", "admin_access", "source"],
};

fn word(is: bool) -> &'static str {
    if is { "true" } else { "false" }
}

fn administers(spec: &ResourceClaimSpec) -> bool {
    let requests = spec.devices.iter().flat_map(|d| d.requests.iter().flatten());
    requests.filter_map(|r| r.exactly.as_ref()).any(|r| r.admin_access == Some(true))
}

/// A claim was made, or could not be.
pub(super) fn created(metrics: &Metrics, spec: &ResourceClaimSpec, ok: bool) {
    metrics.count(&CREATES, &[if ok { "success" } else { "failure" }, word(administers(spec))]);
}

/// Shows how many there are for as long as the controller runs.
pub(super) fn measure(metrics: &Metrics, claims: &Cache<ResourceClaim>, running: &Arc<()>) {
    let (into, claims, running) = (metrics.clone(), claims.clone(), Arc::downgrade(running));
    metrics.on_collect(move || {
        into.replace(&CLAIMS, counted(&claims.list()));
        running.strong_count() > 0
    });
}

fn counted(claims: &[ResourceClaim]) -> BTreeMap<Vec<String>, f64> {
    let mut counts = BTreeMap::new();
    for claim in claims {
        let annotation = |key: &str| claim.metadata.annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str);
        let source = match (annotation(OF_POD), annotation(EXTENDED)) {
            (Some(name), _) if !name.is_empty() => "resource_claim_template",
            (_, Some("true")) => "extended_resource",
            _ => "",
        };
        let allocated = claim.status.as_ref().is_some_and(|s| s.allocation.is_some());
        let labels = [word(allocated), word(administers(&claim.spec)), source].map(str::to_owned);
        *counts.entry(labels.to_vec()).or_default() += 1.0;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_are_counted_by_what_they_are_and_where_they_come_from() {
        let claim = |annotations: serde_json::Value, admin: bool, status: serde_json::Value| -> ResourceClaim {
            let request = json!({"name": "r", "exactly": {"deviceClassName": "c", "adminAccess": admin}});
            serde_json::from_value(
                json!({"metadata": {"name": "x", "annotations": annotations}, "spec": {"devices": {"requests": [request]}},
                "status": status}),
            )
            .unwrap()
        };
        let counts = counted(&[
            claim(json!({}), false, json!({})),
            claim(json!({OF_POD: "gpu"}), true, json!({"allocation": {}})),
            claim(json!({OF_POD: "gpu"}), true, json!({"allocation": {}})),
            claim(json!({EXTENDED: "true"}), false, json!({})),
        ]);
        let of = |labels: [&str; 3]| counts.get(&labels.map(str::to_owned).to_vec()).copied();
        assert_eq!(of(["false", "false", ""]), Some(1.0));
        assert_eq!(of(["true", "true", "resource_claim_template"]), Some(2.0));
        assert_eq!(of(["false", "false", "extended_resource"]), Some(1.0));
    }
}
