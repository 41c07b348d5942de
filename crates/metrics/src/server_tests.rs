//! Questions to a server whose API server and kubelets are made up.

use super::*;
use crate::tests::{World, body};
use serde_json::json;
use std::collections::BTreeMap;
use tokio::time::Instant;

const PODS: &str = "/apis/metrics.k8s.io/v1beta1/pods";
const NODES: &str = "/apis/metrics.k8s.io/v1beta1/nodes";

fn api_pod(name: &str, node: &str) -> Value {
    let status = json!({"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running": {}}}]});
    json!({"metadata": {"name": name, "namespace": "a", "labels": {"app": name}}, "spec": {"nodeName": node}, "status": status})
}

/// A summary at so many seconds: a rate is told when it is known.
fn summary(second: u64, pods: &[&str], rate: Option<u64>) -> Value {
    let part = |name: &str| {
        let cpu = json!({"time": format!("2026-01-01T00:00:{second:02}Z"), "usageNanoCores": rate, "usageCoreNanoSeconds": second});
        json!({"name": name, "cpu": cpu, "memory": {"workingSetBytes": 2048}})
    };
    let pod = |name: &&str| json!({"podRef": {"name": name, "namespace": "a", "uid": name}, "containers": [part("main")]});
    json!({"node": part(""), "pods": pods.iter().map(pod).collect::<Vec<_>>()})
}

fn of_kubelet(node: &str) -> String {
    format!("/api/v1/nodes/{node}/proxy/stats/summary")
}

fn answering(world: &Arc<World>) -> Answering {
    let client = Client::new(world.clone(), "test");
    Answering { scraper: Scraper::new(client.clone()), client }
}

async fn get(answering: &Answering, uri: &str) -> (u16, Value) {
    let request = Request::builder().uri(uri).body(()).expect("a request");
    body(answering.handle(&request).await).await
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().filter_map(|i| i["metadata"]["name"].as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn kubelets_are_asked_when_somebody_asks_and_only_those_with_the_pods() {
    let world = World::new(|path, _| match path {
        "/api/v1/pods" => (200, json!({"items": [api_pod("p", "n1"), api_pod("q", "n2")]})),
        "/api/v1/namespaces/a/pods" => (200, json!({"items": [api_pod("p", "n1")]})),
        "/api/v1/nodes" => (200, json!({"items": [{"metadata": {"name": "n1"}}, {"metadata": {"name": "n2"}}]})),
        path if path == of_kubelet("n1") => (200, summary(1, &["p"], Some(7))),
        path if path == of_kubelet("n2") => (200, summary(1, &["q"], Some(8))),
        _ => (404, json!({})),
    });
    let server = answering(&world);
    let (code, list) = get(&server, "/apis/metrics.k8s.io/v1beta1/namespaces/a/pods?labelSelector=app%3Dp").await;
    assert_eq!((code, names(&list)), (200, vec!["p"]), "{list}");
    assert_eq!(list["items"][0]["containers"][0]["usage"], json!({"cpu": "7n", "memory": "2Ki"}));
    assert_eq!(list["items"][0]["metadata"]["labels"], json!({"app": "p"}));
    assert_eq!(world.taken(), ["/api/v1/namespaces/a/pods?labelSelector=app%3Dp".to_owned(), of_kubelet("n1")]);

    // What is known of the first node is used again, by everybody.
    let (pods, nodes) = tokio::join!(get(&server, PODS), get(&server, NODES));
    assert_eq!((names(&pods.1), names(&nodes.1)), (vec!["p", "q"], vec!["n1", "n2"]));
    let asked = world.taken();
    assert_eq!(asked.iter().filter(|path| **path == of_kubelet("n2")).count(), 1, "{asked:?}");
    assert!(!asked.contains(&of_kubelet("n1")), "{asked:?}");

    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(world.taken().is_empty(), "nobody asks");
    get(&server, NODES).await;
    assert_eq!(world.taken().len(), 3, "the list and both kubelets");
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_that_knows_no_rate_yet_is_asked_once_more() {
    let world = World::new(|path, nth| match path {
        "/api/v1/pods" => (200, json!({"items": [api_pod("p", "n1")]})),
        _ => (200, summary(nth as u64, &["p"], (nth > 1).then_some(9))),
    });
    let began = Instant::now();
    let (_, list) = get(&answering(&world), PODS).await;
    assert_eq!(list["items"][0]["containers"][0]["usage"]["cpu"], "9n", "{list}");
    assert_eq!(began.elapsed(), Duration::from_secs(1));

    // Once: what is still not known then is left out.
    let world = World::new(|path, _| match path {
        "/api/v1/pods" => (200, json!({"items": [api_pod("p", "n1")]})),
        _ => (200, summary(1, &["p"], None)),
    });
    let (code, list) = get(&answering(&world), PODS).await;
    assert_eq!((code, names(&list), world.taken().len()), (200, vec![], 3));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_has_just_started_is_asked_for_before_the_answer_is_old() {
    let world = World::new(|path, nth| match (path, nth) {
        ("/api/v1/pods", 1) => (200, json!({"items": [api_pod("p", "n1")]})),
        ("/api/v1/pods", _) => (200, json!({"items": [api_pod("p", "n1"), api_pod("new", "n1")]})),
        (_, 1) => (200, summary(1, &["p"], Some(1))),
        (_, 2) => (200, summary(4, &["p", "new"], Some(2))),
        _ => (404, json!({})),
    });
    let server = answering(&world);
    assert_eq!(names(&get(&server, PODS).await.1), ["p"]);
    assert_eq!(names(&get(&server, PODS).await.1), ["p"], "the answer is of this very moment");
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(names(&get(&server, PODS).await.1), ["p", "new"]);
    assert_eq!(names(&get(&server, PODS).await.1), ["p", "new"]);
    assert_eq!(world.taken().len(), 4 + 2);
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_without_rates_is_measured_by_its_counts() {
    let world = World::new(|path, nth| match path {
        "/api/v1/nodes" => (200, json!({"items": [{"metadata": {"name": "n1"}}]})),
        // Looks 1 and 2 are at seconds 1 and 2, look 3 is at second 13.
        _ => (200, summary(if nth > 2 { 13 } else { nth as u64 }, &[], None)),
    });
    let server = answering(&world);
    assert!(names(&get(&server, NODES).await.1).is_empty());
    tokio::time::advance(Duration::from_secs(11)).await;
    let (_, list) = get(&server, NODES).await;
    assert_eq!((&list["items"][0]["usage"]["cpu"], &list["items"][0]["window"]), (&json!("1n"), &json!("11s")), "{list}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_answer_is_left_out() {
    let world = World::new(|path, _| match path {
        "/api/v1/nodes" => {
            (200, json!({"items": [{"metadata": {"name": "late"}}, {"metadata": {"name": "odd"}}, {"metadata": {"name": "well"}}]}))
        }
        "/api/v1/nodes/odd" => (200, json!({"metadata": {"name": "odd"}})),
        path if path == of_kubelet("late") => (0, Value::Null),
        path if path == of_kubelet("odd") => (200, json!("not a summary")),
        path if path == of_kubelet("well") => (200, summary(1, &[], Some(1))),
        _ => (404, json!({})),
    });
    let server = answering(&world);
    let began = Instant::now();
    let (_, list) = get(&server, NODES).await;
    assert_eq!(names(&list), ["well"]);
    assert_eq!(began.elapsed(), Duration::from_secs(10), "a kubelet has so long");
    let (code, status) = get(&server, &format!("{NODES}/odd")).await;
    assert_eq!((code, &status["message"]), (404, &json!("nodes.metrics.k8s.io \"odd\" not found")));
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_as_a_status() {
    let refused =
        |code: u16, message: &str| (code, json!({"kind": "Status", "status": "Failure", "code": code, "message": message, "reason": "x"}));
    let world = World::new(move |path, _| match path {
        "/api/v1/pods" => refused(400, "unable to parse requirement"),
        "/api/v1/nodes" => refused(403, "forbidden: an internal matter"),
        _ => (404, json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"})),
    });
    let server = answering(&world);
    let (code, status) = get(&server, &format!("{PODS}?labelSelector=%3D%3D")).await;
    assert_eq!((code, &status["message"]), (400, &json!("unable to parse requirement")));
    let (code, status) = get(&server, NODES).await;
    assert_eq!((code, status["message"].to_string().contains("internal matter")), (500, false));
    let (code, status) = get(&server, "/apis/metrics.k8s.io/v1beta1/namespaces/a/pods/none").await;
    assert_eq!((code, &status["message"]), (404, &json!("pods.metrics.k8s.io \"a/none\" not found")));
    let post = Request::builder().method("POST").uri(PODS).body(()).expect("a request");
    let (code, status) = body(server.handle(&post).await).await;
    assert_eq!((code, &status["reason"], &status["kind"]), (405, &json!("MethodNotAllowed"), &json!("Status")));
}

#[tokio::test(start_paused = true)]
async fn discovery_and_tables_are_served() {
    let world = World::new(|path, _| match path {
        "/api/v1/nodes/n1" => (200, json!({"metadata": {"name": "n1"}})),
        _ => (200, summary(1, &[], Some(3))),
    });
    let server = answering(&world);
    let (_, resources) = get(&server, "/apis/metrics.k8s.io/v1beta1").await;
    let kinds: BTreeMap<&str, (&str, bool)> = resources["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|r| Some((r["name"].as_str()?, (r["kind"].as_str()?, r["namespaced"].as_bool()?))))
        .collect();
    assert_eq!(kinds, BTreeMap::from([("nodes", ("NodeMetrics", false)), ("pods", ("PodMetrics", true))]));
    assert_eq!(get(&server, "/apis").await.1["groups"][0]["preferredVersion"]["groupVersion"], "metrics.k8s.io/v1beta1");
    assert_eq!(get(&server, "/healthz").await.0, 200);
    assert_eq!(get(&server, &format!("{NODES}/n1")).await.1["kind"], "NodeMetrics");
    let table = Request::builder().uri(format!("{NODES}/n1")).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let (_, table) = body(server.handle(&table.body(()).expect("a request")).await).await;
    assert_eq!(table["rows"][0]["cells"], json!(["n1", "3n", "2Ki", "10s"]));
}
