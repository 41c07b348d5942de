use super::*;
use serde_json::json;

fn told(spec: Value) -> Vec<String> {
    pod(&json!({"metadata": {"name": "a"}, "spec": spec}))
}

#[test]
fn odd_pods_get_warnings() {
    let c = json!({"name": "c", "env": [{"name": "A"}, {"name": "A"}], "resources": {"limits": {"memory": "128m"}}});
    let o = json!({"metadata": {"name": "a.b"}, "spec": {"containers": [c], "nodeSelector": {"beta.kubernetes.io/os": "linux"}}});
    assert_eq!(
        pod(&o),
        [
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "spec.containers[0].resources.limits[memory]: fractional byte value \"128m\" is invalid, must be an integer",
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
        ]
    );
}

#[test]
fn each_oddity_has_its_words() {
    let key = |key: &str| json!({"key": key, "operator": "Exists"});
    let volume = |source: Value| {
        let mut v = json!({"name": "v"});
        v.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        json!({"volumes": [v]})
    };
    let items = json!([{"key": "a", "path": "x"}, {"key": "b", "path": "x/y"}]);
    for (spec, want) in [
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [key("beta.kubernetes.io/arch")]}]}}}}),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        ),
        (
            json!({"topologySpreadConstraints": [{"topologyKey": "failure-domain.beta.kubernetes.io/zone", "labelSelector": {}}]}),
            "spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
        ),
        (
            json!({"topologySpreadConstraints": [{"topologyKey": "z"}]}),
            "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
        ),
        (
            json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": {}}]}}}),
            "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod",
        ),
        (volume(json!({"glusterfs": {}})), "spec.volumes[0].glusterfs: deprecated in v1.25, non-functional in v1.26+"),
        (volume(json!({"gitRepo": {}})), "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"),
        (
            volume(json!({"configMap": {"name": "m", "items": items}})),
            "volume \"v\" (ConfigMap \"m\"): overlapping paths: \"x/y\" with \"x\"",
        ),
        (
            volume(
                json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"secret": {"name": "s", "items": [{"path": "t/u"}]}}]}}),
            ),
            "volume \"v\" (Projected Secret \"s\"): overlapping paths: \"t/u\" with \"t\"",
        ),
        (volume(json!({"projected": {"sources": [{}]}})), "volume \"v\" (Projected) has no sources provided"),
        (json!({"hostAliases": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}]}), "spec.hostAliases[1].ip: duplicate ip \"1.1.1.1\""),
        (json!({"imagePullSecrets": [{"name": "a"}, {"name": "a"}]}), "spec.imagePullSecrets[1].name: duplicate name \"a\""),
        (json!({"imagePullSecrets": [{}]}), "spec.imagePullSecrets[0].name: invalid empty name \"\""),
        (json!({"overhead": {"memory": "1500m"}}), "spec.overhead[memory]: fractional byte value \"1500m\" is invalid, must be an integer"),
        (
            json!({"terminationGracePeriodSeconds": -1}),
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
        ),
        (
            json!({"dnsConfig": {"nameservers": ["2001:DB8::1"]}}),
            "spec.dnsConfig.nameservers[0]: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")",
        ),
    ] {
        assert_eq!(told(spec.clone()), [want], "{spec}");
    }
    assert_eq!(
        told(json!({"containers": [{"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}]}]})),
        Vec::<String>::new()
    );
}

#[test]
fn ports_are_compared_over_all_containers() {
    let with = |a: Value, b: Value| told(json!({"initContainers": [{"ports": [a]}], "containers": [{"ports": [b]}]}));
    let port = |rest: Value| {
        let mut p = json!({"containerPort": 80, "protocol": "TCP"});
        p.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        p
    };
    let what = |how: &str| vec![format!("spec.containers[0].ports[0]: {how} port definition with spec.initContainers[0].ports[0]")];
    assert_eq!(with(port(json!({})), port(json!({}))), what("duplicate"));
    assert_eq!(with(port(json!({})), port(json!({"hostPort": 8}))), what("overlapping"));
    assert_eq!(with(port(json!({"hostPort": 8, "hostIP": "1.1.1.1"})), port(json!({"hostPort": 8}))), what("dangerously ambiguous"));
    assert_eq!(with(port(json!({"hostPort": 8})), port(json!({"hostPort": 9}))), Vec::<String>::new());
    assert_eq!(with(port(json!({})), json!({"containerPort": 80, "protocol": "UDP"})), Vec::<String>::new());
    assert_eq!(
        told(json!({"containers": [{"ports": [port(json!({"hostIP": "1.1.1.1"}))]}]})),
        ["spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP HostIP:1.1.1.1}"]
    );
}

#[test]
fn annotations_that_became_fields_are_named() {
    let note =
        |key: &str| json!({"metadata": {"name": "a", "annotations": {key: "runtime/default"}}, "spec": {"containers": [{"name": "c"}]}});
    let key = "container.seccomp.security.alpha.kubernetes.io/c";
    assert_eq!(
        pod(&note(key)),
        [format!("metadata.annotations[{key}]: non-functional in v1.27+; use the \"seccompProfile\" field instead")]
    );
    let key = "container.apparmor.security.beta.kubernetes.io/c";
    let why = format!("spec.template.metadata.annotations[{key}]: deprecated since v1.30; use the \"appArmorProfile\" field instead");
    assert_eq!(workload(&json!({"spec": {"template": note(key)}})), [why]);
    let key = "scheduler.alpha.kubernetes.io/critical-pod";
    assert_eq!(
        pod(&note(key)),
        [format!("metadata.annotations[{key}]: non-functional in v1.16+; use the \"priorityClassName\" field instead")]
    );
}
