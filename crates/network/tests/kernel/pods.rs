//! The pod network: plugin and node set-up.

use crate::lab::{assert_refused, inside, path_of, serve, tcp, udp};
use ferrokube_network::cni::code;
use ferrokube_network::netlink::route::Route;
use ferrokube_network::nft::Nft;
use ferrokube_network::node;
use serde_json::json;
use std::net::Ipv4Addr;
use std::time::Instant;

#[test]
fn pods_and_node_reach_each_other_with_their_own_addresses() {
    inside("pods::pods_and_node_reach_each_other_with_their_own_addresses", |lab| {
        let (a, b) = (lab.pod(), lab.pod());
        assert_ne!(a.address, b.address);
        a.serve(80, "a");
        b.serve(80, "b");
        serve(Ipv4Addr::UNSPECIFIED, 8000, "node");
        let gateway = lab.node.gateway();
        let from_b = b.run(|| tcp(a.address, 80)).expect("pod to pod");
        assert_eq!((from_b.server.as_str(), from_b.seen_as), ("a", b.address.to_string()));
        assert_eq!(b.run(|| udp(a.address, 80)).expect("pod to pod, UDP").seen_as, b.address.to_string());
        assert_eq!(tcp(b.address, 80).expect("node to pod").seen_as, gateway.to_string());
        assert_eq!(a.run(|| tcp(gateway, 8000)).expect("pod to node").seen_as, a.address.to_string());
        assert_eq!(a.run(|| tcp(Ipv4Addr::LOCALHOST, 80)).expect("pod to itself").server, "a");
    });
}

#[test]
fn addresses_that_nobody_holds_are_refused_at_once() {
    inside("pods::addresses_that_nobody_holds_are_refused_at_once", |lab| {
        for text in ["10.244.0.99", "10.244.7.7", "10.96.0.99", "10.111.1.1"] {
            // The kernel sends one host only so many ICMP errors a second: a new one for every address.
            let pod = lab.pod();
            let address: Ipv4Addr = text.parse().expect("valid");
            assert_refused(&format!("pod to {text}"), || pod.run(|| tcp(address, 80)));
            assert_refused(&format!("node to {text}"), || tcp(address, 80));
            assert_refused(&format!("node to {text}, UDP"), || udp(address, 80));
            if lab.node.service_cidr.contains(address) {
                // Linux shows a UDP socket a host that is unreachable only on request, a port that is closed always.
                assert_refused(&format!("pod to {text}, UDP"), || pod.run(|| udp(address, 80)));
            }
        }
    });
}

#[test]
fn a_pod_cannot_reach_the_loopback_of_the_node_or_borrow_an_address() {
    inside("pods::a_pod_cannot_reach_the_loopback_of_the_node_or_borrow_an_address", |lab| {
        let (pod, other) = (lab.pod(), lab.pod());
        serve(Ipv4Addr::LOCALHOST, 8001, "secret");
        // 127.0.0.2 by way of the gateway: only a pod that tampers with its own routes sends that.
        let reached = pod.run(|| {
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").ok();
            tcp(Ipv4Addr::new(127, 0, 0, 1), 8001)
        });
        assert!(reached.is_err());
        drop(other);
    });
}

#[test]
fn del_gives_everything_back_and_may_be_repeated() {
    inside("pods::del_gives_everything_back_and_may_be_repeated", |lab| {
        let pod = lab.pod();
        lab.cni("CHECK", &pod.container, Some(&path_of(&pod.netns)), json!({})).expect("CHECK right after ADD");
        let links = || Route::open().and_then(|mut r| r.links()).expect("links").len();
        assert_eq!(links(), 3); // lo, anchor, pod
        lab.remove(&pod);
        lab.remove(&pod);
        lab.cni("DEL", &pod.container, None, json!({})).expect("DEL without a namespace");
        assert_eq!(links(), 2);
        assert_refused("the pod that was", || tcp(pod.address, 80));
        let checked = lab.cni("CHECK", &pod.container, Some(&path_of(&pod.netns)), json!({}));
        assert_eq!(checked.expect_err("gone").code, code::CHECK_FAILED);
    });
}

#[test]
fn add_again_after_a_crash_keeps_the_address_and_gc_removes_what_is_not_named() {
    inside("pods::add_again_after_a_crash_keeps_the_address_and_gc_removes_what_is_not_named", |lab| {
        let pod = lab.pod();
        let (other, third) = (lab.pod(), lab.pod());
        lab.remove(&other);
        // The runtime was killed after ADD and knows nothing: it makes the sandbox anew under the same id.
        let fresh = lab.cni("ADD", &pod.container, Some(&path_of(&other.netns)), json!({})).expect("ADD").expect("result");
        assert_eq!(fresh["ips"][0]["address"], format!("{}/32", pod.address));
        let mut conf: serde_json::Value = serde_json::from_slice(&lab.conf(json!({}))).expect("JSON");
        conf["cniVersion"] = json!("1.1.0");
        conf["cni.dev/valid-attachments"] = json!([{"containerID": third.container, "ifname": "eth0"}]);
        let env = |name: &str| (name == "CNI_COMMAND").then(|| "GC".to_owned());
        ferrokube_network::cni::run(&env, conf.to_string().as_bytes()).expect("GC");
        third.serve(80, "third");
        assert_eq!(tcp(third.address, 80).expect("the named one stays").server, "third");
        assert_refused("the unnamed one has gone", || tcp(pod.address, 80));
    });
}

#[test]
fn host_ports_lead_to_the_pod_from_everywhere_and_are_exclusive() {
    inside("pods::host_ports_lead_to_the_pod_from_everywhere_and_are_exclusive", |lab| {
        let ports = json!({"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 8081, "containerPort": 80, "protocol": "UDP", "hostIP": ""},
            {"hostPort": 8082, "containerPort": 80, "protocol": "tcp", "hostIP": lab.node.gateway()},
        ]});
        let pod = lab.pod_with(ports.clone()).expect("ADD");
        pod.serve(80, "web");
        let client = lab.pod();
        let gateway = lab.node.gateway();
        let localhost = Ipv4Addr::LOCALHOST;
        let from_client = client.run(|| tcp(gateway, 8080)).expect("from a pod");
        assert_eq!((from_client.server.as_str(), from_client.seen_as), ("web", client.address.to_string()));
        assert_eq!(tcp(gateway, 8080).expect("from the node").server, "web");
        assert_eq!(tcp(localhost, 8080).expect("from the node by localhost").server, "web");
        assert_eq!(udp(gateway, 8081).expect("UDP").server, "web");
        assert_eq!(tcp(gateway, 8082).expect("on one address").server, "web");
        assert_refused("not on another address", || tcp(localhost, 8082));
        assert_eq!(pod.run(|| tcp(gateway, 8080)).expect("from the pod itself").server, "web");

        let refused = lab.pod_with(ports.clone()).err().expect("the port is taken");
        assert_eq!(refused.code, code::HOST_PORT, "{refused}");
        lab.remove(&pod);
        assert_refused("after the pod has gone", || tcp(gateway, 8080));
        lab.pod_with(ports).expect("the port is free again").serve(80, "second");
        assert_eq!(tcp(gateway, 8080).expect("the next pod").server, "second");
    });
}

#[test]
fn tear_down_leaves_no_trace_and_set_up_may_be_repeated() {
    inside("pods::tear_down_leaves_no_trace_and_set_up_may_be_repeated", |lab| {
        let pod = lab.pod_with(json!({"portMappings": [{"hostPort": 8080, "containerPort": 80}]})).expect("ADD");
        pod.serve(80, "web");
        node::set_up(&lab.node).expect("again");
        assert_eq!(tcp(pod.address, 80).expect("a running pod does not notice").server, "web");
        node::tear_down().expect("tear down");
        node::tear_down().expect("again");
        let mut route = Route::open().expect("netlink");
        assert_eq!(route.links().expect("links").len(), 1);
        assert!(route.own_routes().expect("routes").is_empty());
        assert!(Nft::open().and_then(|mut n| n.tables()).expect("tables").is_empty());
    });
}

#[test]
fn many_pods_are_added_one_after_the_other() {
    inside("pods::many_pods_are_added_one_after_the_other", |lab| {
        let mut times: Vec<_> = (0..50)
            .map(|_| {
                let started = Instant::now();
                std::mem::forget(lab.pod());
                started.elapsed()
            })
            .collect();
        times.sort();
        println!("ADD, 50 pods: median {:?}, worst {:?}", times[25], times[49]);
    });
}
