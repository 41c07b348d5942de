//! Autoscaling against a real API server; the test is kubelet and metrics server.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Cluster, PODS, name};
use serde_json::{Value, json};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const AUTOSCALERS: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";

fn has(hpa: &Value, kind: &str, reason: &str) -> bool {
    hpa["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == kind && c["reason"] == reason)
}

fn autoscaler(utilization: i32) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"minReplicas": 1, "maxReplicas": 10,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": utilization}}}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_grows_with_its_load_and_says_why_it_cannot_without_metrics() {
    let cluster = Cluster::start().await;
    let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}});
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}});
    cluster.post(DEPLOYMENTS, json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}})).await;
    cluster.eventually("two pods", async || cluster.list(PODS).await.len() == 2).await;
    for pod in cluster.list(PODS).await {
        let status = json!({"status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        cluster.patch(&format!("{PODS}/{}/status", name(&pod)), status).await;
    }
    cluster
        .eventually("the scale knows its selector", async || {
            cluster.get(&format!("{DEPLOYMENTS}/web/scale")).await["status"]["selector"] == "app=web"
        })
        .await;
    cluster.post(AUTOSCALERS, autoscaler(50)).await;
    let hpa = async || cluster.get(&format!("{AUTOSCALERS}/web")).await;
    cluster.eventually("it says that there are no metrics", async || has(&hpa().await, "ScalingActive", "FailedGetResourceMetric")).await;
    let usage = |pod: &Value| {
        json!({"metadata": {"name": name(pod)}, "timestamp": "2026-01-02T00:00:00Z", "window": "30s",
        "containers": [{"name": "c", "usage": {"cpu": "90m", "memory": "1Mi"}}]})
    };
    let items: Vec<Value> = cluster.list(PODS).await.iter().map(usage).collect();
    cluster.extension_says("/apis/metrics.k8s.io/v1beta1/namespaces/default/pods", json!({"kind": "PodMetricsList", "items": items}));
    // A change of its spec is looked at at once.
    cluster.patch(&format!("{AUTOSCALERS}/web"), json!({"spec": {"maxReplicas": 9}})).await;
    cluster
        .eventually("90 % where 50 % are wanted: four pods", async || {
            cluster.get(&format!("{DEPLOYMENTS}/web")).await["spec"]["replicas"] == 4
        })
        .await;
    cluster
        .eventually("the status", async || {
            let hpa = hpa().await;
            hpa["status"]["desiredReplicas"] == 4
                && hpa["status"]["currentMetrics"][0]["resource"]["current"]["averageUtilization"] == 90
                && has(&hpa, "ScalingActive", "ValidMetricFound")
                && hpa["status"]["lastScaleTime"].is_string()
        })
        .await;
    let told =
        "HorizontalPodAutoscaler web SuccessfulRescale: New size: 4; reason: cpu resource utilization (percentage of request) above target";
    let told = told.replace('"', "");
    cluster.eventually("the event", async || cluster.events().await.iter().any(|e| e.replace('"', "") == told)).await;
    cluster.stop().await;
}
