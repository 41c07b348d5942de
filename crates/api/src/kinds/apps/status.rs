//! What controllers may say about workloads: counters that fit each other.

use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use serde_json::Value;

const ABOVE_REPLICAS: &str = "cannot be greater than status.replicas";
const ABOVE_READY: &str = "cannot be greater than readyReplicas";

fn of(o: &Value) -> &Value {
    o.get("status").unwrap_or(&NONE)
}

/// Of deployments.
pub fn deployment(new: &Value, old: &Value, e: &mut Errors) {
    const KEYS: [&str; 7] = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
    ];
    let bounds = [
        ("updatedReplicas", "replicas", ABOVE_REPLICAS),
        ("readyReplicas", "replicas", ABOVE_REPLICAS),
        ("availableReplicas", "replicas", ABOVE_REPLICAS),
        ("availableReplicas", "readyReplicas", ABOVE_READY),
    ];
    check::counters(of(new), &KEYS, &bounds, e);
    check::non_negative(of(new), "collisionCount", &At::field("status"), e);
    check::not_decremented(of(new), of(old), "collisionCount", e);
}

/// Of replica sets and replication controllers.
pub fn replicas(new: &Value, e: &mut Errors) {
    const KEYS: [&str; 6] =
        ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration", "terminatingReplicas"];
    let bounds = [
        ("fullyLabeledReplicas", "replicas", ABOVE_REPLICAS),
        ("readyReplicas", "replicas", ABOVE_REPLICAS),
        ("availableReplicas", "replicas", ABOVE_REPLICAS),
        ("availableReplicas", "readyReplicas", ABOVE_READY),
    ];
    check::counters(of(new), &KEYS, &bounds, e);
}

/// Of daemon sets.
pub fn daemon_set(new: &Value, old: &Value, e: &mut Errors) {
    const KEYS: [&str; 9] = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    check::counters(of(new), &KEYS, &[], e);
    check::not_decremented(of(new), of(old), "collisionCount", e);
}

/// Of stateful sets.
pub fn stateful_set(new: &Value, old: &Value, e: &mut Errors) {
    const KEYS: [&str; 7] =
        ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas", "observedGeneration", "collisionCount"];
    let bounds = [
        ("readyReplicas", "replicas", ABOVE_REPLICAS),
        ("currentReplicas", "replicas", ABOVE_REPLICAS),
        ("updatedReplicas", "replicas", ABOVE_REPLICAS),
        ("availableReplicas", "replicas", ABOVE_REPLICAS),
        ("availableReplicas", "readyReplicas", "cannot be greater than status.readyReplicas"),
    ];
    check::counters(of(new), &KEYS, &bounds, e);
    check::not_decremented(of(new), of(old), "collisionCount", e);
}
