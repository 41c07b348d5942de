//! Which pods are on this node: routes what happens to the worker of the pod it happens to.
//!
//! The set of workers is owned here by one task. A pod that the runtime still has but the API has not gets a worker too,
//! which clears it away.

use super::Input;
use super::admission::{self, Refusal, Verdict};
use super::allocation::{self, Allocation, Pending};
use super::worker::Worker;
use super::{ops, preempt};
use crate::node::Shared;
use crate::runtime::PodIdentity;
use crate::static_pods::{full_name, is_static, mirror, mirrors, source::Pods};
use ferrokube_client::cache::decoded;
use ferrokube_client::events::EventType::{Normal, Warning};
use ferrokube_client::{Change, Listings, News, Object, Selection};
use futures_util::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Inputs that may wait for a busy worker before the manager waits for it.
const INBOX: usize = 64;

struct Entry {
    inbox: mpsc::Sender<Input>,
    /// As the API has it.
    pod: Arc<Pod>,
    /// What it was promised; of a pod that was not taken, nothing.
    promised: Allocation,
    /// A resize that could not be granted yet.
    pending: Option<Pending>,
}

impl Entry {
    /// The pod with the resources that it was promised.
    fn view(&self) -> Arc<Pod> {
        self.promised.laid_over(&self.pod)
    }

    fn input(&self) -> Input {
        Input::Spec { pod: self.view(), pending: self.pending.clone() }
    }
}

/// A critical pod that waits for others to go. Its room is its own already.
struct Held {
    pod: Arc<Pod>,
    /// UIDs of those that go.
    victims: Vec<String>,
}

/// Owner of all workers.
pub struct Manager {
    node: Arc<Shared>,
    workers: HashMap<String, Entry>,
    tasks: JoinSet<String>,
    listings: Listings,
    synced: bool,
    /// UIDs of pods that were not taken: they use nothing, whatever the API says yet.
    refused: HashSet<String>,
    held: Vec<Held>,
    /// What the files of this node ask for.
    files: watch::Receiver<Pods>,
}

/// What others ask the manager.
#[derive(Debug)]
pub enum Request {
    /// End a pod with a verdict.
    Evict { uid: String, reason: String, message: String, grace: i64 },
}

impl Manager {
    /// No pods yet. `files` are the static ones.
    pub fn new(node: Arc<Shared>, files: watch::Receiver<Pods>) -> Self {
        Manager {
            node,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            listings: Listings::default(),
            synced: false,
            refused: HashSet::new(),
            held: Vec::new(),
            files,
        }
    }

    /// Runs until `stop` resolves; containers stay as they are.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>, stop: impl Future<Output = ()>) {
        let selection = Selection { fields: format!("spec.nodeName={}", self.node.config.node_name), ..pods() };
        // Pods of services that are not known yet would miss their variables. Static pods wait for nobody.
        let (node, client) = (self.node.clone(), self.node.client.clone());
        let known = async move {
            node.services.synced().await;
            node.own.synced().await;
            client.subscribe(selection)
        };
        let mut changes = std::pin::pin!(known.flatten_stream());
        let (changed_tx, mut changed) = mpsc::channel(256);
        let watch = tokio::spawn(self.node.cri.clone().watch(changed_tx));
        tokio::pin!(stop);
        self.follow_files().await;
        loop {
            let mut files = self.files.clone();
            tokio::select! {
                () = &mut stop => break,
                Ok(()) = files.changed() => self.follow_files().await,
                Some(change) = changes.next() => self.change(change).await,
                Some(uid) = changed.recv() => self.tell(&uid, Input::Runtime).await,
                Some(request) = requests.recv() => self.request(request).await,
                Some(ended) = self.tasks.join_next() => self.ended(ended).await,
            }
            self.let_in();
            self.grant_resizes().await;
        }
        watch.abort();
    }

    async fn request(&mut self, request: Request) {
        let Request::Evict { uid, reason, message, grace } = request;
        self.tell(&uid, Input::Evict { reason, message, grace }).await;
    }

    async fn change(&mut self, change: Change) {
        match self.listings.take(change) {
            None => {}
            Some(News::Set(object)) => {
                let Some(pod) = decoded::<Pod>(&object) else { return };
                if let Some(copy) = mirror::copy_of(&pod) {
                    return self.copy_changed(&pod, Some(copy)).await;
                }
                let pod = Arc::new(pod);
                let known = self.node.pods.lock().insert(object.uid.to_string(), pod.clone()).is_some();
                self.set(pod, known).await;
            }
            Some(News::Gone(object)) => {
                if let Some(pod) = decoded::<Pod>(&object).filter(|p| mirrors(p).is_some()) {
                    return self.copy_changed(&pod, None).await;
                }
                self.node.pods.lock().remove(&*object.uid);
                self.held.retain(|h| h.pod.metadata.uid.as_deref() != Some(&*object.uid));
                self.tell(&object.uid, Input::Gone).await;
            }
            Some(News::All(objects, _)) => self.take_over(&objects).await,
        }
    }

    /// These are the pods of this node. Their number changes at once, and what is gone is told first: whoever comes instead
    /// must not be refused for its sake. The oldest are the first to be taken, as upstream.
    async fn take_over(&mut self, objects: &[Arc<Object>]) {
        let listed: HashSet<&str> = objects.iter().map(|o| &*o.uid).collect();
        let (copies, mut pods): (Vec<Arc<Pod>>, Vec<Arc<Pod>>) =
            objects.iter().filter_map(|o| decoded::<Pod>(o)).map(Arc::new).partition(|pod| mirrors(pod).is_some());
        self.node.mirrors.set_copies(copies.iter().filter_map(|pod| Some((full_name(pod), mirror::copy_of(pod)?))).collect());
        pods.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
        let known: HashSet<String> = {
            let mut all = self.node.pods.lock();
            let known = all.keys().cloned().collect();
            // One that cannot be read is still there.
            all.retain(|uid, pod| listed.contains(&**uid) || is_static(pod));
            all.extend(pods.iter().map(|pod| (pod.metadata.uid.clone().unwrap_or_default(), pod.clone())));
            known
        };
        let gone = self.workers.iter().filter(|(uid, entry)| !listed.contains(&***uid) && !is_static(&entry.pod));
        for uid in gone.map(|(uid, _)| uid.clone()).collect::<Vec<_>>() {
            self.tell(&uid, Input::Gone).await;
        }
        for pod in copies {
            self.tell_static(&pod).await;
        }
        self.held.retain(|h| is_static(&h.pod) || h.pod.metadata.uid.as_deref().is_some_and(|uid| listed.contains(uid)));
        for pod in pods {
            let known = pod.metadata.uid.as_ref().is_some_and(|uid| known.contains(uid));
            self.set(pod, known).await;
        }
        if !self.synced {
            self.synced = true;
            self.adopt_orphans().await;
            crate::logs::links::remove_dead(&crate::logs::links::directory(&self.node.config.pod_logs));
        }
    }

    /// A copy of a static pod has come, changed or gone. The pod's status belongs into the copy that is there.
    async fn copy_changed(&self, pod: &Pod, copy: Option<mirror::Copy>) {
        self.node.mirrors.set_copy(full_name(pod), copy);
        self.tell_static(pod).await;
    }

    async fn tell_static(&self, copy: &Pod) {
        if let Some(uid) = mirrors(copy) {
            self.tell(uid, Input::Copy).await;
        }
    }

    /// Runs the static pods that files ask for, and no others. One whose file has changed comes when its predecessor has ended.
    async fn follow_files(&mut self) {
        let wanted = self.files.borrow_and_update().clone();
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        let uids: HashSet<String> = wanted.iter().map(|pod| uid(pod)).collect();
        let gone = self.workers.iter().filter(|(uid, entry)| is_static(&entry.pod) && !uids.contains(*uid));
        for uid in gone.map(|(uid, _)| uid.clone()).collect::<Vec<_>>() {
            self.tell(&uid, Input::Gone).await;
        }
        for dropped in self.held.extract_if(.., |h| is_static(&h.pod) && !uids.contains(&uid(&h.pod))) {
            self.node.pods.lock().remove(&uid(&dropped.pod));
        }
        for pod in wanted {
            let named = |p: &Pod| is_static(p) && full_name(p) == full_name(&pod);
            let taken = self.workers.values().any(|entry| named(&entry.pod)) || self.held.iter().any(|h| named(&h.pod));
            if !taken {
                self.node.pods.lock().insert(uid(&pod), pod.clone());
                self.set(pod, false).await;
            }
        }
        self.show_static();
    }

    /// Tells which static pods there are, until they have ended.
    fn show_static(&self) {
        let pods = self.workers.values().map(|entry| &entry.pod).filter(|pod| is_static(pod));
        self.node.mirrors.set_pods(pods.map(|pod| (full_name(pod), pod.clone())).collect());
    }

    async fn set(&mut self, pod: Arc<Pod>, known: bool) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_none()
            && let Some(held) = self.held.iter_mut().find(|h| h.pod.metadata.uid == pod.metadata.uid)
        {
            held.pod = pod;
            return;
        }
        self.held.retain(|h| h.pod.metadata.uid != pod.metadata.uid);
        match self.workers.get_mut(&uid).filter(|w| !w.inbox.is_closed()) {
            None => match if known { Verdict::Taken } else { self.verdict(&pod) } {
                Verdict::Taken => self.start(pod, false, None),
                Verdict::Refused(refusal) => self.start(pod, false, Some(refusal)),
                Verdict::After(victims) => self.make_room(pod, victims).await,
            },
            Some(entry) => {
                entry.pod = pod;
                self.consider(&uid);
                if let Some(input) = self.workers.get(&uid).map(Entry::input) {
                    self.tell(&uid, input).await;
                }
            }
        }
    }

    /// Grants what a pod asks for now, or notes why not. Whether it asks for something else than it has is looked at first.
    fn consider(&mut self, uid: &str) -> bool {
        let Some(entry) = self.workers.get(uid) else { return false };
        let wanted = Allocation::wanted(&entry.pod);
        let (pod, before) = (entry.pod.clone(), entry.pending.clone());
        let going = over(&pod) || pod.metadata.deletion_timestamp.is_some();
        let settled = wanted == entry.promised || going || self.refused.contains(uid);
        let verdict = if settled { Ok(()) } else { allocation::resize(&pod, &self.others(&pod), &self.node.offer()) };
        let Some(entry) = self.workers.get_mut(uid) else { return false };
        entry.pending = verdict.err();
        let (recorder, generation) = (&self.node.recorder, pod.metadata.generation);
        match &entry.pending {
            None if settled => return before.is_some(),
            None => {
                if let Err(e) = wanted.save(&self.node.config.pod_dir(uid)) {
                    tracing::warn!(pod = super::title(&pod), "what the pod was promised is not written down: {e}");
                }
                recorder.about(&*pod, Normal, "ResizeStarted", allocation::message("started", &pod, generation, ""));
                entry.promised = wanted;
            }
            // The same answer in other numbers (what others use has changed) is no news.
            Some(now) if before.as_ref().is_some_and(|b| (b.reason, b.generation) == (now.reason, now.generation)) => {}
            Some(now) => {
                let reason = if now.reason == "Deferred" { "ResizeDeferred" } else { "ResizeInfeasible" };
                recorder.about(&*pod, Warning, reason, allocation::message(now.reason, &pod, generation, &now.message));
            }
        }
        self.workers.get(uid).is_some_and(|e| e.pending != before || e.pending.is_none())
    }

    /// Resizes that wait are looked at again after everything that happened here: something may have become free.
    async fn grant_resizes(&mut self) {
        let waiting = self.workers.iter().filter(|(_, e)| e.pending.is_some());
        let mut waiting: Vec<_> = waiting.map(|(uid, e)| (allocation::turn(&e.pod, &e.view()), uid.clone())).collect();
        waiting.sort();
        for (_, uid) in waiting {
            if self.consider(&uid)
                && let Some(input) = self.workers.get(&uid).map(Entry::input)
            {
                self.tell(&uid, input).await;
            }
        }
    }

    /// The other pods that use this node, with what they were promised.
    fn others(&self, pod: &Pod) -> Vec<Arc<Pod>> {
        let uses = |(uid, entry): &(&String, &Entry)| {
            pod.metadata.uid.as_ref() != Some(*uid) && !over(&entry.pod) && !self.refused.contains(*uid) && self.node.has(uid)
        };
        let held = self.held.iter().map(|h| h.pod.clone()).filter(|h| h.metadata.uid != pod.metadata.uid);
        self.workers.iter().filter(uses).map(|(_, entry)| entry.view()).chain(held).collect()
    }

    /// Whether this node takes a pod that it sees for the first time. One that runs already, or is over, is not asked.
    fn verdict(&self, pod: &Pod) -> Verdict {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
        if !matches!(phase, "" | "Pending") || pod.metadata.deletion_timestamp.is_some() {
            return Verdict::Taken;
        }
        admission::admit(pod, &self.others(pod), &self.node.offer())
    }

    /// Sends pods away so that a critical one can come.
    async fn make_room(&mut self, pod: Arc<Pod>, victims: Vec<Arc<Pod>>) {
        let mut going = Vec::new();
        for victim in &victims {
            tracing::info!(pod = super::title(victim), "goes to make room for {}", super::title(&pod));
            self.node.recorder.about(&**victim, Warning, preempt::REASON, preempt::MESSAGE);
            let (reason, message, grace) = (preempt::REASON.to_owned(), preempt::MESSAGE.to_owned(), ops::grace_of(victim));
            let uid = victim.metadata.uid.clone().unwrap_or_default();
            self.tell(&uid, Input::Evict { reason, message, grace }).await;
            going.push(uid);
        }
        self.held.push(Held { pod, victims: going });
    }

    /// Starts the critical pods for which all have gone that had to.
    fn let_in(&mut self) {
        let here = |uid: &String| self.node.has(uid) && self.workers.get(uid).is_some_and(|entry| !over(&entry.pod));
        let waits = |held: &mut Held| !held.victims.iter().any(here);
        let free: Vec<Held> = self.held.extract_if(.., waits).collect();
        if free.is_empty() {
            return;
        }
        free.into_iter().for_each(|held| self.start(held.pod, false, None));
        self.show_static();
    }

    fn start(&mut self, pod: Arc<Pod>, gone: bool, refusal: Option<Refusal>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let (inbox, inputs) = mpsc::channel(INBOX);
        let promised = Allocation::load(&self.node.config.pod_dir(&uid)).unwrap_or_else(|| Allocation::wanted(&pod));
        let entry = Entry { inbox: inbox.clone(), pod: pod.clone(), promised, pending: None };
        let mut worker = Worker::new(self.node.clone(), entry.view(), gone, inputs, inbox);
        if let Some((reason, message)) = refusal {
            self.refused.insert(uid.clone());
            self.node.recorder.about(&*pod, Warning, &reason, message.clone());
            worker.refuse(reason, message);
        }
        self.workers.insert(uid.clone(), entry);
        self.tasks.spawn(async move {
            worker.run().await;
            uid
        });
    }

    async fn tell(&self, uid: &str, input: Input) {
        if let Some(worker) = self.workers.get(uid) {
            // A worker that has just ended needs to be told nothing.
            let _ = worker.inbox.send(input).await;
        }
    }

    async fn ended(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                self.refused.remove(&uid);
                if self.workers.remove(&uid).is_some_and(|entry| is_static(&entry.pod)) {
                    self.node.pods.lock().remove(&uid);
                    self.follow_files().await;
                }
            }
            Err(e) => {
                tracing::error!("the worker of a pod panicked: {e}");
                let dead: Vec<(String, Arc<Pod>)> =
                    self.workers.iter().filter(|(_, w)| w.inbox.is_closed()).map(|(uid, w)| (uid.clone(), w.pod.clone())).collect();
                for (uid, pod) in dead {
                    let gone = !self.node.pods.lock().contains_key(&uid);
                    self.start(pod, gone, None);
                }
            }
        }
    }

    /// What an earlier life of this node left of pods that the API does not know any more.
    async fn adopt_orphans(&mut self) {
        match self.node.cri.pods().await {
            Ok(pods) => {
                for orphan in pods.into_iter().filter(|p| !self.workers.contains_key(&p.uid)).collect::<Vec<_>>() {
                    tracing::info!(pod = orphan.name, namespace = orphan.namespace, "pod is no longer in the API, clearing it away");
                    self.start(Arc::new(remembered(orphan)), true, None);
                }
            }
            Err(e) => tracing::warn!("cannot look for orphaned pods: {e}"),
        }
        let directories = std::fs::read_dir(self.node.config.root.join("pods")).into_iter().flatten().flatten();
        let names: Vec<String> = directories.filter_map(|d| d.file_name().into_string().ok()).collect();
        let orphans: Vec<String> = names.into_iter().filter(|uid| !self.workers.contains_key(uid)).collect();
        for uid in orphans {
            self.start(Arc::new(remembered(PodIdentity { uid, ..PodIdentity::default() })), true, None);
        }
    }
}

/// A pod that is over uses nothing.
fn over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// All that is known of a pod that only the runtime remembers.
fn remembered(identity: PodIdentity) -> Pod {
    Pod {
        metadata: ObjectMeta {
            uid: Some(identity.uid),
            name: Some(identity.name),
            namespace: Some(identity.namespace),
            deletion_grace_period_seconds: identity.grace,
            ..ObjectMeta::default()
        },
        ..Pod::default()
    }
}

fn pods() -> Selection {
    Selection { version: "v1".into(), resource: "pods".into(), ..Selection::default() }
}

#[cfg(test)]
#[path = "manager_tests.rs"]
mod tests;
