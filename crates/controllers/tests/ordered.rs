//! Daemon sets, stateful sets, cron jobs, budgets and node health against a real API server.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Cluster, PODS, name};
use serde_json::{Value, json};

const APPS: &str = "/apis/apps/v1/namespaces/default";
const CRONS: &str = "/apis/batch/v1/namespaces/default/cronjobs";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

fn workload(name: &str, image: &str, more: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": image}]}}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

async fn node(cluster: &Cluster, name: &str) {
    cluster.post("/api/v1/nodes", json!({"metadata": {"name": name}})).await;
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
    cluster.patch(&format!("/api/v1/nodes/{name}/status"), status).await;
}

/// What scheduler and kubelet would do for pods that are pinned to a node.
async fn bind_and_run(cluster: &Cluster) {
    for pod in cluster.list(PODS).await {
        let field = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]["matchFields"]
            [0];
        if let (Some(node), true) = (field["values"][0].as_str(), pod["spec"]["nodeName"].is_null()) {
            let binding = json!({"metadata": {"name": name(&pod)}, "target": {"kind": "Node", "name": node}});
            drop(cluster.ask(http::Method::POST, &format!("{PODS}/{}/binding", name(&pod)), Some(&binding)).await);
        }
        // A pod of a node ends only when its kubelet says so.
        if pod["metadata"]["deletionTimestamp"].is_string() {
            drop(cluster.ask(http::Method::DELETE, &format!("{PODS}/{}", name(&pod)), Some(&json!({"gracePeriodSeconds": 0}))).await);
        }
    }
    cluster.run_pods().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_covers_the_nodes_and_rolls_out_one_by_one() {
    let cluster = Cluster::start().await;
    node(&cluster, "n1").await;
    node(&cluster, "n2").await;
    let path = format!("{APPS}/daemonsets");
    cluster.post(&path, workload("agent", "one", json!({}))).await;
    let covers = async |count: i64| {
        bind_and_run(&cluster).await;
        let d = cluster.get(&format!("{path}/agent")).await;
        let s = &d["status"];
        s["observedGeneration"] == d["metadata"]["generation"]
            && s["desiredNumberScheduled"] == count
            && s["updatedNumberScheduled"] == count
            && s["numberAvailable"] == count
    };
    cluster.eventually("two nodes are covered", async || covers(2).await).await;
    node(&cluster, "n3").await;
    cluster.eventually("the new node too", async || covers(3).await).await;
    cluster.patch(&format!("{path}/agent"), json!({"spec": {"template": workload("agent", "two", json!({}))["spec"]["template"]}})).await;
    cluster
        .eventually("the update is rolled out", async || {
            covers(3).await && cluster.list(PODS).await.iter().all(|p| p["spec"]["containers"][0]["image"] == "two")
        })
        .await;
    assert_eq!(cluster.list(&format!("{APPS}/controllerrevisions")).await.len(), 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_a_stateful_set_waits_until_a_claim_of_old_is_gone() {
    const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
    let cluster = Cluster::start().await;
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    cluster.post(CLAIMS, json!({"metadata": {"name": "data-db-0", "finalizers": ["example.com/kept"]}, "spec": spec})).await;
    cluster.delete(&format!("{CLAIMS}/data-db-0"), "Background").await;
    // The controller that protects claims lets go of it, so the cache that both look at knows of the deletion.
    let kept = async || cluster.get(&format!("{CLAIMS}/data-db-0")).await["metadata"]["finalizers"] == json!(["example.com/kept"]);
    cluster.eventually("the deletion is known", kept).await;
    let claim = json!([{"metadata": {"name": "data"}, "spec": spec}]);
    let set = workload("db", "one", json!({"serviceName": "db", "replicas": 1, "volumeClaimTemplates": claim}));
    cluster.post(&format!("{APPS}/statefulsets"), set).await;
    let told = "create Pod db-0 in StatefulSet db failed error: pvc data-db-0 is being deleted";
    cluster.eventually("that is told", async || cluster.events().await.iter().any(|e| e.contains(told))).await;
    assert!(cluster.try_get(&format!("{PODS}/db-0")).await.is_none());
    cluster.patch(&format!("{CLAIMS}/data-db-0"), json!({"metadata": {"finalizers": null}})).await;
    cluster.eventually("the pod is made", async || cluster.try_get(&format!("{PODS}/db-0")).await.is_some()).await;
    assert!(cluster.get(&format!("{CLAIMS}/data-db-0")).await["metadata"]["deletionTimestamp"].is_null(), "a new claim");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_grows_updates_and_shrinks_in_order() {
    let cluster = Cluster::start().await;
    let path = format!("{APPS}/statefulsets");
    let claim =
        json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
    cluster.post(&path, workload("db", "one", json!({"serviceName": "db", "replicas": 2, "volumeClaimTemplates": claim}))).await;
    cluster.eventually("the first pod", async || cluster.try_get(&format!("{PODS}/db-0")).await.is_some()).await;
    assert!(cluster.try_get(&format!("{PODS}/db-1")).await.is_none(), "the second waits for the first");
    let settled = async |count: i64, image: &str| {
        bind_and_run(&cluster).await;
        let s = cluster.get(&format!("{path}/db")).await["status"].clone();
        let pods = cluster.list(PODS).await;
        s["readyReplicas"] == count
            && s["currentReplicas"] == count
            && s["currentRevision"] == s["updateRevision"]
            && pods.iter().all(|p| p["spec"]["containers"][0]["image"] == *image)
    };
    cluster.eventually("both run", async || settled(2, "one").await).await;
    assert!(cluster.try_get("/api/v1/namespaces/default/persistentvolumeclaims/data-db-1").await.is_some());
    cluster.patch(&format!("{path}/db"), json!({"spec": {"template": workload("db", "two", json!({}))["spec"]["template"]}})).await;
    cluster.eventually("both are updated", async || settled(2, "two").await).await;
    let evicted = cluster.get(&format!("{PODS}/db-0")).await;
    cluster.set_pod(&evicted, "Failed", false).await;
    cluster
        .eventually("the evicted pod is made again", async || {
            let there = cluster.try_get(&format!("{PODS}/db-0")).await;
            there.is_some_and(|p| p["metadata"]["uid"] != evicted["metadata"]["uid"]) && settled(2, "two").await
        })
        .await;
    let told = "StatefulSet default/db is recreating failed Pod db-0";
    cluster.eventually("that is told", async || cluster.events().await.iter().any(|e| e.contains(told))).await;
    cluster.patch(&format!("{path}/db"), json!({"spec": {"replicas": 1}})).await;
    cluster.eventually("the last pod goes", async || settled(1, "two").await).await;
    assert!(cluster.try_get(&format!("{PODS}/db-0")).await.is_some());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_are_too_many_and_over_go_and_are_not_said_to_be_made_anew() {
    let cluster = Cluster::start().await;
    for name in ["db-0", "db-1"] {
        let pod = json!({"metadata": {"name": name, "labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}});
        cluster.post(PODS, pod).await;
        cluster.set_pod(&cluster.get(&format!("{PODS}/{name}")).await, "Failed", false).await;
    }
    cluster.post(&format!("{APPS}/statefulsets"), workload("db", "one", json!({"serviceName": "db", "replicas": 0}))).await;
    cluster.eventually("both are gone", async || cluster.list(PODS).await.is_empty()).await;
    let told = async |name: &str| {
        let told = format!("delete Pod {name} in StatefulSet db successful");
        cluster.events().await.iter().any(|e| e.contains(&told))
    };
    cluster.eventually("that is told", async || told("db-0").await && told("db-1").await).await;
    assert!(!cluster.events().await.iter().any(|e| e.contains("Recreating")), "nothing is made");
    cluster.stop().await;
}

/// What the pods and revisions of a workload are, and what controls them.
async fn belongings(cluster: &Cluster) -> Vec<(String, String, String)> {
    let mut all = cluster.list(PODS).await;
    all.extend(cluster.list(&format!("{APPS}/controllerrevisions")).await);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    all.iter().map(|o| (name(o).to_owned(), text(&o["metadata"]["uid"]), text(&o["metadata"]["ownerReferences"][0]["uid"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_is_made_again_takes_its_pods_and_history_back_as_they_are() {
    let cluster = Cluster::start().await;
    node(&cluster, "n1").await;
    for (kind, object) in [
        ("daemonsets", workload("agent", "one", json!({}))),
        ("statefulsets", workload("db", "one", json!({"serviceName": "db", "replicas": 1}))),
    ] {
        let (path, own) = (format!("{APPS}/{kind}"), format!("{APPS}/{kind}/{}", name(&object)));
        let runs = async || {
            bind_and_run(&cluster).await;
            let s = cluster.get(&own).await["status"].clone();
            s["numberAvailable"] == 1 || s["readyReplicas"] == 1
        };
        cluster.post(&path, object.clone()).await;
        cluster.eventually("its pod runs", runs).await;
        let before = belongings(&cluster).await;
        cluster.delete(&own, "Orphan").await;
        cluster.eventually("only the workload is gone", async || cluster.try_get(&own).await.is_none()).await;
        assert!(belongings(&cluster).await.iter().all(|(.., owner)| owner.is_empty()), "nobody owns what is left");
        let uid = cluster.post(&path, object.clone()).await["metadata"]["uid"].as_str().unwrap().to_owned();
        cluster.eventually("it owns them", async || belongings(&cluster).await.iter().all(|(.., owner)| *owner == uid)).await;
        cluster.eventually("they are all it needs", runs).await;
        let same = |all: &[(String, String, String)]| all.iter().map(|(name, uid, _)| (name.clone(), uid.clone())).collect::<Vec<_>>();
        assert_eq!(same(&belongings(&cluster).await), same(&before), "nothing was made or started anew");
        cluster.delete(&own, "Background").await;
        cluster
            .eventually("all is gone", async || {
                bind_and_run(&cluster).await;
                belongings(&cluster).await.is_empty()
            })
            .await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_says_how_many_pods_may_be_evicted() {
    let cluster = Cluster::start().await;
    cluster.post(&format!("{APPS}/deployments"), workload("web", "one", json!({"replicas": 3}))).await;
    cluster
        .post(BUDGETS, json!({"metadata": {"name": "web"}, "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}}))
        .await;
    cluster
        .eventually("one disruption is allowed", async || {
            bind_and_run(&cluster).await;
            let s = cluster.get(&format!("{BUDGETS}/web")).await["status"].clone();
            s["expectedPods"] == 3 && s["desiredHealthy"] == 2 && s["currentHealthy"] == 3 && s["disruptionsAllowed"] == 1
        })
        .await;
    let all = json!({"metadata": {"name": "all"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.post(BUDGETS, all).await;
    // What happens to a pod says that it has two.
    let pod = cluster.list(PODS).await.remove(0);
    let mut changes = 0;
    let is_told = |e: &String| e.contains(name(&pod)) && e.contains(" matches multiple PodDisruptionBudgets.  Chose ");
    cluster
        .eventually("that is told", async || {
            changes += 1;
            let change = json!({"metadata": {"annotations": {"changes": changes.to_string()}}});
            cluster.patch(&format!("{PODS}/{}", name(&pod)), change).await;
            cluster.events().await.iter().any(is_told)
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_makes_the_job_of_its_time() {
    let cluster = Cluster::start().await;
    let template = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    cluster.post(CRONS, json!({"metadata": {"name": "tick"}, "spec": {"schedule": "@every 1s", "concurrencyPolicy": "Forbid", "jobTemplate": template}})).await;
    cluster
        .eventually("a job is active", async || {
            cluster.get(&format!("{CRONS}/tick")).await["status"]["active"].as_array().is_some_and(|a| a.len() == 1)
        })
        .await;
    let jobs = cluster.list("/apis/batch/v1/namespaces/default/jobs").await;
    assert!(jobs.iter().all(|j| name(j).starts_with("tick-") && j["metadata"]["ownerReferences"][0]["kind"] == "CronJob"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taint_that_people_add_evicts_when_its_toleration_is_over() {
    let cluster = Cluster::start().await;
    node(&cluster, "n1").await;
    let pod = |name: &str, seconds: Value| {
        json!({"metadata": {"name": name}, "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i"}],
            "tolerations": [{"key": "drain", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]}})
    };
    cluster.post(PODS, pod("patient", Value::Null)).await;
    cluster.post(PODS, pod("hasty", json!(1))).await;
    cluster.run_pods().await;
    // As `kubectl taint` does: it does not say when.
    cluster.patch("/api/v1/nodes/n1", json!({"spec": {"taints": [{"key": "drain", "effect": "NoExecute"}]}})).await;
    cluster.eventually("it is gone", async || cluster.try_get(&format!("{PODS}/hasty")).await.is_none()).await;
    assert!(cluster.try_get(&format!("{PODS}/patient")).await.is_some());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_of_a_node_become_taints_and_evict() {
    let cluster = Cluster::start().await;
    node(&cluster, "n1").await;
    // Were it the only one, nobody would be evicted.
    node(&cluster, "n2").await;
    cluster.post(PODS, json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i"}],
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}]}}))
        .await;
    cluster.run_pods().await;
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "MemoryPressure", "status": "True"}]}});
    cluster.patch("/api/v1/nodes/n1/status", status).await;
    cluster
        .eventually("taints", async || {
            let node = cluster.get("/api/v1/nodes/n1").await;
            let has = |key: &str, effect: &str| {
                node["spec"]["taints"].as_array().into_iter().flatten().any(|t| t["key"] == key && t["effect"] == effect)
            };
            has("node.kubernetes.io/not-ready", "NoExecute")
                && has("node.kubernetes.io/not-ready", "NoSchedule")
                && has("node.kubernetes.io/memory-pressure", "NoSchedule")
        })
        .await;
    cluster
        .eventually("the pod is evicted", async || {
            let pod = cluster.try_get(&format!("{PODS}/p")).await;
            pod.is_none_or(|p| p["metadata"]["deletionTimestamp"].is_string())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_shows_what_its_namespace_uses() {
    let cluster = Cluster::start().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let hard = json!({"pods": "5", "requests.cpu": "2", "configmaps": "100", "count/deployments.apps": "3"});
    cluster.post(quotas, json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    let used = async |name: &str| cluster.get(&format!("{quotas}/q")).await["status"]["used"][name].clone();
    cluster.eventually("it is counted", async || used("pods").await == "0").await;
    let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "300m"}}});
    cluster.post(PODS, json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}})).await;
    cluster.post(&format!("{APPS}/deployments"), workload("none", "i", json!({"replicas": 0}))).await;
    cluster
        .eventually("pod and deployment count", async || {
            used("pods").await == "1" && used("requests.cpu").await == "300m" && used("count/deployments.apps").await == "1"
        })
        .await;
    let pod = cluster.get(&format!("{PODS}/p")).await;
    cluster.set_pod(&pod, "Succeeded", false).await;
    cluster.eventually("a pod that is over does not", async || used("pods").await == "0" && used("requests.cpu").await == "0").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_a_stateful_set_go_with_what_owns_them() {
    let cluster = Cluster::start().await;
    let path = format!("{APPS}/statefulsets");
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim =
        json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
    let spec = json!({"serviceName": "db", "replicas": 2, "podManagementPolicy": "Parallel", "volumeClaimTemplates": claim,
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"}});
    cluster.post(&path, workload("db", "one", spec)).await;
    let owner =
        async |name: &str| cluster.try_get(&format!("{claims}/{name}")).await.map(|c| c["metadata"]["ownerReferences"][0]["kind"].clone());
    cluster
        .eventually("both claims belong to the set", async || {
            cluster.run_pods().await;
            owner("data-db-0").await == Some(json!("StatefulSet")) && owner("data-db-1").await == Some(json!("StatefulSet"))
        })
        .await;
    cluster
        .eventually("both pods are ready", async || {
            cluster.run_pods().await;
            cluster.get(&format!("{path}/db")).await["status"]["readyReplicas"] == 2
        })
        .await;
    cluster.patch(&format!("{path}/db"), json!({"spec": {"replicas": 1}})).await;
    // Its finalizer is removed by whoever protects claims, once no pod uses it.
    cluster.eventually("the claim of the pod that went goes too", async || owner("data-db-1").await.is_none()).await;
    assert_eq!(owner("data-db-0").await, Some(json!("StatefulSet")), "the other one stays");
    cluster
        .patch(
            &format!("{path}/db"),
            json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"}}}),
        )
        .await;
    cluster.eventually("nobody owns a claim that stays", async || owner("data-db-0").await == Some(Value::Null)).await;
    cluster.delete(&format!("{path}/db"), "Foreground").await;
    cluster
        .eventually("the set is gone", async || {
            bind_and_run(&cluster).await;
            cluster.try_get(&format!("{path}/db")).await.is_none()
        })
        .await;
    assert!(owner("data-db-0").await.is_some());
    cluster.stop().await;
}
