//! Workloads of every kind: no pod is lost and none is there twice.

use crate::faults::Faults;
use crate::history::Seen;
use crate::scenario::Scenario;
use crate::world::World;
use crate::{APPS, AWAY, BUDGETS, CORE, CRONS, JOBS, available, checks, common, job, workload};
use http::Method;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

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

fn work(name: &str, more: Value) -> Value {
    let mut spec = json!({"parallelism": PARALLEL, "completions": 4, "backoffLimit": 100});
    crate::add(&mut spec, more);
    job(name, json!({}), spec)
}

impl Scenario for Wanted {
    const CONTROLLERS: &'static [&'static str] = &[
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

    async fn install(world: &World) -> Self {
        world.node(1).await;
        world.node(2).await;
        world.account().await;
        world.ask(Method::POST, "/api/v1/namespaces", json!({"metadata": {"name": "away"}})).await;
        world.ask(Method::POST, &format!("{APPS}/deployments"), workload("web", "a", json!({"replicas": 3}))).await;
        world.ask(Method::POST, &format!("{APPS}/deployments"), workload("gone", "a", json!({"replicas": 2}))).await;
        for name in ["front", "stay"] {
            world.ask(Method::POST, &format!("{APPS}/replicasets"), workload(name, "a", json!({"replicas": 2}))).await;
        }
        let claims = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
        let db = workload("db", "a", json!({"replicas": 2, "serviceName": "db", "volumeClaimTemplates": claims}));
        world.ask(Method::POST, &format!("{APPS}/statefulsets"), db).await;
        world.ask(Method::POST, &format!("{APPS}/daemonsets"), workload("agent", "a", json!({}))).await;
        world.ask(Method::POST, JOBS, work("indexed", json!({"completionMode": "Indexed"}))).await;
        world.ask(Method::POST, JOBS, work("plain", json!({}))).await;
        world.ask(Method::POST, JOBS, work("brief", json!({"ttlSecondsAfterFinished": 90}))).await;
        let tick = json!({"metadata": {"name": "tick"}, "spec": {"schedule": "*/2 * * * *", "successfulJobsHistoryLimit": 1,
            "jobTemplate": work("tick", json!({"parallelism": 1, "completions": 1}))}});
        world.ask(Method::POST, CRONS, tick).await;
        let budget = json!({"metadata": {"name": "web"}, "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
        world.ask(Method::POST, BUDGETS, budget).await;
        world.ask(Method::POST, "/apis/apps/v1/namespaces/away/deployments", workload("far", "a", json!({"replicas": 2}))).await;
        world.ask(Method::POST, "/apis/batch/v1/namespaces/away/jobs", work("chore", json!({}))).await;
        world.ask(Method::POST, &format!("{AWAY}/configmaps"), json!({"metadata": {"name": "c"}})).await;
        let quota = json!({"metadata": {"name": "all"},
            "spec": {"hard": {"pods": "100", "persistentvolumeclaims": "100", "count/replicasets.apps": "100"}}});
        world.ask(Method::POST, &format!("{CORE}/resourcequotas"), quota).await;
        let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
        world.ask(Method::POST, &format!("{CORE}/services"), service).await;
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

    async fn change(&mut self, world: &World, dice: &mut StdRng) {
        let image = ["a", "b", "c"][dice.random_range(0..3)].to_owned();
        let template = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
        match dice.random_range(0..12) {
            0 => {
                self.web = dice.random_range(0..6);
                self.most_web = self.most_web.max(self.web);
                let scale = json!({"spec": {"replicas": self.web}});
                world.ask(Method::PATCH, &format!("{APPS}/deployments/web"), scale).await;
            }
            1 | 2 => {
                world.ask(Method::PATCH, &format!("{APPS}/deployments/web"), template(&image)).await;
                self.image = image;
            }
            3 => {
                self.db = dice.random_range(0..4);
                self.most_db = self.most_db.max(self.db);
                world.ask(Method::PATCH, &format!("{APPS}/statefulsets/db"), json!({"spec": {"replicas": self.db}})).await;
            }
            4 => {
                world.ask(Method::PATCH, &format!("{APPS}/statefulsets/db"), template(&image)).await;
                self.db_image = image;
            }
            5 => {
                world.ask(Method::PATCH, &format!("{APPS}/daemonsets/agent"), template(&image)).await;
                self.agent_image = image;
            }
            6 if self.nodes < 5 => {
                self.nodes += 1;
                world.node(self.nodes).await;
            }
            7 if !self.gone => {
                self.gone = true;
                world.delete(&format!("{APPS}/deployments/gone"), "Background").await;
            }
            8 if !self.front_gone => {
                self.front_gone = true;
                world.delete(&format!("{APPS}/replicasets/front"), "Foreground").await;
            }
            9 if self.left.is_none() => {
                self.left = Some(checks::active_of(world, "stay").await);
                world.delete(&format!("{APPS}/replicasets/stay"), "Orphan").await;
            }
            10 if !self.away_gone => {
                self.away_gone = true;
                world.delete(AWAY, "Background").await;
            }
            11 => kill_a_pod(world, dice).await,
            _ => world.faults.crash.notify_one(),
        }
    }

    async fn rest(&mut self, world: &World) {
        // It would never come to rest.
        world.ask(Method::PATCH, &format!("{CRONS}/tick"), json!({"spec": {"suspend": true}})).await;
    }

    async fn problems(&self, world: &World) -> Vec<String> {
        checks::problems(world, self).await
    }

    fn violations(&self, world: &World) -> Vec<String> {
        let history = world.server.history();
        let mut found = never_too_many(&world.faults, &Seen::of(&history), self);
        found.extend(available::statuses(&history));
        found.extend(available::roll_outs(&history, "web"));
        found
    }
}

/// A pod that its controller is to replace is deleted behind its back.
async fn kill_a_pod(world: &World, dice: &mut StdRng) {
    let pods = world.items(&format!("{CORE}/pods")).await;
    let replaced = |p: &&Value| p["spec"]["restartPolicy"] != "Never" && p["metadata"]["labels"]["app"] != "stay";
    let long: Vec<&Value> = pods.iter().filter(replaced).collect();
    if long.is_empty() {
        return;
    }
    let name = common::name(long[dice.random_range(0..long.len())]).to_owned();
    let path = format!("{CORE}/pods/{name}");
    world.try_ask(Method::DELETE, &path, json!({})).await;
}

/// Most pods of the deployment that a roll-out may have at once (`maxSurge` 25 %, rounded up), by the largest number of
/// replicas ever asked for.
fn web_limit(wanted: &Wanted) -> usize {
    wanted.most_web + wanted.most_web.div_ceil(4)
}

/// No owner ever had more pods than it wanted, save those whose making or removal its controller could not know of; and the
/// replica sets of a deployment never wanted more than a roll-out may have.
fn never_too_many(faults: &Faults, seen: &Seen, wanted: &Wanted) -> Vec<String> {
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let unknown = count(&faults.unknown_creations) + count(&faults.unknown_deletions);
    let mut found = Vec::new();
    for (uid, peak) in &seen.peak_pods {
        let (kind, name) = &seen.owners[uid];
        let most = match kind.as_str() {
            "ReplicaSet" => seen.peak_replicas.get(uid).copied().unwrap_or(0),
            "StatefulSet" => wanted.most_db,
            "DaemonSet" => wanted.nodes,
            _ => PARALLEL,
        };
        if *peak > most + unknown {
            found.push(format!("{peak} pods at once of {kind} {name} of at most {most}, {unknown} not known of"));
        }
    }
    for (uid, peak) in seen.peak_on_node.iter().filter(|(_, peak)| **peak > 1 + unknown) {
        found.push(format!("{peak} pods at once of daemon set {uid} on one node, {unknown} not known of"));
    }
    let (total, limit) = (seen.peak_total, web_limit(wanted));
    // A leader that is late may raise one while the new one raises another.
    if count(&faults.late_scales) == 0 && total > limit {
        found.push(format!("the replica sets of a deployment wanted {total} pods at once, at most {limit} are allowed"));
    }
    found
}
