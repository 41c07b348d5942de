//! Stateful sets: pods with a place in an order come, go and are replaced in that order, and claims stay for as long as their
//! set's policy says (`order.rs`).

use crate::checks::Found;
use crate::history::{Change, count, image, is_leaving, is_over, is_ready, text, uid};
use crate::kubelets::ready;
use crate::order::{self, MOST};
use crate::scenario::Scenario;
use crate::world::World;
use crate::{APPS, CORE, add, common, workload};
use http::Method;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// One set as it is wanted.
struct Set {
    name: &'static str,
    replicas: usize,
    partition: usize,
    image: &'static str,
    /// Its claims go with the pods that are too many.
    shrinks: bool,
    deleted: bool,
}

/// The sets of a run.
pub struct Sets {
    all: Vec<Set>,
    /// UIDs of pods that somebody else took away.
    taken: BTreeSet<String>,
}

const POLICIES: &str = "persistentVolumeClaimRetentionPolicy";
const SETS: &str = "statefulsets";

fn claims() -> Value {
    json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}])
}

impl Sets {
    async fn patch(&self, world: &World, at: usize, spec: Value) {
        let path = format!("{APPS}/{SETS}/{}", self.all[at].name);
        world.ask(Method::PATCH, &path, json!({"spec": spec})).await;
    }

    /// Something befalls one of the pods.
    async fn befall(&mut self, world: &World, dice: &mut StdRng) {
        let pods = world.items(&format!("{CORE}/pods")).await;
        let running: Vec<&Value> = pods.iter().filter(|p| is_ready(p)).collect();
        if running.is_empty() {
            return;
        }
        let pod = running[dice.random_range(0..running.len())];
        let path = format!("{CORE}/pods/{}", common::name(pod));
        let uid = &pod["metadata"]["uid"];
        match dice.random_range(0..3) {
            0 => {
                self.taken.insert(text(uid).to_owned());
                world.try_ask(Method::DELETE, &path, json!({"preconditions": {"uid": uid}})).await;
            }
            1 => {
                let evicted = json!({"metadata": {"uid": uid}, "status": {"phase": "Failed", "reason": "Evicted"}});
                world.try_ask(Method::PATCH, &format!("{path}/status"), evicted).await;
            }
            _ => {
                let ill = json!({"metadata": {"uid": uid}, "status": {"conditions": [ready(false)]}});
                world.try_ask(Method::PATCH, &format!("{path}/status"), ill).await;
            }
        }
    }
}

impl Scenario for Sets {
    const CONTROLLERS: &'static [&'static str] = &[
        "statefulset-controller",
        "persistentvolumeclaim-protection-controller",
        "garbage-collector-controller",
        "serviceaccount-controller",
    ];

    async fn install(world: &World) -> Self {
        world.node(1).await;
        world.account().await;
        let set = |name, shrinks| Set { name, replicas: 3, partition: 0, image: "a", shrinks, deleted: false };
        let all = vec![set("db", false), set("ring", true), set("short", false), set("kept", false)];
        let more = [
            json!({}),
            json!({"podManagementPolicy": "Parallel", POLICIES: {"whenDeleted": "Retain", "whenScaled": "Delete"}}),
            json!({POLICIES: {"whenDeleted": "Delete", "whenScaled": "Retain"}}),
            json!({"podManagementPolicy": "Parallel"}),
        ];
        for (set, more) in all.iter().zip(more) {
            let mut spec = json!({"replicas": set.replicas, "serviceName": "s", "volumeClaimTemplates": claims()});
            add(&mut spec, more);
            world.ask(Method::POST, &format!("{APPS}/{SETS}"), workload(set.name, set.image, spec)).await;
        }
        Sets { all, taken: BTreeSet::new() }
    }

    async fn change(&mut self, world: &World, dice: &mut StdRng) {
        let at = dice.random_range(0..self.all.len());
        if self.all[at].deleted {
            return self.befall(world, dice).await;
        }
        match dice.random_range(0..9) {
            0 | 1 => {
                self.all[at].replicas = dice.random_range(0..5);
                self.patch(world, at, json!({"replicas": self.all[at].replicas})).await;
            }
            2 | 3 => {
                self.all[at].image = ["a", "b", "c"][dice.random_range(0..3)];
                let container = json!({"name": "c", "image": self.all[at].image});
                self.patch(world, at, json!({"template": {"spec": {"containers": [container]}}})).await;
            }
            4 => {
                self.all[at].partition = dice.random_range(0..3);
                let rolling = json!({"partition": self.all[at].partition});
                self.patch(world, at, json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}})).await;
            }
            5 if at > 1 => {
                self.all[at].deleted = true;
                world.delete(&format!("{APPS}/{SETS}/{}", self.all[at].name), ["Background", "Foreground"][dice.random_range(0..2)]).await;
            }
            _ => self.befall(world, dice).await,
        }
    }

    async fn problems(&self, world: &World) -> Vec<String> {
        let pods = world.items(&format!("{CORE}/pods")).await;
        let claims = world.items(&format!("{CORE}/persistentvolumeclaims")).await;
        let mut found = Found(Vec::new());
        for set in &self.all {
            let own = |all: &[Value], prefix: &str| -> BTreeSet<String> {
                all.iter().map(|o| common::name(o).to_owned()).filter(|n| n.starts_with(&format!("{prefix}-"))).collect()
            };
            let (there, kept) = (own(&pods, set.name), own(&claims, &format!("data-{}", set.name)));
            if set.deleted {
                found.unless(there.is_empty(), || format!("{} is deleted, and {there:?} are left", set.name));
                // That those of the other one stay is looked for in what was written.
                found.unless(set.name != "short" || kept.is_empty(), || format!("{} is deleted, and {kept:?} are left", set.name));
                continue;
            }
            let wanted = |prefix: &str| (0..set.replicas).map(|n| format!("{prefix}-{n}")).collect::<BTreeSet<_>>();
            found.unless(there == wanted(set.name), || format!("{}: {there:?}, wanted {}", set.name, set.replicas));
            let needed = wanted(&format!("data-{}", set.name));
            let went = |n| went_by_shrinking(world, &self.taken, set.name, n);
            let too_many = (set.replicas..MOST).any(|n| kept.contains(&format!("data-{}-{n}", set.name)) && went(n));
            let right = kept.is_superset(&needed) && !(set.shrinks && too_many);
            found.unless(right, || format!("{}: claims {kept:?}, wanted {}", set.name, set.replicas));
            let object = world.get(&format!("{APPS}/{SETS}/{}", set.name)).await;
            revisions(set, &object, &pods, &mut found);
        }
        found.0
    }

    fn violations(&self, world: &World) -> Vec<String> {
        order::audit(&world.server.history(), &self.taken)
    }
}

/// Whether a pod went because its set shrank, and not before by itself or with somebody's help (`taken`), nor because its end was asked
/// for already, to replace it: its claim goes with it. A claim that had no pod at that time is forgotten, upstream as well, because
/// a set looks after the claims of the pods that it takes away.
fn went_by_shrinking(world: &World, taken: &BTreeSet<String>, set: &str, at: usize) -> bool {
    let history: Vec<Change> = world.server.history();
    let stays = |pod: &Value, then| !is_leaving(pod) && !is_over(pod) && !world.meter.is_unwanted(uid(pod), world.began + then);
    let name = format!("{set}-{at}");
    let (mut pod, mut wanted, mut went) = (None, false, false);
    for change in &history {
        if change.is("Pod") && change.name() == name {
            pod = change.after.clone();
            went &= !(change.is_end() && taken.contains(uid(change.latest())));
        } else if change.is("StatefulSet") && change.name() == set {
            let wants = change.after.as_ref().is_some_and(|s| count(&s["spec"]["replicas"]) > at);
            went = !wants && if wanted { pod.as_deref().is_some_and(|p| stays(p, change.at)) } else { went };
            wanted = wants;
        }
    }
    went
}

/// Pods from the partition on are of the present template; the status says how many are.
fn revisions(set: &Set, object: &Value, pods: &[Value], found: &mut Found) {
    let status = &object["status"];
    let revision = |p: &Value| text(&p["metadata"]["labels"]["controller-revision-hash"]).to_owned();
    let [current, update] = ["currentRevision", "updateRevision"].map(|key| text(&status[key]).to_owned());
    let mut updated = 0;
    for at in 0..set.replicas {
        let name = format!("{}-{at}", set.name);
        let Some(pod) = pods.iter().find(|p| common::name(p) == name) else { continue };
        let is_new = revision(pod) == update;
        updated += usize::from(is_new);
        found.unless(is_ready(pod), || format!("{name} is not ready"));
        found.unless(!is_new || image(pod) == set.image, || format!("{name} is of {update}, not of {}", set.image));
        // Below the partition it may also be of an update that another one overtook.
        found.unless(is_new || at < set.partition, || format!("{name} is of {}: {status}", revision(pod)));
    }
    let counts = ["replicas", "readyReplicas", "availableReplicas", "updatedReplicas"].map(|k| count(&status[k]));
    let right =
        counts == [set.replicas, set.replicas, set.replicas, updated] && status["observedGeneration"] == object["metadata"]["generation"];
    found.unless(right, || format!("{}: {updated} are updated: {status}", set.name));
    found.unless(updated < set.replicas || current == update, || format!("{}: the update has not ended: {status}", set.name));
}
