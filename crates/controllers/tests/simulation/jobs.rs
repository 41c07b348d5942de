//! Jobs of every policy: each ends as its pods ended, and is counted as its pods ended (`ledger.rs`).

use crate::checks::Found;
use crate::history::{count, has_condition, is_over, text};
use crate::kubelets::EXITS;
use crate::ledger;
use crate::scenario::Scenario;
use crate::world::World;
use crate::{CORE, JOBS, add, common, job};
use http::Method;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

/// What is asked of jobs of one sort. Each has 3 pods at once.
struct Sort {
    name: &'static str,
    /// How pods end.
    exits: &'static str,
    spec: fn() -> Value,
}

fn rules() -> Value {
    let codes = |action: &str, code: i32| json!({"action": action, "onExitCodes": {"operator": "In", "values": [code]}});
    let disrupted = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
    json!([codes("FailJob", 42), disrupted, codes("Count", 2)])
}

fn index_rules() -> Value {
    json!([{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [3]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}])
}

const SORTS: [Sort; 6] = [
    Sort { name: "limited", exits: "0.0.1", spec: || json!({"completions": 8, "backoffLimit": 2}) },
    Sort {
        name: "ruled",
        exits: "0.0.0.0.1.2.d.d.42",
        spec: || json!({"completions": 6, "backoffLimit": 3, "podFailurePolicy": {"rules": rules()}}),
    },
    Sort {
        name: "indexed",
        exits: "0.0.0.1.d.3",
        spec: || json!({"completions": 7, "completionMode": "Indexed", "backoffLimitPerIndex": 1, "maxFailedIndexes": 2, "podFailurePolicy": {"rules": index_rules()}}),
    },
    Sort {
        name: "enough",
        exits: "0.0.1",
        spec: || {
            json!({"completions": 8, "completionMode": "Indexed", "backoffLimit": 50,
            "successPolicy": {"rules": [{"succeededIndexes": "0-3", "succeededCount": 3}, {"succeededCount": 6}]}})
        },
    },
    Sort { name: "patient", exits: "0.0.1.d", spec: || json!({"completions": 6, "backoffLimit": 50, "podReplacementPolicy": "Failed"}) },
    Sort { name: "queue", exits: "0.1.1", spec: || json!({"backoffLimit": 6}) },
];

pub const PARALLEL: usize = 3;

/// The jobs of a run.
pub struct Jobs {
    made: usize,
}

impl Jobs {
    async fn make(&mut self, world: &World, sort: &Sort) {
        let mut spec = (sort.spec)();
        add(&mut spec, json!({"parallelism": PARALLEL}));
        let name = format!("{}-{}", sort.name, self.made);
        self.made += 1;
        world.ask(Method::POST, JOBS, job(&name, json!({EXITS: sort.exits}), spec)).await;
    }

    /// One of those that are not over.
    async fn any(&self, world: &World, dice: &mut StdRng) -> Option<String> {
        let all = world.items(JOBS).await;
        let going: Vec<&Value> = all.iter().filter(|j| !has_condition(j, "Complete") && !has_condition(j, "Failed")).collect();
        (!going.is_empty()).then(|| format!("{JOBS}/{}", common::name(going[dice.random_range(0..going.len())])))
    }

    /// A pod is deleted by somebody else.
    async fn kill(&self, world: &World, dice: &mut StdRng) {
        let pods = world.items(&format!("{CORE}/pods")).await;
        let going: Vec<&Value> = pods.iter().filter(|p| !is_over(p)).collect();
        if !going.is_empty() {
            let name = common::name(going[dice.random_range(0..going.len())]);
            world.try_ask(Method::DELETE, &format!("{CORE}/pods/{name}"), json!({})).await;
        }
    }
}

impl Scenario for Jobs {
    const CONTROLLERS: &'static [&'static str] =
        &["job-controller", "garbage-collector-controller", "pod-garbage-collector-controller", "serviceaccount-controller"];

    async fn install(world: &World) -> Self {
        world.node(1).await;
        world.account().await;
        let mut jobs = Jobs { made: 0 };
        for sort in &SORTS {
            jobs.make(world, sort).await;
        }
        jobs
    }

    async fn change(&mut self, world: &World, dice: &mut StdRng) {
        match dice.random_range(0..8) {
            0..4 => self.make(world, &SORTS[dice.random_range(0..SORTS.len())]).await,
            4 => {
                let Some(path) = self.any(world, dice).await else { return };
                let parallelism = dice.random_range(1..=PARALLEL);
                world.try_ask(Method::PATCH, &path, json!({"spec": {"parallelism": parallelism}})).await;
            }
            5 => {
                let Some(path) = self.any(world, dice).await else { return };
                let suspend = world.get(&path).await["spec"]["suspend"] != true;
                world.try_ask(Method::PATCH, &path, json!({"spec": {"suspend": suspend}})).await;
            }
            _ => self.kill(world, dice).await,
        }
    }

    async fn rest(&mut self, world: &World) {
        for job in world.items(JOBS).await.iter().filter(|j| j["spec"]["suspend"] == true) {
            world.try_ask(Method::PATCH, &format!("{JOBS}/{}", common::name(job)), json!({"spec": {"suspend": false}})).await;
        }
    }

    async fn problems(&self, world: &World) -> Vec<String> {
        let (jobs, pods) = (world.items(JOBS).await, world.items(&format!("{CORE}/pods")).await);
        let mut found = Found(Vec::new());
        found.unless(jobs.len() == self.made, || format!("{} jobs of {}", jobs.len(), self.made));
        for job in &jobs {
            let (name, status) = (common::name(job), &job["status"]);
            found.unless(has_condition(job, "Complete") != has_condition(job, "Failed"), || format!("{name}: not over: {status}"));
            let zero = ["active", "terminating"].iter().all(|k| count(&status[k]) == 0);
            let counted = ["succeeded", "failed"].iter().all(|k| status["uncountedTerminatedPods"][k].is_null());
            found.unless(zero && counted, || format!("{name}: something is left to count: {status}"));
        }
        for pod in &pods {
            let (name, held) = (common::name(pod), !pod["metadata"]["finalizers"].is_null());
            found.unless(is_over(pod) && !held, || format!("{name} is left: {}, held: {held}", text(&pod["status"]["phase"])));
        }
        found.0
    }

    fn violations(&self, world: &World) -> Vec<String> {
        ledger::audit(&world.server.history(), world.unknown())
    }
}
