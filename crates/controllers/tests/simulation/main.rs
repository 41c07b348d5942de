//! Controllers on a bad day: errors, lost answers, delays, stale reads, watches that break or fall silent, restarts of theirs
//! and of the API server, one that is away for a minute, a leader that stands still and goes on after another has taken its
//! place, a clock that jumps. Whatever happens, no pod is lost and none is there twice once it is over; and while it lasts
//! there are never more pods than asked for, save those whose making the controller could not know of.
//!
//! Each seed is a run of its own, in a process of its own, on a paused clock and with dice of its own (`machine.rs`), so
//! that the same seed is the same run. `SIMULATION_SEEDS=2000` runs that many (from `SIMULATION_FIRST` on),
//! `SIMULATION_SEED=17` only that one, and `SIMULATION_TRACE=1` with it shows every request.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

mod checks;
mod faults;
mod machine;
mod memory;
mod server;
mod world;

use checks::{problems, web_limit};
use http::Method;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use world::World;

/// Runs in the normal suite.
const SEEDS: u64 = 24;
/// Changes and mishaps of one run.
const STEPS: usize = 14;
/// Longest back-off of a queue, twice, after the farthest that the wall clock can have been set back: after this everything
/// has been tried again.
const PATIENCE: Duration = Duration::from_secs(2400 + STEPS as u64 * LEAP.unsigned_abs());
/// Farthest that the wall clock is set forth or back at a time.
const LEAP: i64 = 1800;

pub const APPS: &str = "/apis/apps/v1/namespaces/default";
pub const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
pub const CORE: &str = "/api/v1/namespaces/default";
pub const CRONS: &str = "/apis/batch/v1/namespaces/default/cronjobs";
pub const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
pub const AWAY: &str = "/api/v1/namespaces/away";
/// What each job wants: so many at once.
pub const PARALLEL: usize = 2;

/// What a run asked for last, and most.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub web: usize,
    pub most_web: usize,
    pub image: String,
    pub db: usize,
    pub most_db: usize,
    pub db_image: String,
    pub agent_image: String,
    pub nodes: usize,
    /// The deployment `gone` was deleted with all that depends on it.
    pub gone: bool,
    /// So was the replica set `front`, its pods before itself.
    pub front_gone: bool,
    /// The namespace was deleted with all that is in it.
    pub away_gone: bool,
    /// The replica set `stay` was deleted without its pods, which were these.
    pub left: Option<BTreeSet<String>>,
}

fn workload(name: &str, image: &str, more: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": image}], "terminationGracePeriodSeconds": 1}}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

fn job(name: &str, more: Value) -> Value {
    let mut spec = json!({"parallelism": PARALLEL, "completions": 4, "backoffLimit": 100,
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
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
        self.ask(Method::POST, "/api/v1/namespaces", json!({"metadata": {"name": "away"}})).await;
        self.ask(Method::POST, &format!("{APPS}/deployments"), workload("web", "a", json!({"replicas": 3}))).await;
        self.ask(Method::POST, &format!("{APPS}/deployments"), workload("gone", "a", json!({"replicas": 2}))).await;
        for name in ["front", "stay"] {
            self.ask(Method::POST, &format!("{APPS}/replicasets"), workload(name, "a", json!({"replicas": 2}))).await;
        }
        let claims = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
        let db = workload("db", "a", json!({"replicas": 2, "serviceName": "db", "volumeClaimTemplates": claims}));
        self.ask(Method::POST, &format!("{APPS}/statefulsets"), db).await;
        self.ask(Method::POST, &format!("{APPS}/daemonsets"), workload("agent", "a", json!({}))).await;
        self.ask(Method::POST, JOBS, job("indexed", json!({"completionMode": "Indexed"}))).await;
        self.ask(Method::POST, JOBS, job("plain", json!({}))).await;
        self.ask(Method::POST, JOBS, job("brief", json!({"ttlSecondsAfterFinished": 90}))).await;
        let tick = json!({"metadata": {"name": "tick"}, "spec": {"schedule": "*/2 * * * *", "successfulJobsHistoryLimit": 1,
            "jobTemplate": job("tick", json!({"parallelism": 1, "completions": 1}))}});
        self.ask(Method::POST, CRONS, tick).await;
        let budget = json!({"metadata": {"name": "web"}, "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
        self.ask(Method::POST, BUDGETS, budget).await;
        self.ask(Method::POST, "/apis/apps/v1/namespaces/away/deployments", workload("far", "a", json!({"replicas": 2}))).await;
        self.ask(Method::POST, "/apis/batch/v1/namespaces/away/jobs", job("chore", json!({}))).await;
        self.ask(Method::POST, &format!("{AWAY}/configmaps"), json!({"metadata": {"name": "c"}})).await;
        let quota = json!({"metadata": {"name": "all"},
            "spec": {"hard": {"pods": "100", "persistentvolumeclaims": "100", "count/replicasets.apps": "100"}}});
        self.ask(Method::POST, &format!("{CORE}/resourcequotas"), quota).await;
        let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
        self.ask(Method::POST, &format!("{CORE}/services"), service).await;
        let image = || "a".to_owned();
        Wanted {
            web: 3,
            most_web: 3,
            image: image(),
            db: 2,
            most_db: 2,
            db_image: image(),
            agent_image: image(),
            nodes: 2,
            gone: false,
            front_gone: false,
            away_gone: false,
            left: None,
        }
    }

    /// One change by a user, or one mishap.
    async fn step(&mut self, dice: &mut StdRng, wanted: &mut Wanted) {
        let image = ["a", "b", "c"][dice.random_range(0..3)].to_owned();
        let template = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
        match dice.random_range(0..20) {
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
                wanted.most_db = wanted.most_db.max(wanted.db);
                self.ask(Method::PATCH, &format!("{APPS}/statefulsets/db"), json!({"spec": {"replicas": wanted.db}})).await;
            }
            4 => {
                self.ask(Method::PATCH, &format!("{APPS}/statefulsets/db"), template(&image)).await;
                wanted.db_image = image;
            }
            5 => {
                self.ask(Method::PATCH, &format!("{APPS}/daemonsets/agent"), template(&image)).await;
                wanted.agent_image = image;
            }
            6 if wanted.nodes < 5 => {
                wanted.nodes += 1;
                self.node(wanted.nodes).await;
            }
            7 if !wanted.gone => {
                wanted.gone = true;
                self.delete(&format!("{APPS}/deployments/gone"), "Background").await;
            }
            8 if !wanted.front_gone => {
                wanted.front_gone = true;
                self.delete(&format!("{APPS}/replicasets/front"), "Foreground").await;
            }
            9 if wanted.left.is_none() => {
                wanted.left = Some(checks::active_of(&self.admin, "stay").await);
                self.delete(&format!("{APPS}/replicasets/stay"), "Orphan").await;
            }
            10 if !wanted.away_gone => {
                wanted.away_gone = true;
                self.delete(AWAY, "Background").await;
            }
            11 => self.kill_a_pod(dice).await,
            12 => {
                self.faults.set_away(true);
                tokio::time::sleep(Duration::from_secs(60)).await;
                self.faults.set_away(false);
            }
            // What was not seen for five minutes, all mishaps together, counts as never to be seen (`ExpectationsTimeout`).
            13 => tokio::time::advance(Duration::from_secs(dice.random_range(30..120))).await,
            14 => machine::leap(dice.random_range(-LEAP..=LEAP)),
            15 | 16 => self.server.restart(Duration::from_millis(dice.random_range(0..30_000))).await,
            17 => self.faults.hand_over.notify_one(),
            18 => self.faults.silence(Duration::from_secs(dice.random_range(20..90))),
            _ => self.faults.crash.notify_one(),
        }
    }

    async fn delete(&self, path: &str, propagation: &str) {
        self.ask(Method::DELETE, path, json!({"propagationPolicy": propagation})).await;
    }

    /// A pod that its controller is to replace is deleted behind its back.
    async fn kill_a_pod(&self, dice: &mut StdRng) {
        let pods = checks::items(&self.admin, &format!("{CORE}/pods")).await;
        let replaced = |p: &&Value| p["spec"]["restartPolicy"] != "Never" && p["metadata"]["labels"]["app"] != "stay";
        let long: Vec<&Value> = pods.iter().filter(replaced).collect();
        if long.is_empty() {
            return;
        }
        let name = common::name(long[dice.random_range(0..long.len())]).to_owned();
        let path = format!("{CORE}/pods/{name}");
        drop(self.admin.send(Method::DELETE, &path, None, bytes::Bytes::new()).await);
    }
}

/// One run; says what was asked in it.
async fn run(seed: u64) -> String {
    machine::begin();
    let mut dice = StdRng::seed_from_u64(seed ^ 0x5eed);
    let mut world = World::start(seed).await;
    let mut wanted = world.install().await;
    for _ in 0..STEPS {
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..20_000))).await;
        world.step(&mut dice, &mut wanted).await;
    }
    world.faults.heal();
    // It would never come to rest.
    world.ask(Method::PATCH, &format!("{CRONS}/tick"), json!({"spec": {"suspend": true}})).await;
    let healed = tokio::time::Instant::now();
    let mut wait = Duration::from_secs(1);
    loop {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(600));
        let found = problems(&world, &wanted).await;
        if found.is_empty() {
            break;
        }
        assert!(healed.elapsed() <= PATIENCE, "seed {seed}: not mended:\n{}\n{wanted:?}", found.join("\n"));
    }
    // Nothing moves any more.
    tokio::time::sleep(Duration::from_secs(600)).await;
    let found = problems(&world, &wanted).await;
    assert!(found.is_empty(), "seed {seed}: broke again:\n{}", found.join("\n"));
    never_too_many(seed, &world, &wanted);
    let trace = world.faults.trace();
    world.stop().await;
    trace
}

/// No owner ever had more pods than it wanted, save those whose making or removal its controller could not know of; and the
/// replica sets of a deployment never wanted more than a roll-out may have.
fn never_too_many(seed: u64, world: &World, wanted: &Wanted) {
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let unknown = count(&world.faults.unknown_creations) + count(&world.faults.unknown_deletions);
    let seen = world.seen.lock();
    for (uid, peak) in &seen.peak_pods {
        let (kind, name) = &seen.owners[uid];
        let most = match kind.as_str() {
            "ReplicaSet" => seen.peak_replicas.get(uid).copied().unwrap_or(0),
            "StatefulSet" => wanted.most_db,
            "DaemonSet" => wanted.nodes,
            _ => PARALLEL,
        };
        assert!(*peak <= most + unknown, "seed {seed}: {peak} pods at once of {kind} {name} of at most {most}, {unknown} not known of");
    }
    let (total, limit) = (seen.peak_total, web_limit(wanted));
    // A leader that is late may raise one while the new one raises another.
    let late = count(&world.faults.late_scales) > 0;
    assert!(
        late || total <= limit,
        "seed {seed}: the replica sets of a deployment wanted {total} pods at once, at most {limit} are allowed"
    );
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|e| panic!("{name}={v:?}: {e}")))
}

/// Runs a seed in this process, on a thread that nothing has run on before.
fn here(seed: u64) {
    let thread = std::thread::spawn(move || {
        machine::simulate(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(seed))
    });
    let trace = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    println!("seed {seed}: {trace}");
}

/// Runs a seed in a process of its own: what a process keeps (tables made once, tokio's count of runtimes) is then as new.
/// Returns its trace, or what it said when it failed.
fn apart(seed: u64) -> Result<String, String> {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", ONE, "--nocapture"]).env("SIMULATION_SEED", seed.to_string());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let trace = said.lines().find_map(|l| l.split_once(&format!("seed {seed}: ")).map(|(_, trace)| trace.to_owned()));
    match trace {
        Some(trace) if output.status.success() => Ok(trace),
        _ => Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// The name of the next test.
const ONE: &str = "no_pod_is_lost_or_there_twice_whatever_goes_wrong";

#[test]
fn no_pod_is_lost_or_there_twice_whatever_goes_wrong() {
    if let Some(seed) = number("SIMULATION_SEED") {
        return here(seed);
    }
    let first = number("SIMULATION_FIRST").unwrap_or(0);
    let mut failed = Vec::new();
    for seed in first..first + number("SIMULATION_SEEDS").unwrap_or(SEEDS) {
        if let Err(said) = apart(seed) {
            eprintln!("{said}");
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?} failed");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let [once, again, other] = [7, 7, 8].map(|seed| apart(seed).unwrap_or_else(|said| panic!("{said}")));
    assert_eq!(once, again);
    assert_ne!(once, other);
}
