//! A scheduler and kubelets that always work: every pod is bound, runs, becomes ready, and ends as its fate wants it.

use crate::faults::Faults;
use crate::history::{has_condition, is_leaving, phase, text};
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Caches, Client, Error, ObjectKey};
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Label of pods that end: ways to do so, exit codes or `d` for a disruption, with dots between. Once nothing goes wrong any
/// more, all succeed.
pub const EXITS: &str = "exits";

/// What the scheduler and the kubelets do for every pod, one step at a time, each after a moment.
pub async fn kubelets(admin: Client, faults: Arc<Faults>) {
    let caches = Caches::new(admin.clone());
    let pods: Cache<Pod> = caches.of();
    let queue: Queue<ObjectKey> = Queue::new();
    let add = queue.clone();
    pods.on_change(move |d| {
        if d.new.is_some() {
            add.add_after(d.key().clone(), Duration::from_millis(300));
        }
    });
    let step = |key: ObjectKey| {
        let (admin, pods, faults) = (&admin, &pods, &faults);
        async move {
            let Some(pod) = pods.object(&key.namespace, &key.name) else { return Ok(Next::Wait) };
            let pod: Value = pod.decode().unwrap();
            match next(&pod, faults) {
                Do::Nothing => Ok(Next::Wait),
                Do::Later => Ok(Next::After(faults.pause(Duration::from_secs(10)))),
                Do::Ask(method, sub, body) => ask(admin, &pod, method, sub, &body).await.map(|()| Next::Wait),
            }
        }
    };
    controller::run::<_, Error, _, _>("kubelets", queue, 1, step).await;
}

async fn ask(admin: &Client, pod: &Value, method: Method, sub: &str, body: &Value) -> Result<(), Error> {
    let of = |key: &str| text(&pod["metadata"][key]);
    let path = format!("/api/v1/namespaces/{}/pods/{}{sub}", of("namespace"), of("name"));
    let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    match admin.send(method, &path, Some(kind), body.to_string().into()).await {
        Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}

enum Do {
    Nothing,
    /// Look again after a while.
    Later,
    /// A request about the pod: method, subresource and body.
    Ask(Method, &'static str, Value),
}

fn next(pod: &Value, faults: &Faults) -> Do {
    let (phase, ends) = (phase(pod), pod["spec"]["restartPolicy"] == "Never");
    let bound = pod["spec"]["nodeName"].is_string();
    let report = |status: Value| Do::Ask(Method::PATCH, "/status", json!({"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}));
    if is_leaving(pod) {
        if ends && bound && matches!(phase, "Pending" | "Running") {
            // Its end is reported before it goes.
            return report(ended("137"));
        }
        return Do::Ask(Method::DELETE, "", json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}));
    }
    if !bound {
        let binding = json!({"metadata": {"name": pod["metadata"]["name"]}, "target": {"kind": "Node", "name": node_for(pod)}});
        return Do::Ask(Method::POST, "/binding", binding);
    }
    match phase {
        "Pending" => report(running(pod, ends || !faults.chance(30))),
        "Running" if ends => report(ended(fate(pod, faults))),
        "Running" if !has_condition(pod, "Ready") && faults.chance(50) => Do::Later,
        "Running" if !has_condition(pod, "Ready") => report(json!({"conditions": [ready(true)]})),
        _ => Do::Nothing,
    }
}

fn fate<'p>(pod: &'p Value, faults: &Faults) -> &'p str {
    match pod["metadata"]["labels"][EXITS].as_str() {
        Some(exits) => faults.pick(exits).unwrap_or("0"),
        None if faults.chance(15) => "1",
        None => "0",
    }
}

fn ended(how: &str) -> Value {
    let code = how.parse().unwrap_or(137);
    let state = json!({"terminated": {"exitCode": code}});
    let container = json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
    let mut status = json!({"phase": if code == 0 { "Succeeded" } else { "Failed" }, "containerStatuses": [container]});
    if how == "d" {
        status["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
    }
    status
}

/// The node a daemon pod is pinned to, else any.
fn node_for(pod: &Value) -> Value {
    let term = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0];
    let pinned = &term["matchFields"][0]["values"][0];
    if pinned.is_string() { pinned.clone() } else { "n1".into() }
}

pub fn ready(is: bool) -> Value {
    json!({"type": "Ready", "status": if is { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn running(pod: &Value, is_ready: bool) -> Value {
    let number = pod["metadata"]["resourceVersion"].as_str().and_then(|r| r.parse::<u32>().ok()).unwrap_or(1);
    let ip = format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255);
    json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready(is_ready)]})
}
