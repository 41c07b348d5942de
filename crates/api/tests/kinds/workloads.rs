//! Workloads: defaults, selectors, templates.

use crate::{create, merge, object, row, update};
use serde_json::{Value, json};

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}})
}

fn workload(kind: &str, rest: Value) -> Value {
    let mut o = object(kind, json!({"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template()}}));
    merge(&mut o, rest);
    o
}

#[test]
fn workloads_get_the_defaults_of_1_36() {
    for (kind, want) in [
        (
            "Deployment",
            json!({"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}}),
        ),
        ("ReplicaSet", json!({"replicas": 1})),
        (
            "DaemonSet",
            json!({"revisionHistoryLimit": 10, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}),
        ),
        (
            "StatefulSet",
            json!({"replicas": 1, "revisionHistoryLimit": 10, "serviceName": "", "podManagementPolicy": "OrderedReady",
                   "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                   "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"}}),
        ),
    ] {
        let mut o = workload(kind, json!({}));
        assert_eq!(create(row(kind), &mut o), Vec::<String>::new(), "{kind}");
        let mut spec = o["spec"].clone();
        assert_eq!(spec["template"]["spec"]["schedulerName"], "default-scheduler");
        spec.as_object_mut().unwrap().retain(|k, _| k != "template" && k != "selector");
        assert_eq!(spec, want, "{kind}");
        assert_eq!(o["status"], json!({}), "{kind}");
    }
}

#[test]
fn a_selector_must_select_the_template_and_stay() {
    for kind in ["Deployment", "ReplicaSet", "DaemonSet"] {
        let mut o = workload(kind, json!({"spec": {"selector": {"matchLabels": {"app": "b"}}}}));
        assert_eq!(
            create(row(kind), &mut o),
            ["spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`"],
            "{kind}"
        );
        let mut old = workload(kind, json!({}));
        create(row(kind), &mut old);
        let mut new = old.clone();
        merge(&mut new, json!({"spec": {"selector": {"matchLabels": {"b": "c"}}, "template": {"metadata": {"labels": {"b": "c"}}}}}));
        let errors = update(row(kind), &mut new, &old);
        assert_eq!(errors, ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"a\",\"b\":\"c\"}}: field is immutable"], "{kind}");
    }
}

#[test]
fn bad_workloads_get_the_words_of_1_36() {
    for (kind, rest, want) in [
        ("Deployment", json!({"spec": {"replicas": -1}}), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        (
            "Deployment",
            json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": {}}}}),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            "Deployment",
            json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
        (
            "Deployment",
            json!({"spec": {"minReadySeconds": 600}}),
            "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
        ),
        (
            "Deployment",
            json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}}),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ),
        (
            "DaemonSet",
            json!({"spec": {"template": {"spec": {"activeDeadlineSeconds": 5}}}}),
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported",
        ),
        ("StatefulSet", json!({"metadata": {"name": "a.b"}}), "metadata.name: Invalid value: \"a.b\": must not contain dots"),
        (
            "ReplicaSet",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "x"}}}]}}}}),
            "spec.template.spec.containers[0].resources.requests[cpu]: Invalid value: \"x\": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ] {
        assert_eq!(create(row(kind), &mut workload(kind, rest.clone())), [want], "{kind} {rest}");
    }
}

#[test]
fn a_stateful_set_changes_only_in_parts() {
    let mut old = workload(
        "StatefulSet",
        json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}}),
    );
    assert_eq!(create(row("StatefulSet"), &mut old), Vec::<String>::new());
    assert_eq!(old["spec"]["volumeClaimTemplates"][0]["status"]["phase"], "Pending");
    let mut new = old.clone();
    merge(&mut new, json!({"spec": {"replicas": 5, "minReadySeconds": 3}}));
    assert_eq!(update(row("StatefulSet"), &mut new, &old), Vec::<String>::new());
    merge(&mut new, json!({"spec": {"serviceName": "x"}}));
    let errors = update(row("StatefulSet"), &mut new, &old);
    assert!(errors[0].starts_with("spec: Forbidden: updates to statefulset spec for fields other than 'replicas'"), "{errors:?}");
}

#[test]
fn a_job_selects_its_pods_by_uid() {
    let spec = json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    let mut o = object("Job", json!({"spec": spec}));
    assert_eq!(create(row("Job"), &mut o), Vec::<String>::new());
    assert_eq!(o["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}}));
    let labels = &o["spec"]["template"]["metadata"]["labels"];
    assert_eq!((&labels["job-name"], &labels["controller-uid"]), (&json!("a"), &json!("u1")));
    assert_eq!(o["metadata"]["labels"], *labels);
    for (key, want) in [
        ("completions", json!(1)),
        ("parallelism", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
    ] {
        assert_eq!(o["spec"][key], want, "{key}");
    }
    let mut changed = o.clone();
    merge(&mut changed, json!({"spec": {"template": {"spec": {"schedulerName": "x"}}}}));
    let errors = update(row("Job"), &mut changed, &o);
    assert!(errors[0].starts_with("spec.template: Invalid value: ") && errors[0].ends_with(": field is immutable"), "{errors:?}");
}

#[test]
fn jobs_must_end() {
    let mut o = object("Job", json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}}));
    assert_eq!(create(row("Job"), &mut o), ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""]);
}

#[test]
fn cron_jobs_are_checked_with_their_schedule() {
    let job = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    let cron = |schedule: &str| object("CronJob", json!({"spec": {"schedule": schedule, "jobTemplate": job}}));
    let mut good = cron("*/5 * * * *");
    assert_eq!(create(row("CronJob"), &mut good), Vec::<String>::new());
    assert_eq!((&good["spec"]["concurrencyPolicy"], &good["spec"]["successfulJobsHistoryLimit"]), (&json!("Allow"), &json!(3)));
    assert_eq!(
        create(row("CronJob"), &mut cron("* *")),
        ["spec.schedule: Invalid value: \"* *\": expected exactly 5 fields, found 2: [* *]"]
    );
}

#[test]
fn a_controller_takes_selector_and_labels_from_its_template() {
    let mut o = object("ReplicationController", json!({"spec": {"template": template()}}));
    assert_eq!(create(row("ReplicationController"), &mut o), Vec::<String>::new());
    assert_eq!((&o["spec"]["selector"], &o["metadata"]["labels"]), (&json!({"app": "a"}), &json!({"app": "a"})));
}

#[test]
fn pods_of_a_stateful_set_mount_what_it_claims_for_them() {
    let claim =
        json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let mounts = json!([{"name": "c", "image": "i:1", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]);
    let with = |claims: Value| {
        workload(
            "StatefulSet",
            json!({"spec": {"serviceName": "a", "volumeClaimTemplates": claims, "template": {"spec": {"hostname": "Overwritten!", "containers": mounts}}}}),
        )
    };
    let mut old = with(json!([claim]));
    assert_eq!(create(row("StatefulSet"), &mut old), Vec::<String>::new());
    let lost = create(row("StatefulSet"), &mut with(json!([])));
    assert_eq!(lost, ["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\""]);
    // What was stored before templates were looked at may be changed elsewhere.
    let mut stored = old.clone();
    stored["spec"]["template"]["spec"]["containers"][0]["volumeMounts"][0]["name"] = json!("gone");
    stored["spec"]["serviceName"] = json!("Not_A_Label");
    let mut scaled = stored.clone();
    scaled["spec"]["replicas"] = json!(3);
    assert_eq!(update(row("StatefulSet"), &mut scaled, &stored), Vec::<String>::new());
    for (change, want) in [
        (json!({"podManagementPolicy": "Any"}), "spec.podManagementPolicy: Invalid value: \"Any\": must be 'OrderedReady' or 'Parallel'"),
        (
            json!({"updateStrategy": {"type": "Any", "rollingUpdate": null}}),
            "spec.updateStrategy: Invalid value: {\"Type\":\"Any\",\"RollingUpdate\":null}: must be 'RollingUpdate' or 'OnDelete'",
        ),
        (
            json!({"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Never"}}),
            "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"Never\": supported values: \"Retain\", \"Delete\"",
        ),
        (
            json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]}),
            "spec.volumeClaimTemplates[0].spec.resources[storage]: Required value",
        ),
        (
            json!({"serviceName": "No.Label"}),
            "spec.serviceName: Invalid value: \"No.Label\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
    ] {
        let mut o = with(json!([claim]));
        merge(&mut o, json!({ "spec": change }));
        assert_eq!(create(row("StatefulSet"), &mut o).first().map(String::as_str), Some(want), "{change}");
    }
}

#[test]
fn a_workload_without_a_selector_is_told_that_it_selects_nothing() {
    let mismatch = "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`";
    for (kind, want) in [("Deployment", vec!["spec.selector: Required value", mismatch]), ("DaemonSet", vec![mismatch])] {
        let mut o = workload(kind, json!({}));
        o["spec"].as_object_mut().unwrap().remove("selector");
        assert_eq!(create(row(kind), &mut o), want, "{kind}");
    }
    let mut o = workload("Deployment", json!({"spec": {"strategy": {"type": "Any"}}}));
    let want =
        "spec.strategy: Unsupported value: {\"Type\":\"Any\",\"RollingUpdate\":null}: supported values: \"Recreate\", \"RollingUpdate\"";
    assert_eq!(create(row("Deployment"), &mut o), [want]);
}
