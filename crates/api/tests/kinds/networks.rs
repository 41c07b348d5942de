//! Services, ingresses, network policies, autoscalers, budgets and leases: the words of upstream, and what older objects may keep.

use crate::validation::{made, told};
use crate::{create, lines, merge, object, row, update};
use ferrokube_api::field::Errors;
use ferrokube_api::kinds;
use serde_json::{Value, json};

fn service(spec: Value) -> Value {
    let mut o = json!({"spec": {"ports": [{"port": 80}]}});
    merge(&mut o, json!({ "spec": spec }));
    o
}

#[test]
fn services_are_checked_in_the_words_of_upstream() {
    for (spec, want) in [
        // Any port may be exposed, and only of a ClusterIP service it is said that it has no node ports.
        (json!({"type": "LoadBalancer", "ports": [{"port": 10250}]}), vec![]),
        (json!({"type": "ExternalName", "externalName": "a.example", "ports": [{"port": 80, "nodePort": 30080}]}), vec![]),
        (
            json!({"ports": [{"port": 80, "nodePort": 30080}]}),
            vec!["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}), vec!["spec.healthCheckNodePort: Required value"]),
    ] {
        assert_eq!(told("Service", service(spec.clone())), want, "{spec}");
    }
}

#[test]
fn a_service_keeps_addresses_from_before_they_were_looked_at_strictly() {
    let old = object(
        "Service",
        service(json!({"type": "LoadBalancer", "clusterIP": "10.0.0.01", "clusterIPs": ["10.0.0.01"],
        "externalIPs": ["192.0.2.01"], "loadBalancerSourceRanges": ["192.0.2.01/32"]})),
    );
    let mut kept = old.clone();
    merge(&mut kept, json!({"spec": {"selector": {"a": "b"}}}));
    assert_eq!(update(row("Service"), &mut kept, &old), Vec::<String>::new());
    let mut new = old.clone();
    merge(&mut new, json!({"spec": {"externalIPs": ["192.0.2.02"], "loadBalancerSourceRanges": ["192.0.2.02/32"]}}));
    assert_eq!(
        update(row("Service"), &mut new, &old),
        [
            "spec.externalIPs[0]: Invalid value: \"192.0.2.02\": must not have leading 0s",
            "spec.LoadBalancerSourceRanges[0]: Invalid value: \"192.0.2.02/32\": must not have leading 0s in IP or prefix length"
        ]
    );
    for kind in ["Service", "Ingress"] {
        let mut old = object(kind, json!({"spec": {"type": "LoadBalancer"}}));
        merge(&mut old, json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.01", "ipMode": "VIP"}]}}}));
        let mut e = Errors::default();
        row(kind).hooks.validate_status.unwrap()(&old, &old, &mut e);
        assert_eq!(lines(e), Vec::<String>::new(), "{kind}");
    }
}

#[test]
fn families_of_a_service_are_refused_where_upstream_does() {
    let both = json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]});
    let old = object("Service", service(both));
    let changed = |spec: Value| {
        let mut new = old.clone();
        merge(&mut new, json!({ "spec": spec }));
        update(row("Service"), &mut new, &old)
    };
    let swapped = "spec.ipFamilies[0]: Invalid value: [\"IPv6\",\"IPv4\"]: may not change once set";
    assert_eq!(changed(json!({"ipFamilies": ["IPv6", "IPv4"]}))[..2], [swapped, swapped]);
    assert_eq!(
        changed(json!({"ipFamilies": ["IPv6"]}))[..2],
        [
            // It is the addresses that are quoted.
            "spec.ipFamilies[0]: Invalid value: [\"10.0.0.1\",\"fd00::1\"]: may not change once set",
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be set to 'SingleStack' when releasing the secondary ipFamily"
        ]
    );
}

#[test]
fn an_ingress_keeps_what_was_accepted_once() {
    let path = json!({"path": "x", "pathType": "Exact", "backend": {"service": {"name": "s", "port": {"number": 1}}}});
    let odd = json!({"spec": {"rules": [{"host": "*.a.example", "http": {"paths": [path]}}], "tls": [{"secretName": "A_B"}]}});
    let old = object("Ingress", odd.clone());
    let told = told("Ingress", odd);
    assert_eq!(told[0], "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path");
    assert!(told[1].starts_with("spec.tls[0].secretName: Invalid value: \"A_B\": "), "{told:?}");
    assert_eq!(update(row("Ingress"), &mut old.clone(), &old), Vec::<String>::new());
    let class =
        |parameters: Value| crate::validation::told("IngressClass", json!({"spec": {"controller": "a.b/c", "parameters": parameters}}));
    assert_eq!(
        class(json!({"scope": ""})),
        [
            "spec.parameters.kind: Required value: kind is required",
            "spec.parameters.name: Required value: name is required",
            "spec.parameters.scope: Unsupported value: \"\": supported values: \"Cluster\", \"Namespace\""
        ]
    );
}

#[test]
fn a_network_policy_keeps_ranges_and_values_of_before() {
    let policy = |range: &str, value: &str| {
        let selector = json!({"matchExpressions": [{"key": "k", "operator": "In", "values": [value]}]});
        object("NetworkPolicy", json!({"spec": {"podSelector": selector, "ingress": [{"from": [{"ipBlock": {"cidr": range}}]}]}}))
    };
    let old = policy("010.0.0.0/8", "not ok");
    let mut new = old.clone();
    assert_eq!(update(row("NetworkPolicy"), &mut new, &old), Vec::<String>::new());
    assert_eq!(create(row("NetworkPolicy"), &mut old.clone()).len(), 2);
    let ports = json!({"spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80, "endPort": 70}]}]}});
    assert_eq!(
        told("NetworkPolicy", ports),
        ["spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`"]
    );
}

fn autoscaler(version: &str, spec: Value) -> (&'static kinds::Kind, Value) {
    let mut o = object(
        "HorizontalPodAutoscaler",
        json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "D", "name": "d"}}}),
    );
    o["apiVersion"] = json!(format!("autoscaling/{version}"));
    merge(&mut o, json!({ "spec": spec }));
    (kinds::lookup("autoscaling", version, "horizontalpodautoscalers").unwrap(), o)
}

#[test]
fn autoscalers_say_of_which_group_their_target_is() {
    let refused = |version: &str, spec: Value| {
        let (kind, mut o) = autoscaler(version, spec);
        create(kind, &mut o)
    };
    let none = |version: &str| format!("spec.scaleTargetRef.apiVersion: Invalid value: {version:?}: apiVersion must specify API group");
    let target = |version: &str, kind: &str| json!({"scaleTargetRef": {"apiVersion": version, "kind": kind}});
    for version in ["v1", "v2"] {
        assert_eq!(refused(version, target("", "D")), [none("")]);
        assert_eq!(refused(version, target("v1", "D")), [none("v1")]);
        assert_eq!(refused(version, target("v1", "ReplicationController")), Vec::<String>::new());
        assert_eq!(
            refused(version, target("a/b/c", "D")),
            ["spec.scaleTargetRef.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c"]
        );
    }
    assert_eq!(
        refused("v1", json!({"targetCPUUtilizationPercentage": 0})),
        ["spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0"]
    );
    assert_eq!(refused("v2", json!({"maxReplicas": 0}))[0], "spec.maxReplicas: Required value: must be set and greater than 0");
    let unknown = "spec.metrics[0].type: Unsupported value: \"Odd\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"";
    assert_eq!(refused("v2", json!({"metrics": [{"type": "Odd"}]})), [unknown, unknown]);
    let container = json!({"type": "ContainerResource", "containerResource": {"name": "odd", "container": "A", "target": {"type": "Utilization", "averageUtilization": 1}}});
    let told = refused("v2", json!({"metrics": [container]}));
    let starts = [
        "spec.metrics[0].containerResource.name: Invalid value: \"odd\": must be a standard resource type or fully qualified",
        "spec.metrics[0].containerResource.name: Invalid value: \"odd\": must be a standard resource for containers",
        "spec.metrics[0].containerResource.container: Invalid value: \"A\": ",
    ];
    assert!(told.len() == starts.len() && told.iter().zip(starts).all(|(told, start)| told.starts_with(start)), "{told:?}");
    let (kind, old) = autoscaler("v2", json!({"minReplicas": 0, "scaleTargetRef": {"apiVersion": "v1"}}));
    let mut new = old.clone();
    merge(&mut new, json!({"spec": {"maxReplicas": 4}}));
    let zero = "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas";
    assert_eq!(update(kind, &mut new, &old), [zero]);
}

#[test]
fn budgets_and_leases_are_told_in_the_words_of_upstream() {
    let selector = json!({"matchExpressions": [{"key": "k", "operator": "In", "values": ["not ok"]}]});
    let both = json!({"spec": {"minAvailable": 1, "maxUnavailable": "10%"}});
    assert_eq!(
        told("PodDisruptionBudget", both),
        [
            "spec: Invalid value: {\"MinAvailable\":1,\"Selector\":null,\"MaxUnavailable\":\"10%\",\"UnhealthyPodEvictionPolicy\":null}: minAvailable and maxUnavailable cannot be both set"
        ]
    );
    let old = object("PodDisruptionBudget", json!({"spec": {"minAvailable": 1, "selector": selector}}));
    assert_eq!(create(row("PodDisruptionBudget"), &mut old.clone()).len(), 1);
    assert_eq!(update(row("PodDisruptionBudget"), &mut old.clone(), &old), Vec::<String>::new());

    let lease = made("Lease", json!({"spec": {"strategy": "Odd", "preferredHolder": "me"}}));
    assert_eq!(lease["spec"], json!({}), "fields of a feature that is off");
    let mut old = lease.clone();
    merge(&mut old, json!({"spec": {"strategy": "Odd", "preferredHolder": "me"}}));
    let strategy = "spec.strategy.strategy: Unsupported value: \"Odd\": supported values: \"OldestEmulationVersion\"";
    assert_eq!(update(row("Lease"), &mut old.clone(), &old), [strategy]);
    old["spec"]["strategy"] = json!("");
    assert_eq!(
        update(row("Lease"), &mut old.clone(), &old)[1],
        "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined"
    );
}

#[test]
fn a_selector_that_cannot_be_read_is_told_instead_of_the_template() {
    let selector = json!({"matchExpressions": [{"key": "k", "operator": "Odd"}]});
    let template = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
    let rest = json!({"spec": {"selector": selector, "template": template}});
    let first = "spec.selector.matchExpressions[0].operator: Invalid value: \"Odd\": not a valid selector operator";
    let shown = "spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"k\",\"operator\":\"Odd\"}]}";
    for kind in ["Deployment", "ReplicaSet"] {
        assert_eq!(told(kind, rest.clone()), [first.to_owned(), format!("{shown}: invalid label selector")], "{kind}");
    }
    assert_eq!(told("StatefulSet", rest), [first, shown]);
}
