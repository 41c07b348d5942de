//! Addresses and ports of services: who gets which, who has them, and when they are free again.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Cluster, Reply};
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

async fn dual() -> Cluster {
    Cluster::with(|config| config.service_cidrs = vec!["10.77.0.0/24".into(), "fd77::/112".into()]).await
}

fn service(name: &str, spec: Value) -> Value {
    let mut object = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "selector": {"app": name}}});
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

async fn create(cluster: &Cluster, name: &str, spec: Value) -> Reply {
    cluster.post(SERVICES, &service(name, spec)).await
}

fn ips(reply: &Reply) -> Vec<String> {
    let list = reply.json["spec"]["clusterIPs"].as_array().unwrap_or_else(|| panic!("{}", reply.text));
    list.iter().map(|ip| ip.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_service_has_its_address_until_it_is_gone() {
    let cluster = dual().await;
    let made = create(&cluster, "web", json!({})).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let ip = ips(&made).remove(0);
    assert_eq!((&made.json["spec"]["ipFamilies"], &made.json["spec"]["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
    let claim = cluster.get(&format!("{ADDRESSES}/{ip}")).await;
    assert_eq!(claim.json["spec"]["parentRef"], json!({"resource": "services", "namespace": "default", "name": "web"}));
    assert_eq!(claim.json["metadata"]["labels"]["ipaddress.kubernetes.io/managed-by"], "ipallocator.k8s.io");
    let refused = create(&cluster, "thief", json!({"clusterIP": ip})).await;
    assert_eq!(
        (refused.code, refused.message()),
        (
            422,
            format!("Service \"thief\" is invalid: spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: provided IP is already allocated").as_str()
        )
    );
    cluster.delete(&format!("{SERVICES}/web"), &Value::Null).await;
    assert_eq!(cluster.get(&format!("{ADDRESSES}/{ip}")).await.code, 404);
    assert_eq!(create(&cluster, "heir", json!({"clusterIP": ip})).await.code, 201);
    let outside = create(&cluster, "out", json!({"clusterIP": "10.99.0.1"})).await;
    assert!(outside.message().ends_with("failed to allocate IP 10.99.0.1: the provided network does not match the current range"));
}

#[tokio::test]
async fn a_write_that_fails_gives_back_what_it_claimed() {
    let cluster = dual().await;
    let bad = create(&cluster, "bad", json!({"clusterIP": "10.77.0.9", "sessionAffinity": "Magic"})).await;
    assert_eq!(bad.code, 422, "{}", bad.text);
    let dry = cluster.post(&format!("{SERVICES}?dryRun=All"), &service("dry", json!({"clusterIP": "10.77.0.9"}))).await;
    assert_eq!((dry.code, ips(&dry)), (201, vec!["10.77.0.9".to_owned()]));
    assert_eq!(cluster.get(&format!("{ADDRESSES}/10.77.0.9")).await.code, 404);
    assert_eq!(create(&cluster, "good", json!({"clusterIP": "10.77.0.9"})).await.code, 201);
}

#[tokio::test]
async fn services_go_to_two_families_and_back() {
    let cluster = dual().await;
    let both = create(&cluster, "both", json!({"ipFamilyPolicy": "RequireDualStack"})).await;
    assert_eq!(both.code, 201, "{}", both.text);
    let two = ips(&both);
    assert!(two[0].starts_with("10.77.0.") && two[1].starts_with("fd77::"), "{two:?}");
    let path = format!("{SERVICES}/both");
    let single = cluster.patch(&path, "merge-patch", &json!({"spec": {"ipFamilyPolicy": "SingleStack"}})).await;
    assert_eq!((single.code, ips(&single)), (200, vec![two[0].clone()]), "{}", single.text);
    assert_eq!(cluster.get(&format!("{ADDRESSES}/{}", two[1])).await.code, 404);
    let again = cluster.patch(&path, "merge-patch", &json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}})).await;
    assert_eq!((again.code, ips(&again).len()), (200, 2), "{}", again.text);
    let named = cluster.patch(&path, "merge-patch", &json!({"spec": {"type": "ExternalName", "externalName": "a.example"}})).await;
    assert_eq!((named.code, &named.json["spec"]["clusterIPs"], &named.json["spec"]["ipFamilies"]), (200, &Value::Null, &Value::Null));
    assert_eq!(cluster.get(&format!("{ADDRESSES}/{}", two[0])).await.code, 404);
    let moved = cluster
        .patch(
            &format!("{SERVICES}/kubernetes"),
            "merge-patch",
            &json!({"spec": {"clusterIP": "10.77.0.99", "clusterIPs": ["10.77.0.99"]}}),
        )
        .await;
    assert!(
        moved.message().contains("spec.clusterIPs[0]: Invalid value: [\"10.77.0.99\"]: may not change once set"),
        "{}",
        moved.message()
    );
}

#[tokio::test]
async fn a_service_cidr_adds_addresses() {
    let cluster = Cluster::with(|config| config.service_cidrs = vec!["10.78.0.0/29".into()]).await;
    let mut made = 0;
    let full = loop {
        let reply = create(&cluster, &format!("s{made}"), json!({})).await;
        if reply.code != 201 {
            break reply;
        }
        made += 1;
    };
    assert_eq!((made, full.code), (5, 500), "{}", full.text);
    assert_eq!(full.message(), "Internal error occurred: failed to allocate a serviceIP: range is full");
    let more = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.79.0.0/29"]}});
    assert_eq!(cluster.post("/apis/networking.k8s.io/v1/servicecidrs", &more).await.code, 201);
    let reply = create(&cluster, "late", json!({})).await;
    assert_eq!(reply.code, 201, "{}", reply.text);
    assert!(ips(&reply)[0].starts_with("10.79.0."));
}

#[tokio::test]
async fn node_ports_stay_with_their_port_and_are_freed() {
    let cluster = dual().await;
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 1, "protocol": "UDP"}]});
    let made = create(&cluster, "lb", spec).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let port = made.json["spec"]["ports"][0]["nodePort"].clone();
    let health = made.json["spec"]["healthCheckNodePort"].clone();
    assert!(port.is_u64() && health.is_u64() && port != health);
    assert_eq!(made.json["spec"]["ports"][1]["nodePort"], port);
    let taken = create(&cluster, "np", json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]})).await;
    assert_eq!(
        taken.message(),
        format!("Service \"np\" is invalid: spec.ports[0].nodePort: Invalid value: {port}: provided port is already allocated")
    );
    let mut body = made.json.clone();
    body["spec"]["ports"] = json!([{"name": "b", "port": 7, "protocol": "UDP"}]);
    let kept = cluster.put(&format!("{SERVICES}/lb"), &body).await;
    assert_eq!(kept.json["spec"]["ports"][0]["nodePort"], port, "{}", kept.text);
    let closed = cluster.patch(&format!("{SERVICES}/lb"), "merge-patch", &json!({"spec": {"type": "ClusterIP"}})).await;
    assert_eq!((&closed.json["spec"]["ports"][0]["nodePort"], &closed.json["spec"]["healthCheckNodePort"]), (&Value::Null, &Value::Null));
    for number in [port, health] {
        let name = format!("np{number}");
        assert_eq!(create(&cluster, &name, json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": number}]})).await.code, 201);
    }
}
