//! Controllers on a bad day: errors, lost answers, delays, stale reads, broken watches, restarts, an API server that is
//! away for a minute, a clock that jumps. Whatever happens, no pod is lost and none is there twice once it is over; and
//! while it lasts there are never more pods than asked for, save those whose making the controller could not know of.
//!
//! Each seed is a run of its own on a paused clock. `SIMULATION_SEEDS=2000` runs that many (from `SIMULATION_FIRST` on),
//! `SIMULATION_SEED=17` only that one.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

mod checks;
mod faults;
mod memory;
mod world;

use checks::{problems, web_limit};
use http::Method;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use world::World;

/// Runs in the normal suite.
const SEEDS: u64 = 24;
/// Changes and mishaps of one run.
const STEPS: usize = 14;
/// Longest back-off of a queue, twice: after this everything has been tried again.
const PATIENCE: Duration = Duration::from_secs(2400);
/// Longer than the first back-offs of a failed pod, by the clock on the wall.
const REAL_PATIENCE: Duration = Duration::from_secs(45);

pub const APPS: &str = "/apis/apps/v1/namespaces/default";
pub const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
pub const CORE: &str = "/api/v1/namespaces/default";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// What a run asked for last, and most.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub web: usize,
    pub most_web: usize,
    pub image: String,
    pub db: usize,
    pub db_image: String,
    pub nodes: usize,
    pub gone: bool,
}

fn workload(name: &str, image: &str, more: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": image}], "terminationGracePeriodSeconds": 1}}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

fn job(name: &str, more: Value) -> Value {
    let mut spec = json!({"parallelism": 2, "completions": 4,
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

impl World {
    async fn ask(&self, method: Method, path: &str, body: Value) {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let answer = self.admin.send(method.clone(), path, Some(kind), body.to_string().into()).await;
        answer.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
    }

    async fn node(&self, number: usize) {
        let name = format!("n{number}");
        self.ask(Method::POST, "/api/v1/nodes", json!({"metadata": {"name": name}})).await;
        let ready = json!({"spec": {"taints": []}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        self.ask(Method::PATCH, &format!("/api/v1/nodes/{name}"), ready.clone()).await;
        self.ask(Method::PATCH, &format!("/api/v1/nodes/{name}/status"), ready).await;
    }

    async fn install(&self) -> Wanted {
        self.node(1).await;
        self.node(2).await;
        let account = json!({"metadata": {"name": "default"}});
        // Whoever is first makes it.
        drop(self.admin.send(Method::POST, &format!("{CORE}/serviceaccounts"), Some("application/json"), account.to_string().into()).await);
        self.ask(Method::POST, &format!("{APPS}/deployments"), workload("web", "a", json!({"replicas": 3}))).await;
        self.ask(Method::POST, &format!("{APPS}/deployments"), workload("gone", "a", json!({"replicas": 2}))).await;
        self.ask(Method::POST, &format!("{APPS}/statefulsets"), workload("db", "a", json!({"replicas": 2, "serviceName": "db"}))).await;
        self.ask(Method::POST, &format!("{APPS}/daemonsets"), workload("agent", "a", json!({}))).await;
        self.ask(Method::POST, JOBS, job("indexed", json!({"completionMode": "Indexed"}))).await;
        self.ask(Method::POST, JOBS, job("plain", json!({}))).await;
        let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
        self.ask(Method::POST, &format!("{CORE}/services"), service).await;
        let (image, db_image) = ("a".to_owned(), "a".to_owned());
        Wanted { web: 3, most_web: 3, image, db: 2, db_image, nodes: 2, gone: false }
    }

    /// One change by a user, or one mishap.
    async fn step(&mut self, dice: &mut StdRng, wanted: &mut Wanted) {
        let image = ["a", "b", "c"][dice.random_range(0..3)].to_owned();
        let template = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
        match dice.random_range(0..11) {
            0 => {
                wanted.web = dice.random_range(0..6);
                wanted.most_web = wanted.most_web.max(wanted.web);
                let scale = json!({"spec": {"replicas": wanted.web}});
                self.ask(Method::PATCH, &format!("{APPS}/deployments/web"), scale).await;
            }
            1 | 2 => {
                self.ask(Method::PATCH, &format!("{APPS}/deployments/web"), template(&image)).await;
                wanted.image = image;
            }
            3 => {
                wanted.db = dice.random_range(0..4);
                self.ask(Method::PATCH, &format!("{APPS}/statefulsets/db"), json!({"spec": {"replicas": wanted.db}})).await;
            }
            4 => {
                self.ask(Method::PATCH, &format!("{APPS}/statefulsets/db"), template(&image)).await;
                wanted.db_image = image;
            }
            5 if wanted.nodes < 5 => {
                wanted.nodes += 1;
                self.node(wanted.nodes).await;
            }
            6 if !wanted.gone => {
                wanted.gone = true;
                self.ask(Method::DELETE, &format!("{APPS}/deployments/gone"), json!({"propagationPolicy": "Background"})).await;
            }
            7 => self.kill_a_pod(dice).await,
            8 => {
                self.faults.set_away(true);
                tokio::time::sleep(Duration::from_secs(60)).await;
                self.faults.set_away(false);
            }
            // Longer, and what was not seen for five minutes counts as never to be seen (`ExpectationsTimeout`).
            9 => tokio::time::advance(Duration::from_secs(dice.random_range(60..290))).await,
            _ => self.restart().await,
        }
    }

    /// A pod that is not of a job is deleted behind its controller's back.
    async fn kill_a_pod(&self, dice: &mut StdRng) {
        let pods = checks::items(&self.admin, &format!("{CORE}/pods")).await;
        let long: Vec<&Value> = pods.iter().filter(|p| p["spec"]["restartPolicy"] != "Never").collect();
        if long.is_empty() {
            return;
        }
        let name = common::name(long[dice.random_range(0..long.len())]).to_owned();
        let path = format!("{CORE}/pods/{name}");
        drop(self.admin.send(Method::DELETE, &path, None, bytes::Bytes::new()).await);
    }
}

async fn run(seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed ^ 0x5eed);
    let mut world = World::start(seed).await;
    let mut wanted = world.install().await;
    for _ in 0..STEPS {
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..20_000))).await;
        world.step(&mut dice, &mut wanted).await;
    }
    world.faults.heal();
    let (healed, real) = (tokio::time::Instant::now(), std::time::Instant::now());
    let mut wait = Duration::from_secs(1);
    loop {
        tokio::time::sleep(wait).await;
        if healed.elapsed() > PATIENCE {
            // What is timed by the clock on the wall (back-off of failed pods of a job) needs that clock to go on too.
            std::thread::sleep(Duration::from_millis(500));
        }
        wait = (wait * 2).min(Duration::from_secs(60));
        let found = problems(&world, &wanted).await;
        if found.is_empty() {
            break;
        }
        let over = healed.elapsed() > PATIENCE && real.elapsed() > REAL_PATIENCE;
        assert!(!over, "seed {seed}: not mended:\n{}\n{wanted:?}", found.join("\n"));
    }
    // Nothing moves any more.
    tokio::time::sleep(Duration::from_secs(600)).await;
    let found = problems(&world, &wanted).await;
    assert!(found.is_empty(), "seed {seed}: broke again:\n{}", found.join("\n"));
    never_too_many(seed, &world, &wanted);
    world.stop().await;
}

/// A replica set never had more pods than it ever wanted, save those whose making or removal its controller could not know
/// of; and the replica sets of a deployment never wanted more than a roll-out may have.
fn never_too_many(seed: u64, world: &World, wanted: &Wanted) {
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let unknown = count(&world.faults.unknown_creations) + count(&world.faults.unknown_deletions);
    let seen = world.seen.lock();
    for (set, peak) in &seen.peak_pods {
        let most = seen.peak_replicas.get(set).copied().unwrap_or(0);
        assert!(*peak <= most + unknown, "seed {seed}: {peak} pods at once of a replica set of at most {most}, {unknown} not known of");
    }
    let (total, limit) = (seen.peak_total, web_limit(wanted));
    assert!(total <= limit, "seed {seed}: the replica sets of a deployment wanted {total} pods at once, at most {limit} are allowed");
}

fn seeds() -> Vec<u64> {
    let of = |name: &str| std::env::var(name).ok().map(|v| v.parse::<u64>().unwrap_or_else(|e| panic!("{name}={v:?}: {e}")));
    match of("SIMULATION_SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = of("SIMULATION_FIRST").unwrap_or(0);
            (first..first + of("SIMULATION_SEEDS").unwrap_or(SEEDS)).collect()
        }
    }
}

#[test]
fn no_pod_is_lost_or_there_twice_whatever_goes_wrong() {
    for seed in seeds() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(seed));
    }
}
