//! History of templates as ControllerRevisions, for daemon sets and stateful sets.
//!
//! Source: `pkg/controller/history`, `pkg/controller/daemon/update.go`.

use crate::deployment::template_hash;
use crate::pods::{controller_reference, is_alive, is_deleting, matches};
use ferrokube_client::cache::decoded;
use ferrokube_client::{Cache, Client, DeleteOptions, Error, Index, Named, Optional, Patch, Resource};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Label of revisions and pods with the hash of their template.
pub(crate) const HASH: &str = "controller-revision-hash";

/// Label of the revisions of stateful sets, whose pods are labelled with the name of their revision.
pub(crate) const NAMED_HASH: &str = "controller.kubernetes.io/hash";

/// The revisions of one kind of owner.
pub(crate) struct Revisions {
    cache: Cache<ControllerRevision>,
    by_owner: Arc<Index>,
    orphans: Arc<Index>,
    label: &'static str,
}

/// Whose history it is.
pub(crate) struct Of<'a, O> {
    /// The owner.
    pub owner: &'a O,
    /// Its present template.
    pub template: &'a PodTemplateSpec,
    /// Its pods, and revisions.
    pub selector: &'a LabelSelector,
    /// `status.collisionCount`.
    pub collisions: i32,
}

/// The revisions of one owner.
#[derive(Debug)]
pub(crate) struct History {
    /// That of the present template.
    pub current: ControllerRevision,
    /// All others, the oldest first.
    pub old: Vec<ControllerRevision>,
}

/// Why there is no history now.
pub(crate) enum Stop {
    /// Another template has the same name: count it and try again.
    Collision,
    /// A request failed.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Stop::Failed(e)
    }
}

/// What `kubectl rollout undo` patches with to get this template back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template that a revision holds.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut value = revision.data.as_ref()?.0["spec"]["template"].clone();
    value.as_object_mut()?.remove("$patch");
    serde_json::from_value(value).ok()
}

/// The hash of a revision.
pub(crate) fn hash(revision: &ControllerRevision) -> &str {
    revision.metadata.labels.as_ref().and_then(|l| l.get(HASH)).map_or("", String::as_str)
}

impl Revisions {
    /// Revisions whose controller has this kind; `label` shows their hash.
    pub fn new(cache: Cache<ControllerRevision>, kind: &'static str, label: &'static str) -> Self {
        let by_owner = cache.index(move |o| o.controller().filter(|r| r.kind == kind).map(|r| r.uid).into_iter().collect());
        let orphans = cache.index(|o| if o.controller().is_none() { vec![o.key.namespace.to_string()] } else { Vec::new() });
        Revisions { cache, by_owner, orphans, label }
    }

    /// Until all were listed once.
    pub async fn synced(&self) {
        self.cache.synced().await;
    }

    /// The owner's history; the revision of the present template is made, or made the newest, when it is not.
    pub async fn history<O: Resource>(&self, client: &Client, of: &Of<'_, O>) -> Result<History, Stop> {
        let mut all: Vec<ControllerRevision> = self.by_owner.get(of.owner.uid()).iter().filter_map(|o| decoded(o)).collect();
        all.extend(self.adopted(client, of).await?);
        all.sort_by_key(|r| r.revision);
        let wanted = data(of.template);
        let newest = all.last().map_or(0, |r| r.revision);
        let same = all.iter().rposition(|r| r.data.as_ref().is_some_and(|d| equal(&d.0, &wanted)));
        let current = match same.map(|at| all.remove(at)) {
            None => self.create(client, of, wanted, newest + 1).await?,
            Some(known) if known.revision < newest => client.update(&ControllerRevision { revision: newest + 1, ..known }).await?,
            Some(known) => known,
        };
        all.retain(|r| r.uid() != current.uid());
        Ok(History { current, old: all })
    }

    /// Revisions that lost their owner and match: an owner that was deleted without its pods and made again goes on where it
    /// was, without starting its pods anew.
    async fn adopted<O: Resource>(&self, client: &Client, of: &Of<'_, O>) -> Result<Vec<ControllerRevision>, Error> {
        let orphans = self.orphans.get(of.owner.namespace());
        let lost = orphans.iter().filter(|o| !is_deleting(o)).filter_map(|o| decoded::<ControllerRevision>(o));
        let lost: Vec<_> = lost.filter(|r| matches(of.selector, r.metadata.labels.as_ref())).collect();
        let mut taken = Vec::new();
        if lost.is_empty() || !is_alive(client, of.owner).await? {
            return Ok(taken);
        }
        for revision in lost {
            let patch = json!({"metadata": {"uid": revision.uid(), "ownerReferences": [controller_reference(of.owner)]}});
            match client.patch::<ControllerRevision>(revision.namespace(), revision.name(), &Patch::Strategic(patch)).await {
                Ok(revision) => taken.push(revision),
                Err(e) if e.is_not_found() || e.is_conflict() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(taken)
    }

    /// Deletes the oldest revisions that no pod has, beyond the limit.
    pub async fn clean(&self, client: &Client, history: &History, live: &BTreeSet<String>, limit: i32) -> Result<(), Error> {
        let unused: Vec<&ControllerRevision> = history.old.iter().filter(|r| !live.contains(hash(r)) && !live.contains(r.name())).collect();
        let most = usize::try_from(limit).unwrap_or(0);
        for revision in unused.iter().take(unused.len().saturating_sub(most)) {
            let options = DeleteOptions::of_uid(revision.uid());
            client.delete::<ControllerRevision>(revision.namespace(), revision.name(), &options).await.optional()?;
        }
        Ok(())
    }
}

/// Equal but for what the API server leaves out.
fn equal(a: &Value, b: &Value) -> bool {
    fn bare(value: &Value) -> Value {
        match value {
            Value::Object(map) => map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), bare(v))).collect(),
            Value::Array(list) => list.iter().map(bare).collect(),
            other => other.clone(),
        }
    }
    a == b || bare(a) == bare(b)
}

impl Revisions {
    async fn create<O: Resource>(&self, client: &Client, of: &Of<'_, O>, data: Value, number: i64) -> Result<ControllerRevision, Stop> {
        let owner = of.owner;
        let hash = template_hash(of.template, of.collisions);
        let mut labels: BTreeMap<String, String> = of.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        labels.insert(self.label.into(), hash.clone());
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", owner.name())),
                namespace: Some(owner.namespace().into()),
                labels: Some(labels),
                annotations: owner.meta().annotations.clone(),
                owner_references: Some(vec![controller_reference(owner)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data)),
            revision: number,
        };
        match client.create(&revision).await {
            Err(e) if e.is_already_exists() => {
                let there: ControllerRevision = client.get(revision.namespace(), revision.name()).await?;
                let controller = there.metadata.owner_references.iter().flatten().find(|r| r.controller == Some(true));
                // One without an owner is adopted as soon as the cache shows it.
                let ours = controller.is_none_or(|r| r.uid == owner.uid());
                let same = there.data.as_ref().zip(revision.data.as_ref()).is_some_and(|(a, b)| equal(&a.0, &b.0));
                if ours && same { Ok(there) } else { Err(Stop::Collision) }
            }
            other => Ok(other?),
        }
    }
}
