//! The rest of the cluster: a scheduler and kubelets that always work, and an observer who counts.

use crate::faults::{Faults, Faulty, Term};
use crate::server::Server;
use ferrokube_api::{Change, Object};
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Caches, Client, Error, ObjectKey, Selection, Transport};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// The controllers under test.
const CONTROLLERS: [&str; 13] = [
    "deployment-controller",
    "replicaset-controller",
    "statefulset-controller",
    "daemonset-controller",
    "job-controller",
    "cronjob-controller",
    "ttl-after-finished-controller",
    "disruption-controller",
    "resourcequota-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
];

/// What there has been at any time.
#[derive(Default)]
pub struct Seen {
    /// Pods of each owner (by UID) that are neither over nor being deleted.
    active: BTreeMap<String, BTreeSet<String>>,
    /// Most of them at once.
    pub peak_pods: BTreeMap<String, usize>,
    /// Kind and name of each.
    pub owners: BTreeMap<String, (String, String)>,
    /// What each replica set of the deployment wants.
    replicas: BTreeMap<String, usize>,
    /// Most that each ever wanted.
    pub peak_replicas: BTreeMap<String, usize>,
    /// Most that all of them wanted at once.
    pub peak_total: usize,
    /// Pods (by UID) that succeeded, by `app`.
    pub succeeded: BTreeMap<String, BTreeSet<String>>,
}

impl Seen {
    fn pod(&mut self, object: &Object) {
        let pod: Value = object.decode().unwrap();
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        if phase == "Succeeded" {
            self.succeeded.entry(app(object)).or_default().insert(object.uid.to_string());
        }
        let Some(owner) = object.controller() else { return };
        self.owners.entry(owner.uid.clone()).or_insert_with(|| (owner.kind.clone(), owner.name.clone()));
        let over = matches!(phase, "Succeeded" | "Failed") || pod["metadata"]["deletionTimestamp"].is_string();
        let pods = self.active.entry(owner.uid.clone()).or_default();
        if over {
            pods.remove(&*object.uid);
        } else {
            pods.insert(object.uid.to_string());
        }
        let count = pods.len();
        let peak = self.peak_pods.entry(owner.uid).or_default();
        *peak = count.max(*peak);
    }

    fn pod_gone(&mut self, object: &Object) {
        for pods in self.active.values_mut() {
            pods.remove(&*object.uid);
        }
    }

    fn set(&mut self, object: &Object) {
        let set: Value = object.decode().unwrap();
        let wanted = usize::try_from(set["spec"]["replicas"].as_u64().unwrap_or(0)).unwrap();
        let peak = self.peak_replicas.entry(object.uid.to_string()).or_default();
        *peak = wanted.max(*peak);
        if app(object) == "web" {
            self.replicas.insert(object.uid.to_string(), wanted);
            self.peak_total = self.peak_total.max(self.replicas.values().sum());
        }
    }
}

pub struct World {
    pub admin: Client,
    pub faults: Arc<Faults>,
    pub seen: Arc<Mutex<Seen>>,
    pub server: Arc<Server>,
    others: Vec<JoinHandle<()>>,
}

impl World {
    pub async fn start(seed: u64) -> Self {
        let server = Arc::new(Server::start().await);
        let admin = Client::new(server.transport("kubernetes-admin", &["system:masters"]), "admin");
        let faults = Faults::new(seed);
        let seen = Arc::default();
        let others = vec![
            tokio::spawn(keep_running(Arc::clone(&server), Arc::clone(&faults))),
            tokio::spawn(kubelets(admin.clone(), Arc::clone(&faults))),
            tokio::spawn(observe(admin.clone(), Arc::clone(&seen))),
        ];
        World { admin, faults, seen, server, others }
    }

    pub async fn stop(mut self) {
        for task in &mut self.others {
            task.abort();
            let _ = task.await;
        }
        self.server.stop().await;
    }
}

/// Ends what it holds when it is dropped.
struct Ending(JoinHandle<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The controllers, which lose everything they know whenever they crash or others take their place.
async fn keep_running(server: Arc<Server>, faults: Arc<Faults>) {
    let mut former = JoinSet::new();
    loop {
        let (term, told) = watch::channel(Term::Leads);
        let mut running = Ending(controllers(&server, &faults, &told));
        tokio::select! {
            biased;
            () = faults.crash.notified() => {
                running.0.abort();
                let _ = (&mut running.0).await;
            }
            () = faults.hand_over.notified() => drop(former.spawn(linger(running, term, faults.clone()))),
        }
    }
}

/// A leader that stands still for so long that another one takes its place, goes on with what it was about to do, and ends when
/// it notices.
async fn linger(running: Ending, term: watch::Sender<Term>, faults: Arc<Faults>) {
    faults.hand_overs.fetch_add(1, Ordering::Relaxed);
    term.send_replace(Term::Frozen);
    tokio::time::sleep(faults.pause(Duration::from_secs(40))).await;
    term.send_replace(Term::Late);
    tokio::time::sleep(faults.pause(Duration::from_secs(2))).await;
    drop(running);
}

fn controllers(server: &Arc<Server>, faults: &Arc<Faults>, term: &watch::Receiver<Term>) -> JoinHandle<()> {
    let term = term.clone();
    let faulty = move |inner: Arc<dyn Transport>, faults: &Arc<Faults>, agent: &str| {
        Client::new(Arc::new(Faulty { inner, faults: faults.clone(), term: term.clone() }), agent)
    };
    let manager = server.transport("system:kube-controller-manager", &[]);
    let caches = Caches::new(faulty(manager, faults, "kube-controller-manager"));
    let (server, faults) = (server.clone(), faults.clone());
    let client_for = Arc::new(move |account: &str| {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        let inner = server.transport(&format!("system:serviceaccount:kube-system:{account}"), &groups);
        faulty(inner, &faults, account)
    });
    let config = ferrokube_controllers::Config {
        controllers: CONTROLLERS.iter().map(|c| (*c).to_owned()).collect(),
        ..ferrokube_controllers::Config::new(caches, client_for)
    };
    tokio::spawn(ferrokube_controllers::run(config))
}

fn app(object: &Object) -> String {
    object.label("app").unwrap_or_default().to_owned()
}

/// Watches pods and replica sets, without faults, and notes what there is at every change.
async fn observe(admin: Client, seen: Arc<Mutex<Seen>>) {
    let select = |group: &str, resource: &str| Selection {
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        ..Selection::default()
    };
    let (mut pods, mut sets) = (admin.subscribe(select("", "pods")), admin.subscribe(select("apps", "replicasets")));
    loop {
        // What a replica set wants is noted before what it has.
        tokio::select! {
            biased;
            Some(change) = sets.next() => match change {
                Change::Set(object) => seen.lock().set(&object),
                Change::Gone(object) => drop(seen.lock().replicas.remove(&*object.uid)),
                Change::Restart | Change::Synced(_) => {}
            },
            Some(change) = pods.next() => match change {
                Change::Set(object) => seen.lock().pod(&object),
                Change::Gone(object) => seen.lock().pod_gone(&object),
                Change::Restart | Change::Synced(_) => {}
            },
            else => return,
        }
    }
}

/// What the scheduler and the kubelets do for every pod, one step at a time, each after a moment.
async fn kubelets(admin: Client, faults: Arc<Faults>) {
    let caches = Caches::new(admin.clone());
    let pods: Cache<Pod> = caches.of();
    let queue: Queue<ObjectKey> = Queue::new();
    let add = queue.clone();
    pods.on_change(move |d| {
        if d.new.is_some() {
            add.add_after(d.key().clone(), Duration::from_millis(300));
        }
    });
    let step = |key: ObjectKey| {
        let (admin, pods, faults) = (&admin, &pods, &faults);
        async move {
            let Some(pod) = pods.object(&key.namespace, &key.name) else { return Ok(Next::Wait) };
            let pod: Value = pod.decode().unwrap();
            advance(admin, &pod, faults).await.map(|()| Next::Wait)
        }
    };
    controller::run::<_, Error, _, _>("kubelets", queue, 1, step).await;
}

async fn advance(admin: &Client, pod: &Value, faults: &Faults) -> Result<(), Error> {
    let of = |key: &str| pod["metadata"][key].as_str().unwrap();
    let path = format!("/api/v1/namespaces/{}/pods/{}", of("namespace"), of("name"));
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    let (method, path, body) = if pod["metadata"]["deletionTimestamp"].is_string() {
        let uid = &pod["metadata"]["uid"];
        (http::Method::DELETE, path, json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}))
    } else if pod["spec"]["nodeName"].is_null() {
        let binding = json!({"metadata": {"name": pod["metadata"]["name"]}, "target": {"kind": "Node", "name": node_for(pod)}});
        (http::Method::POST, format!("{path}/binding"), binding)
    } else if phase == "Pending" {
        (http::Method::PATCH, format!("{path}/status"), running(pod))
    } else if phase == "Running" && pod["spec"]["restartPolicy"] == "Never" {
        let phase = if faults.chance(15) { "Failed" } else { "Succeeded" };
        (http::Method::PATCH, format!("{path}/status"), json!({"status": {"phase": phase}}))
    } else {
        return Ok(());
    };
    let kind = if method == http::Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    match admin.send(method, &path, Some(kind), body.to_string().into()).await {
        Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}

/// The node a daemon pod is pinned to, else any.
fn node_for(pod: &Value) -> Value {
    let term = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0];
    let pinned = &term["matchFields"][0]["values"][0];
    if pinned.is_string() { pinned.clone() } else { "n1".into() }
}

fn running(pod: &Value) -> Value {
    let number = pod["metadata"]["resourceVersion"].as_str().and_then(|r| r.parse::<u32>().ok()).unwrap_or(1);
    let ip = format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255);
    json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
}
