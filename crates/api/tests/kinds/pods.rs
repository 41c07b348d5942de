//! Pods: defaults, quality of service, validation, what an update may touch.

use crate::{create, merge, object, row, update};
use serde_json::{Value, json};

fn pod(rest: Value) -> Value {
    let mut pod = object("Pod", json!({"spec": {"containers": [{"name": "c", "image": "nginx"}]}}));
    merge(&mut pod, rest);
    pod
}

fn refused(rest: Value) -> Vec<String> {
    create(row("Pod"), &mut pod(rest))
}

#[test]
fn a_plain_pod_gets_the_defaults_of_1_36() {
    let mut p = pod(json!({}));
    assert_eq!(create(row("Pod"), &mut p), Vec::<String>::new());
    assert_eq!(
        p["spec"],
        json!({
            "containers": [{
                "name": "c", "image": "nginx", "imagePullPolicy": "Always", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {}, "enableServiceLinks": true,
            "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30,
        })
    );
    assert_eq!(p["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
}

#[test]
fn parts_of_a_pod_get_their_defaults() {
    let mut p = pod(json!({"spec": {
        "hostNetwork": true,
        "serviceAccountName": "robot",
        "containers": [{
            "name": "c", "image": "a/b:v1",
            "ports": [{"containerPort": 80}],
            "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
            "livenessProbe": {"httpGet": {"port": 80}},
            "readinessProbe": {"grpc": {"port": 80}},
            "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}},
        }],
        "volumes": [
            {"name": "a", "configMap": {"name": "x"}},
            {"name": "b", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            {"name": "c", "hostPath": {"path": "/x"}},
            {"name": "d"},
        ],
    }}));
    assert_eq!(create(row("Pod"), &mut p), Vec::<String>::new());
    let c = &p["spec"]["containers"][0];
    assert_eq!(c["imagePullPolicy"], "IfNotPresent");
    assert_eq!(c["ports"], json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]));
    assert_eq!(c["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    assert_eq!(c["env"][1]["valueFrom"]["resourceFieldRef"]["divisor"], "0");
    assert_eq!(
        c["livenessProbe"],
        json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3})
    );
    assert_eq!(c["readinessProbe"]["grpc"]["service"], "");
    assert_eq!(c["resources"], json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}));
    assert_eq!(p["spec"]["serviceAccount"], "robot");
    let volumes = &p["spec"]["volumes"];
    assert_eq!(volumes[0]["configMap"]["defaultMode"], 420);
    assert_eq!(volumes[1]["projected"]["defaultMode"], 420);
    assert_eq!(volumes[1]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3600);
    assert_eq!(volumes[2]["hostPath"]["type"], "");
    assert_eq!(volumes[3]["emptyDir"], json!({}));
    assert_eq!(p["status"]["qosClass"], "Guaranteed");
}

#[test]
fn quality_of_service_follows_from_resources() {
    let both = |c: &str, m: &str| json!({"cpu": c, "memory": m});
    for (resources, want) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (json!({"limits": {"cpu": "1"}}), "Burstable"),
        (json!({"limits": both("1", "1Gi"), "requests": both("500m", "1Gi")}), "Burstable"),
        (json!({"limits": both("1", "1Gi"), "requests": both("1000m", "1024Mi")}), "Guaranteed"),
        (json!({"limits": {"ephemeral-storage": "1Gi"}}), "BestEffort"),
    ] {
        let mut p = pod(json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}}));
        assert_eq!(create(row("Pod"), &mut p), Vec::<String>::new());
        assert_eq!(p["status"]["qosClass"], want);
    }
}

#[test]
fn bad_pods_get_the_words_of_1_36() {
    let c = |rest: Value| {
        let mut c = json!({"name": "c", "image": "i"});
        merge(&mut c, rest);
        json!({"spec": {"containers": [c]}})
    };
    for (rest, want) in [
        (json!({"spec": {"containers": []}}), "spec.containers: Required value"),
        (c(json!({"name": ""})), "spec.containers[0].name: Required value"),
        (c(json!({"image": ""})), "spec.containers[0].image: Required value"),
        (c(json!({"image": " i"})), "spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace"),
        (
            c(json!({"imagePullPolicy": "Never?"})),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Never?\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            c(json!({"ports": [{"containerPort": 70000}]})),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            c(json!({"ports": [{"containerPort": 1, "hostPort": 2}, {"containerPort": 3, "hostPort": 2}]})),
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//2\"",
        ),
        (c(json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]})), "spec.containers[0].volumeMounts[0].name: Not found: \"v\""),
        (
            c(json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}})),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            c(json!({"resources": {"requests": {"cpu": "-1"}}})),
            "spec.containers[0].resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            c(json!({"env": [{"name": "a=b"}]})),
            "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
        ),
        (
            c(json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]})),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting fieldPath: field label not supported: spec.x",
        ),
        (c(json!({"livenessProbe": {}})), "spec.containers[0].livenessProbe: Required value: must specify a handler type"),
        (
            c(json!({"livenessProbe": {"exec": {"command": ["x"]}, "successThreshold": 2}})),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            c(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}})),
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
        ),
        (
            json!({"spec": {"restartPolicy": "Sometimes"}}),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            json!({"spec": {"initContainers": [{"name": "i", "image": "i", "livenessProbe": {"exec": {"command": ["x"]}}}]}}),
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]}}),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            json!({"spec": {"tolerations": [{"operator": "Equal"}]}}),
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        ),
        (
            json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]}}),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
        ),
        (
            c(json!({"securityContext": {"windowsOptions": {"hostProcess": true}}})),
            "spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers",
        ),
        (
            json!({"spec": {
                "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "../x", "key": "K"}}}]}],
                "volumes": [{"name": "v"}],
            }}),
            "spec.containers[0].env[0].valueFrom.fileKeyRef.path: Invalid value: \"../x\": must not contain '..'",
        ),
        (json!({"spec": {"dnsPolicy": "None"}}), "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"),
        (
            json!({"spec": {"nodeName": "n", "schedulingGates": [{"name": "g"}]}}),
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ),
        (
            json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}}),
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
        (
            json!({"metadata": {"labels": {"a b": "c"}}}),
            "metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ),
        (
            json!({"metadata": {"finalizers": ["x"]}}),
            "metadata.finalizers[0]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified",
        ),
    ] {
        assert_eq!(refused(rest.clone()), [want], "{rest}");
    }
}

#[test]
fn resources_without_a_domain_must_be_known() {
    let limits = json!({"bananas": "1"});
    let errors = refused(json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": limits, "requests": {}}}]}}));
    let at = "spec.containers[0].resources.limits[bananas]: Invalid value: \"bananas\"";
    assert_eq!(
        errors[..2],
        [format!("{at}: must be a standard resource type or fully qualified"), format!("{at}: must be a standard resource for containers")]
    );
}

fn stored() -> Value {
    let mut p = pod(json!({"spec": {"containers": [{"name": "c", "image": "i:1"}], "tolerations": [{"key": "k", "operator": "Exists"}]}}));
    assert_eq!(create(row("Pod"), &mut p), Vec::<String>::new());
    p
}

#[test]
fn updates_touch_only_what_may_change() {
    let old = stored();
    let change = |rest: Value| {
        let mut new = old.clone();
        merge(&mut new, rest);
        update(row("Pod"), &mut new, &old)
    };
    let mut image = old["spec"]["containers"].clone();
    image[0]["image"] = "i:2".into();
    assert_eq!(change(json!({"spec": {"containers": image}})), Vec::<String>::new());
    assert_eq!(change(json!({"metadata": {"labels": {"a": "b"}}})), Vec::<String>::new());
    assert_eq!(change(json!({"spec": {"activeDeadlineSeconds": 5}})), Vec::<String>::new());
    let more = json!([{"key": "k", "operator": "Exists"}, {"key": "l", "operator": "Exists"}]);
    assert_eq!(change(json!({"spec": {"tolerations": more}})), Vec::<String>::new());
    let errors = change(json!({"spec": {"tolerations": []}}));
    assert_eq!(errors, ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]);
    let errors = change(json!({"spec": {"nodeName": "n"}}));
    assert!(
        errors[0].starts_with(
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
        ),
        "{errors:?}"
    );
    assert_eq!(change(json!({"metadata": {"uid": "other"}})), ["metadata.uid: Invalid value: \"other\": field is immutable"]);
}

#[test]
fn a_terminated_container_of_a_pod_that_never_restarts_stays_so() {
    let mut old = stored();
    merge(
        &mut old,
        json!({"spec": {"restartPolicy": "Never"}, "status": {"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 0}}}]}}),
    );
    let mut new = old.clone();
    new["status"]["containerStatuses"][0]["state"] = json!({"running": {}});
    let mut e = ferrokube_api::field::Errors::default();
    row("Pod").hooks.validate_status.unwrap()(&new, &old, &mut e);
    assert_eq!(crate::lines(e), ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]);
}

#[test]
fn grace_is_for_pods_that_reached_a_node_and_run() {
    let grace = row("Pod").hooks.grace.unwrap();
    assert_eq!(grace(&json!({"spec": {"terminationGracePeriodSeconds": 5}})), 0);
    assert_eq!(grace(&json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 5}})), 5);
    assert_eq!(grace(&json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 5}, "status": {"phase": "Failed"}})), 0);
}

#[test]
fn match_label_keys_become_selector_terms() {
    let term = json!({"topologyKey": "z", "labelSelector": {"matchLabels": {"app": "a"}}, "matchLabelKeys": ["hash"]});
    let mut p = pod(
        json!({"metadata": {"labels": {"app": "a", "hash": "h"}}, "spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}}),
    );
    assert_eq!(create(row("Pod"), &mut p), Vec::<String>::new());
    let term = &p["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(term["labelSelector"]["matchExpressions"], json!([{"key": "hash", "operator": "In", "values": ["h"]}]));
}

#[test]
fn the_ephemeral_containers_view_changes_nothing_else() {
    let old = stored();
    let view = row("Pod").hooks.view("ephemeralcontainers").unwrap();
    let mut new = old.clone();
    let extra = json!({"name": "e", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"});
    merge(&mut new, json!({"metadata": {"labels": {"x": "y"}}, "spec": {"nodeName": "n", "ephemeralContainers": [extra]}}));
    (view.prepare)(&mut new, &old, &crate::context());
    assert_eq!((new["spec"].get("nodeName"), new["metadata"].get("labels")), (None, None));
    assert_eq!(new["spec"]["ephemeralContainers"][0]["name"], "e");
    let mut e = ferrokube_api::field::Errors::default();
    (view.validate)(&new, &old, &mut e);
    assert_eq!(crate::lines(e), Vec::<String>::new());
}
