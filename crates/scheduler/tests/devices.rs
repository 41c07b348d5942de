//! Dynamic resources: which devices a claim gets, and where its pod can be.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{World, node, pod};
use ferrokube_api::ObjectKey;
use ferrokube_scheduler::devices::{Readiness, Reservation};
use ferrokube_scheduler::feeds::{self, Feed};
use ferrokube_scheduler::plugins::{devices, fit};
use ferrokube_scheduler::profile::{Profile, Strategy};
use serde_json::{Value, json};

const DRIVER: &str = "gpu.example.com";

fn world() -> World {
    let mut world = World::new(&[node("a", "4", "8Gi", "z1"), node("b", "4", "8Gi", "z2")]);
    world.tell(
        Feed::DeviceClasses,
        &json!({"metadata": {"name": "gpu"}, "spec": {"config": [{"opaque": {"driver": DRIVER, "parameters": {"x": 1}}}]}}),
    );
    world
}

/// The devices of a node, one slice.
fn slice(node: &str, devices: &[Value]) -> Value {
    json!({"metadata": {"name": format!("slice-{node}")}, "spec": {"driver": DRIVER, "nodeName": node,
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}, "devices": devices}})
}

fn device(name: &str) -> Value {
    json!({"name": name})
}

fn on_numa(name: &str, numa: i64) -> Value {
    json!({"name": name, "attributes": {"numa": {"int": numa}}})
}

fn claim(name: &str, devices: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "3"}, "spec": {"devices": devices}})
}

fn gpus(count: usize) -> Value {
    json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": count}}]})
}

fn using(name: &str, claim: &str) -> Value {
    pod(name, "x", "", "", &json!({"resourceClaims": [{"name": "d", "resourceClaimName": claim}]}))
}

fn reason(world: &World, pod: u32, node: &str) -> String {
    world.check(pod, node).map(|f| f.reasons.join(", ")).unwrap_or_default()
}

fn reserved(world: &World, pod: u32, node: &str) -> Vec<Reservation> {
    devices::reservations(&world.state, world.profile(), pod, world.id(node))
}

/// Names of the devices that a pod's claims get on a node, sorted.
fn got(world: &World, pod: u32, node: &str) -> Vec<String> {
    let results = |r: Reservation| r.allocation.unwrap()["devices"]["results"].as_array().unwrap().clone();
    let mut names: Vec<String> =
        reserved(world, pod, node).into_iter().flat_map(results).map(|r| r["device"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_claim_gets_devices_of_its_node_and_the_allocation_says_so() {
    let mut world = world();
    world.tell(Feed::Slices, &slice("b", &[device("d0"), device("d1"), device("d2")]));
    let mut wanted = claim("c", gpus(2));
    wanted["spec"]["devices"]["config"] = json!([{"requests": ["r"], "opaque": {"driver": DRIVER, "parameters": {"y": 2}}}]);
    world.tell(Feed::ResourceClaims, &wanted);
    let id = world.add(&using("p", "c"));
    assert_eq!(reason(&world, id, "a"), "cannot allocate all claims");
    assert_eq!(world.place(id), Ok("b".to_owned()));
    let [reservation] = &reserved(&world, id, "b")[..] else { panic!() };
    let result = |device: &str| json!({"request": "r", "driver": DRIVER, "pool": "b", "device": device});
    assert_eq!(
        reservation.allocation.clone().unwrap(),
        json!({
            "devices": {
                "results": [result("d0"), result("d1")],
                "config": [
                    {"source": "FromClass", "requests": ["r"], "opaque": {"driver": DRIVER, "parameters": {"x": 1}}},
                    {"source": "FromClaim", "requests": ["r"], "opaque": {"driver": DRIVER, "parameters": {"y": 2}}},
                ],
            },
            "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]},
        })
    );
    assert_eq!(reservation.reserved_for, [json!({"resource": "pods", "name": "p", "uid": "p"})]);
    assert_eq!(
        (reservation.finalizers.as_deref(), reservation.revision),
        (Some(&["resource.kubernetes.io/delete-protection".to_owned()][..]), 3)
    );
}

#[test]
fn what_is_decided_counts_until_it_is_seen_and_then_for_the_claim() {
    let mut world = world();
    world.tell(Feed::Slices, &slice("a", &[device("d0"), device("d1")]));
    for name in ["c", "d", "e"] {
        world.tell(Feed::ResourceClaims, &claim(name, gpus(1)));
    }
    let first = world.add(&using("p", "c"));
    let reservations = reserved(&world, first, "a");
    world.state.devices.assume(&reservations);
    let second = world.add(&using("q", "d"));
    assert_eq!(got(&world, second, "a"), ["d1"]);
    let other = world.add(&using("also-c", "c"));
    assert_eq!(reason(&world, other, "a"), "resourceclaim is in the process of being allocated");
    // Seen: the device is the claim's, once.
    let mut allocated = claim("c", gpus(1));
    allocated["status"] = json!({"allocation": reservations[0].allocation, "reservedFor": reservations[0].reserved_for});
    world.tell(Feed::ResourceClaims, &allocated);
    assert_eq!(got(&world, second, "a"), ["d1"]);
    assert_eq!(reason(&world, other, "a"), "", "several pods may share a claim");
    assert_eq!(reason(&world, other, "b"), "resourceclaim not available on the node");
    let shared = reserved(&world, other, "a");
    assert!(shared[0].allocation.is_none() && shared[0].reserved_for.len() == 2);
    // Released: free again.
    world.tell(Feed::ResourceClaims, &claim("c", gpus(1)));
    assert_eq!(got(&world, second, "a"), ["d0"]);
    // Taken back before it was seen.
    let reservations = reserved(&world, second, "a");
    world.state.devices.assume(&reservations);
    world.state.devices.forget(&reservations);
    let third = world.add(&using("r", "e"));
    assert_eq!(got(&world, third, "a"), ["d0"]);
}

#[test]
fn the_search_goes_back_until_constraints_hold() {
    let mut world = world();
    let all = [on_numa("d0", 0), on_numa("d1", 1), on_numa("d2", 1), on_numa("d3", 2)];
    world.tell(Feed::Slices, &slice("a", &all));
    let mut same = gpus(2);
    same["constraints"] = json!([{"requests": ["r"], "matchAttribute": "gpu.example.com/numa"}]);
    world.tell(Feed::ResourceClaims, &claim("same", same));
    let id = world.add(&using("p", "same"));
    assert_eq!(got(&world, id, "a"), ["d1", "d2"]);
    let mut distinct = gpus(3);
    distinct["constraints"] = json!([{"distinctAttribute": "gpu.example.com/numa"}]);
    world.tell(Feed::ResourceClaims, &claim("distinct", distinct));
    let id = world.add(&using("q", "distinct"));
    assert_eq!(got(&world, id, "a"), ["d0", "d1", "d3"]);
    let mut missing = gpus(1);
    missing["constraints"] = json!([{"matchAttribute": "gpu.example.com/absent"}]);
    world.tell(Feed::ResourceClaims, &claim("missing", missing));
    let id = world.add(&using("r", "missing"));
    assert_eq!(reason(&world, id, "a"), "cannot allocate all claims");
}

#[test]
fn all_devices_or_the_first_alternative_that_can_be_had() {
    let mut world = world();
    world.tell(Feed::Slices, &slice("a", &[device("d0"), device("d1")]));
    let all = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu", "allocationMode": "All"}}]});
    world.tell(Feed::ResourceClaims, &claim("all", all));
    let id = world.add(&using("p", "all"));
    assert_eq!(got(&world, id, "a"), ["d0", "d1"]);
    assert_eq!(reason(&world, id, "b"), "cannot allocate all claims", "none is not all");
    let sub = |name: &str, count: usize| json!({"name": name, "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": count});
    let first = json!({"requests": [{"name": "r", "firstAvailable": [sub("big", 3), sub("small", 1)]}]});
    world.tell(Feed::ResourceClaims, &claim("first", first));
    let id = world.add(&using("q", "first"));
    assert_eq!(reserved(&world, id, "a")[0].allocation.clone().unwrap()["devices"]["results"][0]["request"], "r/small");
    let taken = reserved(&world, id, "a");
    world.state.devices.assume(&taken);
    let id = world.add(&using("r", "all"));
    assert_eq!(reason(&world, id, "a"), "cannot allocate all claims", "one is taken");
    let admin = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu", "allocationMode": "All", "adminAccess": true}}]});
    world.tell(Feed::ResourceClaims, &claim("admin", admin));
    let id = world.add(&using("s", "admin"));
    assert_eq!(got(&world, id, "a"), ["d0", "d1"], "whoever looks after devices needs none of them free");
}

#[test]
fn parts_of_one_device_share_its_counters() {
    let mut world = world();
    let part = |name: &str, memory: &str| json!({"name": name, "consumesCounters": [{"counterSet": "card", "counters": {"memory": {"value": memory}}}]});
    let mut slice = slice("a", &[part("half-0", "20Gi"), part("half-1", "20Gi"), part("whole", "40Gi")]);
    slice["spec"]["sharedCounters"] = json!([{"name": "card", "counters": {"memory": {"value": "40Gi"}}}]);
    world.tell(Feed::Slices, &slice);
    world.tell(Feed::ResourceClaims, &claim("three", gpus(3)));
    let id = world.add(&using("p", "three"));
    assert_eq!(reason(&world, id, "a"), "cannot allocate all claims");
    world.tell(Feed::ResourceClaims, &claim("two", gpus(2)));
    let id = world.add(&using("q", "two"));
    assert_eq!(got(&world, id, "a"), ["half-0", "half-1"]);
    let taken = reserved(&world, id, "a");
    world.state.devices.assume(&taken);
    world.tell(Feed::ResourceClaims, &claim("one", gpus(1)));
    let id = world.add(&using("r", "one"));
    assert_eq!(reason(&world, id, "a"), "cannot allocate all claims", "the whole is in halves");
}

#[test]
fn a_tainted_device_is_for_those_that_tolerate_it() {
    let mut world = world();
    let mut tainted = device("d0");
    tainted["taints"] = json!([{"key": "broken", "effect": "NoSchedule"}]);
    world.tell(Feed::Slices, &slice("a", &[tainted]));
    world.tell(Feed::ResourceClaims, &claim("c", gpus(1)));
    let id = world.add(&using("p", "c"));
    assert_eq!(reason(&world, id, "a"), "cannot allocate all claims");
    let mut tolerant = gpus(1);
    tolerant["requests"][0]["exactly"]["tolerations"] = json!([{"key": "broken", "operator": "Exists"}]);
    world.tell(Feed::ResourceClaims, &claim("d", tolerant));
    let id = world.add(&using("q", "d"));
    assert_eq!(got(&world, id, "a"), ["d0"]);
}

#[test]
fn a_pool_counts_when_all_slices_of_its_newest_generation_are_there() {
    let mut world = world();
    let part = |name: &str, generation: i64, count: usize, device_name: &str| {
        let mut part = slice("a", &[device(device_name)]);
        part["metadata"]["name"] = name.into();
        part["spec"]["pool"] = json!({"name": "a", "generation": generation, "resourceSliceCount": count});
        part
    };
    world.tell(Feed::Slices, &part("s1", 1, 1, "old"));
    world.tell(Feed::ResourceClaims, &claim("c", gpus(1)));
    let id = world.add(&using("p", "c"));
    assert_eq!(got(&world, id, "a"), ["old"]);
    world.tell(Feed::Slices, &part("s2", 2, 2, "new-0"));
    assert_eq!(reason(&world, id, "a"), "cannot allocate all claims");
    world.tell(Feed::Slices, &part("s3", 2, 2, "new-1"));
    assert_eq!(got(&world, id, "a"), ["new-0"]);
}

#[test]
fn devices_for_several_nodes() {
    let mut world = world();
    let selector =
        json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["z2"]}]}]});
    let shared = json!({"metadata": {"name": "shared"}, "spec": {"driver": DRIVER, "nodeSelector": selector,
        "pool": {"name": "net", "generation": 1, "resourceSliceCount": 1}, "devices": [device("d0")]}});
    world.tell(Feed::Slices, &shared);
    world.tell(Feed::ResourceClaims, &claim("c", gpus(1)));
    let id = world.add(&using("p", "c"));
    assert_eq!(world.feasible(id), ["b"]);
    assert_eq!(reserved(&world, id, "b")[0].allocation.clone().unwrap()["nodeSelector"], selector);
}

#[test]
fn claims_that_cannot_be_used_are_told_before_nodes_are_looked_at() {
    let mut world = world();
    let template = pod("p", "x", "", "", &json!({"resourceClaims": [{"name": "d", "resourceClaimTemplateName": "t"}]}));
    let id = world.add(&template);
    assert_eq!(reason(&world, id, "a"), "pod \"default/p\": ResourceClaim not created yet");
    let mut made = template.clone();
    made["status"] = json!({"resourceClaimStatuses": [{"name": "d", "resourceClaimName": "p-d"}]});
    assert_eq!(world.add(&made), id);
    assert_eq!(reason(&world, id, "a"), "could not find ResourceClaim \"default/p-d\"");
    world.tell(Feed::ResourceClaims, &claim("p-d", gpus(1)));
    assert_eq!(reason(&world, id, "a"), "ResourceClaim default/p-d was not created for pod default/p (pod is not owner)");
    let mut owned = claim("p-d", gpus(1));
    owned["metadata"]["ownerReferences"] = json!([{"uid": "p", "controller": true}]);
    owned["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"] = "other".into();
    world.tell(Feed::ResourceClaims, &owned);
    assert_eq!(reason(&world, id, "a"), "request r: device class other does not exist");
}

#[test]
fn expressions_of_classes_and_requests_choose_devices() {
    let mut world = world();
    let device = |name: &str, model: &str, version: &str, memory: &str| {
        json!({"name": name, "attributes": {"model": {"string": model}, "other.example.com/index": {"int": 3}, "firmware": {"version": version}},
            "capacity": {"memory": {"value": memory}}})
    };
    world.tell(Feed::Slices, &slice("a", &[device("d0", "old", "1.0.0", "10Gi"), device("d1", "new", "2.1.0", "40Gi")]));
    let class = |expression: &str| json!({"metadata": {"name": "gpu"}, "spec": {"selectors": [{"cel": {"expression": expression}}]}});
    for (of_class, of_request, want) in [
        ("device.driver == 'gpu.example.com'", "true", Ok("d0")),
        ("device.driver == 'gpu.example.com'", "device.attributes['gpu.example.com'].model == 'new'", Ok("d1")),
        ("true", "device.attributes['gpu.example.com'].firmware.isGreaterThan(semver('1.9.9'))", Ok("d1")),
        ("true", "device.capacity['gpu.example.com'].memory.compareTo(quantity('20Gi')) > 0", Ok("d1")),
        ("true", "device.attributes['other.example.com'].index == 3 && device.attributes['gpu.example.com'].model == 'new'", Ok("d1")),
        ("device.driver == 'other'", "true", Err("cannot allocate all claims")),
        (
            "true",
            "device.attributes['gpu.example.com'].absent == 1",
            Err("claim default/c: selector #0 on device gpu.example.com/a/d0: CEL runtime error: no such key: absent"),
        ),
        ("true", "device.", Err("claim default/c: selector #0: CEL compile error: compilation failed: ")),
    ] {
        world.tell(Feed::DeviceClasses, &class(of_class));
        let mut wanted = gpus(1);
        wanted["requests"][0]["exactly"]["selectors"] = json!([{"cel": {"expression": of_request}}]);
        world.tell(Feed::ResourceClaims, &claim("c", wanted));
        let id = world.add(&using("p", "c"));
        match want {
            Ok(device) => assert_eq!(got(&world, id, "a"), [device], "{of_class} {of_request}"),
            Err(why) => assert!(reason(&world, id, "a").starts_with(why), "{of_class} {of_request}: {}", reason(&world, id, "a")),
        }
    }
}

/// A network card of 10G that several claims share, in steps of 1G and at least 2G.
fn shared_card() -> Value {
    let policy = json!({"default": "2G", "validRange": {"min": "2G", "step": "1G", "max": "8G"}});
    json!({"name": "nic", "allowMultipleAllocations": true, "capacity": {"bandwidth": {"value": "10G", "requestPolicy": policy}}})
}

fn bandwidth(amount: &str) -> Value {
    let mut devices = gpus(1);
    if !amount.is_empty() {
        devices["requests"][0]["exactly"]["capacity"] = json!({"requests": {"bandwidth": amount}});
    }
    devices
}

#[test]
fn claims_share_the_capacity_of_a_device_that_allows_it() {
    let mut world = world();
    world.tell(Feed::Slices, &slice("a", &[shared_card()]));
    let mut taken = Vec::new();
    for (name, asked, gets) in [("c", "", "2G"), ("d", "3500M", "4G"), ("e", "1G", "2G")] {
        world.tell(Feed::ResourceClaims, &claim(name, bandwidth(asked)));
        let id = world.add(&using(&format!("pod-{name}"), name));
        let reservations = reserved(&world, id, "a");
        let result = reservations[0].allocation.clone().unwrap()["devices"]["results"][0].clone();
        assert_eq!((&result["device"], &result["consumedCapacity"]), (&json!("nic"), &json!({"bandwidth": gets})), "{asked}");
        assert_eq!(result["shareID"].as_str().map(str::len), Some(36));
        world.state.devices.assume(&reservations);
        taken.push((name, reservations));
    }
    // 8G are taken.
    for (asked, fits) in [("2G", true), ("2500M", false), ("9G", false)] {
        world.tell(Feed::ResourceClaims, &claim("more", bandwidth(asked)));
        let id = world.add(&using("more", "more"));
        assert_eq!(reason(&world, id, "a").is_empty(), fits, "{asked}");
    }
    let mut other = gpus(1);
    other["requests"][0]["exactly"]["capacity"] = json!({"requests": {"memory": "1"}});
    world.tell(Feed::ResourceClaims, &claim("other", other));
    let id = world.add(&using("other", "other"));
    assert_eq!(reason(&world, id, "a"), "cannot allocate all claims", "it has no such capacity");
    // Seen in its claim, a part counts once; gone, it is free.
    let (name, reservations) = &taken[1];
    let mut seen = claim(name, bandwidth("3500M"));
    seen["status"] = json!({"allocation": reservations[0].allocation, "reservedFor": reservations[0].reserved_for});
    world.tell(Feed::ResourceClaims, &seen);
    world.tell(Feed::ResourceClaims, &claim("more", bandwidth("3G")));
    let id = world.add(&using("more", "more"));
    assert_eq!(reason(&world, id, "a"), "cannot allocate all claims");
    world.tell(Feed::ResourceClaims, &claim(name, bandwidth("3500M")));
    assert_eq!(reason(&world, id, "a"), "");
}

#[test]
fn a_device_that_is_taken_whole_has_the_capacity_that_is_asked_for() {
    let mut world = world();
    let card = |name: &str, memory: &str| json!({"name": name, "capacity": {"memory": {"value": memory}}});
    world.tell(Feed::Slices, &slice("a", &[card("small", "10Gi"), card("large", "80Gi")]));
    let mut large = gpus(1);
    large["requests"][0]["exactly"]["capacity"] = json!({"requests": {"gpu.example.com/memory": "40Gi"}});
    world.tell(Feed::ResourceClaims, &claim("c", large));
    let id = world.add(&using("p", "c"));
    assert_eq!(got(&world, id, "a"), ["large"]);
    assert!(reserved(&world, id, "a")[0].allocation.clone().unwrap()["devices"]["results"][0].get("shareID").is_none());
}

#[test]
fn of_a_shared_device_only_the_first_part_takes_counters() {
    let mut world = world();
    let mut nic = shared_card();
    nic["consumesCounters"] = json!([{"counterSet": "card", "counters": {"slots": {"value": "1"}}}]);
    let mut slice = slice("a", &[nic]);
    slice["spec"]["sharedCounters"] = json!([{"name": "card", "counters": {"slots": {"value": "1"}}}]);
    world.tell(Feed::Slices, &slice);
    for name in ["c", "d"] {
        world.tell(Feed::ResourceClaims, &claim(name, bandwidth("2G")));
        let id = world.add(&using(&format!("pod-{name}"), name));
        assert_eq!(got(&world, id, "a"), ["nic"]);
        let taken = reserved(&world, id, "a");
        world.state.devices.assume(&taken);
    }
}

/// A device whose driver must attach it first.
fn attached(name: &str) -> Value {
    json!({"name": name, "bindsToNode": true, "bindingConditions": ["ready"], "bindingFailureConditions": ["broken"]})
}

#[test]
fn an_allocation_says_what_must_hold_before_its_pods_are_bound() {
    let mut world = world();
    let fabric = json!({"metadata": {"name": "fabric"}, "spec": {"driver": DRIVER, "allNodes": true,
        "pool": {"name": "fabric", "generation": 1, "resourceSliceCount": 1}, "devices": [attached("d0")]}});
    world.tell(Feed::Slices, &fabric);
    world.tell(Feed::ResourceClaims, &claim("c", gpus(1)));
    let id = world.add(&using("p", "c"));
    let [reservation] = &reserved(&world, id, "b")[..] else { panic!() };
    assert!(reservation.waits);
    let allocation = reservation.allocation.clone().unwrap();
    let result = &allocation["devices"]["results"][0];
    assert_eq!((&result["bindingConditions"], &result["bindingFailureConditions"]), (&json!(["ready"]), &json!(["broken"])));
    assert_eq!(allocation["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0]["values"], json!(["b"]));
    // A device that is there already is preferred.
    world.tell(Feed::Slices, &slice("b", &[device("own")]));
    assert_eq!(got(&world, id, "b"), ["own"]);
}

#[test]
fn an_allocation_that_waits_in_vain_is_given_back() {
    let allocated = |since: &str, conditions: Value| {
        let results = json!([{"request": "r", "driver": DRIVER, "pool": "a", "device": "d0", "bindingConditions": ["ready"], "bindingFailureConditions": ["broken"]}]);
        let mut claim = claim("c", gpus(1));
        claim["status"] = json!({
            "allocation": {"devices": {"results": results}, "allocationTimestamp": since},
            "reservedFor": [{"resource": "pods", "name": "p", "uid": "p"}],
            "devices": [{"driver": DRIVER, "pool": "a", "device": "d0", "conditions": conditions}],
        });
        claim
    };
    let condition = |kind: &str| json!([{"type": kind, "status": "True", "reason": "R", "message": "m"}]);
    let (long_ago, ahead) = ("2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z");
    let elsewhere = "resourceclaim not available on the node";
    let mut world = world();
    world.tell(Feed::Slices, &slice("a", &[attached("d0")]));
    world.tell(Feed::ResourceClaims, &claim("c", gpus(1)));
    let id = world.add(&using("p", "c"));
    for (since, conditions, why, readiness) in [
        (long_ago, condition("ready"), "", Readiness::Ready),
        (ahead, json!([]), "", Readiness::Pending),
        (long_ago, json!([]), elsewhere, Readiness::Pending),
        (ahead, condition("broken"), elsewhere, Readiness::Failed("claim c binding failed: reason=R, message=\"m\"".to_owned())),
    ] {
        world.tell(Feed::ResourceClaims, &allocated(since, conditions.clone()));
        assert_eq!(reason(&world, id, "a"), why, "{since} {conditions}");
        let claim = world.state.devices.claim(&ObjectKey::new("default", "c")).unwrap();
        assert_eq!(claim.readiness("c"), readiness);
        let given_back = matches!(devices::help(&world.state, world.profile(), id), devices::Help::Release(_));
        assert_eq!(given_back, !why.is_empty(), "{since} {conditions}");
    }
    // Not while somebody else has it.
    let mut shared = allocated(long_ago, json!([]));
    shared["status"]["reservedFor"] = json!([{"resource": "pods", "name": "q", "uid": "q"}]);
    world.tell(Feed::ResourceClaims, &shared);
    assert_eq!(devices::help(&world.state, world.profile(), id), devices::Help::None("still not schedulable"));
}

#[test]
fn an_allocation_that_fits_another_node_only_is_given_back_when_its_pod_fits_nowhere() {
    let mut world = world();
    let mut wanted = claim("c", gpus(1));
    let selector = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gone"]}]}]});
    wanted["status"] = json!({"allocation": {"devices": {"results": []}, "nodeSelector": selector}});
    world.tell(Feed::ResourceClaims, &wanted);
    let id = world.add(&using("p", "c"));
    assert_eq!(reason(&world, id, "a"), "resourceclaim not available on the node");
    assert!(matches!(devices::help(&world.state, world.profile(), id), devices::Help::Release(_)));
    let plain = world.add(&pod("q", "x", "", "", &json!({})));
    assert_eq!(devices::help(&world.state, world.profile(), plain), devices::Help::None("no new claims to deallocate"));
}

#[test]
fn a_node_with_the_preferred_alternative_is_preferred() {
    let mut world = world();
    world.tell(Feed::DeviceClasses, &json!({"metadata": {"name": "card"}, "spec": {}}));
    world.tell(Feed::Slices, &slice("a", &[device("d0")]));
    world.tell(Feed::Slices, &slice("b", &[device("d0"), device("d1")]));
    let sub = |name: &str, count: usize| json!({"name": name, "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": count});
    let first = json!({"requests": [{"name": "r", "firstAvailable": [sub("two", 2), sub("one", 1)]}]});
    world.tell(Feed::ResourceClaims, &claim("c", first));
    // Without claims it would go to the emptier node.
    world.on("b", &pod("busy", "y", "500m", "", &json!({})));
    let id = world.add(&using("p", "c"));
    assert_eq!(world.place(id), Ok("b".to_owned()));
}

/// A pod whose one container asks for so many of an extended resource.
fn asking(name: &str, resource: &str, count: usize) -> Value {
    let amounts = json!({"cpu": "100m", resource: count.to_string()});
    pod(name, "x", "", "", &json!({"containers": [{"name": "main", "image": "i", "resources": {"requests": amounts, "limits": amounts}}]}))
}

fn class_for(name: &str, resource: &str) -> Value {
    json!({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"extendedResourceName": resource}})
}

#[test]
fn an_amount_that_a_class_stands_for_becomes_devices_of_a_claim_made_for_the_pod() {
    let mut world = world();
    world.tell(Feed::Slices, &slice("b", &[device("d0"), device("d1"), device("d2")]));
    let id = world.add(&asking("p", "example.com/gpu", 2));
    assert_eq!(reason(&world, id, "b"), "Insufficient example.com/gpu", "no class stands for it yet");
    world.tell(Feed::DeviceClasses, &class_for("gpu", "example.com/gpu"));
    assert_eq!(reason(&world, id, "a"), "cannot allocate all claims");
    assert_eq!(world.place(id), Ok("b".to_owned()));
    let [reservation] = &reserved(&world, id, "b")[..] else { panic!() };
    let made = reservation.made_from.as_deref().unwrap();
    assert_eq!(made.object["metadata"]["generateName"], "p-extended-resources-");
    assert_eq!(made.object["metadata"]["annotations"], json!({"resource.kubernetes.io/extended-resource-claim": "true"}));
    let exactly = json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2});
    assert_eq!(made.object["spec"]["devices"]["requests"], json!([{"name": "container-0-request-1", "exactly": exactly}]));
    let mapping = json!({"containerName": "main", "resourceName": "example.com/gpu", "requestName": "container-0-request-1"});
    assert_eq!(made.mappings, [mapping]);
    world.state.devices.assume(std::slice::from_ref(reservation));
    let second = world.add(&asking("q", "example.com/gpu", 2));
    assert_eq!(reason(&world, second, "b"), "cannot allocate all claims", "one is left");
}

#[test]
fn a_node_that_offers_the_amount_itself_needs_no_devices() {
    let mut own = node("own", "4", "8Gi", "z1");
    own["status"]["allocatable"]["example.com/gpu"] = "1".into();
    let mut world = World::new(&[own, node("other", "4", "8Gi", "z1")]);
    world.tell(Feed::DeviceClasses, &class_for("gpu", "example.com/gpu"));
    let (one, two) = (world.add(&asking("one", "example.com/gpu", 1)), world.add(&asking("two", "example.com/gpu", 2)));
    assert_eq!(world.place(one), Ok("own".to_owned()));
    assert!(reserved(&world, one, "own").is_empty());
    assert_eq!(reason(&world, two, "own"), "Insufficient example.com/gpu");
    assert_eq!(reason(&world, two, "other"), "cannot allocate all claims");
}

#[test]
fn nodes_are_compared_by_the_devices_that_stand_for_an_amount() {
    let mut world = World::new(&[node("many", "4", "8Gi", "z1"), node("few", "4", "8Gi", "z1"), node("none", "4", "8Gi", "z1")]);
    let other = |name: &str| json!({"name": name, "attributes": {"kind": {"string": "other"}}});
    let gpu = |name: &str| json!({"name": name, "attributes": {"kind": {"string": "gpu"}}});
    world.tell(Feed::Slices, &slice("many", &[gpu("d0"), gpu("d1"), gpu("d2"), gpu("d3"), other("d4")]));
    world.tell(Feed::Slices, &slice("few", &[gpu("d0"), gpu("d1")]));
    let mut class = class_for("gpu", "example.com/gpu");
    class["spec"]["selectors"] = json!([{"cel": {"expression": "device.attributes['gpu.example.com'].kind == 'gpu'"}}]);
    world.tell(Feed::DeviceClasses, &class);
    let only_gpus = |strategy| Profile { fit: vec![("example.com/gpu".into(), 1)], strategy, ..Profile::default() };
    let scores = |world: &World, strategy: Strategy, pod: u32| {
        let (profile, class) = (only_gpus(strategy), world.state.class_of(pod));
        [0, 1, 2].map(|at| fit::score(&world.state.devices, &profile, class, world.state.node(at)))
    };
    let one = world.add(&asking("one", "example.com/gpu", 1));
    assert_eq!(scores(&world, Strategy::Least, one), [75, 50, 0], "a node without any does not count");
    assert_eq!(scores(&world, Strategy::Most, one), [25, 50, 0]);
    let taken = reserved(&world, one, "many");
    world.state.devices.assume(&taken);
    let two = world.add(&asking("two", "example.com/gpu", 2));
    assert_eq!(scores(&world, Strategy::Least, two), [25, 0, 0], "what is taken counts with it");
    let nothing = world.add(&pod("nothing", "x", "", "", &json!({})));
    assert_eq!(scores(&world, Strategy::Least, nothing), [0, 0, 0], "who asks for none does not mind");
}

#[test]
fn a_class_stands_for_a_resource_of_its_own_name_and_the_newest_for_one_they_share() {
    let mut world = world();
    world.tell(Feed::Slices, &slice("a", &[device("d0")]));
    let implicit = world.add(&asking("p", "deviceclass.resource.kubernetes.io/gpu", 1));
    assert_eq!(world.place(implicit), Ok("a".to_owned()));
    let mut newer = class_for("newer", "example.com/gpu");
    newer["metadata"]["creationTimestamp"] = "2026-02-01T00:00:00Z".into();
    for class in [class_for("aged", "example.com/gpu"), newer.clone()] {
        world.tell(Feed::DeviceClasses, &class);
    }
    assert_eq!(world.state.devices.class_for("example.com/gpu"), Some("newer"));
    newer["spec"] = json!({});
    world.tell(Feed::DeviceClasses, &newer);
    assert_eq!(world.state.devices.class_for("example.com/gpu"), Some("aged"));
}

#[test]
fn what_an_earlier_attempt_left_is_taken_away_before_the_next() {
    let mut world = world();
    world.tell(Feed::DeviceClasses, &class_for("gpu", "example.com/gpu"));
    world.tell(Feed::Slices, &slice("a", &[device("d0")]));
    let id = world.add(&asking("p", "example.com/gpu", 1));
    let reservation = reserved(&world, id, "a").remove(0);
    let mut left = reservation.made_from.clone().unwrap().object;
    left["metadata"]["name"] = "p-extended-resources-x".into();
    left["metadata"]["uid"] = "c".into();
    left["status"] = json!({"allocation": reservation.allocation, "reservedFor": reservation.reserved_for});
    world.tell(Feed::ResourceClaims, &left);
    assert_eq!(reason(&world, id, "a"), "the resourceclaim of an earlier attempt is in the way");
    let devices::Help::Release(release) = devices::help(&world.state, world.profile(), id) else { panic!() };
    assert_eq!((&*release.claim.name, release.delete), ("p-extended-resources-x", true));
    feeds::apply(&mut world.state, Feed::ResourceClaims, &release.claim, None);
    assert_eq!(world.place(id), Ok("a".to_owned()));
}

/// A pool that can be used from the nodes of a zone.
fn of_zone(pool: &str, zone: &str, devices: &[Value]) -> Value {
    let term = json!({"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}]});
    json!({"metadata": {"name": format!("slice-{pool}")}, "spec": {"driver": DRIVER, "nodeSelector": {"nodeSelectorTerms": [term]},
        "pool": {"name": pool, "generation": 1, "resourceSliceCount": 1}, "devices": devices}})
}

#[test]
fn nodes_of_one_zone_share_its_devices_and_each_has_its_own_besides() {
    let zones = [("a", "z1"), ("b", "z1"), ("c", "z1"), ("d", "z2"), ("e", "z2")];
    let mut world = World::new(&zones.map(|(name, zone)| node(name, "4", "8Gi", zone)));
    world.tell(Feed::DeviceClasses, &json!({"metadata": {"name": "gpu"}, "spec": {}}));
    world.tell(Feed::Slices, &of_zone("z1", "z1", &[device("d0")]));
    world.tell(Feed::Slices, &of_zone("z2", "z2", &[device("d0"), device("d1")]));
    world.tell(Feed::Slices, &slice("c", &[device("d0")]));
    for (name, count) in [("one", 1), ("two", 2), ("three", 3)] {
        world.tell(Feed::ResourceClaims, &claim(name, gpus(count)));
    }
    let [one, two, three] = ["one", "two", "three"].map(|name| world.add(&using(name, name)));
    assert_eq!(world.feasible(one), ["a", "b", "c", "d", "e"]);
    assert_eq!(world.feasible(two), ["c", "d", "e"]);
    assert!(world.feasible(three).is_empty());
    // What the zone has is gone for all its nodes, and what a node has stays.
    let taken = reserved(&world, one, "a");
    world.state.devices.assume(&taken);
    world.tell(Feed::ResourceClaims, &claim("more", gpus(1)));
    let more = world.add(&using("more", "more"));
    assert_eq!(world.feasible(more), ["c", "d", "e"]);
    assert_eq!(world.feasible(two), ["d", "e"]);
    world.state.devices.forget(&taken);
    assert_eq!(world.feasible(two), ["c", "d", "e"]);
}

#[test]
fn devices_that_must_agree_are_found_behind_pools_of_which_only_one_is_left() {
    let mut world = world();
    let of_slice = |name: &str, slice: i64| json!({"name": name, "attributes": {"slice": {"int": slice}}});
    for pool in 0..20 {
        let devices = [of_slice("d0", pool), of_slice("d1", pool), of_slice("d2", pool)];
        world.tell(Feed::Slices, &of_zone(&format!("p{pool:02}"), "z1", &devices));
    }
    let alike = |name: &str, count: usize| {
        let mut devices = gpus(count);
        devices["constraints"] = json!([{"requests": ["r"], "matchAttribute": format!("{DRIVER}/slice")}]);
        claim(name, devices)
    };
    // Each leaves one device of a pool, of which the next cannot make anything.
    for pool in 0..20 {
        let name = format!("c{pool}");
        world.tell(Feed::ResourceClaims, &alike(&name, 2));
        let id = world.add(&using(&name, &name));
        let reservation = reserved(&world, id, "a");
        let results = reservation[0].allocation.as_ref().unwrap()["devices"]["results"].clone();
        let pools: Vec<&str> = results.as_array().unwrap().iter().map(|r| r["pool"].as_str().unwrap()).collect();
        let own = format!("p{pool:02}");
        assert_eq!(pools, [&*own, &*own]);
        world.state.devices.assume(&reservation);
    }
    world.tell(Feed::ResourceClaims, &alike("late", 2));
    let late = world.add(&using("late", "late"));
    assert_eq!(reason(&world, late, "a"), "cannot allocate all claims");
    world.tell(Feed::ResourceClaims, &claim("any", gpus(2)));
    let any = world.add(&using("any", "any"));
    assert_eq!(got(&world, any, "a"), ["d2", "d2"]);
}

#[test]
fn a_node_that_offers_a_resource_itself_says_nothing_about_those_where_devices_stand_for_it() {
    let mut own = node("a", "4", "8Gi", "z1");
    own["status"]["allocatable"]["example.com/gpu"] = "1".into();
    let mut world = World::new(&[own, node("b", "4", "8Gi", "z1")]);
    world.tell(Feed::DeviceClasses, &json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "example.com/gpu"}}));
    // One device for both nodes: the claim has it, and on b one more would be needed.
    world.tell(Feed::Slices, &of_zone("z1", "z1", &[device("d0")]));
    world.tell(Feed::ResourceClaims, &claim("c", gpus(1)));
    let amounts = json!({"example.com/gpu": "1"});
    let id = world.add(&pod(
        "p",
        "x",
        "",
        "",
        &json!({"resourceClaims": [{"name": "d", "resourceClaimName": "c"}],
            "containers": [{"name": "c", "image": "busybox", "resources": {"requests": amounts, "limits": amounts}}]}),
    ));
    assert_eq!(world.feasible(id), ["a"]);
    // Looked at in one go as well, whichever comes first.
    for _ in 0..4 {
        let (candidates, _) = world.planner.candidates(&world.state, id).unwrap();
        assert_eq!(candidates.iter().map(|(node, _)| world.name(*node)).collect::<Vec<_>>(), ["a"]);
    }
}
