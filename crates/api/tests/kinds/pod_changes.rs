//! What may change in a pod: through the pod, its status, its ephemeral containers, and a resize.

use crate::{context, create, lines, merge, object, row, update};
use ferrokube_api::field::Errors;
use serde_json::{Value, json};

fn stored(rest: Value) -> Value {
    let mut pod = object("Pod", json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}));
    merge(&mut pod, rest);
    assert_eq!(create(row("Pod"), &mut pod), Vec::<String>::new());
    pod
}

fn changed(old: &Value, rest: Value) -> Value {
    let mut new = old.clone();
    merge(&mut new, rest);
    new
}

fn through(view: &str, old: &Value, change: Value) -> Vec<String> {
    let view = row("Pod").hooks.view(view).unwrap();
    let mut new = changed(old, change);
    row("Pod").hooks.default.unwrap()(&mut new);
    (view.prepare)(&mut new, old, &context());
    let mut e = Errors::default();
    (view.validate)(&new, old, &mut e);
    lines(e)
}

fn status(old: &Value, change: Value) -> Vec<String> {
    let mut e = Errors::default();
    row("Pod").hooks.validate_status.unwrap()(&changed(old, json!({ "status": change })), old, &mut e);
    lines(e)
}

#[test]
fn a_pod_changes_in_the_ways_that_upstream_names() {
    let old = stored(json!({"spec": {"activeDeadlineSeconds": 5, "containers": [{"name": "c", "image": "i"}]}}));
    let told = |rest: Value| update(row("Pod"), &mut changed(&old, rest), &old);
    assert_eq!(
        told(json!({"spec": {"activeDeadlineSeconds": 6}})),
        ["spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"]
    );
    assert_eq!(
        told(json!({"spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]}})),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    let note = "container.apparmor.security.beta.kubernetes.io/c";
    assert_eq!(
        told(json!({"metadata": {"annotations": {note: "unconfined"}}})),
        [format!("metadata.annotations[{note}]: Forbidden: may not add AppArmor annotations")]
    );
    assert_eq!(
        told(json!({"spec": {"schedulingGates": [{"name": "g"}]}})),
        ["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"]
    );
    let errors = told(json!({"spec": {"hostname": "h"}}));
    let first = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n";
    assert!(errors.len() == 1 && errors[0].starts_with(first), "{errors:?}");
}

#[test]
fn a_gated_pod_may_be_placed_more_narrowly() {
    let old = stored(json!({"spec": {"schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "b"}}}));
    let told = |rest: Value| update(row("Pod"), &mut changed(&old, rest), &old);
    assert_eq!(told(json!({"spec": {"nodeSelector": {"c": "d"}}})), Vec::<String>::new());
    let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "k", "operator": "Exists"}]}]});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
    assert_eq!(told(json!({"spec": {"affinity": affinity}})), Vec::<String>::new());
    assert_eq!(
        told(json!({"spec": {"nodeSelector": {"a": "x"}}})),
        ["spec.nodeSelector: Invalid value: {\"a\":\"x\"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)"]
    );
}

#[test]
fn old_sins_are_kept_and_new_ones_are_not() {
    let sinner = |value: &str| {
        let selector = json!({"matchExpressions": [{"key": "k", "operator": "In", "values": [value]}]});
        let term = json!({"topologyKey": "z", "labelSelector": selector});
        json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
    };
    let old = changed(&stored(json!({})), sinner("-bad-"));
    assert_eq!(update(row("Pod"), &mut changed(&old, json!({"metadata": {"labels": {"a": "b"}}})), &old), Vec::<String>::new());
    let template = |rest: Value| {
        let labels = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let mut template = labels;
        merge(&mut template, rest);
        object("Deployment", json!({"spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}}))
    };
    let mut good = template(json!({}));
    assert_eq!(create(row("Deployment"), &mut good), Vec::<String>::new());
    let bad = changed(&good, json!({"spec": {"template": sinner("-bad-")}}));
    assert_eq!(update(row("Deployment"), &mut bad.clone(), &good).len(), 1);
    assert_eq!(update(row("Deployment"), &mut changed(&bad, json!({"spec": {"replicas": 2}})), &bad), Vec::<String>::new());
}

#[test]
fn a_status_is_told_what_cannot_be() {
    let old = stored(json!({"spec": {"nodeName": "n", "restartPolicy": "OnFailure", "containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}}));
    let ended = |code: i64| json!([{"name": "c", "state": {"terminated": {"exitCode": code}}}]);
    for (change, want) in [
        (json!({"conditions": [{"type": "a b"}]}), "status.conditions[0].Type: Invalid value: \"a b\": name part must consist"),
        (
            json!({"conditions": [{"type": "Ready", "observedGeneration": -1}]}),
            "status.conditions[0].observedGeneration: Invalid value: -1: must be a non-negative integer",
        ),
        (json!({"nominatedNodeName": "m"}), "status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node"),
        (json!({"observedGeneration": -1}), "status.observedGeneration: Invalid value: -1: must be a non-negative integer"),
        (json!({"qosClass": "Guaranteed"}), "status.qosClass: Invalid value: \"Guaranteed\": field is immutable"),
        (
            json!({"podIPs": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}]}),
            "status.podIPs: Invalid value: [{\"ip\":\"1.1.1.1\"},{\"ip\":\"1.1.1.2\"}]: may specify no more than one IP for each IP family",
        ),
        (json!({"hostIPs": [{"ip": "1.1.1.1"}]}), "status.hostIPs[0].ip: Invalid value: \"1.1.1.1\": must be equal to `hostIP`"),
        (
            json!({"resourceClaimStatuses": [{"name": "x"}]}),
            "status.resourceClaimStatuses[0].name: Invalid value: \"x\": must match the name of an entry in `spec.resourceClaims`",
        ),
        (
            json!({"containerStatuses": [{"name": "c", "user": {"linux": {"uid": -1, "gid": 0}}}]}),
            "status.containerStatuses[0].user.linux.uid: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            json!({"containerStatuses": [{"name": "c", "allocatedResourcesStatus": [{"name": "x/y", "resources": []}]}]}),
            "status.containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: \"x/y\": must match one of the container's resource requests",
        ),
        (
            json!({"extendedResourceClaimStatus": {"resourceClaimName": "r", "requestMappings": []}}),
            "status.extendedResourceClaimStatus.requestMappings: Required value: at least one request mapping is required",
        ),
    ] {
        let errors = status(&old, change.clone());
        assert!(errors.len() == 1 && errors[0].starts_with(want), "{change}: {errors:?}");
    }
    let was = changed(&old, json!({"status": {"containerStatuses": ended(0)}}));
    let alive = json!({"containerStatuses": [{"name": "c", "state": {"running": {}}}]});
    assert_eq!(
        status(&was, alive.clone()),
        ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
    );
    let failed = changed(&old, json!({"status": {"containerStatuses": ended(1)}}));
    assert_eq!(status(&failed, alive.clone()), Vec::<String>::new());
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [0]}}]);
    let mut ruled = was.clone();
    merge(&mut ruled["spec"]["containers"][0], json!({"restartPolicy": "Never", "restartPolicyRules": rules}));
    assert_eq!(status(&ruled, alive), Vec::<String>::new());
}

#[test]
fn an_observed_generation_is_not_forgotten() {
    let old = changed(
        &stored(json!({})),
        json!({"status": {"observedGeneration": 3, "conditions": [{"type": "Ready", "observedGeneration": 2}]}}),
    );
    let mut new = changed(&old, json!({"status": {"observedGeneration": null, "conditions": [{"type": "Ready"}]}}));
    row("Pod").hooks.prepare_status.unwrap()(&mut new, &old, &context());
    assert_eq!(new["status"]["observedGeneration"], 3);
    assert_eq!(new["status"]["conditions"][0]["observedGeneration"], 2);
}

#[test]
fn resources_of_a_running_pod_change_within_their_class() {
    let container = |cpu: &str| json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu, "ephemeral-storage": "1"}}});
    let old = stored(json!({"spec": {"containers": [container("1")]}}));
    let with = |c: Value| json!({"spec": {"containers": [c]}});
    assert_eq!(through("resize", &old, with(container("2"))), Vec::<String>::new());
    let mut less = container("1");
    less["resources"]["requests"] = json!({"ephemeral-storage": "1"});
    assert_eq!(
        through("resize", &old, with(less)),
        [
            "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing",
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"
        ]
    );
    let mut disk = container("1");
    disk["resources"]["requests"]["ephemeral-storage"] = "2".into();
    assert_eq!(through("resize", &old, with(disk)), ["spec: Forbidden: only cpu and memory resources are mutable"]);
    let mut renamed = container("1");
    renamed["name"] = "d".into();
    assert_eq!(
        through("resize", &old, with(renamed)),
        ["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"]
    );
    let more = json!({"spec": {"containers": [container("1"), {"name": "d", "image": "i"}]}});
    assert_eq!(through("resize", &old, more), ["spec.containers: Forbidden: containers may not be added or removed on resize"]);
    let running = changed(&old, json!({"status": {"containerStatuses": [{"name": "c", "state": {"running": {}}}]}}));
    assert_eq!(through("resize", &running, with(container("2"))), ["spec: Forbidden: Pod running on node without support for resize"]);
    let mirror = changed(&old, json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}));
    assert_eq!(through("resize", &mirror, with(container("2"))), ["Forbidden: static pods cannot be resized"]);
    let windows = changed(&old, json!({"spec": {"os": {"name": "windows"}}}));
    assert_eq!(through("resize", &windows, with(container("2"))), ["Forbidden: windows pods cannot be resized"]);
    let whole = stored(json!({"spec": {"resources": {"requests": {"cpu": "1"}}}}));
    assert_eq!(through("resize", &whole, json!({"spec": {"resources": {"requests": {"cpu": "2"}}}})), Vec::<String>::new());
    assert_eq!(
        through("resize", &whole, json!({"spec": {"resources": null}})),
        [
            "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing",
            "spec.resources: Forbidden: pod-level resources cannot be removed"
        ]
    );
}

#[test]
fn ephemeral_containers_are_added_and_stay() {
    let extra = |rest: Value| {
        let mut c = json!({"name": "e", "image": "i"});
        merge(&mut c, rest);
        json!({"spec": {"ephemeralContainers": [c]}})
    };
    let old = stored(json!({}));
    let told = |rest: Value| through("ephemeralcontainers", &old, extra(rest));
    assert_eq!(told(json!({})), Vec::<String>::new());
    for (rest, want) in [
        (
            json!({"ports": [{"containerPort": 1}]}),
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
        ),
        (json!({"targetContainerName": "x"}), "spec.ephemeralContainers[0].targetContainerName: Not found: \"x\""),
        (json!({"name": "c"}), "spec.ephemeralContainers[0].name: Duplicate value: \"c\""),
    ] {
        assert_eq!(told(rest), [want]);
    }
    let mut with = changed(&old, extra(json!({})));
    row("Pod").hooks.default.unwrap()(&mut with);
    assert_eq!(
        through("ephemeralcontainers", &with, json!({"spec": {"ephemeralContainers": null}})),
        ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be removed\n"]
    );
    let errors = through("ephemeralcontainers", &with, extra(json!({"image": "j"})));
    assert!(
        errors[0].starts_with("spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be changed\n"),
        "{errors:?}"
    );
    let mirror = changed(&old, json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}));
    assert_eq!(through("ephemeralcontainers", &mirror, extra(json!({}))), ["Forbidden: static pods do not support ephemeral containers"]);
}
