//! Each plugin against upstream's formulas and words.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{World, node, pod};
use ferrokube_scheduler::plugins::{affinity, fit, image, interpod, spread, taints};
use ferrokube_scheduler::profile::Profile;
use ferrokube_scheduler::{feeds::Feed, plan};
use serde_json::{Value, json};

fn reason(world: &World, pod: u32, node: &str) -> String {
    world.check(pod, node).map(|f| f.reasons.join(", ")).unwrap_or_default()
}

#[test]
fn least_allocated_is_the_mean_of_what_remains() {
    // (allocatable cpu, memory; on the node; asked for) -> score
    for (cpu, memory, there, asked, want) in [
        ("4", "10000", None, ("1", "2500"), (75 + 75) / 2),
        ("4", "10000", Some(("1", "5000")), ("1", "2500"), (50 + 25) / 2),
        ("4", "10000", Some(("2", "5000")), ("3", "2500"), 25 / 2),
        ("4", "8Gi", None, ("", ""), (97 + 97) / 2),
    ] {
        let mut world = World::new(&[node("n", cpu, memory, "z")]);
        if let Some((cpu, memory)) = there {
            world.on("n", &pod("there", "x", cpu, memory, &json!({})));
        }
        let id = world.add(&pod("p", "x", asked.0, asked.1, &json!({})));
        let score = fit::score(&world.state.devices, world.profile(), world.state.class_of(id), world.state.node(0));
        assert_eq!(score, want, "{cpu} {memory} {there:?} {asked:?}");
    }
}

#[test]
fn a_pod_in_the_middle_of_a_resize_takes_the_most_of_what_it_wants_was_promised_and_has() {
    let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
    let told = |wants: &str, promised: &str, has: &str, pending: &str| {
        let mut there = pod("there", "x", wants, "", &json!({}));
        let container = json!({"name": "c", "allocatedResources": {"cpu": promised}, "resources": cpu(has)});
        let condition = json!({"type": "PodResizePending", "status": "True", "reason": pending});
        there["status"] =
            json!({"containerStatuses": [container], "conditions": if pending.is_empty() { json!([]) } else { json!([condition]) }});
        there
    };
    let whole = |wants: &str, promised: &str, has: &str| {
        let mut there = pod("there", "x", "500m", "", &json!({"resources": cpu(wants), "overhead": {"cpu": "1"}}));
        // As the kubelet tells it: with the overhead.
        there["status"] = json!({"allocatedResources": {"cpu": promised, "memory": "1Gi"}, "resources": cpu(has)});
        there
    };
    for (there, takes, what) in [
        (told("1", "1", "1", ""), 1000, "nothing is under way"),
        (told("2", "1", "1", "Deferred"), 2000, "it will get it when there is room"),
        (told("9", "1", "1", "Infeasible"), 1000, "it will never get it"),
        (told("1", "1", "3", ""), 3000, "it shrinks and has not given back yet"),
        (told("1", "2", "1", ""), 2000, "it was promised more before"),
        (whole("2", "3", "3"), 3000, "nothing is under way for the pod as a whole"),
        (whole("2", "3", "4"), 4000, "the pod as a whole shrinks"),
    ] {
        let mut world = World::new(&[node("n", "9", "10000", "z")]);
        world.on("n", &there);
        let fits = world.add(&pod("fits", "x", &format!("{}m", 9000 - takes), "", &json!({})));
        let wide = world.add(&pod("wide", "x", &format!("{}m", 9001 - takes), "", &json!({})));
        assert_eq!((reason(&world, fits, "n").as_str(), reason(&world, wide, "n").as_str()), ("", "Insufficient cpu"), "{what}");
    }
}

#[test]
fn balanced_allocation_is_75_when_nothing_changes_and_0_for_best_effort() {
    let empty = ("", "");
    for (there, asked, want) in [
        // 25 % and 25 %: balance stays 100.
        (empty, ("1", "2500"), 75),
        // From (0, 0) to (100 %, 0): deviation 0.5, balance 50.
        (empty, ("4", ""), 50 + (50 + 50 - 100) / 2),
        // From (50 %, 0) to (50 %, 50 %): balance from 75 to 100.
        (("2", ""), ("", "5000"), 50 + (50 + 100 - 75) / 2),
        (("2", ""), empty, 0),
    ] {
        let mut world = World::new(&[node("n", "4", "10000", "z")]);
        if there != empty {
            world.on("n", &pod("there", "x", there.0, there.1, &json!({})));
        }
        let id = world.add(&pod("p", "x", asked.0, asked.1, &json!({})));
        assert_eq!(
            fit::balanced(&world.state.devices, world.profile(), world.state.class_of(id), world.state.node(0)),
            want,
            "{there:?} {asked:?}"
        );
    }
}

#[test]
fn balanced_allocation_looks_at_the_resources_of_the_profile() {
    let profile = Profile { balanced: vec!["cpu".into(), "ephemeral-storage".into()], ..Profile::default() };
    let mut roomy = node("n", "4", "10000", "z");
    roomy["status"]["allocatable"]["ephemeral-storage"] = "1000".into();
    let mut world = World::with_profile(&[roomy], profile);
    let asking = |name: &str, requests: Value| {
        pod(name, "x", "", "", &json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]}))
    };
    for (name, requests, want) in [
        // From (0, 0) to (0, 50 %): deviation 0.25, balance 75.
        ("disk", json!({"ephemeral-storage": "500"}), 50 + (50 + 75 - 100) / 2),
        ("memory", json!({"memory": "5000"}), 0),
    ] {
        let id = world.add(&asking(name, requests));
        let score = fit::balanced(&world.state.devices, world.profile(), world.state.class_of(id), world.state.node(0));
        assert_eq!(score, want, "{name}");
    }
}

#[test]
fn requests_of_a_pod_are_those_of_its_heaviest_moment() {
    let c = |cpu: &str| json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}});
    let sidecar = |cpu: &str| json!({"name": "s", "image": "i", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
    let bare = json!({"name": "c", "image": "i"});
    // (spec) -> (requests, for scoring) in thousandths of a cpu
    for (spec, want) in [
        (json!({"containers": [c("1"), c("500m")]}), (1500, 1500)),
        (json!({"containers": [c("1")], "initContainers": [c("3"), c("2")]}), (3000, 3000)),
        (json!({"containers": [c("1")], "initContainers": [sidecar("1"), c("2")]}), (3000, 3000)),
        (json!({"containers": [c("1")], "initContainers": [c("2"), sidecar("1")]}), (2000, 2000)),
        (json!({"containers": [c("1")], "initContainers": [sidecar("1"), sidecar("1")]}), (3000, 3000)),
        (json!({"containers": [c("1")], "overhead": {"cpu": "250m"}}), (1250, 1250)),
        (json!({"containers": [c("1"), bare]}), (1000, 1100)),
        (json!({"containers": [c("0")]}), (0, 0)),
        (json!({"containers": [c("1"), bare], "resources": {"requests": {"cpu": "2"}}, "overhead": {"cpu": "1"}}), (3000, 3000)),
        (json!({"containers": [c("1"), bare], "resources": {"requests": {"memory": "1Gi"}}}), (1000, 1000)),
        (json!({"containers": [bare, bare], "resources": {"requests": {"memory": "1Gi"}}}), (0, 200)),
        (json!({"containers": [c("1"), bare], "resources": {}}), (1000, 1100)),
    ] {
        let mut world = World::new(&[]);
        let mut value = pod("p", "x", "", "", &json!({}));
        value["spec"] = spec.clone();
        let id = world.add(&value);
        let class = world.state.class_of(id);
        assert_eq!((class.requests.milli_cpu, class.scoring.0), want, "{spec}");
    }
}

#[test]
fn fit_names_every_resource_that_is_short() {
    let mut small = node("n", "1", "1000", "z");
    small["status"]["allocatable"]["pods"] = "1".into();
    let mut world = World::new(&[small]);
    world.on("n", &pod("there", "x", "500m", "500", &json!({})));
    let spec = json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "600m", "memory": "600", "example.com/gpu": "1"}}}]});
    let id = world.add(&pod("p", "x", "", "", &spec));
    let failure = world.check(id, "n").unwrap();
    assert_eq!(failure.reasons.join(", "), "Too many pods, Insufficient cpu, Insufficient memory, Insufficient example.com/gpu");
    assert!(failure.unresolvable, "no node without the device can ever do");
}

#[test]
fn taints_and_tolerations() {
    let taint = |effect: &str| json!([{"key": "k", "value": "v", "effect": effect}]);
    for (taints, tolerations, fits, soft) in [
        (taint("NoSchedule"), json!([]), false, 0),
        (taint("NoExecute"), json!([]), false, 0),
        (taint("PreferNoSchedule"), json!([]), true, 1),
        (taint("NoSchedule"), json!([{"key": "k", "operator": "Exists"}]), true, 0),
        (taint("NoSchedule"), json!([{"operator": "Exists"}]), true, 0),
        (taint("NoSchedule"), json!([{"key": "k", "value": "v"}]), true, 0),
        (taint("NoSchedule"), json!([{"key": "k", "operator": "Equal", "value": "w"}]), false, 0),
        (taint("NoSchedule"), json!([{"key": "k", "value": "v", "effect": "NoExecute"}]), false, 0),
        (taint("PreferNoSchedule"), json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]), true, 1),
        (taint("PreferNoSchedule"), json!([{"key": "k", "operator": "Exists", "effect": "PreferNoSchedule"}]), true, 0),
    ] {
        let mut tainted = node("n", "1", "1Gi", "z");
        tainted["spec"]["taints"] = taints.clone();
        let mut world = World::new(&[tainted]);
        let id = world.add(&pod("p", "x", "", "", &json!({"tolerations": tolerations})));
        let want = if fits { "" } else { "node(s) had untolerated taint(s)" };
        assert_eq!(reason(&world, id, "n"), want, "{taints} {tolerations}");
        assert_eq!(taints::intolerable(world.state.class_of(id), world.state.node(0)), soft, "{taints} {tolerations}");
    }
}

#[test]
fn a_cordoned_node_takes_only_pods_that_tolerate_it() {
    let mut cordoned = node("n", "1", "1Gi", "z");
    cordoned["spec"]["unschedulable"] = true.into();
    let mut world = World::new(&[cordoned]);
    let id = world.add(&pod("p", "x", "", "", &json!({})));
    assert_eq!(reason(&world, id, "n"), "node(s) were unschedulable");
    let tolerations = json!({"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}]});
    let daemon = world.add(&pod("d", "x", "", "", &tolerations));
    assert_eq!(reason(&world, daemon, "n"), "");
}

fn required(terms: Value) -> Value {
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
}

#[test]
fn node_selector_and_affinity() {
    let mut labelled = node("n", "1", "1Gi", "z");
    labelled["metadata"]["labels"]["size"] = "7".into();
    let expression =
        |key: &str, operator: &str, values: Value| json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]);
    for (spec, fits) in [
        (json!({"nodeSelector": {"size": "7"}}), true),
        (json!({"nodeSelector": {"size": "8"}}), false),
        (required(expression("size", "In", json!(["6", "7"]))), true),
        (required(expression("size", "NotIn", json!(["7"]))), false),
        (required(expression("size", "Exists", json!(null))), true),
        (required(expression("size", "DoesNotExist", json!(null))), false),
        (required(expression("size", "Gt", json!(["6"]))), true),
        (required(expression("size", "Lt", json!(["7"]))), false),
        (required(json!([{}])), false),
        (required(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}])), true),
        (required(json!([{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n"]}]}])), false),
    ] {
        let mut world = World::new(&[labelled.clone()]);
        let id = world.add(&pod("p", "x", "", "", &spec));
        let want = if fits { "" } else { "node(s) didn't match Pod's node affinity/selector" };
        assert_eq!(reason(&world, id, "n"), want, "{spec}");
    }
}

#[test]
fn preferred_node_affinity_adds_the_weights_that_match() {
    let term = |weight: i64, key: &str| json!({"weight": weight, "preference": {"matchExpressions": [{"key": key, "operator": "Exists"}]}});
    let spec = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
        [term(5, "kubernetes.io/hostname"), term(3, "absent"), term(2, "topology.kubernetes.io/zone"), {"weight": 9, "preference": {}}]}}});
    let mut world = World::new(&[node("n", "1", "1Gi", "z")]);
    let id = world.add(&pod("p", "x", "", "", &spec));
    assert_eq!(affinity::preferred(world.profile(), world.state.class_of(id), world.state.node(0)), 7);
    let mut column = [7, 0, 14];
    plan::share(&mut column, false);
    assert_eq!(column, [50, 0, 100]);
    plan::share(&mut column, true);
    assert_eq!(column, [50, 100, 0]);
}

#[test]
fn host_ports_conflict_by_address_protocol_and_number() {
    let ports = |ip: &str, protocol: &str, port: u16| json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1, "hostPort": port, "hostIP": ip, "protocol": protocol}]}]});
    for (ip, protocol, port, fits) in [
        ("", "TCP", 80, false),
        ("0.0.0.0", "TCP", 80, false),
        ("127.0.0.1", "TCP", 80, false),
        ("127.0.0.2", "TCP", 80, true),
        ("127.0.0.1", "UDP", 80, true),
        ("127.0.0.1", "TCP", 81, true),
    ] {
        let mut world = World::new(&[node("n", "1", "1Gi", "z")]);
        world.on("n", &pod("there", "x", "", "", &ports("127.0.0.1", "TCP", 80)));
        let id = world.add(&pod("p", "x", "", "", &ports(ip, protocol, port)));
        let want = if fits { "" } else { "node(s) didn't have free ports for the requested pod ports" };
        assert_eq!(reason(&world, id, "n"), want, "{ip} {protocol} {port}");
    }
}

#[test]
fn image_locality_scales_by_size_and_by_how_many_nodes_have_it() {
    let mut with = node("a", "1", "1Gi", "z");
    with["status"]["images"] = json!([{"names": ["busybox:latest"], "sizeBytes": 500 * 1024 * 1024}]);
    let mut world = World::new(&[with, node("b", "1", "1Gi", "z")]);
    let id = world.add(&pod("p", "x", "", "", &json!({})));
    let class = world.state.class_of(id);
    // Half of the nodes have it: 250 MiB, of 23..1000 MiB.
    assert_eq!(image::score(&world.state, class, world.state.node(0)), 100 * (250 - 23) / (1000 - 23));
    assert_eq!(image::score(&world.state, class, world.state.node(1)), 0);
}

fn constraint(max_skew: i64, key: &str, when: &str) -> Value {
    json!({"maxSkew": max_skew, "topologyKey": key, "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "web"}}})
}

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

fn three() -> World {
    let mut world = World::new(&[node("a1", "4", "1Gi", "a"), node("a2", "4", "1Gi", "a"), node("b1", "4", "1Gi", "b")]);
    let mut bare = node("bare", "4", "1Gi", "");
    bare["metadata"]["labels"] = json!({});
    world.node(&bare);
    world
}

#[test]
fn spread_keeps_domains_within_the_skew() {
    let mut world = three();
    world.on("a1", &pod("w1", "web", "", "", &json!({})));
    let id = world.add(&pod("p", "web", "", "", &json!({"topologySpreadConstraints": [constraint(1, ZONE, "DoNotSchedule")]})));
    assert_eq!(world.feasible(id), ["b1"]);
    assert_eq!(reason(&world, id, "a2"), "node(s) didn't match pod topology spread constraints");
    assert_eq!(reason(&world, id, "bare"), "node(s) didn't match pod topology spread constraints (missing required label)");
    let wide = world.add(&pod("q", "web", "", "", &json!({"topologySpreadConstraints": [constraint(2, ZONE, "DoNotSchedule")]})));
    assert_eq!(world.feasible(wide), ["a1", "a2", "b1"]);
}

#[test]
fn spread_counts_no_leaving_pods_and_no_other_namespaces() {
    let mut world = three();
    let mut leaving = pod("w1", "web", "", "", &json!({}));
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    world.on("a1", &leaving);
    let mut other = pod("w2", "web", "", "", &json!({}));
    other["metadata"]["namespace"] = "other".into();
    world.on("a1", &other);
    let id = world.add(&pod("p", "web", "", "", &json!({"topologySpreadConstraints": [constraint(1, ZONE, "DoNotSchedule")]})));
    assert_eq!(world.feasible(id), ["a1", "a2", "b1"]);
}

#[test]
fn spread_with_too_few_domains_takes_the_emptiest_for_empty() {
    let mut world = three();
    for (name, node) in [("w1", "a1"), ("w2", "b1")] {
        world.on(node, &pod(name, "web", "", "", &json!({})));
    }
    let mut minimum = constraint(1, ZONE, "DoNotSchedule");
    let id = world.add(&pod("p", "web", "", "", &json!({"topologySpreadConstraints": [minimum]})));
    assert_eq!(world.feasible(id), ["a1", "a2", "b1"]);
    minimum["minDomains"] = 3.into();
    let id = world.add(&pod("q", "web", "", "", &json!({"topologySpreadConstraints": [minimum]})));
    assert!(world.feasible(id).is_empty());
}

#[test]
fn spread_policies_say_which_nodes_count() {
    let mut world = three();
    let mut tainted = node("c1", "4", "1Gi", "c");
    tainted["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
    world.node(&tainted);
    for (name, node) in [("w1", "a1"), ("w2", "b1")] {
        world.on(node, &pod(name, "web", "", "", &json!({})));
    }
    let mut policies = constraint(1, ZONE, "DoNotSchedule");
    // Zone c is empty and out of reach: it counts by default.
    let id = world.add(&pod("p", "web", "", "", &json!({"topologySpreadConstraints": [policies]})));
    assert!(world.feasible(id).is_empty());
    policies["nodeTaintsPolicy"] = "Honor".into();
    let id = world.add(&pod("q", "web", "", "", &json!({"topologySpreadConstraints": [policies]})));
    assert_eq!(world.feasible(id), ["a1", "a2", "b1"]);
    let only_a = json!({"topologySpreadConstraints": [constraint(1, HOST, "DoNotSchedule")], "nodeSelector": {ZONE: "a"}});
    let id = world.add(&pod("r", "web", "", "", &only_a));
    assert_eq!(world.feasible(id), ["a2"]);
}

#[test]
fn spread_by_match_label_keys_counts_each_revision_alone() {
    let mut world = three();
    world.on("a1", &pod("old", "web", "", "", &json!({})));
    let mut keyed = constraint(1, HOST, "DoNotSchedule");
    keyed["matchLabelKeys"] = json!(["revision"]);
    let mut value = pod("p", "web", "", "", &json!({"topologySpreadConstraints": [keyed]}));
    value["metadata"]["labels"]["revision"] = "2".into();
    let id = world.add(&value);
    assert_eq!(world.feasible(id), ["a1", "a2", "b1"]);
}

#[test]
fn preferred_spread_scores_by_weighted_counts() {
    let mut world = three();
    for (name, node) in [("w1", "a1"), ("w2", "a1"), ("w3", "b1")] {
        world.on(node, &pod(name, "web", "", "", &json!({})));
    }
    let id = world.add(&pod("p", "web", "", "", &json!({"topologySpreadConstraints": [constraint(1, HOST, "ScheduleAnyway")]})));
    let nodes: Vec<u32> = world.state.order().to_vec();
    // Weight ln(3+2): 2 → 3.22 → 3, 0 → 0, 1 → 1.61 → 2; the bare node is ignored.
    let scores = spread::scores(&world.state, world.profile(), world.state.class_of(id), &nodes).unwrap();
    assert_eq!(scores, [0, 100, 100 * (3 - 2) / 3, 0]);
}

#[test]
fn pods_of_a_service_are_spread_by_default() {
    let mut world = three();
    let id = world.add(&pod("p", "web", "", "", &json!({})));
    let nodes: Vec<u32> = world.state.order().to_vec();
    assert!(spread::scores(&world.state, world.profile(), world.state.class_of(id), &nodes).is_none());
    world.tell(Feed::Services, &json!({"metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"app": "web"}}}));
    world.on("a1", &pod("w1", "web", "", "", &json!({})));
    let scores = spread::scores(&world.state, world.profile(), world.state.class_of(id), &nodes).unwrap();
    // Hosts: ln(4+2), zones: a, b and none, ln(3+2): 1.79+2+1.61+4 → 9, 2+1.61+4 → 8, 2+4 → 6, and 0 without labels.
    assert_eq!(scores, [0, 100 * (9 - 8) / 9, 100 * (9 - 6) / 9, 100]);
}

fn term(app: &str, key: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
}

fn hard(kind: &str, term: &Value) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

#[test]
fn pod_affinity_wants_company_in_the_domain() {
    let mut world = three();
    world.on("a1", &pod("db", "db", "", "", &json!({})));
    let id = world.add(&pod("p", "web", "", "", &hard("podAffinity", &term("db", ZONE))));
    assert_eq!(world.feasible(id), ["a1", "a2"]);
    assert_eq!(reason(&world, id, "b1"), "node(s) didn't match pod affinity rules");
    let lonely = world.add(&pod("q", "web", "", "", &hard("podAffinity", &term("nobody", ZONE))));
    assert!(world.feasible(lonely).is_empty());
    let first = world.add(&pod("r", "own", "", "", &hard("podAffinity", &term("own", ZONE))));
    assert_eq!(world.feasible(first), ["a1", "a2", "b1"], "the first of its kind may go where the key is");
}

#[test]
fn anti_affinity_holds_both_ways() {
    let mut world = three();
    world.on("a1", &pod("db", "db", "", "", &json!({})));
    let id = world.add(&pod("p", "web", "", "", &hard("podAntiAffinity", &term("db", ZONE))));
    assert_eq!(world.feasible(id), ["b1", "bare"]);
    assert_eq!(reason(&world, id, "a2"), "node(s) didn't match pod anti-affinity rules");
    world.on("b1", &pod("jealous", "x", "", "", &hard("podAntiAffinity", &term("web", HOST))));
    assert_eq!(world.feasible(id), ["bare"]);
    assert_eq!(reason(&world, id, "b1"), "node(s) didn't satisfy existing pods anti-affinity rules");
}

#[test]
fn affinity_terms_choose_namespaces_by_name_and_by_label() {
    let mut world = three();
    world.state.set_namespace("other", Some([("team".into(), "b".into())].into()));
    let mut there = pod("db", "db", "", "", &json!({}));
    there["metadata"]["namespace"] = "other".into();
    world.on("a1", &there);
    for (more, sees) in [
        (json!({}), false),
        (json!({"namespaces": ["other"]}), true),
        (json!({"namespaceSelector": {}}), true),
        (json!({"namespaceSelector": {"matchLabels": {"team": "b"}}}), true),
        (json!({"namespaceSelector": {"matchLabels": {"team": "a"}}}), false),
    ] {
        let mut term = term("db", HOST);
        for (key, value) in more.as_object().into_iter().flatten() {
            term[key] = value.clone();
        }
        let id = world.add(&pod("p", "web", "", "", &hard("podAntiAffinity", &term)));
        assert_eq!(world.feasible(id).contains(&"a1".to_owned()), !sees, "{more}");
    }
}

#[test]
fn preferred_pod_affinity_adds_weights_both_ways() {
    let mut world = three();
    world.on("a1", &pod("db", "db", "", "", &json!({})));
    world.on("b1", &pod("fan", "fan", "", "", &hard("podAffinity", &term("web", HOST))));
    let preferred = |weight: i64, term: Value| json!([{"weight": weight, "podAffinityTerm": term}]);
    let spec = json!({"affinity": {
        "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred(10, term("db", ZONE))},
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred(4, term("db", HOST))},
    }});
    let id = world.add(&pod("p", "web", "", "", &spec));
    let nodes: Vec<u32> = world.state.order().to_vec();
    let mut scores = interpod::scores(&world.state, world.profile(), world.state.class_of(id), &nodes).unwrap();
    assert_eq!(scores, [6, 10, 1, 0]);
    plan::stretch(&mut scores);
    assert_eq!(scores, [60, 100, 10, 0]);
}

#[test]
fn a_pod_that_prefers_nobody_may_leave_out_what_others_want_of_it() {
    for (ignore, want) in [(false, Some(vec![0, 0, 1, 0])), (true, None)] {
        let mut world = World::with_profile(&[], Profile { ignore_preferred_of_existing: ignore, ..Profile::default() });
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")] {
            world.node(&node(name, "4", "1Gi", zone));
        }
        world.on("b1", &pod("fan", "fan", "", "", &hard("podAffinity", &term("web", HOST))));
        let id = world.add(&pod("p", "web", "", "", &json!({})));
        let nodes: Vec<u32> = world.state.order().to_vec();
        // The nodes are in turns of the zones.
        let named = |scores: Vec<i64>| nodes.iter().map(|n| world.name(*n)).zip(scores).collect::<std::collections::BTreeMap<_, _>>();
        let scores = interpod::scores(&world.state, world.profile(), world.state.class_of(id), &nodes);
        let scores = scores.map(|s| named(s).into_values().collect::<Vec<_>>());
        assert_eq!(scores, want, "ignore: {ignore}");
    }
}

#[test]
fn volumes_must_be_bound_and_within_reach() {
    let claim = |name: &str, volume: &str, phase: &str| json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"volumeName": volume}, "status": {"phase": phase}});
    let mut world = three();
    world.tell(Feed::Claims, &claim("bound", "v", "Bound"));
    world.tell(Feed::Claims, &claim("pending", "", "Pending"));
    world.tell(Feed::Claims, &claim("lost", "gone", "Lost"));
    world.tell(Feed::Claims, &claim("astray", "nowhere", "Bound"));
    world.tell(
        Feed::Volumes,
        &json!({"metadata": {"name": "v"}, "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms":
        [{"matchExpressions": [{"key": HOST, "operator": "In", "values": ["a1"]}]}]}}}}),
    );
    for (name, node, want) in [
        ("bound", "a1", ""),
        ("bound", "b1", "node(s) didn't match PersistentVolume's node affinity"),
        ("pending", "a1", "pod has unbound immediate PersistentVolumeClaims"),
        ("absent", "a1", "persistentvolumeclaim \"absent\" not found"),
        ("lost", "a1", "persistentvolumeclaim \"lost\" bound to non-existent persistentvolume \"gone\""),
        ("astray", "a1", "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
    ] {
        let spec = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name}}]});
        let id = world.add(&pod(&format!("{name}-{node}"), "web", "", "", &spec));
        assert_eq!(reason(&world, id, node), want, "{name} {node}");
    }
}
