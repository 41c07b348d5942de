//! An autoscaler whose load is known: the size stays within its bounds, shrinks only when the load has been low for long
//! enough, and rests when the load does.

use crate::APPS;
use crate::checks::Found;
use crate::history::{Change, count};
use crate::scenario::Scenario;
use crate::world::World;
use crate::{CORE, workload};
use http::Method;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

const AUTOSCALER: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
/// The load that one pod bears.
const EACH: u64 = 10;
/// How long a size is kept that was needed (`--horizontal-pod-autoscaler-downscale-stabilization`).
const WINDOW: Duration = Duration::from_secs(300);
/// How old the bounds can be that a controller acts on, and how long what it decided is on its way.
const LAG: Duration = Duration::from_secs(120);

/// The autoscaler of a run.
pub struct Sizes {
    bounds: [u64; 2],
    /// When nothing was changed any more.
    rests: Option<Instant>,
}

impl Sizes {
    fn spec(bounds: [u64; 2]) -> Value {
        json!({"minReplicas": bounds[0], "maxReplicas": bounds[1]})
    }

    /// The size that the load asks for, within the bounds.
    fn wanted(&self, world: &World) -> u64 {
        world.meter.load.load(Ordering::Relaxed).div_ceil(EACH).clamp(self.bounds[0], self.bounds[1])
    }
}

impl Scenario for Sizes {
    const CONTROLLERS: &'static [&'static str] = &[
        "horizontal-pod-autoscaler-controller",
        "deployment-controller",
        "replicaset-controller",
        "garbage-collector-controller",
        "serviceaccount-controller",
    ];

    async fn install(world: &World) -> Self {
        world.node(1).await;
        world.account().await;
        world.meter.load.store(4 * EACH, Ordering::Relaxed);
        world.ask(Method::POST, &format!("{APPS}/deployments"), workload("web", "a", json!({"replicas": 3}))).await;
        let bounds = [2, 8];
        let metric = json!({"type": "External", "external": {"metric": {"name": "load"}, "target": {"type": "AverageValue", "averageValue": EACH.to_string()}}});
        let mut spec = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "metrics": [metric]});
        crate::add(&mut spec, Sizes::spec(bounds));
        world.ask(Method::POST, AUTOSCALER, json!({"metadata": {"name": "web"}, "spec": spec})).await;
        Sizes { bounds, rests: None }
    }

    async fn change(&mut self, world: &World, dice: &mut StdRng) {
        match dice.random_range(0..6) {
            0 => {
                let least = dice.random_range(1..5);
                self.bounds = [least, dice.random_range(least..10)];
                let path = format!("{AUTOSCALER}/web");
                world.ask(Method::PATCH, &path, json!({"spec": Sizes::spec(self.bounds)})).await;
            }
            1 => {
                let image = ["a", "b"][dice.random_range(0..2)];
                let container = json!({"name": "c", "image": image});
                let template = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
                world.ask(Method::PATCH, &format!("{APPS}/deployments/web"), template).await;
            }
            2 => tokio::time::sleep(Duration::from_secs(dice.random_range(60..300))).await,
            _ => world.meter.load.store(dice.random_range(0..100), Ordering::Relaxed),
        }
    }

    async fn rest(&mut self, _: &World) {
        self.rests = Some(Instant::now());
    }

    async fn problems(&self, world: &World) -> Vec<String> {
        let mut found = Found(Vec::new());
        let size = count(&world.get(&format!("{APPS}/deployments/web")).await["spec"]["replicas"]) as u64;
        let (wanted, load) = (self.wanted(world), world.meter.load.load(Ordering::Relaxed));
        // A load within a tenth of what the pods bear is no reason to change.
        let tolerated = (self.bounds[0]..=self.bounds[1]).contains(&size) && (load * 10).abs_diff(size * EACH * 10) <= size * EACH;
        found.unless(size == wanted || tolerated, || format!("{size} replicas under {load}, wanted {wanted} of {:?}", self.bounds));
        let pods = world.items(&format!("{CORE}/pods")).await.len() as u64;
        found.unless(pods == size, || format!("{pods} pods of {size}"));
        let status = world.get(&format!("{AUTOSCALER}/web")).await["status"].clone();
        let right = ["currentReplicas", "desiredReplicas"].iter().all(|k| count(&status[k]) as u64 == size);
        found.unless(right, || format!("the status of {size} replicas is {status}"));
        found.0
    }

    fn violations(&self, world: &World) -> Vec<String> {
        let history = world.server.history();
        let mut found = Found(Vec::new());
        within_bounds(&history, &mut found);
        self.shrinks_late(world, &history, &mut found);
        found.0
    }
}

/// The bounds that there were at a time, and shortly before.
fn bounds(history: &[Change], at: Duration) -> Vec<[u64; 2]> {
    let mut all: Vec<(Duration, [u64; 2])> = Vec::new();
    for change in history.iter().filter(|c| c.is("HorizontalPodAutoscaler") && c.at <= at) {
        let spec = &change.latest()["spec"];
        all.push((change.at, ["minReplicas", "maxReplicas"].map(|k| count(&spec[k]) as u64)));
    }
    // The one before the time counts as well.
    let first = all.iter().rposition(|(since, _)| *since + LAG < at).unwrap_or(0);
    all.drain(first..).map(|(_, bounds)| bounds).collect()
}

fn within_bounds(history: &[Change], found: &mut Found) {
    let size = |object: &Rc<Value>| count(&object["spec"]["replicas"]) as u64;
    for change in history.iter().filter(|c| c.is("Deployment")) {
        let (Some(before), Some(after)) = (&change.before, &change.after) else { continue };
        let (before, after) = (size(before), size(after));
        let fits = before == after || bounds(history, change.at).iter().any(|b| (b[0]..=b[1]).contains(&after));
        found.unless(fits, || format!("{before} become {after} at {:?}, beyond the bounds", change.at));
    }
}

impl Sizes {
    /// Nobody shrinks below what it has read to be needed in the last five minutes; and at rest nobody asks for anything.
    fn shrinks_late(&self, world: &World, history: &[Change], found: &mut Found) {
        let began = world.began;
        let (reads, scales) = (world.meter.reads.lock(), world.meter.scales.lock());
        for scale in scales.iter() {
            let at = scale.at - began;
            // What it has read is what it shrinks, or grows, and that has other limits. If it is not so any more, the server refuses.
            let known = history.iter().find(|c| c.is("Deployment") && c.revision.to_string() == scale.revision);
            let Some(there) = known.map(|c| count(&c.latest()["spec"]["replicas"]) as u64) else {
                found.0.push(format!("{scale:?} at {at:?} is of what nobody wrote"));
                continue;
            };
            if scale.number >= there {
                continue;
            }
            let recent = |r: &&crate::meter::Act| {
                r.process == scale.process && r.at <= scale.at && r.at + WINDOW > scale.at + Duration::from_secs(15)
            };
            let load = reads.iter().filter(recent).map(|r| r.number).max().unwrap_or(0);
            // A tenth more than the pods bear is borne.
            let needed = load.div_ceil(EACH + 1);
            let highest = bounds(history, at).iter().map(|b| b[1]).min().unwrap_or(0);
            found.unless(scale.number >= needed.min(highest), || format!("{scale:?} at {at:?} under a load of {load}, at most {highest}"));
        }
        let calm = self.rests.unwrap() + 2 * WINDOW;
        let late = scales.iter().filter(|s| s.at > calm).count();
        found.unless(late <= 1, || format!("{late} changes of size under a load that is the same"));
    }
}
