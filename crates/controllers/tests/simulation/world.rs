//! A cluster in which things go wrong: an API server, the controllers under test, and kubelets that always work.

use crate::CORE;
use crate::faults::{Faults, Faulty, Term};
use crate::kubelets::kubelets;
use crate::meter::{Meter, Metered};
use crate::server::Server;
use ferrokube_client::{Caches, Client, Transport};
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

pub struct World {
    /// When it began, which is when its history begins.
    pub began: Instant,
    pub admin: Client,
    pub faults: Arc<Faults>,
    pub meter: Arc<Meter>,
    pub server: Arc<Server>,
    others: Vec<JoinHandle<()>>,
}

impl World {
    pub async fn start(seed: u64, controllers: &'static [&'static str]) -> Self {
        let began = Instant::now();
        let server = Arc::new(Server::start().await);
        let admin = Client::new(server.transport("kubernetes-admin", &["system:masters"]), "admin");
        let (faults, meter) = (Faults::new(seed), Arc::<Meter>::default());
        let manager = Manager { server: server.clone(), faults: faults.clone(), meter: meter.clone(), controllers };
        let others = vec![tokio::spawn(manager.keep_running()), tokio::spawn(kubelets(admin.clone(), faults.clone()))];
        World { began, admin, faults, meter, server, others }
    }

    /// Asks as an administrator; what is asked is right.
    pub async fn ask(&self, method: Method, path: &str, body: Value) {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let answer = self.admin.send(method.clone(), path, Some(kind), body.to_string().into()).await;
        answer.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
    }

    /// Asks for something that may be gone meanwhile.
    pub async fn try_ask(&self, method: Method, path: &str, body: Value) {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        drop(self.admin.send(method, path, Some(kind), body.to_string().into()).await);
    }

    pub async fn delete(&self, path: &str, propagation: &str) {
        self.ask(Method::DELETE, path, json!({"propagationPolicy": propagation})).await;
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.admin.send(Method::GET, path, None, bytes::Bytes::new()).await.unwrap_or_else(|e| panic!("GET {path}: {e}"));
        serde_json::from_slice(answer.body()).unwrap()
    }

    pub async fn items(&self, path: &str) -> Vec<Value> {
        self.get(path).await["items"].as_array().cloned().unwrap_or_default()
    }

    pub async fn node(&self, number: usize) {
        let name = format!("n{number}");
        self.ask(Method::POST, "/api/v1/nodes", json!({"metadata": {"name": name}})).await;
        let ready = json!({"spec": {"taints": []}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        self.ask(Method::PATCH, &format!("/api/v1/nodes/{name}"), ready.clone()).await;
        self.ask(Method::PATCH, &format!("/api/v1/nodes/{name}/status"), ready).await;
    }

    /// The account of pods; whoever is first makes it.
    pub async fn account(&self) {
        self.try_ask(Method::POST, &format!("{CORE}/serviceaccounts"), json!({"metadata": {"name": "default"}})).await;
    }

    /// Writes of controllers of which the one that leads does not know.
    pub fn unknown(&self) -> usize {
        self.faults.unknown_creations.load(Ordering::Relaxed) + self.faults.unknown_deletions.load(Ordering::Relaxed)
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

/// Starts the controllers.
struct Manager {
    server: Arc<Server>,
    faults: Arc<Faults>,
    meter: Arc<Meter>,
    controllers: &'static [&'static str],
}

impl Manager {
    /// The controllers, which lose everything they know whenever they crash or others take their place.
    async fn keep_running(self) {
        let mut former = JoinSet::new();
        for process in 0.. {
            let (term, told) = watch::channel(Term::Leads);
            let mut running = Ending(self.start(process, &told));
            tokio::select! {
                biased;
                () = self.faults.crash.notified() => {
                    running.0.abort();
                    let _ = (&mut running.0).await;
                }
                () = self.faults.hand_over.notified() => drop(former.spawn(linger(running, term, self.faults.clone()))),
            }
        }
    }

    fn start(&self, process: usize, term: &watch::Receiver<Term>) -> JoinHandle<()> {
        let (term, faults, meter) = (term.clone(), self.faults.clone(), self.meter.clone());
        let faulty = move |inner: Arc<dyn Transport>, agent: &str| {
            let faulty = Faulty { inner, faults: faults.clone(), term: term.clone() };
            Client::new(Arc::new(Metered { inner: Arc::new(faulty), meter: meter.clone(), process }), agent)
        };
        let caches = Caches::new(faulty(self.server.transport("system:kube-controller-manager", &[]), "kube-controller-manager"));
        let server = self.server.clone();
        let client_for = Arc::new(move |account: &str| {
            let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
            faulty(server.transport(&format!("system:serviceaccount:kube-system:{account}"), &groups), account)
        });
        let config = ferrokube_controllers::Config {
            controllers: self.controllers.iter().map(|c| (*c).to_owned()).collect(),
            ..ferrokube_controllers::Config::new(caches, client_for)
        };
        tokio::spawn(ferrokube_controllers::run(config))
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
