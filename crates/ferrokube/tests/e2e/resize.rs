//! Pods whose resources change while they run.

use crate::cluster::{Cluster, scenario};
use crate::pods::pod;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

fn both(cpu: &str, memory: &str) -> Value {
    json!({ "requests": { "cpu": cpu, "memory": memory }, "limits": { "cpu": cpu, "memory": memory } })
}

fn sized(name: &str, policy: &str) -> Value {
    let mut pod = pod(name, "sleep 1000");
    pod["spec"]["containers"][0]["resources"] = both("100m", "32Mi");
    pod["spec"]["containers"][0]["resizePolicy"] = json!([
        { "resourceName": "cpu", "restartPolicy": "NotRequired" },
        { "resourceName": "memory", "restartPolicy": policy },
    ]);
    pod
}

async fn resize(cluster: &Cluster, pod: &str, resources: Value) -> Result<()> {
    let patch = json!({ "spec": { "containers": [{ "name": "main", "resources": resources }] } }).to_string();
    cluster.kubectl_args(&["patch", "pod", pod, "--subresource=resize", "-p", &patch]).await.map(drop)
}

/// Waits until the pod says that it has these resources, and nothing is left to do.
async fn has(cluster: &Cluster, pod: &str, resources: &Value, restarts: u64) -> Result<()> {
    cluster
        .until(&format!("{pod} to have {resources}"), &format!("pod {pod}"), |pod| {
            let status = &pod["status"];
            let container = &status["containerStatuses"][0];
            ensure!(container["resources"] == *resources && container["state"]["running"].is_object(), "{container}");
            ensure!(container["allocatedResources"] == resources["requests"], "{container}");
            ensure!(container["restartCount"] == restarts, "{container}");
            ensure!(!status["conditions"].to_string().contains("PodResize"), "{}", status["conditions"]);
            ensure!(status["observedGeneration"] == pod["metadata"]["generation"], "{status}");
            Ok(())
        })
        .await
}

/// Memory limit of the container as its own cgroup shows it, in bytes.
async fn memory_limit(cluster: &Cluster, pod: &str) -> Result<String> {
    let read = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    Ok(cluster.in_pod(pod, read).await?.trim().to_owned())
}

#[tokio::test]
async fn a_pod_is_resized_while_it_runs_or_by_a_restart_as_its_policy_says() {
    scenario("a_pod_is_resized_while_it_runs_or_by_a_restart_as_its_policy_says", async |cluster| {
        for (name, policy, restarts) in [("kept", "NotRequired", 0), ("restarted", "RestartContainer", 1)] {
            cluster.apply(&sized(name, policy).to_string()).await?;
            cluster.pods_ready(&format!("app={name}"), 1).await?;
            resize(cluster, name, both("200m", "48Mi")).await?;
            has(cluster, name, &both("200m", "48Mi"), restarts).await?;
            ensure!(memory_limit(cluster, name).await? == (48 << 20).to_string());
            cluster.told(name, &["Pod resize started: ", "Pod resize completed: "]).await?;
        }
        cluster.told("restarted", &["Container main resize requires restart"]).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_resize_that_does_not_fit_waits_and_survives_the_node_agent() {
    scenario("a_resize_that_does_not_fit_waits_and_survives_the_node_agent", async |cluster| {
        cluster.apply(&sized("small", "NotRequired").to_string()).await?;
        cluster.pods_ready("app=small", 1).await?;
        let nodes = cluster.get("nodes").await?;
        let cpus: u64 = nodes["items"][0]["status"]["allocatable"]["cpu"].as_str().context("cpus")?.parse()?;
        let mut large = pod("large", "sleep 1000");
        large["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": format!("{}m", cpus * 1000 - 500) } });
        cluster.apply(&large.to_string()).await?;
        cluster.pods_ready("app=large", 1).await?;

        resize(cluster, "small", both("700m", "32Mi")).await?;
        let deferred = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array().context("conditions")?;
            let pending = conditions.iter().find(|c| c["type"] == "PodResizePending").context("no PodResizePending")?;
            ensure!(pending["reason"] == "Deferred", "{pending}");
            ensure!(pod["status"]["containerStatuses"][0]["resources"] == both("100m", "32Mi"), "{}", pod["status"]);
            Ok(())
        };
        cluster.until("the resize to wait", "pod small", deferred).await?;

        // What was promised outlives the node agent, and so does the wish.
        ensure!(cluster.kill_above_shims() > 0, "there was something to kill");
        let _ = cluster.ended().await?;
        cluster.up(&[]).await?;
        cluster.until("the resize to wait still", "pod small", deferred).await?;
        cluster.kubectl("delete pod large").await?;
        has(cluster, "small", &both("700m", "32Mi"), 0).await
    })
    .await;
}

#[tokio::test]
async fn the_pod_as_a_whole_and_a_running_init_container_are_resized() {
    scenario("the_pod_as_a_whole_and_a_running_init_container_are_resized", async |cluster| {
        let nodes = cluster.get("nodes").await?;
        let declared = nodes["items"][0]["status"]["declaredFeatures"].to_string();
        ensure!(declared.contains("InPlacePodLevelResources") && declared.contains("InitContainers"), "{declared}");
        let mut whole = pod("whole", "sleep 1000");
        whole["spec"]["resources"] = both("200m", "64Mi");
        let wait = json!(["sh", "-c", "until [ -e /tmp/go ]; do sleep 0.1; done"]);
        let image = whole["spec"]["containers"][0]["image"].clone();
        whole["spec"]["initContainers"] = json!([{ "name": "first", "image": image, "command": wait, "resources": both("50m", "16Mi") }]);
        cluster.apply(&whole.to_string()).await?;
        let first = |pod: &Value| pod["status"]["initContainerStatuses"][0].clone();
        let runs = |pod: &Value| {
            ensure!(first(pod)["state"]["running"].is_object(), "{}", pod["status"]);
            // The pod is Pending: what it has is what it was promised.
            ensure!(pod["status"]["allocatedResources"] == both("200m", "64Mi")["requests"], "{}", pod["status"]);
            ensure!(pod["status"]["resources"] == both("200m", "64Mi"), "{}", pod["status"]);
            Ok(())
        };
        cluster.until("the init container to run", "pod whole", runs).await?;

        let patch = json!({ "spec": { "initContainers": [{ "name": "first", "resources": both("80m", "24Mi") }] } }).to_string();
        cluster.kubectl_args(&["patch", "pod", "whole", "--subresource=resize", "-p", &patch]).await?;
        let resized = |pod: &Value| {
            ensure!(first(pod)["resources"] == both("80m", "24Mi") && first(pod)["restartCount"] == 0, "{}", first(pod));
            Ok(())
        };
        cluster.until("the init container to be resized", "pod whole", resized).await?;
        cluster.kubectl("exec whole -c first -- touch /tmp/go").await?;
        cluster.pods_ready("app=whole", 1).await?;

        let patch = json!({ "spec": { "resources": both("300m", "96Mi") } }).to_string();
        cluster.kubectl_args(&["patch", "pod", "whole", "--subresource=resize", "-p", &patch]).await?;
        let resized = |pod: &Value| {
            let status = &pod["status"];
            ensure!(status["resources"] == both("300m", "96Mi"), "{}", status["resources"]);
            ensure!(status["allocatedResources"] == both("300m", "96Mi")["requests"], "{}", status["allocatedResources"]);
            ensure!(!status["conditions"].to_string().contains("PodResize"), "{}", status["conditions"]);
            Ok(())
        };
        cluster.until("the pod to be resized", "pod whole", resized).await?;
        cluster.told("whole", &["Pod resize started: ", "Pod resize completed: "]).await
    })
    .await;
}
