//! Pods of a controller: which are its own, making them from a template, deleting them, and not being fooled by a cache
//! that lags behind.
//!
//! Source: `pkg/controller/controller_utils.go`, `controller_ref_manager.go`.

use ferrokube_client::cache::readable;
use ferrokube_client::events::{EventType, Recorder};
use ferrokube_client::{Cache, Client, DeleteOptions, Error, Index, Named, Object, Optional, Patch, Resource};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// After this time an expectation that was not met is given up (`ExpectationsTimeout`).
const GIVE_UP: Duration = Duration::from_secs(300);

/// Pods created and deleted that the cache has not shown yet, by owner UID. While there are any, the owner's pods are not
/// counted anew: a lagging cache would make twins.
#[derive(Default)]
pub(crate) struct Expectations {
    owners: Mutex<HashMap<String, Expected>>,
}

struct Expected {
    appear: HashSet<String>,
    vanish: HashSet<String>,
    since: Instant,
}

impl Expectations {
    fn with(&self, owner: &str, change: impl FnOnce(&mut Expected)) {
        let mut owners = self.owners.lock();
        let fresh = || Expected { appear: HashSet::new(), vanish: HashSet::new(), since: Instant::now() };
        let expected = owners.entry(owner.to_owned()).or_insert_with(fresh);
        expected.since = Instant::now();
        change(expected);
    }

    /// A pod of this UID will appear.
    pub fn appear(&self, owner: &str, uid: &str) {
        self.with(owner, |e| {
            e.appear.insert(uid.to_owned());
        });
    }

    /// A pod of this UID will vanish or get a deletion timestamp.
    pub fn vanish(&self, owner: &str, uid: &str) {
        self.with(owner, |e| {
            e.vanish.insert(uid.to_owned());
        });
    }

    /// The cache shows a pod.
    pub fn seen(&self, owner: &str, uid: &str, deleting: bool) {
        if let Some(expected) = self.owners.lock().get_mut(owner) {
            expected.appear.remove(uid);
            if deleting {
                expected.vanish.remove(uid);
            }
        }
    }

    /// The cache shows that a pod is gone.
    pub fn gone(&self, owner: &str, uid: &str) {
        if let Some(expected) = self.owners.lock().get_mut(owner) {
            expected.appear.remove(uid);
            expected.vanish.remove(uid);
        }
    }

    /// Whether the cache shows everything that was done.
    pub fn met(&self, owner: &str) -> bool {
        let mut owners = self.owners.lock();
        let Some(expected) = owners.get(owner) else { return true };
        let met = (expected.appear.is_empty() && expected.vanish.is_empty()) || expected.since.elapsed() > GIVE_UP;
        if met {
            owners.remove(owner);
        }
        met
    }
}

/// Pods of one kind of owner: their cache indexed by owner, and what is expected of it.
pub(crate) struct Pods {
    /// All pods.
    pub cache: Cache<Pod>,
    by_owner: Arc<Index>,
    orphans: Arc<Index>,
    expectations: Arc<Expectations>,
    decode: fn(&Object) -> Result<Pod, Error>,
    finalizer: Option<&'static str>,
}

impl Pods {
    /// Pods whose controller is of this kind; `changed` gets (namespace, name, uid) of the owner whenever one changes, and
    /// `orphaned` the namespace when a pod without an owner appears.
    pub fn new(
        cache: Cache<Pod>,
        kind: &'static str,
        changed: impl Fn(&str, &OwnerReference) + Send + Sync + 'static,
        orphaned: impl Fn(&Object) + Send + Sync + 'static,
    ) -> Self {
        let by_owner = cache.index(move |o| owner_of_kind(o, kind).map(|r| r.uid).into_iter().collect());
        let orphans = cache.index(|o| if o.controller().is_none() { vec![o.key.namespace.to_string()] } else { Vec::new() });
        let expectations = Arc::new(Expectations::default());
        let seen = expectations.clone();
        cache.on_change(move |delta| {
            let owner = owner_of_kind(delta.latest(), kind);
            let before = delta.old.and_then(|o| owner_of_kind(o, kind));
            if let Some(owner) = &owner {
                match delta.new {
                    Some(object) => seen.seen(&owner.uid, &object.uid, is_deleting(object)),
                    None => seen.gone(&owner.uid, &delta.latest().uid),
                }
                changed(&delta.key().namespace, owner);
            } else if delta.new.is_some() {
                orphaned(delta.latest());
            }
            if let Some(before) = before.filter(|b| owner.as_ref().map(|o| &o.uid) != Some(&b.uid)) {
                seen.gone(&before.uid, &delta.latest().uid);
                changed(&delta.key().namespace, &before);
            }
        });
        Pods { cache, by_owner, orphans, expectations, decode: readable, finalizer: None }
    }

    /// For a controller that only counts and ranks them; see [`crate::counted`].
    pub fn counting(self) -> Self {
        Pods { decode: crate::counted::pod, ..self }
    }

    /// For a controller whose pods have a finalizer: pods that are taken get it, and those that are let go lose it.
    pub fn held_by(self, finalizer: &'static str) -> Self {
        Pods { finalizer: Some(finalizer), ..self }
    }

    /// Whether the cache shows all that was done for this owner.
    pub fn settled(&self, owner_uid: &str) -> bool {
        self.expectations.met(owner_uid)
    }

    /// The owner's pods, decoded. One that cannot be decoded fails them all: who counts without it makes one too many.
    pub fn of(&self, owner_uid: &str) -> Result<Vec<Pod>, Error> {
        self.by_owner.get(owner_uid).iter().map(|o| (self.decode)(o)).collect()
    }

    /// Takes orphans that match the selector, and lets go of own pods that do not; returns the owner's pods.
    pub async fn claim<O: Resource>(&self, client: &Client, owner: &O, selector: &LabelSelector) -> Result<Vec<Pod>, Error> {
        self.claim_if(client, owner, selector, |_| true).await
    }

    /// As [`Pods::claim`], but takes only orphans that are accepted.
    pub async fn claim_if<O: Resource>(
        &self,
        client: &Client,
        owner: &O,
        selector: &LabelSelector,
        accept: impl Fn(&Object) -> bool,
    ) -> Result<Vec<Pod>, Error> {
        let mut own = self.of(owner.uid())?;
        if owner.meta().deletion_timestamp.is_some() {
            return Ok(own);
        }
        let strangers: Vec<Pod> = own.iter().filter(|p| !matches(selector, p.metadata.labels.as_ref())).cloned().collect();
        for pod in strangers.iter().filter(|p| p.metadata.deletion_timestamp.is_none()) {
            self.release(client, pod, owner.uid()).await?;
        }
        own.retain(|p| matches(selector, p.metadata.labels.as_ref()));
        let mut may_adopt = None;
        for object in self.orphans.get(owner.namespace()) {
            let labels: std::collections::BTreeMap<String, String> =
                object.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            if !accept(&object) || is_deleting(&object) || !matches(selector, Some(&labels)) {
                continue;
            }
            if may_adopt.is_none() {
                may_adopt = Some(is_alive(client, owner).await?);
            }
            if may_adopt == Some(false) {
                break;
            }
            let mut patch = json!({"metadata": {"uid": &*object.uid, "ownerReferences": [controller_reference(owner)]}});
            if let Some(finalizer) = self.finalizer {
                patch["metadata"]["finalizers"] = json!([finalizer]);
            }
            match client.patch::<Pod>(owner.namespace(), &object.key.name, &Patch::Strategic(patch)).await {
                Ok(pod) => own.push(pod),
                Err(e) if e.is_not_found() || e.is_conflict() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(own)
    }

    async fn release(&self, client: &Client, pod: &Pod, owner: &str) -> Result<(), Error> {
        let mut patch = json!({"metadata": {"uid": pod.uid(), "ownerReferences": [{"$patch": "delete", "uid": owner}]}});
        if let Some(finalizer) = self.finalizer {
            patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
        }
        match client.patch::<Pod>(pod.namespace(), pod.name(), &Patch::Strategic(patch)).await {
            // Another pod has the name now.
            Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Creates a pod from a template for an owner.
    pub async fn create<O: Resource>(
        &self,
        client: &Client,
        recorder: &Recorder,
        owner: &O,
        template: &PodTemplateSpec,
        change: impl FnOnce(&mut Pod),
    ) -> Result<Pod, Error> {
        let mut pod = from_template(owner, template);
        change(&mut pod);
        match client.create(&pod).await {
            Ok(made) => {
                self.expectations.appear(owner.uid(), made.uid());
                // It may have been seen before the expectation was noted.
                if self.cache.object(made.namespace(), made.name()).is_some() {
                    self.expectations.seen(owner.uid(), made.uid(), false);
                }
                recorder.about(owner, EventType::Normal, "SuccessfulCreate", format!("Created pod: {}", made.name()));
                Ok(made)
            }
            Err(e) => {
                if !e.is_namespace_terminating() {
                    recorder.about(owner, EventType::Warning, "FailedCreate", format!("Error creating: {e}"));
                }
                Err(e)
            }
        }
    }

    /// Deletes a pod of an owner.
    pub async fn delete<O: Resource>(&self, client: &Client, recorder: &Recorder, owner: &O, pod: &Pod) -> Result<(), Error> {
        self.expectations.vanish(owner.uid(), pod.uid());
        match client.delete::<Pod>(pod.namespace(), pod.name(), &DeleteOptions::of_uid(pod.uid())).await {
            Ok(()) => {
                recorder.about(owner, EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()));
                Ok(())
            }
            Err(e) => {
                self.expectations.gone(owner.uid(), pod.uid());
                if e.is_not_found() || e.is_conflict() {
                    return Ok(());
                }
                recorder.about(owner, EventType::Warning, "FailedDelete", format!("Error deleting: {e}"));
                Err(e)
            }
        }
    }
}

fn owner_of_kind(object: &Object, kind: &str) -> Option<OwnerReference> {
    let owner = object.controller().filter(|r| r.kind == kind)?;
    Some(OwnerReference { api_version: owner.api_version, kind: owner.kind, name: owner.name, uid: owner.uid, ..OwnerReference::default() })
}

/// Whether an encoded object has a deletion timestamp.
pub(crate) fn is_deleting(object: &Object) -> bool {
    #[derive(serde::Deserialize)]
    struct Metadata {
        #[serde(rename = "deletionTimestamp")]
        at: Option<String>,
    }
    object.mentions(b"\"deletionTimestamp\"") && object.metadata::<Metadata>().is_ok_and(|m| m.at.is_some())
}

/// The reference by which an owner controls.
pub(crate) fn controller_reference<O: Resource>(owner: &O) -> OwnerReference {
    OwnerReference {
        api_version: O::API_VERSION.into(),
        kind: O::KIND.into(),
        name: owner.name().into(),
        uid: owner.uid().into(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether the API server still knows the owner, and nobody deletes it. The cache of owners may lag behind that of what
/// they own: what was orphaned on purpose must not be taken back by an owner that is on its way out.
pub(crate) async fn is_alive<O: Resource>(client: &Client, owner: &O) -> Result<bool, Error> {
    let now = client.get::<O>(owner.namespace(), owner.name()).await.optional()?;
    Ok(now.is_some_and(|o| o.uid() == owner.uid() && o.meta().deletion_timestamp.is_none()))
}

/// A pod as its template and owner say; the API server picks the end of its name.
pub(crate) fn from_template<O: Resource>(owner: &O, template: &PodTemplateSpec) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    // Names are cut so that five characters fit (`generateName` does the same at the server).
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name())),
            namespace: Some(owner.namespace().into()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Whether a label selector matches; an empty one matches all.
pub(crate) fn matches(selector: &LabelSelector, labels: Option<&std::collections::BTreeMap<String, String>>) -> bool {
    let get = |key: &str| labels.and_then(|l| l.get(key));
    let equal = selector.match_labels.iter().flatten().all(|(k, v)| get(k) == Some(v));
    equal
        && selector.match_expressions.iter().flatten().all(|e| {
            let value = get(&e.key);
            let listed = || value.is_some_and(|v| e.values.iter().flatten().any(|w| w == v));
            match e.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// A condition of a pod.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// Whether a pod is Ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Whether a pod has been Ready for long enough; else, when it will be.
pub(crate) fn availability(pod: &Pod, min_ready_seconds: i32, now: jiff::Timestamp) -> Result<(), Option<Duration>> {
    let Some(ready) = condition(pod, "Ready").filter(|c| c.status == "True") else { return Err(None) };
    if min_ready_seconds <= 0 {
        return Ok(());
    }
    let Some(since) = &ready.last_transition_time else { return Err(None) };
    let left = since.0.as_second() + i64::from(min_ready_seconds) - now.as_second();
    if left <= 0 { Ok(()) } else { Err(Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))) }
}

/// `status.phase`.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// Not over and not being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !matches!(phase(pod), "Succeeded" | "Failed") && pod.metadata.deletion_timestamp.is_none()
}

/// Does things in batches of 1, 2, 4, ... so that something that cannot work fails once, not a thousand times.
/// Returns how many succeeded and the first error.
pub(crate) async fn slow_start<F, Fut>(count: usize, work: F) -> (usize, Option<Error>)
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Result<(), Error>>,
{
    let (mut done, mut batch) = (0, 1);
    while done < count {
        let size = batch.min(count - done);
        let results = futures_util::future::join_all((done..done + size).map(&work)).await;
        let ok = results.iter().filter(|r| r.is_ok()).count();
        if let Some(error) = results.into_iter().find_map(Result::err) {
            return (done + ok, Some(error));
        }
        done += size;
        batch *= 2;
    }
    (done, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: serde_json::Value) -> LabelSelector {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn selectors_match_by_labels_and_expressions() {
        let labels = [("app".to_owned(), "web".to_owned())].into();
        let cases = [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "db"}}), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "x"]}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["a"]}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}), false),
        ];
        for (json, expected) in cases {
            assert_eq!(matches(&selector(json.clone()), Some(&labels)), expected, "{json}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pods_are_not_counted_while_the_cache_lags_behind() {
        let expectations = Expectations::default();
        assert!(expectations.met("rs"));
        expectations.appear("rs", "p1");
        expectations.vanish("rs", "p2");
        assert!(!expectations.met("rs"));
        expectations.seen("rs", "p1", false);
        assert!(!expectations.met("rs"));
        expectations.gone("rs", "p2");
        assert!(expectations.met("rs"));
        expectations.appear("rs", "p3");
        tokio::time::advance(GIVE_UP + Duration::from_secs(1)).await;
        assert!(expectations.met("rs"), "an event that never comes must not block for ever");
    }
}
