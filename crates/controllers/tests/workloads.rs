//! Workloads against a real API server; the test is the kubelet.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Cluster, PODS, name};
use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::{Value, json};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn deployment(replicas: i32, image: &str) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", image)}})
}

async fn rolled_out(cluster: &Cluster, replicas: i64) {
    cluster
        .eventually("the deployment is rolled out", async || {
            cluster.run_pods().await;
            let d = cluster.get(&format!("{DEPLOYMENTS}/web")).await;
            let s = &d["status"];
            s["observedGeneration"] == d["metadata"]["generation"]
                && s["updatedReplicas"] == replicas
                && s["availableReplicas"] == replicas
                && s["replicas"] == replicas
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_rolls_out_scales_and_goes_back_to_an_earlier_revision() {
    let cluster = Cluster::start().await;
    cluster.post(DEPLOYMENTS, deployment(2, "one")).await;
    rolled_out(&cluster, 2).await;
    cluster.patch(&format!("{DEPLOYMENTS}/web"), json!({"spec": {"replicas": 4}})).await;
    rolled_out(&cluster, 4).await;
    cluster.patch(&format!("{DEPLOYMENTS}/web"), json!({"spec": {"template": template("web", "two")}})).await;
    rolled_out(&cluster, 4).await;
    let sets = cluster.all::<ReplicaSet>().await;
    let mut sizes: Vec<(String, i64)> = sets
        .iter()
        .map(|s| {
            (
                s["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str().unwrap_or_default().to_owned(),
                s["spec"]["replicas"].as_i64().unwrap_or(0),
            )
        })
        .collect();
    sizes.sort();
    assert_eq!(sizes, [("1".to_owned(), 0), ("2".to_owned(), 4)]);
    // `kubectl rollout undo` puts the old template back.
    cluster.patch(&format!("{DEPLOYMENTS}/web"), json!({"spec": {"template": template("web", "one")}})).await;
    rolled_out(&cluster, 4).await;
    let d = cluster.get(&format!("{DEPLOYMENTS}/web")).await;
    assert_eq!(d["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    assert_eq!(cluster.all::<ReplicaSet>().await.len(), 2, "the old set is used again");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_completes_when_its_pods_have_succeeded() {
    let cluster = Cluster::start().await;
    let spec = json!({"parallelism": 2, "completions": 3, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    cluster.post(JOBS, json!({"metadata": {"name": "work"}, "spec": spec})).await;
    cluster
        .eventually("the job is complete", async || {
            let pods = cluster.list(PODS).await;
            let open: Vec<&Value> = pods.iter().filter(|p| p["status"]["phase"] == "Pending").collect();
            assert!(open.len() <= 2, "more pods than wanted");
            for pod in open {
                assert_eq!(pod["metadata"]["finalizers"], json!(["batch.kubernetes.io/job-tracking"]));
                cluster.set_pod(pod, "Succeeded", false).await;
            }
            let job = cluster.get(&format!("{JOBS}/work")).await;
            job["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Complete" && c["status"] == "True")
        })
        .await;
    let job = cluster.get(&format!("{JOBS}/work")).await;
    assert_eq!(job["status"]["succeeded"], 3);
    assert!(job["status"]["completionTime"].is_string());
    assert_eq!(cluster.list(PODS).await.len(), 3, "no pod too many");
    assert!(cluster.list(PODS).await.iter().all(|p| p["metadata"]["finalizers"].is_null()));
    cluster.eventually("the event", async || cluster.events().await.iter().any(|e| e.contains("Completed"))).await;
    cluster.delete(&format!("{JOBS}/work"), "Background").await;
    cluster.eventually("the pods go with the job", async || cluster.list(PODS).await.is_empty()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_fails_beyond_its_backoff_limit_and_an_indexed_job_knows_its_indexes() {
    let cluster = Cluster::start().await;
    let pod = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    cluster.post(JOBS, json!({"metadata": {"name": "bad"}, "spec": {"backoffLimit": 0, "template": pod}})).await;
    cluster.eventually("a pod", async || cluster.list(PODS).await.len() == 1).await;
    cluster.set_pod(&cluster.list(PODS).await[0], "Failed", false).await;
    cluster
        .eventually("the job has failed", async || {
            let job = cluster.get(&format!("{JOBS}/bad")).await;
            job["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|c| c["type"] == "Failed" && c["reason"] == "BackoffLimitExceeded")
        })
        .await;
    cluster.delete(&format!("{JOBS}/bad"), "Background").await;
    cluster.eventually("the failed pod goes", async || cluster.list(PODS).await.is_empty()).await;
    cluster.post(JOBS, json!({"metadata": {"name": "indexed"}, "spec": {"completionMode": "Indexed", "completions": 2, "parallelism": 2, "template": pod}})).await;
    cluster.eventually("two pods", async || cluster.list(PODS).await.len() == 2).await;
    let pods = cluster.list(PODS).await;
    let mut hosts: Vec<&str> = pods.iter().filter_map(|p| p["spec"]["hostname"].as_str()).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["indexed-0", "indexed-1"]);
    for pod in &pods {
        cluster.set_pod(pod, "Succeeded", false).await;
    }
    cluster.eventually("both indexes", async || cluster.get(&format!("{JOBS}/indexed")).await["status"]["completedIndexes"] == "0,1").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_takes_an_orphan_that_matches_lets_go_of_what_does_not_and_counts_both_right() {
    const TRACKING: &str = "batch.kubernetes.io/job-tracking";
    let cluster = Cluster::start().await;
    let spec = json!({"parallelism": 1, "completions": 1, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    let uid = cluster.post(JOBS, json!({"metadata": {"name": "work"}, "spec": spec})).await["metadata"]["uid"].clone();
    cluster.eventually("its pod", async || cluster.list(PODS).await.len() == 1).await;
    let first = format!("{PODS}/{}", name(&cluster.list(PODS).await[0]));
    let held = |pod: &Value| pod["metadata"]["ownerReferences"][0]["uid"] == uid && pod["metadata"]["finalizers"] == json!([TRACKING]);
    cluster.patch(&first, json!({"metadata": {"ownerReferences": null}})).await;
    cluster.eventually("the orphan is taken back, to be counted", async || held(&cluster.get(&first).await)).await;
    cluster.patch(&first, json!({"metadata": {"labels": null}})).await;
    cluster
        .eventually("the stranger is let go, without the finalizer", async || {
            let meta = cluster.get(&first).await["metadata"].clone();
            meta["ownerReferences"].is_null() && meta["finalizers"].is_null()
        })
        .await;
    cluster.eventually("another pod takes its place", async || cluster.list(PODS).await.iter().any(held)).await;
    let second = cluster.list(PODS).await.into_iter().find(held).unwrap();
    let second_path = format!("{PODS}/{}", name(&second));
    cluster.patch(&second_path, json!({"metadata": {"ownerReferences": null}})).await;
    cluster.eventually("that one is taken back as well", async || held(&cluster.get(&second_path).await)).await;
    cluster.set_pod(&second, "Succeeded", false).await;
    cluster
        .eventually("the job is complete with it", async || {
            let status = cluster.get(&format!("{JOBS}/work")).await["status"].clone();
            status["succeeded"] == 1 && status["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Complete")
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_go_because_their_job_is_suspended_or_shrinks_have_not_failed() {
    let cluster = Cluster::start().await;
    let spec = json!({"parallelism": 3, "completions": 3, "backoffLimit": 0,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    let path = format!("{JOBS}/work");
    cluster.post(JOBS, json!({"metadata": {"name": "work"}, "spec": spec})).await;
    let running = async |count: usize| {
        cluster.run_pods().await;
        let status = cluster.get(&path).await["status"].clone();
        cluster.list(PODS).await.len() == count && status["ready"] == count && status["uncountedTerminatedPods"] == json!({})
    };
    cluster.eventually("three run", async || running(3).await).await;
    cluster.patch(&path, json!({"spec": {"parallelism": 1}})).await;
    cluster.eventually("one goes on", async || running(1).await).await;
    cluster.patch(&path, json!({"spec": {"suspend": true}})).await;
    cluster.eventually("none", async || running(0).await).await;
    let status = cluster.get(&path).await["status"].clone();
    assert!(status["failed"].is_null() && status["startTime"].is_null(), "{status:#}");
    assert_eq!(status["conditions"][0]["type"], "Suspended", "{status:#}");
    cluster.patch(&path, json!({"spec": {"suspend": false}})).await;
    cluster.eventually("it goes on", async || running(1).await).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_lets_go_of_a_replica_set_that_no_longer_matches() {
    let cluster = Cluster::start().await;
    cluster.post(DEPLOYMENTS, deployment(1, "one")).await;
    rolled_out(&cluster, 1).await;
    let set = cluster.all::<ReplicaSet>().await.remove(0);
    let path = format!("/apis/apps/v1/namespaces/default/replicasets/{}", name(&set));
    cluster.patch(&path, json!({"metadata": {"labels": {"app": "other"}}})).await;
    cluster.eventually("nobody owns it", async || cluster.get(&path).await["metadata"]["ownerReferences"].is_null()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_namespace_loses_everything() {
    let cluster = Cluster::start().await;
    cluster.post("/api/v1/namespaces", json!({"metadata": {"name": "gone"}})).await;
    cluster
        .eventually("its service account", async || cluster.try_get("/api/v1/namespaces/gone/serviceaccounts/default").await.is_some())
        .await;
    let path = "/apis/apps/v1/namespaces/gone/deployments";
    cluster.post(path, deployment(2, "one")).await;
    cluster.post("/api/v1/namespaces/gone/configmaps", json!({"metadata": {"name": "m"}})).await;
    cluster.eventually("pods", async || cluster.list("/api/v1/namespaces/gone/pods").await.len() == 2).await;
    cluster.delete("/api/v1/namespaces/gone", "Background").await;
    cluster
        .eventually("the namespace is gone", async || {
            // The kubelet is not there to end pods on a node; these were never assigned.
            cluster.try_get("/api/v1/namespaces/gone").await.is_none()
        })
        .await;
    assert!(cluster.list("/api/v1/namespaces/gone/configmaps").await.is_empty());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_namespace_keeps_everything_until_its_pods_are_gone() {
    let cluster = Cluster::start().await;
    let namespace = "/api/v1/namespaces/last";
    cluster.post("/api/v1/namespaces", json!({"metadata": {"name": "last"}})).await;
    let account = format!("{namespace}/serviceaccounts/default");
    cluster.eventually("its service account", async || cluster.try_get(&account).await.is_some()).await;
    let pod = json!({"metadata": {"name": "p", "finalizers": ["example.com/hold"]}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.post(&format!("{namespace}/pods"), pod).await;
    cluster.post(&format!("{namespace}/configmaps"), json!({"metadata": {"name": "m"}})).await;
    cluster.delete(namespace, "Background").await;
    cluster
        .eventually("the pod is what remains", async || {
            let status = cluster.get(namespace).await["status"].clone();
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|c| c["message"] == "Some resources are remaining: pods. has 1 resource instances")
        })
        .await;
    assert!(cluster.try_get(&format!("{namespace}/configmaps/m")).await.is_some());
    assert!(cluster.try_get(&account).await.is_some());
    cluster.patch(&format!("{namespace}/pods/p"), json!({"metadata": {"finalizers": null}})).await;
    cluster.eventually("the namespace is gone", async || cluster.try_get(namespace).await.is_none()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_told_in_events_and_names_lead_from_deployment_to_pod() {
    let cluster = Cluster::start().await;
    cluster.post(DEPLOYMENTS, deployment(1, "one")).await;
    rolled_out(&cluster, 1).await;
    cluster
        .eventually("events", async || {
            let events = cluster.events().await;
            ["ScalingReplicaSet", "SuccessfulCreate"].iter().all(|r| events.iter().any(|e| e.contains(r)))
        })
        .await;
    let set = &cluster.all::<ReplicaSet>().await[0];
    assert!(name(set).starts_with("web-"));
    assert!(name(&cluster.list(PODS).await[0]).starts_with(name(set)));
    cluster.stop().await;
}
