//! Device taints: a pod leaves devices whose NoExecute taints its claim does not tolerate, or no longer.
//!
//! Reads pods, resource claims and resource slices; deletes pods, after noting why in their `DisruptionTarget` condition.
//! Taints of DeviceTaintRules are off in 1.36 and not read. Source: `pkg/controller/devicetainteviction`.

use crate::Context;
use crate::pods;
use crate::resource_claim::{has_claims, plan::claims_of};
use crate::taint_eviction::{LATENESS, Left, added, disrupt, due, left};
use ferrokube_client::cache::decoded;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::metrics::{Desc, Kind};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, DeleteOptions, Error, Index, Named, Object, ObjectKey, Optional};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};
use k8s_openapi::api::resource::v1::{DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice};
use parking_lot::Mutex;
use std::collections::HashSet;

/// `--concurrent-device-taint-eviction-syncs`.
const WORKERS: usize = 8;

static DELETED: Desc = Desc {
    name: "device_taint_eviction_controller_pod_deletions_total",
    help: "[ALPHA] Total number of Pods deleted by DeviceTaintEvictionController since its start.",
    kind: Kind::Counter,
    labels: &[],
};
static DELETED_AFTER: Desc = Desc {
    name: "device_taint_eviction_controller_pod_deletion_duration_seconds",
    help: "[ALPHA] Latency, in seconds, between the time when a device taint effect has been activated and a Pod's deletion via DeviceTaintEvictionController.",
    kind: Kind::Histogram(LATENESS),
    labels: &[],
};

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> = context.queue("device_taint_eviction");
    let pods: Cache<Pod> = context.caches.of();
    let claims: Cache<ResourceClaim> = context.caches.of();
    let slices: Cache<ResourceSlice> = context.caches.of();
    let by_pool = slices.index(|o| decoded::<ResourceSlice>(o).map(|s| pool(&s.spec.driver, &s.spec.pool.name)).into_iter().collect());
    let users = claims.index(|o| decoded::<ResourceClaim>(o).map(|c| pools(&c)).unwrap_or_default());
    let add = queue.clone();
    pods.on_change(move |d| {
        if d.new.is_some_and(|o| has_claims(o)) {
            add.add(d.key().clone());
        }
    });
    let add = queue.clone();
    claims.on_change(move |d| consumers(d.latest()).into_iter().for_each(|key| add.add(key)));
    let add = queue.clone();
    slices.on_change(move |d| {
        let pool = decoded::<ResourceSlice>(d.latest()).map(|s| pool(&s.spec.driver, &s.spec.pool.name));
        let claims = pool.map(|p| users.get(&p)).unwrap_or_default();
        claims.iter().flat_map(|c| consumers(c)).for_each(|key| add.add(key));
    });
    tokio::join!(pods.synced(), claims.synced(), slices.synced());
    // Pods that had a time to go; when it is taken back, people are told.
    let scheduled: Mutex<HashSet<ObjectKey>> = Mutex::default();
    let reconcile = |key: ObjectKey| {
        let (context, pods, claims, by_pool, scheduled) = (&context, &pods, &claims, &by_pool, &scheduled);
        async move {
            let Some(pod) = pods.get(&key.namespace, &key.name).filter(pods::is_active) else { return Ok(Next::Wait) };
            let tell = |message: &str| context.recorder.about(&pod, EventType::Normal, "DeviceTaintManagerEviction", message);
            match soonest(&pod, claims, by_pool, Timestamp::now()) {
                Left::Stays => {
                    if scheduled.lock().remove(&key) {
                        tell("Cancelling deletion");
                    }
                    Ok(Next::Wait)
                }
                Left::After(delay) => {
                    scheduled.lock().insert(key);
                    Ok(Next::After(delay))
                }
                Left::Now => {
                    scheduled.lock().remove(&key);
                    tell("Marking for deletion");
                    let message = "Device Taint manager: deleting due to NoExecute taint";
                    disrupt(&context.client, &pod, "DeletionByDeviceTaintManager", message, None).await?;
                    context.client.delete::<Pod>(pod.namespace(), pod.name(), &DeleteOptions::of_uid(pod.uid())).await.optional()?;
                    context.metrics.count(&DELETED, &[]);
                    let now = Timestamp::now();
                    let late = now.duration_since(since(&pod, claims, by_pool).unwrap_or(now)).as_secs_f64();
                    context.metrics.series(&DELETED_AFTER, &[]).observe(late.max(0.0));
                    Ok(Next::Wait)
                }
            }
        }
    };
    controller::run::<_, Error, _, _>("device-taint-eviction", queue, WORKERS, reconcile).await;
}

fn pool(driver: &str, pool: &str) -> String {
    format!("{driver}/{pool}")
}

fn results(claim: &ResourceClaim) -> &[DeviceRequestAllocationResult] {
    let devices = claim.status.as_ref().and_then(|s| s.allocation.as_ref()).and_then(|a| a.devices.as_ref());
    devices.and_then(|d| d.results.as_deref()).unwrap_or_default()
}

fn pools(claim: &ResourceClaim) -> Vec<String> {
    results(claim).iter().map(|r| pool(&r.driver, &r.pool)).collect()
}

/// Pods that a claim is reserved for.
fn consumers(object: &Object) -> Vec<ObjectKey> {
    let claim: Option<ResourceClaim> = decoded(object);
    let reserved = claim.and_then(|c| c.status?.reserved_for).unwrap_or_default();
    let pods = reserved.into_iter().filter(|c| c.resource == "pods");
    pods.map(|c| ObjectKey::new(&object.key.namespace, &c.name)).collect()
}

/// What a device has, and what a claim puts up with.
type Borne = (Vec<Taint>, Vec<Toleration>);

/// The taints and tolerations of each device of the pod.
fn borne(pod: &Pod, claims: &Cache<ResourceClaim>, slices: &Index) -> Vec<Borne> {
    let names = claims_of(pod).into_iter().filter_map(|(_, name)| name);
    let reserved = |c: &ResourceClaim| c.status.iter().flat_map(|s| s.reserved_for.iter().flatten()).any(|r| r.uid == pod.uid());
    let own: Vec<ResourceClaim> = names.filter_map(|name| claims.get(pod.namespace(), name)).filter(reserved).collect();
    let of = |result: &DeviceRequestAllocationResult| {
        let published: Vec<ResourceSlice> = slices.get(&pool(&result.driver, &result.pool)).iter().filter_map(|o| decoded(o)).collect();
        let taints = taints(&published, &result.device).iter().map(as_taint).collect();
        (taints, result.tolerations.iter().flatten().map(as_toleration).collect())
    };
    own.iter().flat_map(results).map(of).collect()
}

/// How long the pod may stay on its devices: as long as the least patient of its claims.
fn soonest(pod: &Pod, claims: &Cache<ResourceClaim>, slices: &Index, now: Timestamp) -> Left {
    let one = |(taints, tolerations): &Borne| left(taints, tolerations, added(taints).unwrap_or(now), now);
    borne(pod, claims, slices).iter().map(one).fold(Left::Stays, sooner)
}

/// When the pod had to go, if that is known.
fn since(pod: &Pod, claims: &Cache<ResourceClaim>, slices: &Index) -> Option<Timestamp> {
    borne(pod, claims, slices).iter().filter_map(|(taints, tolerations)| Some(due(taints, tolerations, added(taints)?))).min()
}

fn sooner(a: Left, b: Left) -> Left {
    match (a, b) {
        (Left::Now, _) | (_, Left::Now) => Left::Now,
        (Left::After(a), Left::After(b)) => Left::After(a.min(b)),
        (Left::After(a), Left::Stays) | (Left::Stays, Left::After(a)) => Left::After(a),
        (Left::Stays, Left::Stays) => Left::Stays,
    }
}

/// The taints of a device of a pool: only the newest generation of the pool counts.
fn taints(slices: &[ResourceSlice], device: &str) -> Vec<DeviceTaint> {
    let newest = slices.iter().map(|s| s.spec.pool.generation).max();
    let current = slices.iter().filter(|s| Some(s.spec.pool.generation) == newest);
    let devices = current.flat_map(|s| s.spec.devices.iter().flatten());
    devices.filter(|d| d.name == device).flat_map(|d| d.taints.iter().flatten().cloned()).collect()
}

/// Device taints and tolerations follow the rules of those of nodes.
fn as_taint(taint: &DeviceTaint) -> Taint {
    Taint { effect: taint.effect.clone(), key: taint.key.clone(), time_added: taint.time_added.clone(), value: taint.value.clone() }
}

fn as_toleration(toleration: &DeviceToleration) -> Toleration {
    Toleration {
        effect: toleration.effect.clone(),
        key: toleration.key.clone(),
        operator: toleration.operator.clone(),
        toleration_seconds: toleration.toleration_seconds,
        value: toleration.value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn the_least_patient_claim_decides() {
        let after = |s| Left::After(Duration::from_secs(s));
        let cases = [
            (Left::Stays, Left::Stays, Left::Stays),
            (Left::Stays, after(3), after(3)),
            (after(5), after(3), after(3)),
            (after(5), Left::Now, Left::Now),
        ];
        for (a, b, expected) in cases {
            assert_eq!(sooner(a, b), expected);
        }
    }

    #[test]
    fn only_the_newest_generation_of_a_pool_has_taints() {
        let slice = |generation: i64, key: &str| -> ResourceSlice {
            serde_json::from_value(
                json!({"metadata": {"name": key}, "spec": {"driver": "d", "pool": {"name": "p", "generation": generation,
                "resourceSliceCount": 1}, "devices": [{"name": "gpu", "taints": [{"key": key, "effect": "NoExecute"}]}]}}),
            )
            .unwrap()
        };
        let found = taints(&[slice(1, "old"), slice(2, "new")], "gpu");
        assert_eq!(found.iter().map(|t| t.key.as_str()).collect::<Vec<_>>(), ["new"]);
        assert!(taints(&[slice(1, "old")], "other").is_empty());
    }
}
