//! What must hold when everything works again.

use crate::history::{Seen, app, count, image, is_leaving, is_over, is_ready};
use crate::workloads::Wanted;
use crate::world::World;
use crate::{APPS, AWAY, BUDGETS, CORE, CRONS, JOBS, SLICES};
use http::Method;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

fn of_app<'v>(all: &'v [Value], app: &str) -> Vec<&'v Value> {
    all.iter().filter(|o| self::app(o) == app).collect()
}

/// UIDs of the pods of an app that are there to stay.
pub async fn active_of(world: &World, app: &str) -> BTreeSet<String> {
    let pods = world.items(&format!("{CORE}/pods")).await;
    of_app(&pods, app).into_iter().filter(|p| !is_leaving(p)).filter_map(uid).collect()
}

pub struct Found(pub Vec<String>);

impl Found {
    pub fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }
}

/// Everything that is not as it was asked for.
pub async fn problems(world: &World, wanted: &Wanted) -> Vec<String> {
    let mut found = Found(Vec::new());
    let seen = Seen::of(&world.server.history());
    let pods = world.items(&format!("{CORE}/pods")).await;
    let sets = world.items(&format!("{APPS}/replicasets")).await;
    deployment(world, wanted, &pods, &sets, &mut found).await;
    stateful(world, wanted, &pods, &mut found).await;
    daemons(world, wanted, &pods, &mut found).await;
    for name in ["indexed", "plain"] {
        let ever = seen.succeeded.get(name).map_or(0, Vec::len);
        let unknown = world.faults.unknown_creations.load(Ordering::Relaxed);
        job(&world.get(&format!("{JOBS}/{name}")).await, name, &pods, [ever, unknown], &mut found);
    }
    slices(world, &pods, &mut found).await;
    brief(world, &seen, &pods, &mut found).await;
    tick(world, &pods, &mut found).await;
    budget(world, wanted, &mut found).await;
    quota(world, &pods, &sets, &mut found).await;
    for (app, gone) in [("gone", wanted.gone), ("front", wanted.front_gone)] {
        let (pods, sets) = (of_app(&pods, app).len(), of_app(&sets, app).len());
        let right = if gone { (0, 0) } else { (2, 1) };
        found.unless((pods, sets) == right, || format!("{app}: {pods} pods of {sets} replica sets, deleted: {gone}"));
    }
    left(world, wanted, &pods, &sets, &mut found);
    away(world, wanted, &mut found).await;
    orphans(world, wanted, &pods, &sets, &mut found).await;
    found.0
}

/// The pods of a replica set that was deleted without them: none of them went, and nobody made more, save a leader that did not know
/// yet that it was none any more.
fn left(world: &World, wanted: &Wanted, pods: &[Value], sets: &[Value], found: &mut Found) {
    let (pods, sets) = (of_app(pods, "stay"), of_app(sets, "stay"));
    let Some(left) = &wanted.left else {
        return found.unless(pods.len() == 2 && sets.len() == 1, || format!("stay: {} pods of {} sets", pods.len(), sets.len()));
    };
    let there: BTreeSet<String> = pods.iter().filter_map(|p| uid(p)).collect();
    let kept = left.intersection(&there).count();
    // What was one too many then may have gone.
    let right = sets.is_empty() && kept >= left.len().min(2) && there.is_subset(left) | (there.len() <= 2 + world.unknown());
    found.unless(right, || format!("stay: {there:?} are left of {left:?}, {} sets", sets.len()));
}

/// A deleted namespace is gone, and what was in it.
async fn away(world: &World, wanted: &Wanted, found: &mut Found) {
    let namespace = world.admin.send(Method::GET, AWAY, None, bytes::Bytes::new()).await;
    found.unless(namespace.is_err() == wanted.away_gone, || format!("away: deleted: {}, there: {}", wanted.away_gone, namespace.is_ok()));
    let pods = world.items(&format!("{AWAY}/pods")).await;
    let good = of_app(&pods, "far").into_iter().filter(|p| is_ready(p)).count();
    let right = if wanted.away_gone { pods.is_empty() } else { good == 2 };
    found.unless(right, || format!("away: {good} good pods of {}, deleted: {}", pods.len(), wanted.away_gone));
    let maps = world.items(&format!("{AWAY}/configmaps")).await;
    found.unless(!maps.is_empty() != wanted.away_gone, || format!("away: {} config maps, deleted: {}", maps.len(), wanted.away_gone));
}

async fn deployment(world: &World, wanted: &Wanted, pods: &[Value], sets: &[Value], found: &mut Found) {
    let pods = of_app(pods, "web");
    let good = pods.iter().filter(|p| is_ready(p) && image(p) == wanted.image).count();
    found.unless(good == wanted.web && pods.len() == wanted.web, || {
        format!("web: {good} good pods of {}, wanted {}", pods.len(), wanted.web)
    });
    let sizes: usize = of_app(sets, "web").iter().map(|s| count(&s["spec"]["replicas"])).sum();
    found.unless(sizes == wanted.web, || format!("web: replica sets want {sizes}"));
    let d = world.get(&format!("{APPS}/deployments/web")).await;
    let status = &d["status"];
    let counts = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"].map(|k| count(&status[k]));
    let right = counts == [wanted.web; 4] && status["observedGeneration"] == d["metadata"]["generation"];
    found.unless(right, || format!("web: status {status}"));
}

async fn stateful(world: &World, wanted: &Wanted, pods: &[Value], found: &mut Found) {
    let pods = of_app(pods, "db");
    let names: BTreeSet<&str> =
        pods.iter().filter(|p| is_ready(p) && image(p) == wanted.db_image).map(|p| crate::common::name(p)).collect();
    let expected: Vec<String> = (0..wanted.db).map(|n| format!("db-{n}")).collect();
    let right = names.iter().copied().eq(expected.iter().map(String::as_str)) && pods.len() == wanted.db;
    found.unless(right, || format!("db: {names:?} of {} pods, wanted {}", pods.len(), wanted.db));
    let s = world.get(&format!("{APPS}/statefulsets/db")).await;
    let counts = ["replicas", "readyReplicas", "updatedReplicas"].map(|k| count(&s["status"][k]));
    found.unless(counts == [wanted.db; 3], || format!("db: status {}", s["status"]));
    // A claim stays when its pod goes, and there is one for each pod there ever was.
    let claims = world.items(&format!("{CORE}/persistentvolumeclaims")).await;
    let claims: Vec<String> = claims.iter().map(|c| crate::common::name(c).to_owned()).collect();
    let expected = |n: usize| (0..n).map(|n| format!("data-db-{n}")).collect::<Vec<_>>();
    let right = (wanted.db..=wanted.most_db).any(|n| claims == expected(n));
    found.unless(right, || format!("db: claims {claims:?}, wanted {} of at most {}", wanted.db, wanted.most_db));
}

async fn daemons(world: &World, wanted: &Wanted, pods: &[Value], found: &mut Found) {
    let pods = of_app(pods, "agent");
    let nodes: BTreeSet<&str> =
        pods.iter().filter(|p| is_ready(p) && image(p) == wanted.agent_image).filter_map(|p| p["spec"]["nodeName"].as_str()).collect();
    found.unless(nodes.len() == wanted.nodes && pods.len() == wanted.nodes, || {
        format!("agent: {} pods on {nodes:?}, wanted {}", pods.len(), wanted.nodes)
    });
    let d = world.get(&format!("{APPS}/daemonsets/agent")).await;
    let counts = ["desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable"].map(|k| count(&d["status"][k]));
    found.unless(counts == [wanted.nodes; 3], || format!("agent: status {}", d["status"]));
}

/// A job is complete, has counted no pod twice, and has let its pods go. At most so many can have
/// succeeded, and so many more may have been made that it did not know of when it ended.
fn job(job: &Value, name: &str, pods: &[Value], [ever, unknown]: [usize; 2], found: &mut Found) {
    let pods = of_app(pods, name);
    let status = &job["status"];
    let complete = status["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Complete" && c["status"] == "True");
    found.unless(complete, || format!("{name}: not complete: {status}"));
    let [succeeded, failed] = ["succeeded", "failed"].map(|k| count(&status[k]));
    if name == "indexed" {
        found.unless(succeeded == 4 && status["completedIndexes"] == "0-3", || format!("{name}: status {status}"));
    } else {
        // A pod whose making the controller could not know of may have succeeded too.
        found.unless((4..=ever).contains(&succeeded), || format!("{name}: counted {succeeded} of {ever} successes"));
    }
    // One that is removed as one too many counts as failed; it never says so itself.
    let active = pods.iter().filter(|p| !is_over(p)).count();
    found.unless(active == 0, || format!("{name}: {active} pods that are not over are left"));
    // One that is removed as one too many while it fails may never be counted, as upstream; then it is gone.
    let lasting = pods.iter().filter(|p| p["status"]["phase"] == "Failed").count();
    found.unless(failed + unknown >= lasting, || format!("{name}: counted {failed} of {lasting} failures"));
    let held = pods.iter().filter(|p| !p["metadata"]["finalizers"].is_null()).count();
    found.unless(held == 0, || format!("{name}: {held} pods have a finalizer"));
}

/// A job that may stay for a while after its end has come to it, and is gone with its pods.
async fn brief(world: &World, seen: &Seen, pods: &[Value], found: &mut Found) {
    let there = world.items(JOBS).await.iter().any(|j| crate::common::name(j) == "brief");
    let ever = seen.succeeded.get("brief").map_or(0, Vec::len);
    let left = of_app(pods, "brief").len();
    found.unless(!there && left == 0 && ever >= 4, || format!("brief: there: {there}, {left} pods, {ever} ever succeeded"));
}

/// The cron job has seen all its jobs end, and keeps the last one.
async fn tick(world: &World, pods: &[Value], found: &mut Found) {
    let jobs = world.items(JOBS).await;
    let jobs = of_app(&jobs, "tick");
    let complete = jobs.iter().filter(|j| !j["status"]["completionTime"].is_null()).count();
    let cron = world.get(&format!("{CRONS}/tick")).await;
    let active = cron["status"]["active"].as_array().map_or(0, Vec::len);
    let right = jobs.len() <= 1 && complete == jobs.len() && active == 0;
    found.unless(right, || format!("tick: {complete} of {} jobs are complete, status {}", jobs.len(), cron["status"]));
    let held = of_app(pods, "tick").iter().filter(|p| !p["metadata"]["finalizers"].is_null()).count();
    found.unless(held == 0, || format!("tick: {held} pods have a finalizer"));
}

/// The budget allows what the deployment can spare.
async fn budget(world: &World, wanted: &Wanted, found: &mut Found) {
    let budget = world.get(&format!("{BUDGETS}/web")).await;
    let counts = ["expectedPods", "currentHealthy", "desiredHealthy", "disruptionsAllowed"].map(|k| count(&budget["status"][k]));
    let right = counts == [wanted.web, wanted.web, wanted.web.saturating_sub(1), wanted.web.min(1)];
    found.unless(right, || format!("budget: wanted {}, status {}", wanted.web, budget["status"]));
}

/// The quota tells what is there.
async fn quota(world: &World, pods: &[Value], sets: &[Value], found: &mut Found) {
    let quota = world.get(&format!("{CORE}/resourcequotas/all")).await;
    let going = pods.iter().filter(|p| !is_over(p)).count();
    let claims = world.items(&format!("{CORE}/persistentvolumeclaims")).await.len();
    for (name, there) in [("pods", going), ("persistentvolumeclaims", claims), ("count/replicasets.apps", sets.len())] {
        let used = &quota["status"]["used"][name];
        found.unless(*used == there.to_string(), || format!("quota: {name} used {used}, there are {there}"));
    }
}

async fn slices(world: &World, pods: &[Value], found: &mut Found) {
    let ready: BTreeSet<&str> =
        of_app(pods, "web").into_iter().filter(|p| is_ready(p)).filter_map(|p| p["status"]["podIP"].as_str()).collect();
    let slices = world.items(SLICES).await;
    let endpoints: Vec<&str> = slices
        .iter()
        .filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == "web")
        .flat_map(|s| s["endpoints"].as_array().into_iter().flatten())
        .filter(|e| e["conditions"]["ready"] == true)
        .flat_map(|e| e["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str))
        .collect();
    let set: BTreeSet<&str> = endpoints.iter().copied().collect();
    found.unless(set == ready && set.len() == endpoints.len(), || format!("endpoints {endpoints:?}, ready pods {ready:?}"));
}

/// Nobody belongs to an owner that is gone.
async fn orphans(world: &World, wanted: &Wanted, pods: &[Value], sets: &[Value], found: &mut Found) {
    let mut owners: BTreeSet<String> = sets.iter().filter_map(uid).collect();
    for path in [format!("{APPS}/deployments"), format!("{APPS}/statefulsets"), format!("{APPS}/daemonsets"), JOBS.to_owned()] {
        owners.extend(world.items(&path).await.iter().filter_map(uid));
    }
    let free = |object: &Value| {
        let app = &object["metadata"]["labels"]["app"];
        app == "front" && object["spec"]["replicas"].is_number()
            || app == "stay" && (object["spec"]["replicas"].is_number() || wanted.left.is_some())
    };
    for object in pods.iter().chain(sets) {
        let references = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let (name, owned) = (crate::common::name(object), usize::from(!free(object)));
        found.unless(references.len() == owned, || format!("{name} has {} owners", references.len()));
        let alive = references.iter().all(|r| r["uid"].as_str().is_some_and(|u| owners.contains(u)));
        found.unless(alive, || format!("{name} belongs to an owner that is gone"));
    }
}

fn uid(object: &Value) -> Option<String> {
    object["metadata"]["uid"].as_str().map(str::to_owned)
}
