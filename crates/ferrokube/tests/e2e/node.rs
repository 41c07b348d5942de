//! What a node says of itself, and what it does for pods that matter more than others.

use crate::cluster::{Cluster, PATIENCE, condition, scenario};
use crate::pods::pod;
use anyhow::{Context as _, Result, ensure};
use ferrokube_testkit::wait_for;
use serde_json::{Value, json};

async fn node(cluster: &Cluster) -> Result<Value> {
    Ok(cluster.get("nodes").await?["items"][0].clone())
}

fn since(node: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    node["status"]["conditions"].as_array().into_iter().flatten().map(|c| (text(&c["type"]), text(&c["lastTransitionTime"]))).collect()
}

#[tokio::test]
async fn a_node_tells_what_becomes_of_it_and_is_what_it_was_after_a_restart() {
    scenario("a_node_tells_what_becomes_of_it_and_is_what_it_was_after_a_restart", async |cluster| {
        let before = node(cluster).await?;
        let name = before["metadata"]["name"].as_str().context("a name")?.to_owned();
        let described = cluster.kubectl(&format!("describe node {name}")).await?;
        for reason in ["Starting", "NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"] {
            ensure!(described.contains(reason), "no {reason} in\n{described}");
        }
        let handlers = &before["status"]["runtimeHandlers"];
        ensure!(handlers.as_array().is_some_and(|all| all.iter().any(|h| h["name"] == "runc")), "{handlers}");

        // What somebody else wrote over it is put right at the next look, not at the next report five minutes later.
        let lie = json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown" }] } });
        cluster.kubectl_args(&["patch", "node", &name, "--subresource=status", "-p", &lie.to_string()]).await?;
        let ready = |node: &Value| {
            ensure!(condition(node, "Ready").as_deref() == Some("True"), "{}", node["status"]["conditions"]);
            Ok(())
        };
        cluster.until("the node to be ready again", &format!("node {name}"), ready).await?;
        cluster.kubectl(&format!("cordon {name}")).await?;
        let events = "events --field-selector involvedObject.kind=Node,reason=NodeNotSchedulable";
        cluster
            .until("the event of the cordon", events, |events| {
                ensure!(events["items"].as_array().is_some_and(|all| !all.is_empty()), "none");
                Ok(())
            })
            .await?;

        let before = since(&node(cluster).await?);
        cluster.kill_above_shims();
        let _ = cluster.ended().await?;
        cluster.up(&[]).await?;
        let after = since(&node(cluster).await?);
        ensure!(before == after, "conditions keep their times: {before:?} {after:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn pods_go_for_a_critical_one_and_handlers_and_exits_are_what_the_pod_asks_for() {
    scenario("pods_go_for_a_critical_one_and_handlers_and_exits_are_what_the_pod_asks_for", async |cluster| {
        restart_all(cluster).await?;
        runtime_class(cluster).await?;
        preempt(cluster).await
    })
    .await;
}

/// The first life of the pod ends with 42 once its sidecar and its init container have left their marks.
async fn restart_all(cluster: &Cluster) -> Result<()> {
    let step = |name: &str, command: &str| {
        let volume = json!([{ "name": "work", "mountPath": "/work" }]);
        json!({ "name": name, "image": "busybox:1.36", "command": ["sh", "-c", command], "volumeMounts": volume })
    };
    let mut again = pod("again", "");
    let mut sidecar = step("sidecar", "echo sidecar >> /work/log; sleep 3600");
    sidecar["restartPolicy"] = json!("Always");
    let mut main = step(
        "main",
        "while [ $(wc -l < /work/log) -lt 2 ]; do usleep 50000; done; test -e /work/over && sleep 3600; touch /work/over; exit 42",
    );
    main["restartPolicyRules"] = json!([{ "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [42] } }]);
    main["restartPolicy"] = json!("Never");
    main["readinessProbe"] = json!({ "exec": { "command": ["test", "-e", "/work/over"] }, "periodSeconds": 1, "timeoutSeconds": 60 });
    again["spec"]["restartPolicy"] = json!("Never");
    again["spec"]["initContainers"] = json!([step("first", "echo first >> /work/log"), sidecar]);
    again["spec"]["containers"] = json!([main, step("done", "exit 0")]);
    again["spec"]["volumes"] = json!([{ "name": "work", "emptyDir": {} }]);
    cluster.apply(&again.to_string()).await?;
    let counts = |pod: &Value| {
        let status = &pod["status"];
        let lists = [&status["initContainerStatuses"], &status["containerStatuses"]];
        let all = lists.into_iter().flat_map(|l| l.as_array().into_iter().flatten());
        let counts: Vec<Option<u64>> = all.map(|c| c["restartCount"].as_u64()).collect();
        ensure!(counts == [Some(1); 4] && status["phase"] == "Running", "{counts:?} {}", status["phase"]);
        ensure!(status["containerStatuses"][1]["state"]["terminated"].is_object(), "{}", status["containerStatuses"]);
        ensure!(condition(pod, "AllContainersRestarting").as_deref() == Some("False"), "{}", status["conditions"]);
        Ok(())
    };
    cluster.until("all containers to be restarted once", "pod again", counts).await?;
    let log = cluster.kubectl_args(&["exec", "again", "-c", "main", "--", "cat", "/work/log"]).await?;
    ensure!(log == "first\nsidecar\nfirst\nsidecar\n", "the volume stays and init containers run again: {log}");
    cluster.kubectl("delete pod again --timeout=180s").await.map(drop)
}

async fn runtime_class(cluster: &Cluster) -> Result<()> {
    let class = |name: &str, handler: &str| json!({ "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": { "name": name }, "handler": handler });
    cluster.apply(&class("plain", "runc").to_string()).await?;
    cluster.apply(&class("odd", "kata").to_string()).await?;
    for name in ["plain", "odd"] {
        let mut asks = pod(name, "sleep 3600");
        asks["spec"]["runtimeClassName"] = json!(name);
        cluster.apply(&asks.to_string()).await?;
    }
    cluster.pods_ready("app=plain", 1).await?;
    cluster.told("odd", &["FailedCreatePodSandBox", "no runtime for", "is configured"]).await?;
    cluster.kubectl("delete pod plain odd --timeout=180s").await.map(drop)
}

/// The critical pod names its node, so that no scheduler makes room for it.
async fn preempt(cluster: &Cluster) -> Result<()> {
    let node = node(cluster).await?;
    let cpus = node["status"]["allocatable"]["cpu"].as_str().and_then(|n| n.parse::<u64>().ok()).context("a number of CPUs")?;
    let asking = |name: &str, milli: u64| {
        let mut pod = pod(name, "sleep 3600");
        pod["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": format!("{milli}m") } });
        pod
    };
    cluster.apply(&asking("small", 100).to_string()).await?;
    cluster.apply(&asking("large", cpus * 1000 - 500).to_string()).await?;
    cluster.pods_ready("app=small", 1).await?;
    cluster.pods_ready("app=large", 1).await?;
    let mut critical = asking("critical", 600);
    critical["metadata"]["namespace"] = json!("kube-system");
    critical["spec"]["priorityClassName"] = json!("system-node-critical");
    critical["spec"]["nodeName"] = node["metadata"]["name"].clone();
    cluster.apply(&critical.to_string()).await?;
    cluster
        .until("the critical pod to run", "pod critical -n kube-system", |pod| {
            ensure!(condition(pod, "Ready").as_deref() == Some("True"), "{}", pod["status"]);
            Ok(())
        })
        .await?;
    let gone = cluster.get("pod large").await?["status"].clone();
    ensure!(gone["phase"] == "Failed" && gone["reason"] == "Preempting", "{gone}");
    ensure!(gone["message"] == "Preempted in order to admit critical pod", "{gone}");
    ensure!(condition(&cluster.get("pod small").await?, "Ready").as_deref() == Some("True"), "one that need not go stays");
    cluster.told("large", &["Preempting"]).await
}

#[tokio::test]
async fn static_pods_follow_their_files_whatever_the_api_says() {
    let name = "static_pods_follow_their_files_whatever_the_api_says";
    let Some(mut cluster) = Cluster::prepare(name) else { return };
    if let Err(error) = static_pods(&mut cluster).await {
        cluster.explain(&error).await;
        panic!("{name}: {error:#}");
    }
}

/// As an editor does it: whole or not at all.
async fn write(cluster: &Cluster, manifest: &Value) -> Result<()> {
    let script = format!("cat > /run/manifests/.web <<'END'\n{manifest}\nEND\nmv /run/manifests/.web /run/manifests/web.yaml");
    cluster.node.exec(["sh", "-c", &script]).await.map(drop)
}

async fn static_pods(cluster: &mut Cluster) -> Result<()> {
    const UP: [&str; 2] = ["--pod-manifest-path", "/run/manifests"];
    cluster.node.exec(["mkdir", "/run/manifests"]).await?;
    cluster.up(&UP).await?;
    cluster.import().await?;
    let mut web = pod("web", "echo first; sleep 3600");
    write(cluster, &web).await?;
    let pods = cluster.pods_ready("app=web", 1).await?;
    let meta = &pods[0]["metadata"];
    let name = meta["name"].as_str().context("a name")?.to_owned();
    ensure!(meta["ownerReferences"][0]["kind"] == "Node" && name.starts_with("web-"), "{meta}");
    let hash = meta["annotations"]["kubernetes.io/config.mirror"].as_str().context("a copy says what it mirrors")?.to_owned();
    ensure!(cluster.kubectl(&format!("logs {name}")).await? == "first\n", "logs are found by the copy");
    ensure!(cluster.in_pod(&name, "echo here").await? == "here\n", "exec too");
    let container = |pods: &[Value]| pods[0]["status"]["containerStatuses"][0]["containerID"].clone();
    let first = container(&pods);

    // Who deletes the copy deletes nothing.
    cluster.kubectl(&format!("delete pod {name} --timeout=180s")).await?;
    let pods = cluster.pods_ready("app=web", 1).await?;
    ensure!(container(&pods) == first && pods[0]["metadata"]["uid"] != *meta["uid"].as_str().unwrap_or_default(), "{}", pods[0]);

    // A cluster that was killed finds it again.
    cluster.kill_above_shims();
    let _ = cluster.ended().await?;
    cluster.up(&UP).await?;
    let pods = cluster.pods_ready("app=web", 1).await?;
    ensure!(container(&pods) == first, "the container goes on: {}", pods[0]["status"]);

    web["spec"]["containers"][0]["command"] = json!(["sh", "-c", "echo second; sleep 3600"]);
    write(cluster, &web).await?;
    let changed = |pods: &Value| {
        let pod = &pods["items"][0];
        let now = &pod["metadata"]["annotations"]["kubernetes.io/config.mirror"];
        ensure!(now.is_string() && *now != hash && condition(pod, "Ready").as_deref() == Some("True"), "{pod}");
        Ok(())
    };
    cluster.until("the changed pod to run", "pods -l app=web", changed).await?;
    ensure!(cluster.kubectl(&format!("logs {name}")).await? == "second\n", "the log is the new pod's");
    // What its file says when the node comes back counts, whatever runs.
    let _ = cluster.kill_above_shims();
    let _ = cluster.ended().await?;
    web["spec"]["containers"][0]["command"] = json!(["sh", "-c", "echo third; sleep 3600"]);
    write(cluster, &web).await?;
    cluster.up(&UP).await?;
    let logs = || async { cluster.kubectl(&format!("logs {name}")).await };
    wait_for("the pod of the new file to run", PATIENCE, async || {
        ensure!(logs().await? == "third\n");
        Ok(())
    })
    .await?;
    cluster.node.exec(["rm", "/run/manifests/web.yaml"]).await?;
    let none = |pods: &Value| {
        ensure!(pods["items"].as_array().is_some_and(Vec::is_empty), "{pods}");
        Ok(())
    };
    cluster.until("the pod to be gone", "pods", none).await?;
    // The pod of the old file has no copy that would tell of it.
    wait_for("nothing to be left", PATIENCE, async || {
        let left = cluster.node.exec(["sh", "-c", "find /sys/fs/cgroup -type d -path '*kubepods*pod*' | head"]).await?;
        ensure!(left.trim().is_empty() && !cluster.has_shims(), "left over: {left}");
        Ok(())
    })
    .await
}
