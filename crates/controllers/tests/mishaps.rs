//! What others do to the controllers: a webhook that hangs, a great many references to owners that never were, news that
//! come late.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use common::Cluster;
use http::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tokio::net::TcpListener;

const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

fn deployment(replicas: u32) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

/// A server that takes every connection and never says a word.
async fn mute() -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            held.push(connection);
        }
    });
    (port, task)
}

/// A webhook that is asked about new pods of namespaces that are labelled so.
fn hook(port: u16, policy: &str) -> Value {
    json!({"metadata": {"name": "mute"}, "webhooks": [{
        "name": "mute.example.com", "clientConfig": {"url": format!("https://127.0.0.1:{port}/")}, "timeoutSeconds": 1, "failurePolicy": policy,
        "sideEffects": "None", "admissionReviewVersions": ["v1"], "namespaceSelector": {"matchLabels": {"held": "yes"}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}]}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_hangs_and_may_be_left_aside_only_delays() {
    let cluster = Cluster::start().await;
    let (port, server) = mute().await;
    cluster.post("/api/v1/namespaces", json!({"metadata": {"name": "held", "labels": {"held": "yes"}}})).await;
    cluster.post(HOOKS, hook(port, "Ignore")).await;
    cluster.post("/apis/apps/v1/namespaces/held/deployments", deployment(3)).await;
    let pods = async || cluster.list("/api/v1/namespaces/held/pods").await.len();
    cluster.eventually("as many as asked for", async || pods().await == 3).await;
    let status = async || cluster.get("/apis/apps/v1/namespaces/held/deployments/web").await["status"]["replicas"] == 3;
    cluster.eventually("and no more are wanted", status).await;
    assert_eq!(pods().await, 3);
    server.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_hangs_delays_only_what_it_is_asked_about() {
    let cluster = Cluster::start().await;
    let (port, server) = mute().await;
    cluster.post("/api/v1/namespaces", json!({"metadata": {"name": "held", "labels": {"held": "yes"}}})).await;
    cluster.post("/api/v1/namespaces", json!({"metadata": {"name": "free"}})).await;
    cluster.post(HOOKS, hook(port, "Fail")).await;
    let pods = async |namespace: &str| cluster.list(&format!("/api/v1/namespaces/{namespace}/pods")).await.len();
    cluster.post("/apis/apps/v1/namespaces/held/deployments", deployment(3)).await;
    let told = async || cluster.events().await.iter().any(|e| e.contains("FailedCreate") && e.contains("mute.example.com"));
    cluster.eventually("the failure is told", told).await;
    cluster.post("/apis/apps/v1/namespaces/free/deployments", deployment(3)).await;
    cluster.eventually("others go on meanwhile", async || pods("free").await == 3).await;
    assert_eq!(pods("held").await, 0);
    cluster.ask(Method::DELETE, &format!("{HOOKS}/mute"), None).await.unwrap();
    cluster.eventually("as many as asked for, once it is gone", async || pods("held").await == 3).await;
    let replicas = cluster.get("/apis/apps/v1/namespaces/held/replicasets").await;
    assert_eq!(replicas["items"].as_array().map(Vec::len), Some(1));
    server.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_with_broken_owner_references_go_and_nothing_else_does() {
    const MANY: usize = 400;
    let cluster = Cluster::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let kept = cluster.post(maps, json!({"metadata": {"name": "kept"}})).await;
    let reference = |kind: &str, name: &str, uid: &str| json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": uid});
    let uid = kept["metadata"]["uid"].as_str().unwrap();
    for n in 0..MANY {
        let owners = match n % 4 {
            // Nobody of this name, somebody of this name who is another one, and two of them.
            0 => json!([reference("ConfigMap", "never", "no-such-uid")]),
            1 => json!([reference("ConfigMap", "kept", "another-uid")]),
            2 => json!([reference("ConfigMap", "never", "no-such-uid"), reference("Secret", "never", "nor-this")]),
            // One that is right saves it, and the wrong one goes.
            _ => json!([reference("ConfigMap", "kept", uid), reference("ConfigMap", "never", "no-such-uid")]),
        };
        cluster.post(maps, json!({"metadata": {"name": format!("m{n:03}"), "ownerReferences": owners}})).await;
    }
    cluster
        .eventually("the right quarter is left, with the right owner", async || {
            let all = cluster.list(maps).await;
            let left: Vec<&Value> = all.iter().filter(|m| common::name(m).starts_with('m')).collect();
            left.len() == MANY / 4 && left.iter().all(|m| m["metadata"]["ownerReferences"].as_array().is_some_and(|o| o.len() == 1))
        })
        .await;
    assert!(cluster.try_get(&format!("{maps}/kept")).await.is_some());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_that_replaces_leaves_the_job_of_its_time_alone_though_the_cache_is_behind() {
    let cluster = Cluster::with(&["cronjob-controller", "serviceaccount-controller"]).await;
    let (crons, jobs) = ("/apis/batch/v1/namespaces/default/cronjobs", "/apis/batch/v1/namespaces/default/jobs");
    let template = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    cluster.post(crons, json!({"metadata": {"name": "tick"}, "spec": {"schedule": "@every 1s", "concurrencyPolicy": "Replace", "jobTemplate": template}})).await;
    // Jobs are named after the minute they are for.
    let mut made: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for late in ["", "cronjobs"] {
        cluster.late.send_replace(late.to_owned());
        let mut times = BTreeSet::new();
        cluster
            .eventually("three times are dealt with", async || {
                for job in cluster.list(jobs).await {
                    made.entry(common::name(&job).to_owned()).or_default().insert(job["metadata"]["uid"].to_string());
                }
                times.insert(cluster.get(&format!("{crons}/tick")).await["status"]["lastScheduleTime"].to_string());
                times.len() > 3
            })
            .await;
    }
    assert!(!made.is_empty() && made.values().all(|uids| uids.len() == 1), "a job ended to make room for itself: {made:?}");
    cluster.late.send_replace(String::new());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_complete_gets_no_more_pods_though_the_cache_does_not_know_it() {
    let cluster = Cluster::with(&["job-controller", "serviceaccount-controller"]).await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let job = |name: &str, completions: u32| {
        json!({"metadata": {"name": name}, "spec": {"completions": completions, "template": {"metadata": {"labels": {"app": name}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}})
    };
    let pods = async |name: &str| {
        let all = cluster.list(common::PODS).await;
        all.into_iter().filter(|p| p["metadata"]["labels"]["app"] == *name).collect::<Vec<_>>()
    };
    // The other one tells how far the controller is.
    for (name, completions) in [("one", 1), ("other", 9)] {
        cluster.post(jobs, job(name, completions)).await;
        cluster.eventually("a pod", async || pods(name).await.len() == 1).await;
        let active = async || cluster.get(&format!("{jobs}/{name}")).await["status"]["active"] == 1;
        cluster.eventually("it is noted", active).await;
    }
    cluster.late.send_replace("jobs".to_owned());
    let pod = pods("one").await.remove(0);
    cluster.set_pod(&pod, "Succeeded", false).await;
    cluster.eventually("complete", async || !cluster.get(&format!("{jobs}/one")).await["status"]["completionTime"].is_null()).await;
    cluster.eventually("the pod is let go", async || pods("one").await.iter().all(|p| p["metadata"]["finalizers"].is_null())).await;
    let path = format!("{}/{}", common::PODS, common::name(&pod));
    for turn in 0..3 {
        cluster.patch(&path, json!({"metadata": {"labels": {"turn": turn.to_string()}}})).await;
        let over = pods("other").await.into_iter().find(|p| p["status"]["phase"] != "Succeeded").expect("it wants more");
        cluster.set_pod(&over, "Succeeded", false).await;
        cluster.eventually("the controller has come so far", async || pods("other").await.len() == turn + 2).await;
    }
    assert_eq!(pods("one").await.len(), 1);
    cluster.late.send_replace(String::new());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_another_leader_has_counted_is_not_counted_again() {
    let cluster = Cluster::with(&["job-controller", "serviceaccount-controller"]).await;
    let job = "/apis/batch/v1/namespaces/default/jobs/one";
    let body = json!({"metadata": {"name": "one"}, "spec": {"completions": 9, "template": {"metadata": {"labels": {"app": "one"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    cluster.post("/apis/batch/v1/namespaces/default/jobs", body).await;
    let going = async || {
        let all = cluster.list(common::PODS).await;
        let mut going = all.into_iter().filter(|p| p["status"]["phase"] != "Succeeded");
        going.next()
    };
    // The status says so only of a pod that the cache shows.
    let runs = async |counted: u64| {
        let Some(pod) = going().await else { return false };
        if pod["status"]["phase"] == "Pending" {
            cluster.set_pod(&pod, "Running", true).await;
        }
        let status = cluster.get(job).await["status"].clone();
        status["succeeded"].as_u64().unwrap_or(0) == counted && status["ready"] == 1
    };
    cluster.eventually("a pod runs", async || runs(0).await).await;
    // This process has counted before.
    cluster.set_pod(&going().await.unwrap(), "Succeeded", false).await;
    cluster.eventually("it is counted, and another one runs", async || runs(1).await).await;
    // Another leader counts the second one, from beginning to end, before this one hears that it is over.
    cluster.late.send_replace("pods".to_owned());
    let second = going().await.unwrap();
    cluster.set_pod(&second, "Succeeded", false).await;
    let status = async |status: Value| cluster.patch(&format!("{job}/status"), json!({"status": status})).await;
    status(json!({"uncountedTerminatedPods": {"succeeded": [second["metadata"]["uid"]]}})).await;
    cluster.patch(&format!("{}/{}", common::PODS, common::name(&second)), json!({"metadata": {"finalizers": null}})).await;
    status(json!({"succeeded": 2, "uncountedTerminatedPods": {"succeeded": null}})).await;
    // Then it hears that it is over, and not yet that it was let go.
    cluster.let_through.add_permits(1);
    cluster.eventually("it makes the next one", async || going().await.is_some()).await;
    cluster.late.send_replace(String::new());
    cluster.set_pod(&going().await.unwrap(), "Succeeded", false).await;
    let third = async || {
        let all = cluster.list(common::PODS).await;
        let over = all.iter().filter(|p| p["status"]["phase"] == "Succeeded");
        all.len() == 4 && over.filter(|p| p["metadata"]["finalizers"].is_null()).count() == 3
    };
    cluster.eventually("it counts the third one, and makes a fourth", third).await;
    let settled = async || cluster.get(job).await["status"]["uncountedTerminatedPods"]["succeeded"].is_null();
    cluster.eventually("the books are closed", settled).await;
    assert_eq!(cluster.get(job).await["status"]["succeeded"], 3);
    cluster.stop().await;
}

const APPS: &str = "/apis/apps/v1/namespaces/default";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_the_cache_does_not_show_go_with_their_pod_as_the_policy_says() {
    let cluster = Cluster::with(&["statefulset-controller", "serviceaccount-controller"]).await;
    cluster.late.send_replace("persistentvolumeclaims".to_owned());
    let backup = json!({"apiVersion": "x.io/v1", "kind": "Backup", "name": "b", "uid": "b", "controller": true});
    let earlier = json!({"apiVersion": "v1", "kind": "Pod", "name": "earlier-0", "uid": "e", "controller": true});
    // The set, its policy, the owner that its claim has before, and whether the pod becomes its owner.
    let cases = [
        ("goes", "Delete", None, true),
        ("stays", "Retain", None, false),
        ("managed", "Delete", Some(&backup), false),
        ("earlier", "Delete", Some(&earlier), false),
    ];
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    for (name, policy, owner, _) in cases {
        if let Some(owner) = owner {
            let meta = json!({"name": format!("data-{name}-0"), "labels": {"app": name}, "ownerReferences": [owner]});
            cluster.post(CLAIMS, json!({"metadata": meta, "spec": spec})).await;
        }
        let set = json!({"metadata": {"name": name}, "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": spec}],
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": policy}}});
        cluster.post(&format!("{APPS}/statefulsets"), set).await;
    }
    for (name, _, before, taken) in cases {
        let (set, pod) = (format!("{APPS}/statefulsets/{name}"), format!("{}/{name}-0", common::PODS));
        let ready = async || {
            cluster.run_pods().await;
            cluster.get(&set).await["status"]["readyReplicas"] == 1
        };
        cluster.eventually(name, ready).await;
        let uid = cluster.get(&pod).await["metadata"]["uid"].clone();
        cluster.patch(&set, json!({"spec": {"replicas": 0}})).await;
        cluster.eventually(&format!("the pod of {name} goes"), async || cluster.try_get(&pod).await.is_none()).await;
        let owners = cluster.get(&format!("{CLAIMS}/data-{name}-0")).await["metadata"]["ownerReferences"].clone();
        let uids: Vec<&Value> = owners.as_array().into_iter().flatten().map(|o| &o["uid"]).collect();
        let expected: Vec<&Value> = if taken { vec![&uid] } else { before.iter().map(|o| &o["uid"]).collect() };
        assert_eq!(uids, expected, "{name}");
    }
    cluster.late.send_replace(String::new());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_wait_until_the_cache_shows_what_was_done_for_them() {
    let controllers = ["statefulset-controller", "replicaset-controller", "daemonset-controller", "serviceaccount-controller"];
    let cluster = Cluster::with(&controllers).await;
    cluster.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    cluster.patch("/api/v1/nodes/n1", json!({"spec": {"taints": []}})).await;
    cluster.late.send_replace("pods".to_owned());
    for kind in ["statefulset", "replicaset", "daemonset"] {
        let mut set = json!({"metadata": {"name": kind}, "spec": {"selector": {"matchLabels": {"app": kind}},
            "template": {"metadata": {"labels": {"app": kind}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        if kind != "daemonset" {
            set["spec"]["replicas"] = 1.into();
        }
        cluster.post(&format!("{APPS}/{kind}s"), set).await;
        let skips = format!("{kind}_controller_stale_sync_skips_total{{group=\"\",resource=\"pods\"}}");
        // The status that it gets is a reason to look at it again.
        cluster.eventually(&skips, async || cluster.metrics().contains(&skips)).await;
    }
    assert_eq!(cluster.list(common::PODS).await.len(), 3);
    cluster.late.send_replace(String::new());
    let ready = async || {
        cluster.run_pods().await;
        let ready = async |kind: &str, count: &str| cluster.get(&format!("{APPS}/{kind}s/{kind}")).await["status"][count] == 1;
        ready("statefulset", "readyReplicas").await && ready("replicaset", "readyReplicas").await && ready("daemonset", "numberReady").await
    };
    cluster.eventually("they go on", ready).await;
    assert_eq!(cluster.list(common::PODS).await.len(), 3);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_out_keeps_its_bounds_though_the_answer_to_a_write_was_lost() {
    let sets = format!("{APPS}/replicasets");
    for is_made in [false, true] {
        // The test tells which pods are available.
        let cluster = Cluster::with(&["deployment-controller", "serviceaccount-controller"]).await;
        let web = format!("{APPS}/deployments/web");
        let set_of = async |image: &str| {
            let all = cluster.list(&sets).await;
            all.into_iter().find(|s| s["spec"]["template"]["spec"]["containers"][0]["image"] == *image)
        };
        let has = async |image: &str, size: u64| set_of(image).await.is_some_and(|s| s["spec"]["replicas"] == size);
        let available = async |image: &str, count: u64| {
            let path = format!("{sets}/{}/status", common::name(&set_of(image).await.unwrap()));
            cluster.patch(&path, json!({"status": {"replicas": count, "readyReplicas": count, "availableReplicas": count}})).await;
        };
        let change_to = async |image: &str| {
            let template = json!({"spec": {"containers": [{"name": "c", "image": image}]}});
            cluster.patch(&web, json!({"spec": {"template": template}})).await;
        };
        // At most four at once.
        cluster.post(&format!("{APPS}/deployments"), deployment(3)).await;
        cluster.eventually("the first ones", async || has("i", 3).await).await;
        available("i", 3).await;
        if is_made {
            cluster.loses_answer(&sets, "replicasets");
            change_to("two").await;
        } else {
            change_to("two").await;
            cluster.eventually("one more of the second ones", async || has("two", 1).await).await;
            let second = set_of("two").await.unwrap();
            cluster.loses_answer(&format!("{sets}/{}", common::name(&second)), "replicasets");
            available("two", 1).await;
        }
        cluster.eventually("what is not answered is done", async || has("two", if is_made { 1 } else { 2 }).await).await;
        change_to("three").await;
        cluster.eventually("it goes on", async || cluster.get(&web).await["status"]["observedGeneration"] == 3).await;
        // Between taking away a pod that is not available and making the next one there are three.
        let filled = async || {
            let sizes: Vec<u64> = cluster.list(&sets).await.iter().filter_map(|s| s["spec"]["replicas"].as_u64()).collect();
            assert!(sizes.iter().sum::<u64>() <= 4, "{sizes:?}");
            sizes.len() == 3 && sizes.iter().sum::<u64>() == 4
        };
        cluster.eventually("as many as may be", filled).await;
        cluster.late.send_replace(String::new());
        cluster.stop().await;
    }
}
