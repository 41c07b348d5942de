//! Feasible nodes and scores of hundreds of generated clusters, against the formulas written down once more.
//!
//! [`reference`] reads the same JSON and knows nothing of the scheduler's machinery: no classes, no counts, no order of
//! evaluation. What it says must hold both for looking at nodes one by one and for the rankings that are kept from one
//! decision to the next while pods and nodes come, change and go.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
mod reference;

use common::World;
use ferrokube_api::ObjectKey;
use ferrokube_scheduler::feeds::Feed;
use ferrokube_scheduler::plan::Decision;
use ferrokube_scheduler::plugins::devices;
use ferrokube_scheduler::preempt;
use ferrokube_scheduler::profile::{Profile, Share};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use reference::Cluster;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

struct Generator(SmallRng);

impl Generator {
    fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of.choose(&mut self.0).unwrap().clone()
    }

    fn node(&mut self, name: &str) -> Value {
        let mut labels = json!({HOST: name});
        if self.chance(85) {
            labels[ZONE] = self.one(&["z0", "z1", "z2"]).into();
        }
        if self.chance(60) {
            labels["disk"] = self.one(&["ssd", "hdd"]).into();
        }
        let mut taints = Vec::new();
        for (key, effect, percent) in [("dedicated", "NoSchedule", 15), ("slow", "PreferNoSchedule", 30), ("old", "PreferNoSchedule", 20)] {
            if self.chance(percent) {
                taints.push(json!({"key": key, "value": self.one(&["a", "b"]), "effect": effect}));
            }
        }
        let cpu = self.one(&["2", "4", "7500m"]);
        let memory = self.one(&["4Gi", "8Gi", "9000000000"]);
        let mut node = json!({
            "metadata": {"name": name, "uid": name, "labels": labels},
            "spec": {"taints": taints},
            "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": self.one(&["3", "6", "10"]), "example.com/gpu": self.one(&["0", "2"])}},
        });
        if self.chance(7) {
            node["spec"]["unschedulable"] = true.into();
        }
        if self.chance(60) {
            node["status"]["declaredFeatures"] = json!(["UserNamespacesHostNetworkSupport"]);
        }
        if self.chance(50) {
            node["status"]["images"] =
                json!([{"names": ["big:v1"], "sizeBytes": 700_000_000}, {"names": ["small:latest"], "sizeBytes": 60_000_000}]);
        }
        node
    }

    fn selector(&mut self) -> Value {
        match self.0.random_range(0..4) {
            0 => json!({"matchLabels": {"app": self.one(&["x", "y"])}}),
            1 => json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["x", "y"]}]}),
            2 => json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
            _ => json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["front"]}], "matchLabels": {"app": "x"}}),
        }
    }

    fn pod_term(&mut self) -> Value {
        let mut term = json!({"topologyKey": self.one(&[ZONE, HOST, "disk"]), "labelSelector": self.selector()});
        match self.0.random_range(0..6) {
            0 => term["namespaceSelector"] = json!({}),
            1 => term["namespaceSelector"] = json!({"matchLabels": {"team": "red"}}),
            2 => term["namespaces"] = json!(["a"]),
            _ => {}
        }
        term
    }

    fn node_term(&mut self) -> Value {
        match self.0.random_range(0..3) {
            0 => json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}),
            1 => json!({"matchExpressions": [{"key": ZONE, "operator": "NotIn", "values": ["z1"]}]}),
            _ => {
                json!({"matchExpressions": [{"key": "disk", "operator": "Exists"}, {"key": ZONE, "operator": "In", "values": ["z0", "z2"]}]})
            }
        }
    }

    fn affinity(&mut self) -> Value {
        let mut affinity = json!({});
        if self.chance(20) {
            affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
                json!({"nodeSelectorTerms": [self.node_term(), self.node_term()]});
        }
        if self.chance(30) {
            let terms: Vec<Value> = (0..2).map(|_| json!({"weight": self.0.random_range(1..50), "preference": self.node_term()})).collect();
            affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] = terms.into();
        }
        for (kind, required) in [("podAffinity", 12), ("podAntiAffinity", 20)] {
            if self.chance(required) {
                affinity[kind]["requiredDuringSchedulingIgnoredDuringExecution"] = json!([self.pod_term()]);
            }
            if self.chance(25) {
                let weight = self.0.random_range(1..100);
                affinity[kind]["preferredDuringSchedulingIgnoredDuringExecution"] =
                    json!([{"weight": weight, "podAffinityTerm": self.pod_term()}]);
            }
        }
        affinity
    }

    fn constraint(&mut self) -> Value {
        let mut constraint = json!({
            "maxSkew": self.0.random_range(1..3),
            "topologyKey": self.one(&[ZONE, HOST, "disk"]),
            "whenUnsatisfiable": self.one(&["DoNotSchedule", "ScheduleAnyway", "ScheduleAnyway"]),
            "labelSelector": self.selector(),
        });
        if constraint["whenUnsatisfiable"] == "DoNotSchedule" && self.chance(30) {
            constraint["minDomains"] = self.0.random_range(1..4).into();
        }
        if self.chance(30) {
            constraint["nodeTaintsPolicy"] = "Honor".into();
        }
        if self.chance(30) {
            constraint["nodeAffinityPolicy"] = "Ignore".into();
        }
        constraint
    }

    /// What the pods of a template have in common.
    fn template(&mut self) -> Value {
        let mut requests = json!({});
        if self.chance(80) {
            requests["cpu"] = self.one(&["100m", "250m", "900m"]).into();
        }
        if self.chance(70) {
            requests["memory"] = self.one(&["64Mi", "500Mi", "1500Mi"]).into();
        }
        if self.chance(10) {
            requests["example.com/gpu"] = "1".into();
        }
        let image = self.one(&["big:v1", "small", "other:v2"]);
        let mut spec =
            json!({"containers": [{"name": "c", "image": image, "resources": {"requests": requests}}], "affinity": self.affinity()});
        if self.chance(10) {
            spec["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": self.one(&[80, 81])}]);
        }
        if self.chance(15) {
            spec["nodeSelector"] = json!({"disk": self.one(&["ssd", "hdd"])});
        }
        if self.chance(10) {
            spec["hostNetwork"] = true.into();
            spec["hostUsers"] = false.into();
        }
        if self.chance(30) {
            spec["tolerations"] = json!([{"key": self.one(&["dedicated", "slow"]), "operator": "Exists"}]);
        }
        if self.chance(40) {
            let number = self.0.random_range(1..3);
            let constraints: Vec<Value> = (0..number).map(|_| self.constraint()).collect();
            // The same key and effect twice is refused by validation.
            let mut seen = std::collections::BTreeSet::new();
            let distinct =
                constraints.into_iter().filter(|c| seen.insert((c["topologyKey"].to_string(), c["whenUnsatisfiable"].to_string())));
            spec["topologySpreadConstraints"] = distinct.collect::<Vec<_>>().into();
        }
        let mut labels = json!({"app": self.one(&["x", "y", "z"])});
        if self.chance(50) {
            labels["tier"] = self.one(&["front", "back"]).into();
        }
        json!({"metadata": {"namespace": self.one(&["a", "b"]), "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec})
    }
}

/// A cluster twice: for the scheduler and for the reference.
struct Twins {
    world: World,
    cluster: Cluster,
}

impl Twins {
    fn new(random: &mut Generator) -> Self {
        // 100: every node is looked at, so that both ways see the same nodes.
        let mut world =
            World::with_profile(&[], Profile { percentage: 100, candidates: Share { percent: 100, at_least: 100 }, ..Profile::default() });
        world.planner.ranked_from = 1;
        let mut cluster = Cluster::default();
        world.tell(Feed::DeviceClasses, &json!({"metadata": {"name": "gpu"}, "spec": {}}));
        for (name, team) in [("a", "red"), ("b", "blue")] {
            world.state.set_namespace(name, Some([("team".into(), team.into())].into()));
            cluster.namespaces.insert(name.into(), json!({"team": team}));
        }
        if random.chance(50) {
            let budget = json!({"metadata": {"name": "b", "namespace": random.one(&["a", "b"])}, "spec": {"selector": random.selector()},
                "status": {"disruptionsAllowed": random.0.random_range(0..3)}});
            world.tell(Feed::Budgets, &budget);
            cluster.budgets.push(budget);
        }
        if random.chance(60) {
            let service = json!({"metadata": {"name": "s", "namespace": "a"}, "spec": {"selector": {"app": "x"}}});
            world.tell(Feed::Services, &service);
            cluster.services.push(service);
        }
        Twins { world, cluster }
    }

    fn set_node(&mut self, node: Value) {
        self.world.node(&node);
        self.cluster.nodes.insert(node["metadata"]["name"].as_str().unwrap().into(), node);
    }

    /// What a node has besides itself: room for so many volumes, and devices.
    fn equip(&mut self, random: &mut Generator, name: &str) {
        if random.chance(50) {
            let limit = random.0.random_range(1..4);
            let drivers = json!([{"name": "csi.example.com", "nodeID": name, "allocatable": {"count": limit}}]);
            self.world.tell(Feed::CsiNodes, &json!({"metadata": {"name": name}, "spec": {"drivers": drivers}}));
            self.cluster.limits.insert(name.into(), limit);
        }
        let count = random.0.random_range(0..4);
        let devices: Vec<Value> = (0..count).map(|i| json!({"name": format!("d{i}")})).collect();
        let pool = json!({"name": name, "generation": 1, "resourceSliceCount": 1});
        let spec = json!({"driver": "gpu.example.com", "nodeName": name, "pool": pool, "devices": devices});
        self.world.tell(Feed::Slices, &json!({"metadata": {"name": name}, "spec": spec}));
        self.cluster.devices.insert(name.into(), count);
    }

    /// Gives a pod a claim that is bound to a volume, maybe one that another pod has.
    fn give_volume(&mut self, random: &mut Generator, pod: &mut Value, number: usize) {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap().to_owned();
        let known: Vec<String> =
            self.cluster.volumes.keys().filter_map(|k| k.strip_prefix(&format!("{namespace}/")).map(str::to_owned)).collect();
        let name = if !known.is_empty() && random.chance(40) { random.one(&known) } else { format!("c{number}") };
        pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": name}}]);
        if known.contains(&name) {
            return;
        }
        let modes = json!([random.one(&["ReadWriteOnce", "ReadWriteOnce", "ReadWriteOncePod"])]);
        let volume_name = format!("{namespace}-{name}");
        let mut volume = json!({"metadata": {"name": volume_name, "resourceVersion": "1"}, "spec": {"accessModes": modes, "capacity": {"storage": "1Gi"},
            "csi": {"driver": "csi.example.com", "volumeHandle": volume_name}, "claimRef": {"namespace": namespace, "name": name, "uid": volume_name}},
            "status": {"phase": "Bound"}});
        if random.chance(40) {
            volume["metadata"]["labels"] = json!({ZONE: random.one(&["z0", "z1", "z2"])});
        }
        if random.chance(40) {
            volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"] = json!([random.node_term()]);
        }
        let claim = json!({"metadata": {"name": name, "namespace": namespace, "uid": volume_name, "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"accessModes": modes, "volumeName": volume_name, "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Bound"}});
        self.world.tell(Feed::Volumes, &volume);
        self.world.tell(Feed::Claims, &claim);
        self.cluster.volumes.insert(format!("{namespace}/{name}"), volume);
    }

    /// Gives a pod a claim of its own to one or two devices.
    fn give_devices(&mut self, random: &mut Generator, pod: &mut Value, number: usize) {
        let (namespace, name) = (pod["metadata"]["namespace"].as_str().unwrap().to_owned(), format!("d{number}"));
        let count = random.0.random_range(1..3);
        pod["spec"]["resourceClaims"] = json!([{"name": "d", "resourceClaimName": name}]);
        let exactly = json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": count});
        let spec = json!({"devices": {"requests": [{"name": "r", "exactly": exactly}]}});
        self.world.tell(
            Feed::ResourceClaims,
            &json!({"metadata": {"name": name, "namespace": namespace, "uid": name, "resourceVersion": "1"}, "spec": spec}),
        );
        self.cluster.wanted_devices.insert(format!("{namespace}/{name}"), count);
    }

    /// The pod's claim has the devices that it gets on a node, as if that were written.
    fn reserve(&mut self, id: u32, node: &str) {
        for reservation in devices::reservations(&self.world.state, self.world.profile(), id, self.world.id(node)) {
            let key = reservation.claim;
            let status = json!({"allocation": reservation.allocation, "reservedFor": reservation.reserved_for});
            self.world.tell(
                Feed::ResourceClaims,
                &json!({"metadata": {"name": *key.name, "namespace": *key.namespace, "uid": *key.name, "resourceVersion": "2"},
                "spec": {}, "status": status}),
            );
        }
    }

    fn set_pod(&mut self, pod: &Value) -> u32 {
        self.cluster.set_pod(pod.clone());
        self.world.add(pod)
    }

    fn remove_pod(&mut self, pod: &Value) {
        let text = |key: &str| pod["metadata"][key].as_str().unwrap().to_owned();
        self.world.state.remove_pod(&ObjectKey::new(&text("namespace"), &text("name")));
        self.cluster.pods.retain(|p| p["metadata"]["uid"] != pod["metadata"]["uid"]);
        if let Some(claim) = pod["spec"]["resourceClaims"][0]["resourceClaimName"].as_str() {
            self.world.state.devices.set_claim(&ObjectKey::new(&text("namespace"), claim), None).unwrap();
        }
    }

    /// Feasible nodes with scores relative to the best, by name.
    fn relative(&self, scores: impl IntoIterator<Item = (u32, i64)>) -> BTreeMap<String, i64> {
        let scores: Vec<_> = scores.into_iter().collect();
        let best = scores.iter().map(|(_, s)| *s).max().unwrap_or(0);
        scores.into_iter().map(|(id, s)| (self.world.name(id), s - best)).collect()
    }

    /// Compares, and says where the pod goes.
    fn check(&mut self, id: u32, pod: &Value, what: &str) -> Option<String> {
        let want = self.cluster.expected(pod);
        let best = want.values().copied().max().unwrap_or(0);
        let want: BTreeMap<String, i64> = want.into_iter().map(|(name, score)| (name, score - best)).collect();
        let profiles = self.world.profiles.clone();
        let slow = self.world.planner.one_by_one(&self.world.state, &profiles[0], id);
        let scored: Vec<_> = self.world.planner.scored().collect();
        let found = match &slow {
            Decision::Nowhere(_) => BTreeMap::new(),
            Decision::Place(node) if want.len() == 1 => BTreeMap::from([(self.world.name(*node), 0)]),
            Decision::Place(_) => self.relative(scored),
        };
        assert_eq!(found, want, "one by one, {what}: {pod:#}");
        // What a pod has of its own is not in the ranking of its class.
        let own = !pod["spec"]["volumes"].is_null() || !pod["spec"]["resourceClaims"].is_null();
        if !own {
            self.check_ranking(id, pod, &slow, &want, what);
        }
        match self.world.planner.decide(&self.world.state, id) {
            Decision::Place(node) => {
                let name = self.world.name(node);
                assert_eq!(want.get(&name), Some(&0), "one of the best, {what}");
                self.reserve(id, &name);
                self.world.state.assume(id, node);
                Some(name)
            }
            Decision::Nowhere(_) => {
                assert!(want.is_empty(), "{what}");
                None
            }
        }
    }

    /// Compares where room can be made for a pod that fits nowhere, at whose cost, and where it is made.
    fn check_preemption(&mut self, id: u32, pod: &Value, what: &str) -> bool {
        let profiles = self.world.profiles.clone();
        let Decision::Nowhere(diagnosis) = self.world.planner.one_by_one(&self.world.state, &profiles[0], id) else { return false };
        let resolvable: Vec<String> = diagnosis.resolvable.iter().map(|node| self.world.name(*node)).collect();
        let want = self.cluster.preemptions(pod, &resolvable);
        let found = preempt::candidates(&self.world.state, &profiles[0], id, &diagnosis, 0).unwrap_or_default();
        let plain = |room: &preempt::Preemption| {
            let mut victims: Vec<String> = room.victims.iter().map(|v| self.world.state.pod(*v).uid.to_string()).collect();
            victims.sort();
            (self.world.name(room.node), (victims, room.violations))
        };
        assert_eq!(found.iter().map(plain).collect::<BTreeMap<_, _>>(), want, "{what}: {pod:#}");
        let cheapest = want.values().map(|(victims, violations)| self.cluster.cost(victims, *violations)).min();
        let chosen = preempt::choose(&self.world.state, found).map(|room| plain(&room).1);
        assert_eq!(chosen.map(|(victims, violations)| self.cluster.cost(&victims, violations)), cheapest, "{what}");
        !want.is_empty()
    }

    /// Compares what is kept from one decision to the next.
    fn check_ranking(&mut self, id: u32, pod: &Value, slow: &Decision, want: &BTreeMap<String, i64>, what: &str) {
        let profiles = self.world.profiles.clone();
        let ranking = self.world.planner.ranking(&self.world.state, 0, &profiles[0], id).unwrap();
        let scores = ranking.scores(&profiles[0]);
        assert_eq!(&self.relative(scores), want, "by ranking, {what}: {pod:#}");
        if let Decision::Nowhere(slow) = slow {
            let ranking = self.world.planner.ranking(&self.world.state, 0, &profiles[0], id).unwrap();
            let ranked = ranking.diagnosis(&self.world.state);
            assert_eq!(ranked.message(), slow.message(), "{what}");
            let sorted = |mut list: Vec<u32>| {
                list.sort_unstable();
                list
            };
            assert_eq!(sorted(ranked.resolvable), sorted(slow.resolvable.clone()), "{what}");
        }
    }
}

/// How many decisions were compared, and for how many pods room could be made.
fn run(seed: u64) -> (usize, usize) {
    let mut random = Generator(SmallRng::seed_from_u64(seed));
    let mut twins = Twins::new(&mut random);
    let nodes = random.0.random_range(3..9);
    for i in 0..nodes {
        let name = format!("n{i}");
        let node = random.node(&name);
        twins.set_node(node);
        twins.equip(&mut random, &name);
    }
    let templates: Vec<Value> = (0..5).map(|_| random.template()).collect();
    let mut placed: Vec<Value> = Vec::new();
    let mut compared = (0, 0);
    for i in 0..24 {
        let mut pod = random.one(&templates);
        pod["metadata"]["name"] = format!("p{i}").into();
        pod["metadata"]["uid"] = format!("{seed}-{i}").into();
        if random.chance(25) {
            twins.give_volume(&mut random, &mut pod, i);
        }
        if random.chance(20) {
            twins.give_devices(&mut random, &mut pod, i);
        }
        pod["spec"]["priority"] = random.one(&[0, 0, 10, 20]).into();
        pod["status"] = json!({"startTime": format!("2026-01-01T00:00:{i:02}Z")});
        let what = format!("seed {seed} pod {i}");
        let id = twins.set_pod(&pod);
        let node = twins.check(id, &pod, &what);
        compared.0 += 1;
        match node {
            Some(node) => {
                pod["spec"]["nodeName"] = node.into();
                twins.set_pod(&pod);
                placed.push(pod);
            }
            None => {
                // What a pod has of its own is no matter of room.
                let own = !pod["spec"]["volumes"].is_null() || !pod["spec"]["resourceClaims"].is_null();
                compared.1 += usize::from(!own && twins.check_preemption(id, &pod, &what));
                twins.remove_pod(&pod);
            }
        }
        if random.chance(20) && !placed.is_empty() {
            let at = random.0.random_range(0..placed.len());
            twins.remove_pod(&placed.swap_remove(at));
        }
        if random.chance(10) && !placed.is_empty() {
            let at = random.0.random_range(0..placed.len());
            placed[at]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            twins.set_pod(&placed[at]);
        }
        if random.chance(8) {
            let name = format!("n{}", random.0.random_range(0..nodes));
            let node = random.node(&name);
            twins.set_node(node);
        }
        if random.chance(3) {
            let labels = json!({"team": random.one(&["red", "blue"])});
            let team = labels["team"].as_str().unwrap().into();
            twins.world.state.set_namespace("b", Some([("team".into(), team)].into()));
            twins.cluster.namespaces.insert("b".into(), labels);
        }
    }
    compared
}

#[test]
fn decisions_agree_with_the_formulas_over_hundreds_of_clusters() {
    let (compared, rooms) = (0..400).map(run).fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    assert_eq!(compared, 400 * 24);
    assert!(rooms > 100, "room is made often enough to tell anything: {rooms}");
}
