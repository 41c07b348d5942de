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

/// A deployment of two pods that run and request 100m each, with a metrics server that says they use so much.
async fn loaded(cluster: &Cluster, usage: &str) {
    let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}});
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}});
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    cluster.post(DEPLOYMENTS, json!({"metadata": {"name": "web"}, "spec": spec})).await;
    cluster.eventually("two pods", async || cluster.list(PODS).await.len() == 2).await;
    let at = "2026-01-01T00:00:00Z";
    for pod in cluster.list(PODS).await {
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": at}]);
        let status = json!({"status": {"phase": "Running", "startTime": at, "conditions": ready}});
        cluster.patch(&format!("{PODS}/{}/status", name(&pod)), status).await;
    }
    let told = async || cluster.get(&format!("{DEPLOYMENTS}/web/scale")).await["status"].clone();
    cluster.eventually("the scale knows its pods", async || told().await == json!({"replicas": 2, "selector": "app=web"})).await;
    use_cpu(cluster, usage).await;
}

/// The metrics server says that each pod uses so much.
async fn use_cpu(cluster: &Cluster, usage: &str) {
    let sample = |pod: &Value| {
        json!({"metadata": {"name": name(pod)}, "timestamp": "2026-01-02T00:00:00Z", "window": "30s",
            "containers": [{"name": "c", "usage": {"cpu": usage, "memory": "1Mi"}}]})
    };
    let items: Vec<Value> = cluster.list(PODS).await.iter().map(sample).collect();
    cluster.extension_says("/apis/metrics.k8s.io/v1beta1/namespaces/default/pods", json!({"kind": "PodMetricsList", "items": items}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metric_that_cannot_be_had_keeps_its_place_and_only_prevents_shrinking() {
    let cluster = Cluster::start().await;
    loaded(&cluster, "90m").await;
    let mut hpa = autoscaler(50);
    let external = json!({"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "10"}});
    hpa["spec"]["metrics"].as_array_mut().unwrap().insert(0, json!({"type": "External", "external": external}));
    cluster.post(AUTOSCALERS, hpa).await;
    let status = async || cluster.get(&format!("{AUTOSCALERS}/web")).await;
    cluster
        .eventually("it grows by the metric that there is", async || {
            let hpa = status().await;
            let metrics = &hpa["status"]["currentMetrics"];
            hpa["status"]["desiredReplicas"] == 4
                && metrics[0]["type"] == ""
                && metrics[1]["resource"]["current"]["averageUtilization"] == 90
                && has(&hpa, "ScalingActive", "ValidMetricFound")
        })
        .await;
    let told = "failed to get queue external metric: unable to get external metric default/queue/nil: unable to fetch metrics from external metrics API: ";
    cluster.eventually("what is missing is told", async || cluster.events().await.iter().any(|e| e.contains(told))).await;
    cluster.eventually("four pods", async || cluster.list(PODS).await.len() == 4).await;
    use_cpu(&cluster, "1m").await;
    // A change of its spec is looked at at once.
    cluster.patch(&format!("{AUTOSCALERS}/web"), json!({"spec": {"maxReplicas": 9}})).await;
    cluster.eventually("it does not shrink", async || has(&status().await, "ScalingActive", "FailedGetExternalMetric")).await;
    assert_eq!(cluster.get(&format!("{DEPLOYMENTS}/web")).await["spec"]["replicas"], 4);
    let counted =
        "horizontal_pod_autoscaler_controller_metric_computation_total{action=\"none\",error=\"internal\",metric_type=\"External\"}";
    assert!(cluster.metrics().contains(counted), "{}", cluster.metrics());
    cluster.stop().await;
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
