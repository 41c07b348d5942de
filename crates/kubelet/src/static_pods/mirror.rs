//! Copies of static pods in the API, by which they are seen there. The plan is pure; the task makes and deletes.
//!
//! A copy never decides anything: who deletes it sees it come again.

use super::{FullName, HASH, MIRROR, annotation, full_name};
use crate::node::Shared;
use ferrokube_client::{DeleteOptions, Optional, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Wait after something went wrong.
const RETRY: Duration = Duration::from_secs(1);
/// A step whose outcome has not been heard of for so long is taken again.
const PATIENCE: Duration = Duration::from_secs(20);

/// A copy that the API has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Its own UID.
    pub uid: String,
    /// The hash of the static pod that it was made for.
    pub hash: String,
    /// Somebody deletes it.
    pub going: bool,
}

/// Static pods that run here, and their copies. Written by the pod manager only.
#[derive(Debug, Default)]
pub struct Mirrors {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    pods: HashMap<FullName, Arc<Pod>>,
    copies: HashMap<FullName, Copy>,
}

impl Mirrors {
    /// These static pods run or end here.
    pub fn set_pods(&self, pods: HashMap<FullName, Arc<Pod>>) {
        self.state.lock().pods = pods;
        self.changed.notify_one();
    }

    /// The API has this copy; `None`: it has none of that name.
    pub fn set_copy(&self, name: FullName, copy: Option<Copy>) {
        let copies = &mut self.state.lock().copies;
        match copy {
            Some(copy) => drop(copies.insert(name, copy)),
            None => drop(copies.remove(&name)),
        }
        self.changed.notify_one();
    }

    /// The API has these copies and no others.
    pub fn set_copies(&self, copies: HashMap<FullName, Copy>) {
        self.state.lock().copies = copies;
        self.changed.notify_one();
    }

    /// The UID of the copy to which the status of a static pod is written.
    pub fn uid_for(&self, pod: &Pod) -> Option<String> {
        let state = self.state.lock();
        let copy = state.copies.get(&full_name(pod)).filter(|c| !c.going && pod.metadata.uid.as_ref() == Some(&c.hash))?;
        Some(copy.uid.clone())
    }
}

/// The copy that an object of the API is.
pub fn copy_of(pod: &Pod) -> Option<Copy> {
    let hash = super::mirrors(pod)?.to_owned();
    Some(Copy { uid: pod.metadata.uid.clone()?, hash, going: pod.metadata.deletion_timestamp.is_some() })
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Create(Arc<Pod>),
    Delete(FullName, String),
}

/// What brings the copies in step with the pods.
fn plan(state: &State) -> Vec<Step> {
    let hash = |pod: &Pod| annotation(pod, HASH).unwrap_or_default().to_owned();
    let stale = state.copies.iter().filter(|(name, copy)| copy.going || state.pods.get(*name).is_none_or(|pod| hash(pod) != copy.hash));
    let missing = state.pods.iter().filter(|(name, _)| !state.copies.contains_key(*name));
    let mut steps: Vec<Step> = stale.map(|(name, copy)| Step::Delete(name.clone(), copy.uid.clone())).collect();
    steps.extend(missing.map(|(_, pod)| Step::Create(pod.clone())));
    steps
}

/// What is put into the API for a static pod.
fn copy_for(pod: &Pod, node: &Node) -> Pod {
    let meta = &pod.metadata;
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.insert(MIRROR.to_owned(), annotation(pod, HASH).unwrap_or_default().to_owned());
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        ..OwnerReference::default()
    };
    let metadata = ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        labels: meta.labels.clone(),
        annotations: Some(annotations),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: pod.spec.clone(), status: None }
}

async fn carry_out(node: &Shared, own: &Node, step: &Step) -> Result<()> {
    match step {
        Step::Create(pod) => match node.client.create(&copy_for(pod, own)).await {
            // The watch will tell of it.
            Err(e) if e.is_already_exists() => Ok(()),
            other => other.map(drop),
        },
        Step::Delete((namespace, name), uid) => {
            let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(uid) };
            match node.client.delete::<Pod>(namespace, name, &options).await {
                Err(e) if e.is_conflict() => Ok(()),
                other => other.optional().map(drop),
            }
        }
    }
}

/// Keeps the copies in step for ever. A step is taken once for what is known; what came of it is heard by the watch.
pub async fn keep(node: Arc<Shared>) {
    let mut taken: Vec<(Step, Instant)> = Vec::new();
    let mut failed = false;
    loop {
        tokio::select! {
            () = node.mirrors.changed.notified() => {}
            () = tokio::time::sleep(RETRY), if failed || !taken.is_empty() => {}
        }
        let mut steps = plan(&node.mirrors.state.lock());
        taken.retain(|(step, at)| steps.contains(step) && at.elapsed() < PATIENCE);
        steps.retain(|step| !taken.iter().any(|(t, _)| t == step));
        failed = false;
        for step in steps {
            // The copies belong to the Node, which may not be registered yet.
            let own = node.own.get("", &node.config.node_name);
            let done = match &own {
                Some(own) => carry_out(&node, own, &step).await.map_err(|e| tracing::warn!("the copy of a static pod in the API: {e}")),
                None => Err(()),
            };
            match done {
                Ok(()) => taken.push((step, Instant::now())),
                Err(()) => failed = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::static_pods::manifest;
    use jiff::Timestamp;
    use std::path::Path;

    fn pod(name: &str, image: &str) -> Arc<Pod> {
        let text =
            format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: {image}}}]}}}}");
        Arc::new(manifest::read(text.as_bytes(), Path::new("/m"), "n", Timestamp::UNIX_EPOCH).unwrap())
    }

    fn state(pods: &[Arc<Pod>], copies: &[(&str, &str, bool)]) -> State {
        let copy = |(name, hash, going): &(&str, &str, bool)| {
            let name = ("default".to_owned(), format!("{name}-n"));
            (name.clone(), Copy { uid: format!("uid-{}", name.1), hash: (*hash).to_owned(), going: *going })
        };
        State { pods: pods.iter().map(|p| (full_name(p), p.clone())).collect(), copies: copies.iter().map(copy).collect() }
    }

    #[test]
    fn each_static_pod_has_one_copy_of_its_present_content_and_no_other_is_there() {
        let (one, two) = (pod("p", "one"), pod("p", "two"));
        let (first, name) = (one.metadata.uid.clone().unwrap(), full_name(&one));
        let delete = || vec![Step::Delete(name.clone(), "uid-p-n".into())];
        assert_eq!(plan(&state(std::slice::from_ref(&one), &[])), [Step::Create(one.clone())]);
        assert_eq!(plan(&state(std::slice::from_ref(&one), &[("p", &first, false)])), []);
        assert_eq!(plan(&state(std::slice::from_ref(&one), &[("p", &first, true)])), delete(), "somebody deletes it: it comes again");
        assert_eq!(plan(&state(std::slice::from_ref(&two), &[("p", &first, false)])), delete(), "the content has changed");
        assert_eq!(plan(&state(&[], &[("p", &first, false)])), delete(), "the file is gone");
    }

    #[test]
    fn a_copy_says_whose_it_is_and_what_it_mirrors() {
        let one = pod("p", "one");
        let node: Node = serde_json::from_value(serde_json::json!({"metadata": {"name": "n", "uid": "u"}})).unwrap();
        let mut copy = copy_for(&one, &node);
        assert!(!super::super::is_static(&copy) && copy.metadata.uid.is_none());
        assert_eq!(copy.metadata.owner_references.as_ref().unwrap()[0].uid, "u");
        copy.metadata.uid = Some("copy".into());
        let mirrors = Mirrors::default();
        mirrors.set_copy(full_name(&one), copy_of(&copy));
        assert_eq!(mirrors.uid_for(&one).as_deref(), Some("copy"));
        assert_eq!(mirrors.uid_for(&pod("p", "two")), None, "not of another content");
    }
}
