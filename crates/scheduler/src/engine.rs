//! The loop around the plan: takes in what happened, decides about one pod after the other, and lets others write.
//!
//! One task owns everything. Between two decisions all changes that have arrived are taken in; bindings run beside, and
//! the next decision already sees the pod in its place. It must never wait for a write.

use crate::Config;
use crate::feeds::{self, FEEDS, Feed, Follower};
use crate::node::PodId;
use crate::plan::{Decision, Planner};
use crate::preempt;
use crate::queue::{Queue, event};
use crate::state::State;
use crate::writes::{self, Subject};
use ferrokube_api::{Change, Object, ObjectKey};
use ferrokube_client::events::{EventType, Recorder};
use ferrokube_client::{Client, Error};
use futures_util::stream::{self, BoxStream, SelectAll};
use futures_util::{FutureExt, StreamExt};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Bindings under way at once; more would only wait in the API server.
const MOST_BINDINGS: usize = 512;
/// After so long without rest, other tasks of the runtime get their turn.
const SLICE: Duration = Duration::from_micros(500);

struct Bound {
    pod: Subject,
    node: Box<str>,
    result: Result<(), Error>,
}

enum Input {
    Told(Feed, Change),
    Bound(Bound),
    Time,
}

/// See the module.
pub struct Engine {
    client: Client,
    config: Config,
    recorder: Recorder,
    state: State,
    queue: Queue,
    planner: Planner,
    followers: HashMap<Feed, Follower>,
    changes: SelectAll<BoxStream<'static, (Feed, Change)>>,
    bound: mpsc::UnboundedReceiver<Bound>,
    bound_sender: mpsc::UnboundedSender<Bound>,
    binding: usize,
    tries: usize,
}

impl Engine {
    /// An engine that has subscribed to what it needs.
    pub fn new(client: Client, config: Config) -> Self {
        let recorder = Recorder::new(client.clone(), &config.scheduler_name, "");
        let subscribe = |(feed, group, version, resource): &(Feed, &str, &str, &str)| {
            let feed = *feed;
            let changes = client.subscribe(feeds::selection(feed, group, version, resource));
            changes.map(move |change| (feed, change)).boxed()
        };
        let changes = stream::select_all(FEEDS.iter().map(subscribe));
        let (bound_sender, bound) = mpsc::unbounded_channel();
        let seed = config.seed.unwrap_or_else(rand::random);
        Engine {
            client,
            config,
            recorder,
            state: State::new(),
            queue: Queue::default(),
            planner: Planner::new(seed),
            followers: FEEDS.iter().map(|(feed, ..)| (*feed, Follower::default())).collect(),
            changes,
            bound,
            bound_sender,
            binding: 0,
            tries: 0,
        }
    }

    /// Runs until the subscriptions end, which they do when the process stops.
    pub async fn run(mut self) {
        let mut synced = false;
        let mut slice = Instant::now();
        loop {
            while let Some(Some((feed, change))) = self.changes.next().now_or_never() {
                self.told(feed, change);
            }
            while let Ok(bound) = self.bound.try_recv() {
                self.was_bound(bound);
            }
            self.queue.tick(Instant::now());
            if !synced && self.followers.values().all(|f| f.synced) {
                synced = true;
                tracing::info!(nodes = self.state.order().len(), pods = self.state.pod_count(), "scheduling");
            }
            if synced && self.binding < MOST_BINDINGS && self.queue.has_next() {
                self.place_next();
                if slice.elapsed() >= SLICE {
                    tokio::task::yield_now().await;
                    slice = Instant::now();
                }
                continue;
            }
            match self.input().await {
                Some(Input::Told(feed, change)) => self.told(feed, change),
                Some(Input::Bound(bound)) => self.was_bound(bound),
                Some(Input::Time) => {}
                None => return,
            }
            slice = Instant::now();
        }
    }

    async fn input(&mut self) -> Option<Input> {
        let due = self.queue.due();
        let time = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            change = self.changes.next() => change.map(|(feed, change)| Input::Told(feed, change)),
            bound = self.bound.recv() => bound.map(Input::Bound),
            () = time => Some(Input::Time),
        }
    }
}

/// What happened.
impl Engine {
    fn told(&mut self, feed: Feed, change: Change) {
        let Some(mut follower) = self.followers.remove(&feed) else { return };
        follower.follow(change, |key, object| match (feed, object) {
            (Feed::Pods, Some(object)) => self.pod_is(object),
            (Feed::Pods, None) => self.pod_is_gone(key),
            _ => {
                let events = feeds::apply(&mut self.state, feed, key, object);
                self.queue.happened(events, Instant::now());
            }
        });
        self.followers.insert(feed, follower);
    }

    fn pod_is(&mut self, object: &Object) {
        let facts = match crate::pod::read(object) {
            Ok(facts) => facts,
            Err(error) => return tracing::warn!(pod = %object.key, "pod cannot be read: {error}"),
        };
        let known = self.state.pod_named(&facts.key);
        if known.is_some_and(|id| self.state.pod(id).uid != facts.uid) {
            self.pod_is_gone(&facts.key);
        }
        let ours = *facts.scheduler == *self.config.scheduler_name;
        let change = self.state.set_pod(facts, ours);
        let (id, now) = (change.id, Instant::now());
        let pod = self.state.pod(id);
        if pod.node.is_some() {
            if !pod.assumed {
                self.queue.remove(id);
            }
            let bits = [(change.bound, event::POD_ADD), (change.class, event::POD_LABEL), (change.shrank, event::POD_SHRINK)];
            let events = bits.into_iter().filter(|(yes, _)| *yes).map(|(_, bit)| bit).sum();
            return self.queue.happened(events, now);
        }
        if !pod.ours || pod.terminating || pod.gated {
            return self.queue.remove(id);
        }
        let priority = self.state.class_of(id).priority;
        if !self.queue.contains(id) {
            self.queue.add(id, priority, now);
        } else if change.class || change.ungated {
            self.queue.wake(id, priority, now);
        }
    }

    fn pod_is_gone(&mut self, key: &ObjectKey) {
        let Some(id) = self.state.pod_named(key) else { return };
        self.queue.remove(id);
        let gone = self.state.remove_pod(key);
        if gone.is_some_and(|pod| pod.node.is_some() || pod.nominated.is_some()) {
            self.queue.happened(event::POD_DELETE, Instant::now());
        }
    }

    fn was_bound(&mut self, bound: Bound) {
        self.binding -= 1;
        let Bound { pod, node, result } = bound;
        let id = self.state.pod_named(&pod.key).filter(|id| self.state.pod(*id).uid == pod.uid);
        let Err(error) = result else {
            let message = format!("Successfully assigned {}/{} to {node}", pod.key.namespace, pod.key.name);
            self.recorder.event(pod.reference(), EventType::Normal, "Scheduled", message);
            id.into_iter().for_each(|id| self.queue.remove(id));
            return;
        };
        let Some(id) = id.filter(|id| self.state.pod(*id).assumed) else { return };
        self.state.forget(id);
        // The room that was taken is free again.
        self.queue.happened(event::POD_DELETE, Instant::now());
        if error.is_not_found() {
            // The pod is gone; its deletion is on its way.
            return self.queue.remove(id);
        }
        let message = format!("binding rejected: running Bind plugin \"DefaultBinder\": {error}");
        tracing::warn!(pod = %pod.key, %node, "{message}");
        let new = self.queue.fail(id, &message, Instant::now());
        self.say(pod, "SchedulerError", message, None, new);
    }
}

/// What is decided.
impl Engine {
    fn place_next(&mut self) {
        let Some(id) = self.queue.pop() else { return };
        match self.planner.decide(&self.state, id) {
            Decision::Place(node) => {
                self.state.assume(id, node);
                let (pod, node) = (Subject::of(self.state.pod(id)), self.state.node(node).name.clone());
                let (client, done) = (self.client.clone(), self.bound_sender.clone());
                self.binding += 1;
                tokio::spawn(async move {
                    let result = writes::bind(&client, &pod, &node).await;
                    // An error means the engine is gone.
                    let _ = done.send(Bound { pod, node, result });
                });
            }
            Decision::Nowhere(mut diagnosis) => {
                let mut nominated = None;
                if diagnosis.nodes() > 0 {
                    self.tries = self.tries.wrapping_add(7919);
                    match preempt::plan(&self.state, id, &diagnosis, self.tries) {
                        Ok(room) => {
                            nominated = Some(self.state.node(room.node).name.clone());
                            self.make_room(id, &room);
                        }
                        Err(why) => diagnosis.preemption = Some(why),
                    }
                }
                let message = diagnosis.message();
                let new = self.queue.reject(id, diagnosis.rejectors(), &message, Instant::now());
                self.say(Subject::of(self.state.pod(id)), "Unschedulable", message, nominated, new);
            }
        }
    }

    /// Sends the victims away and keeps the room for the pod.
    fn make_room(&mut self, id: PodId, room: &preempt::Preemption) {
        let (uid, node) = (self.state.pod(id).uid.clone(), self.state.node(room.node).name.clone());
        let priority = self.state.class_of(id).priority;
        for victim in &room.victims {
            let victim = self.state.pod(*victim);
            if victim.terminating {
                continue;
            }
            let (victim, client, name) = (Subject::of(victim), self.client.clone(), self.config.scheduler_name.clone());
            let message = format!("Preempted by pod {uid} on node {node}");
            self.recorder.event(victim.reference(), EventType::Normal, "Preempted", message);
            tokio::spawn(async move {
                if let Err(error) = writes::evict(&client, &victim, &name).await
                    && !error.is_not_found()
                {
                    tracing::warn!(pod = %victim.key, "pod cannot be preempted: {error}");
                }
            });
        }
        let lower = |p: &&PodId| self.state.class_of(**p).priority < priority;
        let outranked: Vec<PodId> = self.state.nominated(room.node).iter().filter(lower).copied().collect();
        for other in outranked {
            self.state.nominate(other, None);
            let (other, client) = (Subject::of(self.state.pod(other)), self.client.clone());
            tokio::spawn(async move { log(&other, writes::clear_nomination(&client, &other).await) });
        }
        self.state.nominate(id, Some(&node));
    }

    /// Tells people: an event each time, the condition when there is something new.
    fn say(&self, pod: Subject, reason: &'static str, message: String, nominated: Option<Box<str>>, new: bool) {
        self.recorder.event(pod.reference(), EventType::Warning, "FailedScheduling", message.clone());
        if !new && nominated.is_none() {
            return;
        }
        let client = self.client.clone();
        tokio::spawn(async move {
            let result = writes::report(&client, &pod, reason, &message, nominated.as_deref()).await;
            log(&pod, result);
        });
    }
}

fn log(pod: &Subject, result: Result<(), Error>) {
    match result {
        Err(error) if !error.is_not_found() => tracing::warn!(pod = %pod.key, "status cannot be written: {error}"),
        _ => {}
    }
}
