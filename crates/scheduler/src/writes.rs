//! What the scheduler writes: bindings, conditions, evictions of victims. Each is one small task; the loop never waits.

use crate::devices::{FINALIZER, Made, Release, Reservation};
use crate::state::Pod;
use crate::storage::{SELECTED_NODE, Step};
use ferrokube_api::ObjectKey;
use ferrokube_api::time::format_time;
use ferrokube_client::{Client, DeleteOptions, Error, Patch, Target};
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod as PodObject};
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at an object whose server does not answer.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Who a write is about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Namespace and name.
    pub key: Arc<ObjectKey>,
    /// UID.
    pub uid: Arc<str>,
    /// `metadata.generation`, for conditions.
    pub generation: i64,
    /// The condition PodScheduled is already False: its time of transition stays.
    pub reported: bool,
    /// The number of its profile.
    pub profile: u16,
}

impl Subject {
    /// Of a pod.
    pub fn of(pod: &Pod) -> Self {
        Subject {
            key: pod.key.clone(),
            uid: pod.uid.clone(),
            generation: pod.generation,
            reported: pod.reported,
            profile: pod.profile.unwrap_or(0),
        }
    }

    /// For events.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(self.key.name.to_string()),
            namespace: Some(self.key.namespace.to_string()),
            uid: Some(self.uid.to_string()),
            ..ObjectReference::default()
        }
    }

    fn target(&self) -> Target {
        Target::of::<PodObject>(&self.key.namespace, &self.key.name)
    }
}

/// Binds a pod to a node. An error means that it is not bound there.
pub async fn bind(client: &Client, pod: &Subject, node: &str) -> Result<(), Error> {
    let body = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": *pod.key.name, "namespace": *pod.key.namespace, "uid": *pod.uid},
        "target": {"kind": "Node", "name": node},
    });
    let Err(error) = client.request(Method::POST, &pod.target().sub("binding"), "", Some(&body)).await else { return Ok(()) };
    if !is_uncertain(&error) {
        return Err(error);
    }
    // Whoever takes the room of a pod that is bound after all overfills the node, so this must be known.
    let there = as_it_is(client, &pod.target()).await?;
    let bound = there["metadata"]["uid"] == *pod.uid && there["spec"]["nodeName"] == node;
    if bound { Ok(()) } else { Err(error) }
}

/// Whether a write may have happened although it failed.
fn is_uncertain(error: &Error) -> bool {
    error.status().is_none_or(|status| status.code >= 500)
}

/// An object as the server has it, however long it takes until the server says.
async fn as_it_is(client: &Client, target: &Target) -> Result<Value, Error> {
    let mut pause = FIRST_PAUSE;
    loop {
        match client.request(Method::GET, target, "", None).await {
            Err(error) if is_uncertain(&error) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            answer => return answer,
        }
    }
}

/// Everything that must be written before a pod can be bound, one after the other.
pub async fn prepare_all(client: &Client, steps: &[Step], reservations: &[Reservation]) -> Result<(), Error> {
    for step in steps {
        prepare(client, step).await?;
    }
    for reservation in reservations {
        match &reservation.made_from {
            None => reserve(client, reservation).await?,
            Some(made) => reserve(client, &make(client, reservation, made).await?).await?,
        }
    }
    Ok(())
}

/// Makes the claim of a reservation, and tells the pod which it is. What is left of an attempt that fails later is taken away
/// when the pod is looked at again.
async fn make(client: &Client, reservation: &Reservation, made: &Made) -> Result<Reservation, Error> {
    let namespace = &reservation.claim.namespace;
    let answer = client.request(Method::POST, &Target::of::<ResourceClaim>(namespace, ""), "", Some(&made.object)).await?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let name = text(&answer["metadata"]["name"]);
    let status = json!({"extendedResourceClaimStatus": {"resourceClaimName": name, "requestMappings": made.mappings}});
    let uid = &reservation.reserved_for.last().map_or(Value::Null, |r| r["uid"].clone());
    let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status}));
    client.patch_target(&Target::of::<PodObject>(namespace, &made.pod).sub("status"), &patch).await?;
    let revision = text(&answer["metadata"]["resourceVersion"]).parse().unwrap_or(0);
    let mut known = reservation.clone();
    (known.claim, known.revision, known.made_from) = (ObjectKey::new(namespace, &name), revision, None);
    Ok(known)
}

/// Writes an allocation and its consumers into a claim that has not changed since it was decided.
async fn reserve(client: &Client, reservation: &Reservation) -> Result<(), Error> {
    let Err(error) = try_reserve(client, reservation).await else { return Ok(()) };
    if !is_uncertain(&error) {
        return Err(error);
    }
    let target = Target::of::<ResourceClaim>(&reservation.claim.namespace, &reservation.claim.name);
    let there = as_it_is(client, &target).await?;
    let consumers = there["status"]["reservedFor"].as_array().map_or(&[][..], Vec::as_slice);
    let reserved = reservation.reserved_for.iter().all(|own| consumers.iter().any(|c| c["uid"] == own["uid"]));
    if reserved && (reservation.allocation.is_none() || there["status"]["allocation"].is_object()) { Ok(()) } else { Err(error) }
}

async fn try_reserve(client: &Client, reservation: &Reservation) -> Result<(), Error> {
    let target = Target::of::<ResourceClaim>(&reservation.claim.namespace, &reservation.claim.name);
    let mut revision = reservation.revision.to_string();
    if let Some(finalizers) = &reservation.finalizers {
        // First the finalizer: a claim that is allocated never goes without being released.
        let patch = json!({"metadata": {"resourceVersion": revision, "finalizers": finalizers}});
        let answer = client.patch_target(&target, &Patch::Merge(patch)).await?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|source| Error::Decode { what: "ResourceClaim", source })?;
        revision = answer["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    }
    let mut status = json!({"reservedFor": reservation.reserved_for});
    if let Some(allocation) = &reservation.allocation {
        status["allocation"] = allocation.clone();
        // From now on drivers have so much time to make the devices ready.
        status["allocation"]["allocationTimestamp"] = format_time(Timestamp::now()).into();
    }
    let patch = Patch::Merge(json!({"metadata": {"resourceVersion": revision}, "status": status}));
    client.patch_target(&target.sub("status"), &patch).await.map(drop)
}

/// Takes the devices of a claim back that has not changed since that was decided.
pub async fn release(client: &Client, release: &Release) -> Result<(), Error> {
    if release.delete {
        return remove(client, release).await;
    }
    let target = Target::of::<ResourceClaim>(&release.claim.namespace, &release.claim.name).sub("status");
    let status = json!({"allocation": null, "reservedFor": null, "devices": null});
    let patch = Patch::Merge(json!({"metadata": {"resourceVersion": release.revision.to_string()}, "status": status}));
    client.patch_target(&target, &patch).await.map(drop)
}

/// Takes a claim away that was made for one pod alone.
async fn remove(client: &Client, release: &Release) -> Result<(), Error> {
    let target = Target::of::<ResourceClaim>(&release.claim.namespace, &release.claim.name);
    let status = json!({"allocation": null, "reservedFor": null, "devices": null});
    client.patch_target(&target.clone().sub("status"), &Patch::Merge(json!({"status": status}))).await?;
    let unprotected = Patch::Strategic(json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}}));
    client.patch_target(&target, &unprotected).await?;
    client.delete::<ResourceClaim>(&release.claim.namespace, &release.claim.name, &DeleteOptions::default()).await
}

/// Takes a pod off the consumers of a claim.
pub async fn unreserve(client: &Client, claim: &ObjectKey, pod: &Subject) -> Result<(), Error> {
    let target = Target::of::<ResourceClaim>(&claim.namespace, &claim.name).sub("status");
    let patch = Patch::Strategic(json!({"status": {"reservedFor": [{"$patch": "delete", "uid": *pod.uid}]}}));
    client.patch_target(&target, &patch).await.map(drop)
}

/// Tells a volume about its claim, or a claim about its node, so that others bind them to each other.
async fn prepare(client: &Client, step: &Step) -> Result<(), Error> {
    match step {
        Step::Bind { volume, revision, claim, uid } => {
            let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": *claim.namespace, "name": *claim.name, "uid": uid});
            let meta = json!({"resourceVersion": revision.to_string(), "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}});
            let patch = json!({"metadata": meta, "spec": {"claimRef": reference}});
            client.patch_target(&Target::of::<PersistentVolume>("", volume), &Patch::Merge(patch)).await.map(drop)
        }
        Step::Provision { claim, node } => {
            let target = Target::of::<PersistentVolumeClaim>(&claim.namespace, &claim.name);
            let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
            client.patch_target(&target, &Patch::Merge(patch)).await.map(drop)
        }
    }
}

/// The condition PodScheduled=False, and the node that room is made on, if any.
pub async fn report(client: &Client, pod: &Subject, reason: &str, message: &str, nominated: Option<&str>) -> Result<(), Error> {
    let mut condition = json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message});
    if !pod.reported {
        condition["lastProbeTime"] = Value::Null;
        condition["lastTransitionTime"] = format_time(Timestamp::now()).into();
    }
    let mut status = json!({"conditions": [with_generation(condition, pod.generation)]});
    if let Some(node) = nominated {
        status["nominatedNodeName"] = node.into();
    }
    patch_status(client, pod, status).await
}

/// Says where a pod is about to be, for those who add and remove nodes: it may take a while until it is bound.
pub async fn nominate(client: &Client, pod: &Subject, node: &str) -> Result<(), Error> {
    patch_status(client, pod, json!({"nominatedNodeName": node})).await
}

/// Takes the nomination of a pod back.
pub async fn clear_nomination(client: &Client, pod: &Subject) -> Result<(), Error> {
    patch_status(client, pod, json!({"nominatedNodeName": null})).await
}

/// Removes a pod to make room.
pub async fn evict(client: &Client, victim: &Subject, scheduler: &str) -> Result<(), Error> {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "lastProbeTime": null, "lastTransitionTime": format_time(Timestamp::now()),
    });
    patch_status(client, victim, json!({"conditions": [with_generation(condition, victim.generation)]})).await?;
    client.delete_target(&victim.target(), &DeleteOptions::of_uid(&victim.uid)).await
}

fn with_generation(mut condition: Value, generation: i64) -> Value {
    if generation > 0 {
        condition["observedGeneration"] = generation.into();
    }
    condition
}

/// The UID in the patch keeps it from touching another pod of the same name.
async fn patch_status(client: &Client, pod: &Subject, status: Value) -> Result<(), Error> {
    let patch = Patch::Strategic(json!({"metadata": {"uid": *pod.uid}, "status": status}));
    client.patch_target(&pod.target().sub("status"), &patch).await.map(drop)
}
