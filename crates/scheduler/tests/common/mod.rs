//! A cluster in memory, made from the objects that the API would give.
#![allow(dead_code, missing_docs, clippy::unwrap_used, reason = "each test uses a part")]

use ferrokube_api::Object;
use ferrokube_scheduler::node::{Node, NodeId, PodId};
use ferrokube_scheduler::plan::{Decision, Planner};
use ferrokube_scheduler::plugins::{Failure, Pre};
use ferrokube_scheduler::profile::Profile;
use ferrokube_scheduler::state::State;
use ferrokube_scheduler::{feeds, plan, pod, preempt};
use serde_json::{Value, json};
use std::sync::Arc;

pub fn object(value: &Value) -> Object {
    Object::from_json(value.to_string().into()).unwrap()
}

/// A node with cpu, memory and room for ten pods, in a zone.
pub fn node(name: &str, cpu: &str, memory: &str, zone: &str) -> Value {
    json!({
        "metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}},
        "spec": {},
        "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "10"}},
    })
}

/// A pod with labels `app: <app>` that asks for cpu and memory; `more` is merged into its spec.
pub fn pod(name: &str, app: &str, cpu: &str, memory: &str, more: &Value) -> Value {
    let mut requests = json!({});
    for (key, amount) in [("cpu", cpu), ("memory", memory)] {
        if !amount.is_empty() {
            requests[key] = amount.into();
        }
    }
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": app}, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "c", "image": "busybox", "resources": {"requests": requests}}]},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}

pub struct World {
    pub state: State,
    pub planner: Planner,
    pub profiles: Arc<[Profile]>,
}

impl World {
    pub fn new(nodes: &[Value]) -> Self {
        World::with_profile(nodes, Profile::default())
    }

    pub fn with_profile(nodes: &[Value], profile: Profile) -> Self {
        let profiles: Arc<[Profile]> = [profile].into();
        let mut world = World { state: State::new(), planner: Planner::new(1, profiles.clone()), profiles };
        world.state.set_namespace("default", Some([("team".into(), "a".into())].into()));
        nodes.iter().for_each(|n| world.node(n));
        world
    }

    pub fn profile(&self) -> &Profile {
        &self.profiles[0]
    }

    pub fn node(&mut self, value: &Value) {
        self.state.set_node(Node::read(&object(value)).unwrap());
    }

    pub fn tell(&mut self, feed: feeds::Feed, value: &Value) {
        let object = object(value);
        feeds::apply(&mut self.state, feed, &object.key.clone(), Some(&object));
    }

    pub fn add(&mut self, value: &Value) -> PodId {
        self.state.set_pod(pod::read(&object(value)).unwrap(), Some(0)).id
    }

    /// A pod that is on a node.
    pub fn on(&mut self, node: &str, value: &Value) -> PodId {
        let mut value = value.clone();
        value["spec"]["nodeName"] = node.into();
        self.add(&value)
    }

    pub fn id(&self, node: &str) -> NodeId {
        self.state.node_named(node).unwrap()
    }

    pub fn name(&self, node: NodeId) -> String {
        self.state.node(node).name.to_string()
    }

    /// Why a pod cannot be on a node.
    pub fn check(&self, pod: PodId, node: &str) -> Option<Failure> {
        match Pre::of(&self.state, self.profile(), pod) {
            Ok(pre) => plan::check(&self.state, pod, &pre, self.id(node)),
            Err(failure) => Some(failure),
        }
    }

    /// The nodes that a pod can be on, by name.
    pub fn feasible(&self, pod: PodId) -> Vec<String> {
        let nodes = self.state.order().iter().map(|id| self.name(*id));
        nodes.filter(|n| self.check(pod, n).is_none()).collect()
    }

    pub fn place(&mut self, pod: PodId) -> Result<String, String> {
        match self.planner.decide(&self.state, pod) {
            Decision::Place(node) => {
                self.state.assume(pod, node);
                Ok(self.name(node))
            }
            Decision::Nowhere(mut diagnosis) => {
                diagnosis.preemption = preempt::plan(&self.state, &self.profiles[0], pod, &diagnosis, 0).err();
                Err(diagnosis.message())
            }
        }
    }

    /// Node and victims by name.
    pub fn preempt(&mut self, pod: PodId) -> Result<(String, Vec<String>), String> {
        let Decision::Nowhere(diagnosis) = self.planner.decide(&self.state, pod) else { panic!("it fits") };
        let room = preempt::plan(&self.state, &self.profiles[0], pod, &diagnosis, 0)?;
        let victims = room.victims.iter().map(|v| self.state.pod(*v).key.name.to_string()).collect();
        Ok((self.name(room.node), victims))
    }
}
