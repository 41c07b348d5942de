//! Every way of a claim and of a volume, as tables.

use super::*;
use serde_json::{Value, json};

fn claim(annotations: Value, spec: Value) -> PersistentVolumeClaim {
    let mut object = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u", "annotations": annotations},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn volume(annotations: Value, spec: Value) -> PersistentVolume {
    let mut object = json!({"metadata": {"name": "v", "annotations": annotations}, "status": {"phase": "Available"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}});
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn class(provisioner: &str, mode: &str) -> StorageClass {
    serde_json::from_value(json!({"metadata": {"name": "s"}, "provisioner": provisioner, "volumeBindingMode": mode})).unwrap()
}

/// A short text of a step: its kind and the reason or name in it.
fn told(step: &ClaimStep) -> String {
    match step {
        ClaimStep::Bind(v) => format!("bind {}", v.name()),
        ClaimStep::SetClass(c) => format!("class {c}"),
        ClaimStep::Provision(p) => format!("provision {p}"),
        ClaimStep::Pending(note) => format!("pending {}", note.as_ref().map_or("", |n| n.reason)),
        ClaimStep::Failed(note) => format!("failed {}", note.message),
        ClaimStep::Lost(note) => format!("lost {}", note.reason),
    }
}

#[test]
fn an_unbound_claim_gets_a_volume_a_class_a_provisioner_or_a_reason() {
    let free = || vec![volume(json!({}), json!({}))];
    let of_class = json!({"storageClassName": "s"});
    let wait = || Some(class("x/p", "WaitForFirstConsumer"));
    let with = |class| ClaimView { class, ..ClaimView::default() };
    let cases = [
        (claim(json!({}), json!({})), ClaimView { candidates: free(), ..ClaimView::default() }, "bind v"),
        (claim(json!({}), json!({})), ClaimView::default(), "pending FailedBinding"),
        (claim(json!({}), json!({})), ClaimView { default_class: Some("d".into()), ..ClaimView::default() }, "class d"),
        (
            claim(json!({}), json!({"storageClassName": ""})),
            ClaimView { default_class: Some("d".into()), ..ClaimView::default() },
            "pending FailedBinding",
        ),
        (claim(json!({}), of_class.clone()), ClaimView::default(), "failed storageclass.storage.k8s.io \"s\" not found"),
        (claim(json!({}), of_class.clone()), with(Some(class("x/p", "Immediate"))), "provision x/p"),
        (
            claim(json!({}), of_class.clone()),
            with(Some(class("kubernetes.io/no-provisioner", "Immediate"))),
            "failed no volume plugin matched name: kubernetes.io/no-provisioner",
        ),
        (claim(json!({}), of_class.clone()), with(wait()), "pending WaitForFirstConsumer"),
        (claim(json!({}), of_class.clone()), ClaimView { waiting_pods: vec!["p".into()], ..with(wait()) }, "pending WaitForPodScheduled"),
        (claim(json!({"volume.kubernetes.io/selected-node": "n1"}), of_class.clone()), with(wait()), "provision x/p"),
        (
            claim(json!({"volume.kubernetes.io/selected-node": "n1"}), of_class.clone()),
            ClaimView { candidates: vec![volume(json!({}), of_class.clone())], ..with(wait()) },
            "provision x/p",
        ),
        (claim(json!({}), of_class), with(Some(class("kubernetes.io/gce-pd", "Immediate"))), "provision pd.csi.storage.gke.io"),
    ];
    for (claim, view, expected) in cases {
        assert_eq!(told(&plan_claim(&claim, &view)), expected);
    }
}

#[test]
fn a_claim_that_names_its_volume_gets_that_one_or_none() {
    let names = json!({"volumeName": "v"});
    let reference = |name: &str, uid: &str| json!({"claimRef": {"name": name, "namespace": "n", "uid": uid}});
    let cases = [
        (None, "pending "),
        (Some(json!({})), "bind v"),
        (Some(reference("c", "")), "bind v"),
        (Some(reference("c", "u")), "bind v"),
        (Some(reference("d", "x")), "pending FailedBinding"),
        (Some(json!({"capacity": {"storage": "1Mi"}})), "pending VolumeMismatch"),
    ];
    for (spec, expected) in cases {
        let view = ClaimView { named: spec.clone().map(|s| volume(json!({}), s)), ..ClaimView::default() };
        assert_eq!(told(&plan_claim(&claim(json!({}), names.clone()), &view)), expected, "{spec:?}");
    }
}

#[test]
fn a_bound_claim_stays_bound_or_is_lost() {
    let bound = json!({BIND_COMPLETED: "yes"});
    let cases = [
        ("", None, "lost ClaimLost"),
        ("v", None, "lost ClaimLost"),
        ("v", Some(json!({"claimRef": {"name": "c", "namespace": "n", "uid": "u"}})), "bind v"),
        ("v", Some(json!({})), "bind v"),
        ("v", Some(json!({"claimRef": {"name": "c", "namespace": "n", "uid": "x"}})), "lost ClaimMisbound"),
    ];
    for (name, spec, expected) in cases {
        let view = ClaimView { named: spec.clone().map(|s| volume(json!({}), s)), ..ClaimView::default() };
        assert_eq!(told(&plan_claim(&claim(bound.clone(), json!({"volumeName": name})), &view)), expected, "{name} {spec:?}");
    }
}

#[test]
fn a_volume_follows_its_claim() {
    let reference = json!({"name": "c", "namespace": "n", "uid": "u"});
    let of = |spec: Value| Some(claim(json!({}), spec));
    let with = |policy: &str| json!({"claimRef": reference, "persistentVolumeReclaimPolicy": policy});
    let provisioned = json!({PROVISIONED_BY: "x/p"});
    let cases = [
        (json!({}), json!({}), None, "Phase(\"Available\")"),
        (json!({}), json!({"claimRef": {"name": "c", "namespace": "n"}}), None, "Phase(\"Available\")"),
        (json!({}), with("Retain"), of(json!({})), "SyncClaim"),
        (json!({}), with("Retain"), of(json!({"volumeMode": "Block"})), "Mismatch"),
        (json!({}), with("Retain"), of(json!({"volumeName": "v"})), "Phase(\"Bound\")"),
        (json!({}), with("Delete"), of(json!({"volumeName": "w"})), "Unbind"),
        (provisioned.clone(), with("Retain"), of(json!({"volumeName": "w"})), "Unbind"),
        (provisioned.clone(), with("Delete"), of(json!({"volumeName": "w"})), "Reclaim(Elsewhere)"),
        (provisioned, with("Delete"), None, "Reclaim(Elsewhere)"),
        (json!({}), with("Retain"), None, "Reclaim(Elsewhere)"),
        (json!({}), with("Delete"), None, "Reclaim(Failed"),
        (json!({}), with("Recycle"), None, "Reclaim(Recycle"),
        (json!({PROVISIONED_BY: "kubernetes.io/rbd"}), with("Delete"), None, "Reclaim(Failed"),
        (json!({PROVISIONED_BY: "kubernetes.io/gce-pd", (migration::MIGRATED_TO): "d"}), with("Delete"), None, "Reclaim(Elsewhere)"),
    ];
    for (annotations, spec, claim, expected) in cases {
        let step = format!("{:?}", plan_volume(&volume(annotations, spec.clone()), claim.as_ref()));
        assert!(step.starts_with(expected), "{spec}: {step}, not {expected}");
    }
}

#[test]
fn who_cannot_delete_a_volume_says_so_in_the_words_of_the_plugins() {
    let policy = json!({"claimRef": {"name": "c", "namespace": "n", "uid": "u"}, "persistentVolumeReclaimPolicy": "Delete"});
    let with = |key: &str, source: Value| {
        let mut spec = policy.clone();
        spec[key] = source;
        spec
    };
    let csi = with("csi", json!({"driver": "d", "volumeHandle": "h"}));
    let cases = [
        (json!({}), csi, "error getting deleter volume plugin for volume \"v\": no volume plugin matched"),
        (
            json!({}),
            with("nfs", json!({"server": "s", "path": "/"})),
            "error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched",
        ),
        (
            json!({}),
            with("hostPath", json!({"path": "/mnt/data"})),
            "host_path deleter only supports /tmp/.+ but received provided /mnt/data",
        ),
        (json!({PROVISIONED_BY: "kubernetes.io/rbd"}), policy.clone(), "no volume plugin matched name: kubernetes.io/rbd"),
    ];
    for (annotations, spec, expected) in cases {
        let VolumeStep::Reclaim(Reclaim::Failed(note)) = plan_volume(&volume(annotations, spec.clone()), None) else { panic!("{spec}") };
        assert_eq!((note.reason, note.message.as_str()), ("VolumeFailedDelete", expected));
    }
}
