//! All other kinds: one good object with its defaults, and bad ones with their words.

use crate::{create, merge, object, row, update};
use ferrokube_api::kinds;
use serde_json::{Value, json};

fn made(kind: &str, rest: Value) -> Value {
    let mut o = object(kind, rest);
    assert_eq!(create(row(kind), &mut o), Vec::<String>::new(), "{kind}");
    o
}

#[test]
fn a_service_gets_its_defaults_and_keeps_what_was_allocated() {
    let o = made("Service", json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}}));
    assert_eq!(
        o["spec"],
        json!({"type": "NodePort", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster",
               "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}]})
    );
    assert_eq!(o["status"], json!({"loadBalancer": {}}));
    let mut old = o.clone();
    merge(
        &mut old,
        json!({"spec": {"clusterIP": "10.0.0.7", "clusterIPs": ["10.0.0.7"], "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP", "nodePort": 30001}]}}),
    );
    let mut new = o.clone();
    assert_eq!(update(row("Service"), &mut new, &old), Vec::<String>::new());
    assert_eq!((&new["spec"]["clusterIP"], &new["spec"]["ports"][0]["nodePort"]), (&json!("10.0.0.7"), &json!(30001)));
    merge(&mut new, json!({"spec": {"clusterIP": "10.0.0.8"}}));
    assert_eq!(update(row("Service"), &mut new, &old), ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.8\"]: may not change once set"]);
    let mut external = old.clone();
    merge(&mut external, json!({"spec": {"type": "ExternalName", "externalName": "a.example"}}));
    assert_eq!(update(row("Service"), &mut external, &old), Vec::<String>::new());
    assert_eq!(external["spec"].get("clusterIP"), None);
}

#[test]
fn namespaces_carry_their_name_and_their_finalizer() {
    let o = made("Namespace", json!({}));
    assert_eq!(o["metadata"]["labels"]["kubernetes.io/metadata.name"], "a");
    assert_eq!((&o["spec"], &o["status"]), (&json!({"finalizers": ["kubernetes"]}), &json!({"phase": "Active"})));
    let finalize = row("Namespace").hooks.view("finalize").unwrap();
    let mut new = o.clone();
    merge(&mut new, json!({"spec": {"finalizers": []}, "metadata": {"labels": {"x": "y"}}}));
    (finalize.prepare)(&mut new, &o, &crate::context());
    assert_eq!((&new["spec"], new["metadata"]["labels"].get("x")), (&json!({"finalizers": []}), None));
}

#[test]
fn secrets_hold_what_they_say() {
    let o = made("Secret", json!({"stringData": {"a": "b"}}));
    assert_eq!((&o["type"], &o["data"], o.get("stringData")), (&json!("Opaque"), &json!({"a": "Yg=="}), None));
    let mut frozen = o.clone();
    frozen["immutable"] = true.into();
    let mut new = frozen.clone();
    merge(&mut new, json!({"data": {"a": "Yw=="}}));
    assert_eq!(update(row("Secret"), &mut new, &frozen), ["data: Forbidden: field is immutable when `immutable` is set"]);
}

#[test]
fn kinds_get_their_defaults() {
    for (kind, rest, path, want) in [
        (
            "Endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}]}]}),
            "/subsets/0/ports/0/protocol",
            json!("TCP"),
        ),
        (
            "EndpointSlice",
            json!({"addressType": "IPv4", "endpoints": [], "ports": [{"port": 1}]}),
            "/ports/0",
            json!({"name": "", "port": 1, "protocol": "TCP"}),
        ),
        (
            "RoleBinding",
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}]}),
            "/subjects/0/apiGroup",
            json!("rbac.authorization.k8s.io"),
        ),
        (
            "PersistentVolumeClaim",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Mi"}}}}),
            "/spec",
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeMode": "Filesystem"}),
        ),
        (
            "PersistentVolume",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}}}),
            "/spec/persistentVolumeReclaimPolicy",
            json!("Retain"),
        ),
        ("StorageClass", json!({"provisioner": "p"}), "/volumeBindingMode", json!("Immediate")),
        ("NetworkPolicy", json!({"spec": {"podSelector": {}, "egress": [{}]}}), "/spec/policyTypes", json!(["Ingress", "Egress"])),
        ("PriorityClass", json!({"value": 5}), "/preemptionPolicy", json!("PreemptLowerPriority")),
        (
            "LimitRange",
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1000m"}}]}}),
            "/spec/limits/0",
            json!({"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}}),
        ),
        ("FlowSchema", json!({"spec": {"priorityLevelConfiguration": {"name": "p"}}}), "/spec/matchingPrecedence", json!(1000)),
        ("CSIDriver", json!({"spec": {}}), "/spec/attachRequired", json!(true)),
        (
            "IngressClass",
            json!({"spec": {"controller": "a.example/b", "parameters": {"kind": "K", "name": "n"}}}),
            "/spec/parameters/scope",
            json!("Cluster"),
        ),
        (
            "APIService",
            json!({"metadata": {"name": "v1.a.example"}, "spec": {"group": "a.example", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10, "service": {"name": "s", "namespace": "n"}}}),
            "/spec/service/port",
            json!(443),
        ),
        ("Node", json!({"status": {"capacity": {"cpu": "4000m"}}}), "/status/allocatable", json!({"cpu": "4"})),
    ] {
        assert_eq!(made(kind, rest).pointer(path), Some(&want), "{kind} {path}");
    }
}

#[test]
fn bad_objects_get_the_words_of_1_36() {
    for (kind, rest, want) in [
        ("Service", json!({"spec": {}}), "spec.ports: Required value"),
        ("Service", json!({"spec": {"ports": [{"port": 80}, {"port": 81, "name": "b"}]}}), "spec.ports[0].name: Required value"),
        (
            "Service",
            json!({"spec": {"type": "Magic", "ports": [{"port": 80}]}}),
            "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ),
        (
            "ConfigMap",
            json!({"data": {"a/b": "c"}}),
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ),
        ("Secret", json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}), "data[tls.key]: Required value"),
        (
            "Namespace",
            json!({"metadata": {"name": "A"}}),
            "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
        (
            "Role",
            json!({"rules": [{"apiGroups": [""], "resources": ["pods"]}]}),
            "rules[0].verbs: Required value: verbs must contain at least one value",
        ),
        (
            "ClusterRoleBinding",
            json!({"roleRef": {"kind": "Role", "name": "x"}}),
            "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
        ),
        (
            "PodDisruptionBudget",
            json!({"spec": {"minAvailable": "101%"}}),
            "spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%",
        ),
        ("PersistentVolumeClaim", json!({"spec": {"accessModes": ["ReadWriteOnce"]}}), "spec.resources[storage]: Required value"),
        ("PriorityClass", json!({"value": 1000000001}), "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"),
        (
            "Ingress",
            json!({"spec": {"rules": [{"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s"}}}]}}]}}),
            "spec.rules[0].http.paths[0].backend: Required value: port name or number is required",
        ),
        (
            "HorizontalPodAutoscaler",
            json!({"spec": {"maxReplicas": 0, "minReplicas": 0, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}}),
            "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
        ),
        ("Lease", json!({"spec": {"leaseDurationSeconds": 0}}), "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"),
        (
            "Node",
            json!({"spec": {"taints": [{"key": "k", "effect": "Sometimes"}]}}),
            "metadata.taints[0].effect: Unsupported value: \"Sometimes\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ),
        (
            "ValidatingWebhookConfiguration",
            json!({"webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": {}}]}),
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
        ),
        (
            "Event",
            json!({"involvedObject": {"namespace": "other"}}),
            "involvedObject.namespace: Invalid value: \"other\": does not match event.namespace",
        ),
        (
            "ConfigMap",
            json!({"metadata": {"annotations": {"a": "x".repeat(300_000)}}}),
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (
            "ConfigMap",
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}}),
            "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
        ),
    ] {
        let errors = create(row(kind), &mut object(kind, rest.clone()));
        assert_eq!(errors.first().map(String::as_str), Some(want), "{kind} {rest}: {errors:?}");
    }
}

#[test]
fn what_is_immutable_stays() {
    let binding = made("RoleBinding", json!({"roleRef": {"kind": "Role", "name": "r"}}));
    let mut new = binding.clone();
    new["roleRef"]["name"] = "other".into();
    let errors = update(row("RoleBinding"), &mut new, &binding);
    assert_eq!(
        errors,
        [
            "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"Role\",\"Name\":\"other\"}: cannot change roleRef"
        ]
    );

    let claim =
        made("PersistentVolumeClaim", json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}));
    let mut bound = claim.clone();
    merge(&mut bound, json!({"spec": {"volumeName": "v", "storageClassName": "c"}}));
    assert_eq!(update(row("PersistentVolumeClaim"), &mut bound, &claim), Vec::<String>::new());
    let mut moved = bound.clone();
    moved["spec"]["volumeName"] = "w".into();
    assert!(update(row("PersistentVolumeClaim"), &mut moved, &bound)[0].starts_with("spec: Forbidden: spec is immutable after creation"));
}

#[test]
fn deleting_objects_take_no_new_finalizers() {
    let mut old = made("ConfigMap", json!({}));
    merge(&mut old, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a.example/x"]}}));
    let mut new = old.clone();
    merge(&mut new, json!({"metadata": {"finalizers": ["a.example/x", "a.example/y"]}}));
    assert_eq!(
        update(row("ConfigMap"), &mut new, &old),
        [
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a.example/y\"}"
        ]
    );
}

#[test]
fn autoscalers_read_the_same_in_both_versions() {
    let v1 = kinds::lookup("autoscaling", "v1", "horizontalpodautoscalers").unwrap();
    let mut o = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
        "spec": {"maxReplicas": 5, "minReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "targetCPUUtilizationPercentage": 60}});
    let before = o.clone();
    v1.hooks.to_storage.unwrap()(&mut o);
    assert_eq!(o["apiVersion"], "autoscaling/v2");
    assert_eq!(
        o["spec"]["metrics"],
        json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}}])
    );
    v1.hooks.from_storage.unwrap()(&mut o);
    assert_eq!(o, before);
}

#[test]
fn events_read_the_same_in_both_groups() {
    let row = kinds::lookup("events.k8s.io", "v1", "events").unwrap();
    let mut o = json!({"apiVersion": "events.k8s.io/v1", "regarding": {"name": "p"}, "note": "hi", "reportingController": "c", "deprecatedCount": 2});
    let before = o.clone();
    row.hooks.to_storage.unwrap()(&mut o);
    assert_eq!(o, json!({"apiVersion": "v1", "involvedObject": {"name": "p"}, "message": "hi", "reportingComponent": "c", "count": 2}));
    row.hooks.from_storage.unwrap()(&mut o);
    assert_eq!(o, before);
}

#[test]
fn a_signing_request_is_decided_once() {
    let request = json!({"spec": {"signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"], "request": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K"}});
    let old = made("CertificateSigningRequest", request);
    let view = row("CertificateSigningRequest").hooks.view("approval").unwrap();
    let mut new = old.clone();
    merge(&mut new, json!({"status": {"conditions": [{"type": "Approved", "status": "True"}], "certificate": "x"}}));
    (view.prepare)(&mut new, &old, &crate::context());
    assert_eq!(
        new["status"],
        json!({"conditions": [{"type": "Approved", "status": "True", "lastTransitionTime": "2026-06-01T12:00:00Z", "lastUpdateTime": "2026-06-01T12:00:00Z"}]})
    );
    let mut back = new.clone();
    back["status"] = json!({});
    let mut e = ferrokube_api::field::Errors::default();
    (view.validate)(&back, &new, &mut e);
    assert_eq!(crate::lines(e), ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]);
    let judged = |old: &Value, conditions: Value| {
        let mut new = old.clone();
        new["status"] = json!({ "conditions": conditions });
        (view.prepare)(&mut new, old, &crate::context());
        let mut e = ferrokube_api::field::Errors::default();
        (view.validate)(&new, old, &mut e);
        crate::lines(e)
    };
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
    let (approved, denied) = (condition("Approved", "True"), condition("Denied", "True"));
    let at = "status.conditions";
    assert_eq!(
        judged(&old, json!([approved, denied])),
        [format!("{at}[1].type: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive")]
    );
    assert_eq!(judged(&old, json!([approved, approved])), [format!("{at}[1].type: Duplicate value: \"Approved\"")]);
    assert_eq!(
        judged(&old, json!([condition("Failed", "False"), condition("", "Maybe"), {"type": "Mine"}])),
        [
            format!("{at}[0].status: Unsupported value: \"False\": supported values: \"True\""),
            format!("{at}[1].type: Required value"),
            format!("{at}[1].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\""),
            format!("{at}[2].status: Required value"),
        ]
    );
    let hooks = &row("CertificateSigningRequest").hooks;
    let signed = |old: &Value, status: Value| {
        let mut new = old.clone();
        new["status"] = status;
        hooks.prepare_status.unwrap()(&mut new, old, &crate::context());
        let mut e = ferrokube_api::field::Errors::default();
        hooks.validate_status.unwrap()(&new, old, &mut e);
        crate::lines(e)
    };
    assert_eq!(
        signed(&old, json!({"conditions": [approved]})),
        [format!("{at}: Forbidden: updates may not add a condition of type \"Approved\"")]
    );
    assert_eq!(signed(&new, json!({"conditions": [approved], "certificate": pem("CERTIFICATE")})), Vec::<String>::new());
    let mut kept = new.clone();
    kept["status"]["certificate"] = pem("CERTIFICATE").into();
    let again = json!({"conditions": [approved], "certificate": pem("CERTIFICATE ")});
    assert_eq!(
        signed(&kept, again),
        [
            "status.certificate: Invalid value: \"<certificate data>\": only CERTIFICATE PEM blocks are allowed, found \"CERTIFICATE \"",
            "status.certificate: Forbidden: updates may not modify existing certificate content"
        ]
    );
}

fn pem(kind: &str) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("-----BEGIN {kind}-----\n"))
}

#[test]
fn signers_and_usages_have_a_form() {
    let told = |spec: Value| {
        let mut whole = json!({"spec": {"signerName": "a.b/c", "usages": ["client auth"], "request": pem("CERTIFICATE REQUEST")}});
        merge(&mut whole, json!({ "spec": spec }));
        crate::create(row("CertificateSigningRequest"), &mut crate::object("CertificateSigningRequest", whole))
    };
    assert_eq!(told(json!({})), Vec::<String>::new());
    let at = "spec.signerName";
    for (signer, want) in [
        ("", format!("{at}: Required value")),
        (
            "kubernetes.io/legacy-unknown",
            format!("{at}: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version"),
        ),
        (
            "a.b/c/d",
            format!("{at}: Invalid value: \"a.b/c/d\": must be a fully qualified domain and path of the form 'example.com/signer-name'"),
        ),
        ("a/c", format!("{at}: Invalid value: \"a\": should be a domain with at least two segments separated by dots")),
    ] {
        assert_eq!(told(json!({ "signerName": signer })), [want], "{signer}");
    }
    assert!(
        told(json!({"signerName": "a.B/c"}))[0]
            .starts_with(&format!("{at}: Invalid value: \"a.B\": validating label \"B\": a lowercase RFC 1123 label"))
    );
    assert_eq!(told(json!({"usages": []})), ["spec.usages: Required value"]);
    assert_eq!(told(json!({"usages": ["any", "any"]})), ["spec.usages[1]: Duplicate value: \"any\""]);
}
