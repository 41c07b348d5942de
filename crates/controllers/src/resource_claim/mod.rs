//! Resource claims of pods (dynamic resource allocation): made from templates, reserved, released, deallocated.
//!
//! Reads pods, claims and templates; makes claims for entries of pods that name a template and says their names in
//! `status.resourceClaimStatuses`; takes consumers that are gone out of `status.reservedFor`, and with the last one the
//! allocation. Which devices a claim gets is the scheduler's decision. That a consumer is gone is asked of the API server.
//! Source: `pkg/controller/resourceclaim`.

mod measure;
pub(crate) mod plan;

use crate::Context;
use crate::finalizers;
use ferrokube_client::cache::decoded;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, DeleteOptions, Error, Index, Named, Object, ObjectKey, Optional, Patch, Resource, Target};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use parking_lot::Mutex;
use plan::{FINALIZER, claims_of, generated, is_done, is_made_for, is_pod, plan_claim};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// `--concurrent-resourceclaim-syncs`.
const WORKERS: usize = 50;
/// Field manager of the names in pods.
const MANAGER: &str = "ResourceClaimController";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Pod(ObjectKey),
    Claim(ObjectKey),
}

struct Claims {
    context: Context,
    pods: Cache<Pod>,
    claims: Cache<ResourceClaim>,
    templates: Cache<ResourceClaimTemplate>,
    /// Generated claims by the UID of their pod.
    by_owner: Arc<Index>,
    /// Claims made that the cache may not show yet, by UID of the pod and entry.
    made: Mutex<HashMap<(String, String), String>>,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<Key> = context.queue("resource_claim");
    let pods: Cache<Pod> = context.caches.of();
    let claims: Cache<ResourceClaim> = context.caches.of();
    let templates: Cache<ResourceClaimTemplate> = context.caches.of();
    let by_owner = claims.index(|o| o.controller().filter(|c| c.kind == Pod::KIND).map(|c| c.uid).into_iter().collect());
    let by_template = pods.index(template_keys);
    let by_claim = pods.index(claim_keys);
    watch_pods(&pods, &queue);
    let add = queue.clone();
    claims.on_change(move |d| {
        add.add(Key::Claim(d.key().clone()));
        let owner = d.latest().controller().filter(|o| o.kind == Pod::KIND);
        owner.iter().for_each(|o| add.add(Key::Pod(ObjectKey::new(&d.key().namespace, &o.name))));
        // A pod that was seen before its claim was allocated gets its reservation now.
        by_claim.get(&d.key().to_string()).iter().for_each(|o| add.add(Key::Pod(o.key.clone())));
    });
    let add = queue.clone();
    templates.on_change(move |d| by_template.get(&d.key().to_string()).iter().for_each(|o| add.add(Key::Pod(o.key.clone()))));
    tokio::join!(pods.synced(), claims.synced(), templates.synced());
    let running = Arc::new(());
    measure::measure(&context.metrics, &claims, &running);
    let all = Claims { context, pods, claims, templates, by_owner, made: Mutex::default() };
    let reconcile = |key: Key| {
        let all = &all;
        async move {
            match key {
                Key::Pod(key) => all.sync_pod(&key).await,
                Key::Claim(key) => all.sync_claim(&key).await,
            }
        }
    };
    controller::run::<_, Error, _, _>("resource-claim", queue, WORKERS, reconcile).await;
}

/// Most pods have no claims: they are not decoded.
pub(crate) fn has_claims(object: &Object) -> bool {
    object.mentions(b"\"resourceClaims\"") || object.mentions(b"\"extendedResourceClaimStatus\"")
}

fn template_keys(object: &Object) -> Vec<String> {
    let pod = Some(object).filter(|o| has_claims(o)).and_then(decoded::<Pod>);
    let entries = pod.and_then(|p| p.spec?.resource_claims).unwrap_or_default();
    let names = entries.into_iter().filter_map(|e| e.resource_claim_template_name);
    names.map(|name| format!("{}/{name}", object.key.namespace)).collect()
}

fn claim_keys(object: &Object) -> Vec<String> {
    let pod = Some(object).filter(|o| has_claims(o)).and_then(decoded::<Pod>);
    let names =
        |pod: &Pod| claims_of(pod).into_iter().filter_map(|(_, name)| Some(format!("{}/{}", object.key.namespace, name?))).collect();
    pod.as_ref().map(names).unwrap_or_default()
}

fn watch_pods(pods: &Cache<Pod>, queue: &Queue<Key>) {
    let add = queue.clone();
    pods.on_change(move |d| {
        let Some(pod) = Some(d.latest()).filter(|o| has_claims(o)).and_then(|o| decoded::<Pod>(o)) else { return };
        add.add(Key::Pod(d.key().clone()));
        if d.new.is_none() || is_done(&pod) {
            // The scheduler makes one for devices that were asked for as if they were amounts.
            let special = pod.status.as_ref().and_then(|s| Some(s.extended_resource_claim_status.as_ref()?.resource_claim_name.as_str()));
            let names = claims_of(&pod).into_iter().filter_map(|(_, name)| name).chain(special);
            names.for_each(|name| add.add(Key::Claim(ObjectKey::new(&d.key().namespace, name))));
        }
    });
}

impl Claims {
    async fn sync_pod(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(pod) = self.pods.read(&key.namespace, &key.name)? else {
            return Ok(Next::Wait);
        };
        if is_done(&pod) || pod.metadata.deletion_timestamp.is_some() {
            self.made.lock().retain(|(uid, _), _| uid != pod.uid());
            return Ok(Next::Wait);
        }
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let mut missing = false;
        for (entry, name) in claims_of(&pod) {
            let Some(template) = &entry.resource_claim_template_name else { continue };
            // A name that was given stays, whatever became of the claim.
            let name = match name {
                Some(name) => name.to_owned(),
                None => {
                    missing = true;
                    self.claim_for(&pod, &entry.name, template).await?
                }
            };
            names.insert(entry.name.clone(), name);
        }
        if missing {
            self.publish(&pod, &names).await?;
        }
        self.reserve(&pod).await?;
        Ok(Next::Wait)
    }

    /// The name of the claim of an entry: one that was made before, or a new one.
    async fn claim_for(&self, pod: &Pod, entry: &str, template: &str) -> Result<String, Error> {
        let known: Vec<ResourceClaim> = self.by_owner.get(pod.uid()).iter().filter_map(|o| decoded(o)).collect();
        if let Some(claim) = known.iter().find(|c| is_made_for(c, pod, entry)) {
            return Ok(claim.name().to_owned());
        }
        let key = (pod.uid().to_owned(), entry.to_owned());
        if let Some(name) = self.made.lock().get(&key) {
            return Ok(name.clone());
        }
        let made = match self.templates.get(pod.namespace(), template) {
            Some(template) => {
                let claim = generated(pod, entry, &template);
                let made = self.context.client.create(&claim).await;
                measure::created(&self.context.metrics, &claim.spec, made.is_ok());
                made
            }
            None => Err(ferrokube_client::Status::not_found("resource.k8s.io", "resourceclaimtemplates", template).into()),
        };
        match made {
            Ok(claim) => {
                self.made.lock().insert(key, claim.name().to_owned());
                Ok(claim.name().to_owned())
            }
            Err(e) => {
                let message = format!("PodResourceClaim {entry}: failed to create ResourceClaim: {e}");
                self.context.recorder.about(pod, EventType::Warning, "FailedResourceClaimCreation", message);
                Err(e)
            }
        }
    }

    async fn publish(&self, pod: &Pod, names: &BTreeMap<String, String>) -> Result<(), Error> {
        let statuses: Vec<_> = names.iter().map(|(name, claim)| json!({"name": name, "resourceClaimName": claim})).collect();
        let object = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()}, "status": {"resourceClaimStatuses": statuses}});
        let target = Target::of::<Pod>(pod.namespace(), pod.name()).sub("status");
        self.context.client.patch_target(&target, &Patch::Apply(MANAGER, object)).await.optional().map(drop)
    }

    /// Reserves what is allocated for a pod that has a node: the scheduler does it for pods that it places.
    async fn reserve(&self, pod: &Pod) -> Result<(), Error> {
        if pod.spec.as_ref().is_none_or(|s| s.node_name.as_deref().unwrap_or_default().is_empty()) {
            return Ok(());
        }
        for (entry, name) in claims_of(pod) {
            let claim = name.and_then(|n| self.claims.get(pod.namespace(), n));
            // A generated claim must be the pod's own, not one that happens to have the name.
            let usable = claim.filter(|c| entry.resource_claim_name.is_some() || plan::is_owned(c, pod));
            if let Some(changed) = usable.and_then(|c| plan::reserved(&c, pod)) {
                self.context.client.update_status(&changed).await?;
            }
        }
        Ok(())
    }

    async fn sync_claim(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(claim) = self.claims.read(&key.namespace, &key.name)? else { return Ok(Next::Wait) };
        let consumers = claim.status.as_ref().and_then(|s| s.reserved_for.clone()).unwrap_or_default();
        let mut gone: HashSet<&str> = HashSet::new();
        for consumer in consumers.iter().filter(|c| is_pod(c)) {
            if self.is_gone(&key.namespace, consumer).await? {
                gone.insert(&consumer.uid);
            }
        }
        let owner_done = self.owner_is_done(&claim);
        let steps = plan_claim(&claim, |c| !gone.contains(c.uid.as_str()), owner_done);
        let mut current = claim;
        if let Some(changed) = steps.status {
            current = self.context.client.update_status(&*changed).await?;
        }
        if steps.delete {
            let options = DeleteOptions::of_uid(current.uid());
            self.context.client.delete::<ResourceClaim>(&key.namespace, &key.name, &options).await.optional()?;
        }
        if steps.remove_finalizer {
            let Some(live) = self.context.client.get::<ResourceClaim>(&key.namespace, &key.name).await.optional()? else {
                return Ok(Next::Wait);
            };
            finalizers::remove(&self.context.client, live, FINALIZER).await?;
        }
        Ok(Next::Wait)
    }

    /// Whether a pod that holds a reservation is done or gone; gone only when the API server says so.
    async fn is_gone(&self, namespace: &str, consumer: &ResourceClaimConsumerReference) -> Result<bool, Error> {
        let is_it = |p: &Pod| p.uid() == consumer.uid;
        if let Some(pod) = self.pods.read(namespace, &consumer.name)?.filter(is_it) {
            return Ok(is_done(&pod));
        }
        let live = self.context.client.get::<Pod>(namespace, &consumer.name).await.optional()?;
        Ok(live.filter(is_it).is_none_or(|p| is_done(&p)))
    }

    /// Whether the claim was made for a pod that is there and done; for one that is gone it is garbage.
    fn owner_is_done(&self, claim: &ResourceClaim) -> bool {
        let owners = claim.metadata.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|o| o.controller == Some(true) && o.kind == Pod::KIND);
        let pod = owner.and_then(|o| self.pods.get(claim.namespace(), &o.name).filter(|p| p.uid() == o.uid));
        pod.is_some_and(|p| is_done(&p))
    }
}
