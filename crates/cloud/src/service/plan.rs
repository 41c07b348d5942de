//! What a service needs of its load balancer. Pure.
//!
//! Source: `syncLoadBalancerIfNeeded`, `needsUpdate` and `nodeSyncService` of `k8s.io/cloud-provider/controllers/service`.

use crate::nodes::takes_traffic;
use ferrokube_client::Named;
use k8s_openapi::api::core::v1::{Node, Service};
use serde_json::{Value, json};

/// The load balancer outlives the service until it is removed.
pub(super) const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// What was asked of the provider last.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Asked {
    /// What of the service decides about its load balancer.
    pub service: Value,
    /// What of the nodes does.
    pub nodes: Vec<String>,
}

/// What a service needs.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// Make it, or bring it in line with the service.
    Ensure(Asked),
    /// Only the nodes changed.
    Update(Asked),
    /// Remove it and let the service go.
    Remove,
}

/// Whether a service wants a load balancer of us; one with a class is another controller's.
pub(super) fn wants(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer") && s.load_balancer_class.is_none())
}

pub(super) fn has_finalizer(service: &Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

pub(super) fn plan(service: &Service, nodes: &[Node], asked: Option<&Asked>) -> Step {
    if service.metadata.deletion_timestamp.is_some() || !wants(service) {
        return if has_finalizer(service) { Step::Remove } else { Step::Nothing };
    }
    let now = Asked { service: facts(service), nodes: nodes.iter().filter_map(seen).collect() };
    match asked {
        Some(before) if *before == now && has_finalizer(service) => Step::Nothing,
        Some(before) if before.service == now.service && has_finalizer(service) => Step::Update(now),
        _ => Step::Ensure(now),
    }
}

/// The fields that a load balancer is made from.
fn facts(service: &Service) -> Value {
    let mut spec = serde_json::to_value(&service.spec).unwrap_or_default();
    if let Value::Object(fields) = &mut spec {
        // Which pods are behind it is the proxy's business.
        fields.remove("selector");
    }
    json!({"uid": service.uid(), "annotations": service.metadata.annotations, "spec": spec})
}

/// What load balancers see of a node: its name, provider ID and addresses; `None` when nothing is sent to it.
pub(super) fn seen(node: &Node) -> Option<String> {
    if !takes_traffic(node) {
        return None;
    }
    let id = node.spec.as_ref().and_then(|s| s.provider_id.as_deref()).unwrap_or_default();
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    let addresses: Vec<&str> = addresses.iter().map(|a| a.address.as_str()).collect();
    Some(format!("{} {id} {}", node.name(), addresses.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value, finalizers: &[&str], deleting: bool) -> Service {
        let at = deleting.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(
            json!({"metadata": {"name": "s", "namespace": "d", "uid": "u", "finalizers": finalizers, "deletionTimestamp": at},
            "spec": spec}),
        )
        .unwrap()
    }

    fn node(name: &str, address: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": "True"}]}}))
        .unwrap()
    }

    #[test]
    fn a_service_of_the_type_without_a_class_gets_one_and_gives_it_back() {
        let balanced = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        let classed = json!({"type": "LoadBalancer", "loadBalancerClass": "x/y"});
        let (none, own): (&[&str], &[&str]) = (&[], &[FINALIZER]);
        let cases = [
            (service(balanced.clone(), none, false), "Ensure"),
            (service(balanced.clone(), own, true), "Remove"),
            (service(balanced, none, true), "Nothing"),
            (service(classed, none, false), "Nothing"),
            (service(json!({"type": "ClusterIP"}), own, false), "Remove"),
            (service(json!({"type": "ClusterIP"}), none, false), "Nothing"),
        ];
        for (service, expected) in cases {
            let step = format!("{:?}", plan(&service, &[], None));
            assert!(step.starts_with(expected), "{service:?}: {step}");
        }
    }

    #[test]
    fn what_was_asked_is_not_asked_again_until_something_changes() {
        let spec = |port: u16| json!({"type": "LoadBalancer", "ports": [{"port": port}], "selector": {"a": port.to_string()}});
        let first = service(spec(80), &[FINALIZER], false);
        let Step::Ensure(asked) = plan(&first, &[node("n", "10.0.0.1")], None) else { panic!("not made") };
        assert_eq!(plan(&first, &[node("n", "10.0.0.1")], Some(&asked)), Step::Nothing);
        assert!(matches!(plan(&first, &[node("n", "10.0.0.2")], Some(&asked)), Step::Update(_)));
        assert!(matches!(plan(&first, &[], Some(&asked)), Step::Update(_)));
        assert!(matches!(plan(&service(spec(81), &[FINALIZER], false), &[node("n", "10.0.0.1")], Some(&asked)), Step::Ensure(_)));
        assert!(
            matches!(plan(&service(spec(80), &[], false), &[node("n", "10.0.0.1")], Some(&asked)), Step::Ensure(_)),
            "without finalizer"
        );
    }

    #[test]
    fn a_node_that_only_says_that_it_is_still_there_changes_nothing_for_load_balancers() {
        let beat = |status: &str, at: &str, address: &str| {
            let mut node = node("a", address);
            let conditions = json!([{"type": "Ready", "status": status, "lastHeartbeatTime": at}]);
            node.status.get_or_insert_default().conditions = serde_json::from_value(conditions).unwrap();
            seen(&node)
        };
        let before = beat("True", "2026-01-01T00:00:00Z", "10.0.0.1");
        assert_eq!(before, beat("True", "2026-01-01T00:05:00Z", "10.0.0.1"));
        assert_ne!(before, beat("Unknown", "2026-01-01T00:05:00Z", "10.0.0.1"));
        assert_ne!(before, beat("True", "2026-01-01T00:05:00Z", "10.0.0.2"));
    }
}
