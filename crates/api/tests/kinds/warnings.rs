//! What clients are told about objects that are accepted.

use crate::{object, row};
use serde_json::{Value, json};

/// The warnings of a create, which are those of an update too.
fn warned(kind: &str, rest: Value) -> Vec<String> {
    let (hooks, o) = (&row(kind).hooks, object(kind, rest));
    let warnings = hooks.warnings.unwrap()(&o);
    if let Some(changed) = hooks.update_warnings {
        assert_eq!(changed(&o, &o), warnings, "{kind}");
    }
    warnings
}

#[test]
fn odd_objects_are_accepted_with_a_word() {
    let zone = "failure-domain.beta.kubernetes.io/zone";
    let use_zone = "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead";
    let old_class = "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead";
    for (kind, rest, want) in [
        ("Node", json!({"spec": {"configSource": {}, "externalID": "x"}}), vec![
            "spec.configSource: the feature is removed".to_owned(),
            "spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned(),
        ]),
        ("Node", json!({"spec": {"externalID": ""}}), vec![]),
        ("RuntimeClass", json!({"scheduling": {"nodeSelector": {zone: "a", "x": "y"}}}), vec![format!(
            "scheduling.nodeSelector: {use_zone}"
        )]),
        ("StorageClass", json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "x"}, {"key": zone}]}]}), vec![format!(
            "allowedTopologies[0].matchLabelExpressions[1].key: {use_zone}"
        )]),
        ("CSIStorageCapacity", json!({"nodeTopology": {"matchLabels": {zone: "a"}, "matchExpressions": [{"key": zone}]}}), vec![
            format!("nodeTopology.matchExpressions[0].key: {zone} is {use_zone}"),
            format!("nodeTopology.matchLabels.{zone}: {use_zone}"),
        ]),
        ("Ingress", json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "a"}}}), vec![old_class.to_owned()]),
        ("Ingress", json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "a"}}, "spec": {"ingressClassName": "a"}}), vec![]),
        (
            "NetworkPolicy",
            json!({"spec": {
                "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.1/8", "except": ["10.1.0.0/16", "010.2.0.0/16"]}}]}],
                "egress": [{"to": [{"podSelector": {}}, {"ipBlock": {"cidr": "FD00::/64"}}]}],
            }}),
            vec![
                "spec.ingress[0].from[0].ipBlock.cidr: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)".to_owned(),
                "spec.ingress[0].from[0].ipBlock.except[1]: non-standard CIDR value \"010.2.0.0/16\" will be considered invalid in a future Kubernetes release: use \"10.2.0.0/16\"".to_owned(),
                "spec.egress[0].to[1].ipBlock.cidr: IPv6 CIDR value \"FD00::/64\" should be in RFC 5952 canonical format (\"fd00::/64\")".to_owned(),
            ],
        ),
        ("EndpointSlice", json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.example"]}]}), vec![
            "spec.addressType: FQDN endpoints are deprecated".to_owned(),
        ]),
        ("EndpointSlice", json!({"addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1", "fd00:0::2"]}]}), vec![
            "endpoints[0].addresses[1]: IPv6 address \"fd00:0::2\" should be in RFC 5952 canonical format (\"fd00::2\")".to_owned(),
        ]),
        (
            "EndpointSlice",
            json!({"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}}, "addressType": "IPv6", "endpoints": [{"addresses": ["fd00:0::2"]}]}),
            vec![],
        ),
        ("Endpoints", json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "notReadyAddresses": [{"ip": "::ffff:10.0.0.1"}]}]}), vec![
            "subsets[0].notReadyAddresses[0].ip: non-standard IP address \"::ffff:10.0.0.1\" will be considered invalid in a future Kubernetes release: use \"10.0.0.1\"".to_owned(),
        ]),
        (
            "Service",
            json!({"metadata": {"annotations": {"service.kubernetes.io/topology-aware-hints": "auto"}}, "spec": {
                "type": "LoadBalancer", "clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.0.0.01"], "externalIPs": ["FD00::2"],
                "loadBalancerIP": "FD00::3", "loadBalancerSourceRanges": ["::ffff:10.0.0.1/120"], "trafficDistribution": "PreferClose",
            }}),
            vec![
                "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead".to_owned(),
                "spec.clusterIPs[1]: non-standard IP address \"10.0.0.01\" will be considered invalid in a future Kubernetes release: use \"10.0.0.1\"".to_owned(),
                "spec.externalIPs[0]: IPv6 address \"FD00::2\" should be in RFC 5952 canonical format (\"fd00::2\")".to_owned(),
                "spec.loadBalancerIP: IPv6 address \"FD00::3\" should be in RFC 5952 canonical format (\"fd00::3\")".to_owned(),
                "spec.loadBalancerSourceRanges[0]: CIDR value \"::ffff:10.0.0.1/120\" is ambiguous in this context (should be \"10.0.0.0/24\" or \"10.0.0.1/128\"?)".to_owned(),
                "spec.loadBalancerSourceRanges[0]: non-standard CIDR value \"::ffff:10.0.0.1/120\" will be considered invalid in a future Kubernetes release: use \"10.0.0.0/24\"".to_owned(),
                "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
            ],
        ),
    ] {
        assert_eq!(warned(kind, rest.clone()), want, "{kind} {rest}");
    }
}

#[test]
fn odd_addresses_in_a_status_are_told() {
    let odd = "IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")";
    let balanced = json!({"status": {"loadBalancer": {"ingress": [{"hostname": "a"}, {"ip": "FD00::1"}]}}});
    let pod = json!({"status": {"podIPs": [{"ip": "FD00::1"}], "hostIPs": [{"ip": "10.0.0.1"}, {"ip": "FD00::1"}]}});
    for (kind, rest, want) in [
        ("Service", balanced.clone(), vec!["status.loadBalancer.ingress[1]"]),
        ("Ingress", balanced, vec!["status.loadBalancer.ingress[1]"]),
        ("Pod", pod, vec!["status.podIPs[0].ip", "status.hostIPs[1].ip"]),
    ] {
        let warnings = row(kind).hooks.status_warnings.unwrap()(&object(kind, rest));
        assert_eq!(warnings, want.iter().map(|path| format!("{path}: {odd}")).collect::<Vec<_>>(), "{kind}");
    }
    let node = warned("Node", json!({"spec": {"podCIDRs": ["10.0.0.1/24"]}}));
    assert_eq!(
        node,
        ["spec.podCIDRs[0]: CIDR value \"10.0.0.1/24\" is ambiguous in this context (should be \"10.0.0.0/24\" or \"10.0.0.1/32\"?)"]
    );
}

#[test]
fn a_format_that_means_nothing_is_told_once_and_not_again() {
    let definition = |properties: Value| json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}}]}});
    let fine = json!({"at": {"type": "string", "format": "date-time"}, "n": {"type": "integer", "format": "int32"},
        "x": {"type": "number", "format": "double"}, "k": {"type": "array", "items": {"type": "string", "format": "k8s-short-name"}}});
    let hooks = &row("CustomResourceDefinition").hooks;
    let (created, changed) = (hooks.warnings.unwrap(), hooks.update_warnings.unwrap());
    assert_eq!(created(&definition(fine.clone())), Vec::<String>::new());
    let odd = definition(
        json!({"a": {"type": "string", "format": "cron"}, "b": {"type": "array", "items": {"type": "string", "format": "cron"}},
        "c": {"type": "integer", "format": "uint64"}, "d": {"type": "object", "additionalProperties": {"type": "boolean", "format": "bit"}}}),
    );
    let want = ["unrecognized format \"cron\"", "unrecognized format \"uint64\"", "unrecognized format \"bit\""];
    assert_eq!(created(&odd), want);
    assert_eq!(changed(&odd, &definition(fine)), want);
    assert_eq!(changed(&odd, &odd), Vec::<String>::new());
}
