//! A new cluster gets everything, a second start writes nothing, and the policy is that of the reference.

use super::*;
use crate::authz::Authorizer;
use crate::objects::testing::Map;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

fn config() -> BootstrapConfig {
    BootstrapConfig {
        service_cidrs: vec!["10.96.0.0/12".into()],
        service_ip: "10.96.0.1".parse().expect("an address"),
        advertise: "192.0.2.7".parse().expect("an address"),
        port: 6443,
        client_ca: "CA".into(),
        front_proxy: Some(RequestHeaders::standard("PROXY".into())),
        served: vec![(String::new(), "v1".into()), ("apps".into(), "v1".into())],
        features: Features::default(),
    }
}

#[tokio::test]
async fn a_second_start_writes_nothing() {
    let map = Map::default();
    let written = run(&map, &map, &config()).await.expect("written");
    assert!(written > 150, "{written}");
    assert_eq!(run(&map, &map, &config()).await.expect("nothing to do"), 0);
    let service: Value = map.get("", "services", "default", "kubernetes").expect("there").decode().expect("json");
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let slice: Value = map.get("discovery.k8s.io", "endpointslices", "default", "kubernetes").expect("there").decode().expect("json");
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.7"]));
}

#[tokio::test]
async fn what_was_taken_away_comes_back_and_what_was_frozen_stays() {
    let map = Map::default();
    run(&map, &map, &config()).await.expect("written");
    let group = "rbac.authorization.k8s.io";
    let mut role: Value = map.get(group, "clusterroles", "", "system:basic-user").expect("there").decode().expect("json");
    role["rules"] = json!([{ "verbs": ["get"], "apiGroups": ["x"], "resources": ["y"] }]);
    map.put(group, "clusterroles", role.clone());
    run(&map, &map, &config()).await.expect("written");
    let repaired: Value = map.get(group, "clusterroles", "", "system:basic-user").expect("there").decode().expect("json");
    assert!(repaired["rules"].as_array().expect("rules").len() >= 3, "{repaired}");
    assert_eq!(repaired["rules"][0]["apiGroups"], json!(["x"]));
    role["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = json!("false");
    map.put(group, "clusterroles", role);
    assert_eq!(run(&map, &map, &config()).await.expect("nothing to do"), 0);
}

#[tokio::test]
async fn the_roles_let_view_edit_and_admin_do_their_work() {
    let map = Arc::new(Map::default());
    run(&*map, &*map, &config()).await.expect("written");
    let authorizer = Authorizer::new(map.clone());
    for name in ["view", "edit", "admin"] {
        let stored: Value = map.get("rbac.authorization.k8s.io", "clusterroles", "", name).expect("there").decode().expect("json");
        let computed = authorizer.rules_of("ClusterRole", "", name).expect("there");
        assert_eq!(stored["rules"].as_array().map_or(0, Vec::len), computed.len(), "{name} carries the rules the index computes");
    }
    let counts: Vec<usize> = ["view", "edit", "admin"].map(|r| authorizer.rules_of("ClusterRole", "", r).expect("there").len()).into();
    assert!(counts[0] > 5 && counts[1] > counts[0] && counts[2] > counts[1], "{counts:?}");
}

type Policy = BTreeMap<(String, String, String), Value>;

fn normalised(mut object: Value) -> ((String, String, String), Value) {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let key = (text(&object["kind"]), text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
    if let Some(meta) = object["metadata"].as_object_mut() {
        meta.retain(|k, v| k != "creationTimestamp" && !v.is_null());
    }
    if object["aggregationRule"].is_object() || object["rules"].is_null() {
        object["rules"] = Value::Null;
    }
    if object["rules"].is_null() {
        object.as_object_mut().expect("an object").remove("rules");
    }
    (key, object)
}

#[test]
fn the_policy_is_that_of_the_reference() {
    let relative = "shared/reference/data/plugin/pkg/auth/authorizer/rbac/bootstrappolicy/testdata";
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..").join(relative);
    if !folder.exists() {
        println!("SKIP: ../{relative} is not there");
        return;
    }
    let mut expected = Policy::new();
    for file in [
        "cluster-roles",
        "cluster-role-bindings",
        "controller-roles",
        "controller-role-bindings",
        "namespace-roles",
        "namespace-role-bindings",
    ] {
        let text = std::fs::read_to_string(folder.join(format!("{file}.yaml"))).expect("readable");
        let list: Value = serde_saphyr::from_str(&text).expect("yaml");
        expected.extend(list["items"].as_array().expect("items").iter().cloned().map(normalised));
    }
    // The reference's own notes: not of Kubernetes.
    expected.retain(|(_, _, name), _| !name.contains("openshift") && !name.contains("service-ca-cert-publisher"));
    let ours: Policy = policy::wanted(&Features::default()).into_iter().map(|w| normalised(w.object)).collect();
    assert_eq!(ours.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (key, object) in &expected {
        assert_eq!(&ours[key], object, "{key:?}");
    }
}

#[test]
fn the_policy_has_its_size() {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for wanted in policy::wanted(&Features::default()) {
        *counts.entry(wanted.target.resource).or_default() += 1;
    }
    let expected = [("clusterrolebindings", 12 + 38), ("clusterroles", 31 + 38), ("rolebindings", 7), ("roles", 7)];
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), expected.map(|(r, n)| (r.to_owned(), n)));
}

#[tokio::test]
async fn a_start_is_cheap() {
    let map = Map::default();
    for which in ["first", "second"] {
        let began = std::time::Instant::now();
        let written = run(&map, &map, &config()).await.expect("written");
        println!("{which} start: {written} objects in {:?}", began.elapsed());
    }
    let authorizer = Authorizer::new(Arc::new(map));
    let user = crate::attributes::UserInfo {
        name: "system:kube-scheduler".into(),
        groups: vec!["system:authenticated".into()],
        ..Default::default()
    };
    let ask = crate::attributes::Attributes { user, verb: "list".into(), resource: "pods".into(), ..Default::default() };
    let began = std::time::Instant::now();
    assert!(authorizer.authorize(&ask).allowed());
    println!("index built in {:?}", began.elapsed());
    let began = std::time::Instant::now();
    for _ in 0..10_000 {
        assert!(authorizer.authorize(&ask).allowed());
    }
    println!("one decision takes {:?}", began.elapsed() / 10_000);
}
