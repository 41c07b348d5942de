//! Plays the acts of a workload against a server or a world in memory, and sees what becomes of its pods.

use super::script::{Act, Change, Many, Pods, Stage, Workload};
use super::templates::Thing;
use super::world::World;
use crate::connect::{Call, Server};
use crate::hollow::{AT_ONCE, Seen};
use crate::load::{self, Until};
use crate::process::{Meter, Usage};
use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// Deletes a pod that nobody runs.
const AT_ONCE_GONE: &str = r#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}"#;

/// Namespace and name.
pub(super) type Key = (Box<str>, Box<str>);

/// Where a workload is played.
#[derive(Clone)]
pub(super) enum Ground {
    Server(Server),
    World(Arc<World>),
}

impl Ground {
    async fn call(&self, lane: usize, call: Call) -> anyhow::Result<(StatusCode, Bytes)> {
        match self {
            Ground::Server(server) => server.call(lane, call).await,
            Ground::World(world) => Ok(world.call(&call)),
        }
    }
}

/// Pods that one act has made.
struct Group {
    name: &'static str,
    measured: bool,
    made: usize,
    tried: usize,
    bound: usize,
}

struct Known {
    group: usize,
    made: Instant,
    tried: bool,
    bound: Option<Instant>,
}

/// What is known of the pods.
#[derive(Default)]
struct Ledger {
    groups: Vec<Group>,
    pods: HashMap<Key, Known>,
}

impl Ledger {
    fn group(&mut self, name: &'static str, measured: bool) -> usize {
        self.groups.push(Group { name, measured, made: 0, tried: 0, bound: 0 });
        self.groups.len() - 1
    }

    fn made(&mut self, group: usize, key: Key) {
        self.groups[group].made += 1;
        self.pods.insert(key, Known { group, made: Instant::now(), tried: false, bound: None });
    }

    /// Whether this is the first news of its kind.
    fn seen(&mut self, key: &Key, at: Instant, on_node: bool) -> bool {
        let Some(pod) = self.pods.get_mut(key) else { return false };
        let group = &mut self.groups[pod.group];
        if !pod.tried {
            pod.tried = true;
            group.tried += 1;
        }
        if !on_node || pod.bound.is_some() {
            return false;
        }
        pod.bound = Some(at);
        group.bound += 1;
        true
    }

    /// How many pods of the groups of a name have not come so far.
    fn open(&self, stage: Stage, name: &str) -> usize {
        let groups = self.groups.iter().filter(|g| g.name == name);
        groups.map(|g| g.open(stage)).sum()
    }
}

/// What came of the pods that are measured.
pub(super) struct Outcome {
    pub pods: usize,
    /// From create to bound, sorted.
    pub took: Vec<Duration>,
    /// From the first create to the last binding.
    pub elapsed: Duration,
    /// What was used before the first of them, and after the last.
    pub cost: Option<(Usage, Usage)>,
}

/// A play; what runs beside it ends with it.
pub(super) struct Play<'a> {
    pub ground: Ground,
    pub workload: &'a Workload,
    /// Requests at once while creating.
    pub concurrency: usize,
    /// How long it is waited for the next pod.
    pub patience: Duration,
    pub seen: mpsc::UnboundedReceiver<Seen>,
    pub meter: Meter,
    /// Is told how many nodes are there.
    pub are_there: &'a (dyn Fn(usize) + Sync),
    cast: Cast,
}

/// What a play has made so far.
#[derive(Default)]
struct Cast {
    ledger: Ledger,
    nodes: usize,
    beside: JoinSet<()>,
    began: Option<(Instant, Option<Usage>)>,
    ended: Option<Instant>,
}

fn key_of(pod: &Value) -> Key {
    let text = |field: &str| Box::from(pod["metadata"][field].as_str().unwrap_or_default());
    (text("namespace"), text("name"))
}

fn create(pod: &Value, (namespace, _): &Key) -> Call {
    Call::new(Method::POST, format!("/api/v1/namespaces/{namespace}/pods"), pod.to_string())
}

fn delete((namespace, name): &Key) -> Call {
    Call::new(Method::DELETE, format!("/api/v1/namespaces/{namespace}/pods/{name}"), AT_ONCE_GONE)
}

fn make((path, thing): Thing) -> Call {
    Call::new(Method::POST, path, thing.to_string())
}

fn unbind(claim: &mut Value) {
    if let Some(metadata) = claim["metadata"].as_object_mut() {
        metadata.remove("annotations");
    }
}

/// Admission taints new nodes until a controller has seen that they are ready; there may be none.
fn untainted(node: &Value) -> Call {
    let path = format!("/api/v1/nodes/{}", node["metadata"]["name"].as_str().unwrap_or_default());
    let patch = serde_json::json!({"spec": {"taints": node["spec"]["taints"]}});
    Call { content_type: "application/merge-patch+json", ..Call::new(Method::PATCH, path, patch.to_string()) }
}

impl<'a> Play<'a> {
    /// Before the first act.
    pub fn new(
        ground: Ground,
        workload: &'a Workload,
        (concurrency, patience): (usize, Duration),
        seen: mpsc::UnboundedReceiver<Seen>,
        meter: Meter,
        are_there: &'a (dyn Fn(usize) + Sync),
    ) -> Self {
        Play { ground, workload, concurrency, patience, seen, meter, are_there, cast: Cast::default() }
    }

    /// Plays all acts.
    pub async fn play(mut self) -> anyhow::Result<Outcome> {
        let namespaces: Vec<Thing> = (self.workload.namespaces)()
            .into_iter()
            .map(|(name, labels)| {
                let metadata = serde_json::json!({"name": name, "labels": labels});
                ("/api/v1/namespaces".to_owned(), serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
            })
            .collect();
        let account = serde_json::json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let path = |name: &Value| format!("/api/v1/namespaces/{}/serviceaccounts", name.as_str().unwrap_or_default());
        let accounts = namespaces.iter().map(|(_, n)| (path(&n["metadata"]["name"]), account.clone())).collect();
        self.things(namespaces).await?;
        self.things(accounts).await?;
        for act in &self.workload.acts {
            self.act(act).await?;
        }
        Ok(self.outcome())
    }

    async fn act(&mut self, act: &Act) -> anyhow::Result<()> {
        let many = |many: &Many| self.workload.sizes.of(*many);
        match act {
            Act::Nodes { many: count, of, with } => {
                let nodes = (self.cast.nodes..self.cast.nodes + many(count)).map(of).collect();
                self.nodes(nodes, *with).await
            }
            Act::Things { many: count, of } => self.things((0..many(count)).flat_map(of).collect()).await,
            Act::Pods(pods) => self.pods(pods).await,
            Act::Until(stage, group) => self.until(*stage, group).await,
            Act::Change { many: count, of, rate } => {
                let sizes = self.workload.sizes;
                self.change((0..many(count)).map(|i| of(i, sizes)).collect(), *rate).await
            }
            Act::Delete { group, rate } => {
                self.delete_beside(group, *rate);
                Ok(())
            }
            Act::Churn { every, of, again } => {
                self.churn_beside(*every, *of, *again);
                Ok(())
            }
            Act::Steady { many: count, of, lasting } => self.steady(many(count), *of, *lasting).await,
        }
    }

    async fn nodes(&mut self, nodes: Vec<Value>, with: fn(&Value) -> Vec<Thing>) -> anyhow::Result<()> {
        for some in nodes.chunks(AT_ONCE) {
            self.things(some.iter().map(|n| ("/api/v1/nodes".to_owned(), n.clone())).collect()).await?;
            self.things(some.iter().flat_map(with).collect()).await?;
            if matches!(self.ground, Ground::Server(_)) {
                self.send(some.iter().map(untainted).collect(), false).await?;
            }
            self.cast.nodes += some.len();
            (self.are_there)(self.cast.nodes);
        }
        Ok(())
    }

    async fn things(&self, mut things: Vec<Thing>) -> anyhow::Result<()> {
        if matches!(self.ground, Ground::Server(_)) {
            // Claims are bound by the binder there is; one that says it is bound already to what is not there yet would be lost.
            things.iter_mut().filter(|(path, _)| path.ends_with("/persistentvolumeclaims")).for_each(|(_, claim)| unbind(claim));
            let (volumes, others) = things.into_iter().partition(|(path, _)| path.ends_with("/persistentvolumes"));
            self.make(volumes).await?;
            things = others;
        }
        self.make(things).await
    }

    async fn make(&self, things: Vec<Thing>) -> anyhow::Result<()> {
        self.send(things.into_iter().map(make).collect(), true).await.map(drop)
    }

    async fn pods(&mut self, pods: &Pods) -> anyhow::Result<()> {
        let made: Vec<Value> = (0..self.workload.sizes.of(pods.many)).map(pods.of).collect();
        self.things(made.iter().flat_map(pods.with).collect()).await?;
        let group = self.cast.ledger.group(pods.group, pods.measured);
        let keys: Vec<Key> = made.iter().map(key_of).collect();
        keys.iter().for_each(|key| self.cast.ledger.made(group, key.clone()));
        let calls = made.iter().zip(&keys).map(|(pod, key)| create(pod, key)).collect();
        if pods.measured {
            self.measuring();
        }
        let sent = self.send(calls, false).await?;
        for (key, at) in keys.iter().zip(sent) {
            self.cast.ledger.pods.entry(key.clone()).and_modify(|pod| pod.made = at);
        }
        match pods.wait {
            Some(stage) => self.wait(|ledger| ledger.groups[group].open(stage)).await,
            None => Ok(()),
        }
    }

    /// The first pods that are measured are about to be made.
    fn measuring(&mut self) {
        if self.cast.began.is_none() {
            self.cast.began = Some((Instant::now(), self.meter.read()));
        }
    }

    async fn until(&mut self, stage: Stage, group: &'static str) -> anyhow::Result<()> {
        self.wait(move |ledger| ledger.open(stage, group)).await
    }

    /// Waits until nothing is open any more.
    async fn wait(&mut self, open: impl Fn(&Ledger) -> usize) -> anyhow::Result<()> {
        while let Ok(seen) = self.seen.try_recv() {
            self.take(seen);
        }
        loop {
            let left = open(&self.cast.ledger);
            if left == 0 {
                return Ok(());
            }
            let next = tokio::time::timeout(self.patience, self.seen.recv()).await;
            let Ok(seen) = next else { bail!("nothing was heard of a pod for {:?}; {left} are waited for", self.patience) };
            self.take(seen.context("the watch of pods has ended")?);
        }
    }

    /// Whether a pod has got its node.
    fn take(&mut self, seen: Seen) -> Option<Key> {
        let key = (seen.namespace, seen.name);
        self.cast.ledger.seen(&key, seen.at, seen.on_node).then_some(key)
    }

    async fn change(&mut self, changes: Vec<Change>, rate: u32) -> anyhow::Result<()> {
        let call = |(path, content_type, patch): Change| Call { content_type, ..Call::new(Method::PATCH, path, patch.to_string()) };
        let calls: Vec<Call> = changes.into_iter().map(call).collect();
        if rate == 0 {
            return self.send(calls, false).await.map(drop);
        }
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        let mut under_way = JoinSet::new();
        for (lane, call) in calls.into_iter().enumerate() {
            ticks.tick().await;
            let ground = self.ground.clone();
            under_way.spawn(async move { succeed(&ground, lane, call, false).await });
        }
        while let Some(done) = under_way.join_next().await {
            done.context("a change")??;
        }
        Ok(())
    }

    fn delete_beside(&mut self, group: &str, rate: u32) {
        let ledger = &self.cast.ledger;
        let calls: Vec<Call> =
            ledger.pods.iter().filter(|(_, pod)| ledger.groups[pod.group].name == group).map(|(key, _)| delete(key)).collect();
        let ground = self.ground.clone();
        self.cast.beside.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
            for (lane, call) in calls.into_iter().enumerate() {
                ticks.tick().await;
                report(ground.call(lane, call).await);
            }
        });
    }

    fn churn_beside(&mut self, every: Duration, of: fn(usize) -> Vec<Thing>, again: bool) {
        let ground = self.ground.clone();
        self.cast.beside.spawn(async move {
            let mut ticks = tokio::time::interval(every);
            let mut last: Vec<String> = Vec::new();
            for i in 0.. {
                ticks.tick().await;
                for path in last.drain(..) {
                    report(ground.call(0, Call::new(Method::DELETE, path, AT_ONCE_GONE)).await);
                }
                for (path, thing) in of(i) {
                    if again {
                        last.push(format!("{path}/{}", thing["metadata"]["name"].as_str().unwrap_or_default()));
                    }
                    report(ground.call(0, make((path, thing))).await);
                }
            }
        });
    }

    /// Keeps so many pods waiting: whoever gets a node makes room for the next.
    async fn steady(&mut self, many: usize, of: fn(usize) -> Value, lasting: Duration) -> anyhow::Result<()> {
        let group = self.cast.ledger.group("steady", true);
        let mut under_way = JoinSet::new();
        let slots = Arc::new(Semaphore::new(self.concurrency));
        self.measuring();
        let end = Instant::now() + lasting;
        let mut number = 0;
        let mut next = |ledger: &mut Ledger, gone: Option<Key>, under_way: &mut JoinSet<anyhow::Result<()>>| {
            let (pod, ground, lane) = (of(number), self.ground.clone(), number);
            let key = key_of(&pod);
            number += 1;
            ledger.made(group, key.clone());
            let slots = slots.clone();
            under_way.spawn(async move {
                let _slot = slots.acquire().await;
                if let Some(gone) = gone {
                    succeed(&ground, lane, delete(&gone), false).await?;
                }
                succeed(&ground, lane, create(&pod, &key), false).await
            });
        };
        for _ in 0..many {
            next(&mut self.cast.ledger, None, &mut under_way);
        }
        loop {
            let seen = tokio::select! {
                seen = tokio::time::timeout(self.patience, self.seen.recv()) => seen,
                () = tokio::time::sleep_until(end.into()) => break,
            };
            let Ok(seen) = seen else { bail!("nothing was heard of a pod for {:?}", self.patience) };
            let seen = seen.context("the watch of pods has ended")?;
            let key = (seen.namespace, seen.name);
            if self.cast.ledger.seen(&key, seen.at, seen.on_node) {
                next(&mut self.cast.ledger, Some(key), &mut under_way);
            }
            while let Some(done) = under_way.try_join_next() {
                done.context("a pod in place of another")??;
            }
        }
        self.cast.ended = Some(end);
        Ok(())
    }

    /// Makes requests, some at once; when each was sent. `known`: what is there already is as good.
    async fn send(&self, calls: Vec<Call>, known: bool) -> anyhow::Result<Vec<Instant>> {
        let count = calls.len();
        let calls: Arc<Vec<Mutex<Option<Call>>>> = Arc::new(calls.into_iter().map(|c| Mutex::new(Some(c))).collect());
        let sent: Arc<Mutex<Vec<Option<Instant>>>> = Arc::new(Mutex::new(vec![None; count]));
        let (ground, times) = (self.ground.clone(), sent.clone());
        let operation = move |worker: usize, serial: usize| {
            let (ground, times, calls) = (ground.clone(), times.clone(), calls.clone());
            async move {
                let call = calls[serial].lock().unwrap_or_else(PoisonError::into_inner).take().context("each call is made once")?;
                times.lock().unwrap_or_else(PoisonError::into_inner)[serial] = Some(Instant::now());
                succeed(&ground, worker, call, known).await?;
                Ok(0)
            }
        };
        let made = load::run(self.concurrency, Until::Count(count), &Meter::default(), operation).await;
        if let Some(error) = made.first_error {
            bail!("{} of {count} requests failed, the first one: {error}", made.errors);
        }
        let sent = std::mem::take(&mut *sent.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(sent.into_iter().flatten().collect())
    }

    fn outcome(self) -> Outcome {
        let Cast { ledger, began, ended, .. } = self.cast;
        let measured: Vec<&Known> = ledger.pods.values().filter(|pod| ledger.groups[pod.group].measured).collect();
        let mut took: Vec<Duration> =
            measured.iter().filter_map(|pod| pod.bound.map(|at| at.saturating_duration_since(pod.made))).collect();
        took.sort_unstable();
        let last = ended.or_else(|| measured.iter().filter_map(|pod| pod.bound).max());
        let (began, before) = began.unzip();
        Outcome {
            pods: measured.len(),
            took,
            elapsed: began.zip(last).map_or(Duration::ZERO, |(began, last)| last.saturating_duration_since(began)),
            cost: before.flatten().zip(self.meter.read()),
        }
    }
}

impl Group {
    /// How many have not come so far.
    fn open(&self, stage: Stage) -> usize {
        self.made - if stage == Stage::Tried { self.tried } else { self.bound }
    }
}

/// Makes a request that must succeed; with `known`, what is there already is as good.
async fn succeed(ground: &Ground, lane: usize, call: Call, known: bool) -> anyhow::Result<()> {
    let what = format!("{} {}", call.method, call.path);
    let (status, body) = ground.call(lane, call).await?;
    if !status.is_success() && !(known && status == StatusCode::CONFLICT) {
        bail!("{what}: {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}

/// What happens beside a workload need not succeed, but must not fail in silence.
fn report(answer: anyhow::Result<(StatusCode, Bytes)>) {
    match answer {
        Ok((status, body)) if !status.is_success() && status != StatusCode::NOT_FOUND => {
            eprintln!("beside the workload: {status}: {}", String::from_utf8_lossy(&body));
        }
        Err(error) => eprintln!("beside the workload: {error:#}"),
        Ok(_) => {}
    }
}
