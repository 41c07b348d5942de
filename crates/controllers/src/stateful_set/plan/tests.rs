//! The steps as tables: what is there, and what is done about it.

use super::*;
use serde_json::{Value, json};

fn set(replicas: i32, more: Value) -> StatefulSet {
    let mut spec = json!({"replicas": replicas, "selector": {}, "template": {}, "serviceName": "s"});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "a", "uid": "s"}, "spec": spec})).unwrap()
}

fn pod(at: i32, revision: &str, ready: bool) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": format!("db-{at}"), "namespace": "a", "uid": format!("db-{at}"),
            "labels": {HASH: revision, "statefulset.kubernetes.io/pod-name": format!("db-{at}"), "apps.kubernetes.io/pod-index": at.to_string()}},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    }))
    .unwrap()
}

fn shown(set: &StatefulSet, pods: &[Pod]) -> Vec<String> {
    shown_with(set, pods, &|_| None)
}

fn shown_with(set: &StatefulSet, pods: &[Pod], claim: &(dyn Fn(&str) -> Option<PersistentVolumeClaim> + Sync)) -> Vec<String> {
    let view = View { set, pods, current: "old", update: "new", claim, now: "2026-01-01T00:00:00Z".parse().unwrap() };
    let show = |s: &Step| match s {
        Step::Create { ordinal, updated } => format!("+{ordinal}{}", if *updated { "" } else { " old" }),
        Step::Claim { ordinal } => format!("claims {ordinal}"),
        Step::Relabel(pod) => format!("label {}", pod.name()),
        Step::Own(claim, owners) => {
            format!("{} of {}", claim.name(), owners.references.iter().map(|r| r.name.clone()).collect::<Vec<_>>().join(","))
        }
        Step::Delete(pod) => format!("-{}", pod.name()),
    };
    steps(&view).iter().map(show).collect()
}

#[test]
fn pods_come_and_go_one_after_the_other() {
    let cases = [
        (set(2, json!({})), vec![], vec!["+0"]),
        (set(2, json!({})), vec![pod(0, "new", false)], vec![]),
        (set(2, json!({})), vec![pod(0, "new", true)], vec!["+1"]),
        (set(1, json!({})), vec![pod(0, "new", true), pod(1, "new", true), pod(2, "new", true)], vec!["-db-2"]),
        (set(3, json!({"podManagementPolicy": "Parallel"})), vec![pod(0, "new", false)], vec!["+1", "+2"]),
        (set(2, json!({"ordinals": {"start": 5}})), vec![pod(5, "new", true)], vec!["+6"]),
    ];
    for (set, pods, expected) in cases {
        assert_eq!(shown(&set, &pods), expected);
    }
}

#[test]
fn an_update_replaces_from_the_top_down_to_the_partition() {
    let old = |n| pod(n, "old", true);
    let rolling = |rules: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rules}});
    let cases = [
        (json!({}), vec![old(0), old(1), old(2)], vec!["-db-2"]),
        (json!({}), vec![old(0), old(1), pod(2, "new", false)], vec![]),
        (json!({}), vec![old(0), old(1), pod(2, "new", true)], vec!["-db-1"]),
        (
            json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}),
            vec![old(0), old(1), pod(2, "new", true)],
            vec![],
        ),
        (json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}), vec![], vec!["+0 old"]),
        (json!({"updateStrategy": {"type": "OnDelete"}}), vec![old(0), old(1), old(2)], vec![]),
        // Upstream waits here for somebody to delete the pod.
        (json!({}), vec![old(0), old(1), pod(2, "old", false)], vec![]),
        (json!({"podManagementPolicy": "Parallel"}), vec![old(0), old(1), pod(2, "old", false)], vec!["-db-2"]),
        (json!({"podManagementPolicy": "Parallel"}), vec![pod(0, "old", false), old(1), old(2)], vec!["-db-2"]),
        (rolling(json!({"maxUnavailable": 2})), vec![old(0), old(1), old(2)], vec!["-db-2", "-db-1"]),
        (rolling(json!({"maxUnavailable": "70%"})), vec![old(0), old(1), old(2)], vec!["-db-2", "-db-1"]),
        (rolling(json!({"maxUnavailable": 2, "partition": 2})), vec![old(0), old(1), old(2)], vec!["-db-2"]),
        (rolling(json!({"maxUnavailable": "10%"})), vec![old(0), old(1), old(2)], vec!["-db-2"]),
    ];
    for (more, pods, expected) in cases {
        assert_eq!(shown(&set(3, more.clone()), &pods), expected, "{more}");
    }
}

#[test]
fn an_update_that_has_reached_every_pod_becomes_the_current_revision() {
    let rolling = |partition: i32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}});
    let both = [pod(0, "new", true), pod(1, "new", true)];
    let half = [pod(0, "old", true), pod(1, "new", true)];
    let cases = [
        (set(2, json!({})), &both[..], "new"),
        // Set when the update had passed it already: a pod below it must not fall back.
        (set(2, rolling(1)), &both[..], "new"),
        (set(2, rolling(1)), &half[..], "old"),
        (set(3, rolling(0)), &both[..], "old"),
        (set(2, json!({"updateStrategy": {"type": "OnDelete"}})), &both[..], "old"),
    ];
    for (set, pods, expected) in cases {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let (status, _) = status(&View { set: &set, pods, current: "old", update: "new", claim: &|_| None, now });
        let updated = i32::try_from(pods.iter().filter(|p| revision(p) == "new").count()).unwrap();
        let current = if expected == "new" { Some(updated) } else { some(i32::try_from(pods.len()).unwrap() - updated) };
        assert_eq!((status.current_revision.as_deref(), status.current_replicas), (Some(expected), current), "{:?}", set.spec);
        assert_eq!(status.updated_replicas, Some(updated));
    }
}

#[test]
fn a_pod_that_is_over_is_made_again_and_one_that_ends_is_waited_for() {
    let set = set(2, json!({}));
    let over = |phase: &str| {
        let mut pod = pod(0, "new", false);
        pod.status.as_mut().unwrap().phase = Some(phase.into());
        pod
    };
    assert_eq!(shown(&set, &[over("Failed")]), ["-db-0"]);
    assert_eq!(shown(&set, &[over("Succeeded")]), ["-db-0"]);
    let mut going = over("Failed");
    going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert!(shown(&set, &[going]).is_empty());
}

#[test]
fn pods_that_are_too_many_wait_for_the_lowest_ill_one_unless_nothing_is_left_to_get_well() {
    let (well, ill) = (|at| pod(at, "new", true), |at| pod(at, "new", false));
    let over = |at, phase: &str| {
        let mut pod = ill(at);
        pod.status.as_mut().unwrap().phase = Some(phase.into());
        pod
    };
    let cases = [
        (0, vec![well(0), ill(1)], vec!["-db-1"]),
        (0, vec![ill(0), well(1)], vec!["-db-1"]),
        (0, vec![ill(0), ill(1)], vec![]),
        (0, vec![over(0, "Failed"), ill(1)], vec![]),
        (0, vec![ill(0), over(1, "Failed")], vec![]),
        // Upstream waits here for ever: nobody makes them anew.
        (0, vec![over(0, "Failed"), over(1, "Failed")], vec!["-db-1"]),
        (0, vec![over(0, "Failed"), well(1), over(2, "Succeeded")], vec!["-db-2"]),
        (0, vec![over(0, "Failed"), ill(1), over(2, "Failed")], vec![]),
        // One that is wanted is made anew first.
        (1, vec![over(0, "Failed"), over(1, "Failed"), over(2, "Failed")], vec!["-db-0"]),
        (1, vec![ill(0), over(1, "Failed"), over(2, "Failed")], vec![]),
        (1, vec![well(0), over(1, "Failed"), over(2, "Failed")], vec!["-db-2"]),
    ];
    for (replicas, pods, expected) in cases {
        let there: Vec<_> = pods.iter().map(|p| (p.name(), pods::phase(p), is_ready(p))).collect();
        assert_eq!(shown(&set(replicas, json!({})), &pods), expected, "{there:?}");
    }
}

#[test]
fn a_pod_that_was_taken_over_gets_the_labels_of_its_place() {
    let mut taken = pod(0, "new", true);
    taken.metadata.labels.as_mut().unwrap().remove("apps.kubernetes.io/pod-index");
    assert_eq!(shown(&set(1, json!({})), &[taken]), ["label db-0"]);
}

#[test]
fn claims_are_made_kept_and_handed_over_as_the_policy_says() {
    let more = |deleted: &str, scaled: &str| {
        json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}})
    };
    let claim =
        |owners: Value| move |name: &str| serde_json::from_value(json!({"metadata": {"name": name, "ownerReferences": owners}})).unwrap();
    let two = [pod(0, "new", true), pod(1, "new", true)];
    let free = claim(json!([]));
    assert_eq!(shown_with(&set(1, more("Retain", "Retain")), &two, &free), ["-db-1"]);
    assert_eq!(shown_with(&set(1, more("Retain", "Delete")), &two, &free), ["data-db-1 of db-1", "-db-1"], "before its pod goes");
    assert_eq!(shown_with(&set(2, more("Delete", "Retain")), &two, &free), ["data-db-0 of db", "data-db-1 of db"]);
    let stale = claim(json!([{"apiVersion": "v1", "kind": "Pod", "name": "db-1", "uid": "gone", "controller": true}]));
    assert!(shown_with(&set(2, more("Retain", "Delete")), &two[..1], &stale).is_empty(), "the new pod waits until the old claim is gone");
    let mut pending = pod(0, "new", false);
    pending.status.as_mut().unwrap().phase = Some("Pending".into());
    assert_eq!(shown_with(&set(1, more("Retain", "Retain")), &[pending], &|_| None), ["claims 0"]);
}
