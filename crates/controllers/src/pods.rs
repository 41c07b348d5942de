//! Pods of a controller: which are its own, making them from a template, deleting them, and not being fooled by a cache
//! that lags behind.
//!
//! Source: `pkg/controller/controller_utils.go`, `controller_ref_manager.go`.

use crate::consistency::Written;
use crate::selectors::Selectors;
use ferrokube_client::cache::readable;
use ferrokube_client::events::{EventType, Recorder};
use ferrokube_client::metrics::{Desc, Metrics};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Client, DeleteOptions, Delta, Error, Named, Object, ObjectKey, Optional, Patch, Resource};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
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

    /// How long to wait at most for the cache to show everything that was done; `None` when it does. A pod that came and went while
    /// nobody watched is never shown.
    pub fn unmet(&self, owner: &str) -> Option<Duration> {
        let mut owners = self.owners.lock();
        let expected = owners.get(owner)?;
        let met = expected.appear.is_empty() && expected.vanish.is_empty();
        let left = GIVE_UP.checked_sub(expected.since.elapsed()).filter(|left| !met && !left.is_zero());
        if left.is_none() {
            owners.remove(owner);
        }
        left
    }
}

/// How a controller sees a pod: all of it, or what it counts by.
pub(crate) trait View: Sized {
    /// What is kept of each pod that has an owner.
    type Kept: Clone + Send + Sync + 'static;
    /// Called for each change of the pod, under the cache's lock.
    fn keep(object: &Arc<Object>) -> Self::Kept;
    /// The pod, or that it makes no sense.
    fn see(kept: &Self::Kept) -> Result<Self, Error>;
    /// A pod that was given an owner, before the cache shows it.
    fn adopted(before: &Arc<Object>, now: Pod) -> Self;
    /// Namespace, name and UID.
    fn identity(&self) -> (&str, &str, &str);
    /// Whether its labels match.
    fn is_selected(&self, selector: &LabelSelector) -> bool;
    /// Whether it has a deletion timestamp.
    fn is_deleting(&self) -> bool;
}

impl View for Pod {
    type Kept = Arc<Object>;

    fn keep(object: &Arc<Object>) -> Arc<Object> {
        object.clone()
    }

    fn see(kept: &Arc<Object>) -> Result<Self, Error> {
        readable(kept)
    }

    fn adopted(_: &Arc<Object>, now: Pod) -> Self {
        now
    }

    fn identity(&self) -> (&str, &str, &str) {
        (self.namespace(), self.name(), self.uid())
    }

    fn is_selected(&self, selector: &LabelSelector) -> bool {
        matches(selector, self.metadata.labels.as_ref())
    }

    fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

/// Pods by the UID of their owner, in the order of their names.
type ByOwner<K> = RwLock<HashMap<Box<str>, BTreeMap<Arc<str>, K>>>;

/// Pods of one kind of owner, by owner, and what is expected of the cache.
pub(crate) struct Pods<V: View = Pod> {
    /// All pods.
    pub cache: Cache<Pod>,
    by_owner: Arc<ByOwner<V::Kept>>,
    orphans: Arc<ferrokube_client::Index>,
    expectations: Arc<Expectations>,
    finalizer: Option<&'static str>,
    written: Option<Written>,
}

impl<V: View> Pods<V> {
    /// Pods whose controller is of the owners' kind. An owner is put into the queue whenever one of its pods changes, and
    /// when a pod without an owner appears that it selects.
    pub fn new<R: Resource>(
        cache: Cache<Pod>,
        owners: &Cache<R>,
        selector: impl Fn(R) -> Option<LabelSelector> + Send + Sync + 'static,
        queue: &Queue<ObjectKey>,
    ) -> Self {
        let orphans = cache.index(|o| if o.controller().is_none() { vec![o.key.namespace.to_string()] } else { Vec::new() });
        let (by_owner, expectations) = (Arc::<ByOwner<V::Kept>>::default(), Arc::new(Expectations::default()));
        let (kept, seen, add, selectors) = (by_owner.clone(), expectations.clone(), queue.clone(), Selectors::of(owners, selector));
        cache.on_change(move |delta| {
            let owner = owner_of_kind(delta.latest(), R::KIND);
            let before = delta.old.and_then(|o| owner_of_kind(o, R::KIND));
            let before = before.filter(|b| owner.as_ref().is_none_or(|o| o.uid != b.uid));
            keep::<V>(&kept, delta, owner.as_ref(), before.as_ref());
            if let Some(owner) = &owner {
                match delta.new {
                    Some(object) => seen.seen(&owner.uid, &object.uid, is_deleting(object)),
                    None => seen.gone(&owner.uid, &delta.latest().uid),
                }
                add.add(ObjectKey::new(&delta.key().namespace, &owner.name));
            } else if let Some(object) = delta.new.filter(|o| o.controller().is_none()) {
                selectors.matching(object).into_iter().for_each(|key| add.add(key));
            }
            if let Some(before) = before {
                seen.gone(&before.uid, &delta.latest().uid);
                add.add(ObjectKey::new(&delta.key().namespace, &before.name));
            }
        });
        Pods { cache, by_owner, orphans, expectations, finalizer: None, written: None }
    }

    /// For a controller whose pods have a finalizer: pods that are taken get it, and those that are let go lose it.
    pub fn held_by(self, finalizer: &'static str) -> Self {
        Pods { finalizer: Some(finalizer), ..self }
    }

    /// For a controller that leaves an owner alone until the caches show what it wrote for it; `skips` counts how often.
    pub fn consistent<R: Resource>(self, metrics: &Metrics, skips: &'static Desc, owners: &Cache<R>) -> Self {
        let written = Written::new(metrics, skips, owners, &self.cache);
        Pods { written: Some(written), ..self }
    }

    /// When to look at an owner again, because the caches do not show yet what was written for it.
    pub fn is_behind(&self, owner_uid: &str) -> Option<Duration> {
        self.written.as_ref()?.is_behind(owner_uid)
    }

    /// When to look at an owner again after writing for it, whether or not an event comes.
    pub fn awaited(&self, owner_uid: &str) -> Option<Duration> {
        self.written.as_ref()?.awaited(owner_uid)
    }

    /// Notes what a write of a pod of an owner, or of the owner itself, answered.
    pub fn wrote<R: Resource>(&self, owner_uid: &str, object: &R) {
        self.written.iter().for_each(|w| w.wrote(owner_uid, object));
    }

    /// `None` when the cache shows all that was done for this owner; otherwise the time after which it is no longer waited for,
    /// which nothing else may announce.
    pub fn unsettled(&self, owner_uid: &str) -> Option<Duration> {
        self.expectations.unmet(owner_uid)
    }

    /// The owner's pods. One that makes no sense fails them all: who counts without it makes one too many.
    pub fn of(&self, owner_uid: &str) -> Result<Vec<V>, Error> {
        let kept = self.cache.steadily(|| self.kept(owner_uid));
        kept.iter().map(V::see).collect()
    }

    fn kept(&self, owner_uid: &str) -> Vec<V::Kept> {
        self.by_owner.read().get(owner_uid).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// Takes orphans that match the selector, and lets go of own pods that do not; returns the owner's pods.
    pub async fn claim<O: Resource>(&self, client: &Client, owner: &O, selector: &LabelSelector) -> Result<Vec<V>, Error> {
        self.claim_if(client, owner, selector, |_| true).await
    }

    /// As [`Pods::claim`], but takes only orphans that are accepted.
    pub async fn claim_if<O: Resource>(
        &self,
        client: &Client,
        owner: &O,
        selector: &LabelSelector,
        accept: impl Fn(&Object) -> bool,
    ) -> Result<Vec<V>, Error> {
        // Of one moment: one pod too few would be made anew, one counted twice would be deleted.
        let (kept, orphans) = self.cache.steadily(|| (self.kept(owner.uid()), self.orphans.get(owner.namespace())));
        let mut own = kept.iter().map(V::see).collect::<Result<Vec<V>, _>>()?;
        if owner.meta().deletion_timestamp.is_some() {
            return Ok(own);
        }
        for pod in own.iter().filter(|p| !p.is_deleting() && !p.is_selected(selector)) {
            self.release(client, pod, owner.uid()).await?;
        }
        own.retain(|p| p.is_selected(selector));
        let mut may_adopt = None;
        for object in orphans {
            if !accept(&object) || !selects(selector, &object) || is_deleting(&object) {
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
                Ok(pod) => {
                    self.wrote(owner.uid(), &pod);
                    own.push(V::adopted(&object, pod));
                }
                Err(e) if e.is_not_found() => {}
                // Somebody else wrote it, or another pod has the name by now: who went on without it would make one too many.
                Err(e) => return Err(e),
            }
        }
        Ok(own)
    }

    async fn release(&self, client: &Client, pod: &V, owner: &str) -> Result<(), Error> {
        let (namespace, name, uid) = pod.identity();
        let mut patch = json!({"metadata": {"uid": uid, "ownerReferences": [{"$patch": "delete", "uid": owner}]}});
        if let Some(finalizer) = self.finalizer {
            patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
        }
        match client.patch::<Pod>(namespace, name, &Patch::Strategic(patch)).await {
            // Another pod has the name now.
            Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
            other => other.map(|pod| self.wrote(owner, &pod)),
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
                self.wrote(owner.uid(), &made);
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
    pub async fn delete<O: Resource>(&self, client: &Client, recorder: &Recorder, owner: &O, pod: &V) -> Result<(), Error> {
        let (namespace, name, uid) = pod.identity();
        self.expectations.vanish(owner.uid(), uid);
        match client.delete::<Pod>(namespace, name, &DeleteOptions::of_uid(uid)).await {
            Ok(()) => {
                recorder.about(owner, EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            Err(e) => {
                self.expectations.gone(owner.uid(), uid);
                if e.is_not_found() || e.is_conflict() {
                    return Ok(());
                }
                recorder.about(owner, EventType::Warning, "FailedDelete", format!("Error deleting: {e}"));
                Err(e)
            }
        }
    }
}

/// Notes what a change says of the owners' pods.
fn keep<V: View>(all: &ByOwner<V::Kept>, delta: Delta<'_>, owner: Option<&OwnerReference>, before: Option<&OwnerReference>) {
    if owner.is_none() && before.is_none() {
        return;
    }
    let name = &delta.key().name;
    let mut all = all.write();
    let mut forget = |owner: &OwnerReference| {
        if let Some(pods) = all.get_mut(owner.uid.as_str()) {
            pods.remove(name);
            if pods.is_empty() {
                all.remove(owner.uid.as_str());
            }
        }
    };
    before.iter().for_each(|b| forget(b));
    match (owner, delta.new) {
        (Some(owner), Some(object)) => {
            all.entry(owner.uid.as_str().into()).or_default().insert(name.clone(), V::keep(object));
        }
        (Some(owner), None) => forget(owner),
        (None, _) => {}
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
pub(crate) fn matches(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    matches_by(selector, |key| labels.and_then(|l| l.get(key)).map(String::as_str))
}

/// Whether a label selector matches an encoded object.
pub(crate) fn selects(selector: &LabelSelector, object: &Object) -> bool {
    matches_by(selector, |key| object.label(key))
}

fn matches_by<'l>(selector: &LabelSelector, get: impl Fn(&str) -> Option<&'l str>) -> bool {
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
    let ready = condition(pod, "Ready");
    let since = ready.and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0);
    available(ready.is_some_and(|c| c.status == "True"), since, min_ready_seconds, now)
}

/// The same of one that is Ready, or not, since then.
pub(crate) fn available(
    ready: bool,
    since: Option<jiff::Timestamp>,
    min_ready_seconds: i32,
    now: jiff::Timestamp,
) -> Result<(), Option<Duration>> {
    if !ready {
        return Err(None);
    }
    if min_ready_seconds <= 0 {
        return Ok(());
    }
    let Some(since) = since else { return Err(None) };
    let left = since.as_second() + i64::from(min_ready_seconds) - now.as_second();
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
        assert_eq!(expectations.unmet("rs"), None);
        expectations.appear("rs", "p1");
        expectations.vanish("rs", "p2");
        assert_eq!(expectations.unmet("rs"), Some(GIVE_UP));
        expectations.seen("rs", "p1", false);
        assert_eq!(expectations.unmet("rs"), Some(GIVE_UP));
        expectations.gone("rs", "p2");
        assert_eq!(expectations.unmet("rs"), None);
        expectations.appear("rs", "p3");
        tokio::time::advance(GIVE_UP + Duration::from_secs(1)).await;
        assert_eq!(expectations.unmet("rs"), None, "an event that never comes must not block for ever");
    }
}
