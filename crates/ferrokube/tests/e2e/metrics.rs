//! What nodes and pods use, and an autoscaler that acts on it: nothing has to be installed for that.

use crate::cluster::{Cluster, scenario};
use crate::pods::pod;
use anyhow::{Context as _, Result, ensure};
use ferrokube_testkit::wait_for;
use serde_json::{Value, json};

/// Uses as much CPU as it is let.
fn busy() -> Value {
    let mut template = pod("busy", "while true; do :; done");
    template["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "100m" }, "limits": { "cpu": "500m" } });
    let spec = json!({
        "replicas": 1, "selector": { "matchLabels": { "app": "busy" } },
        "template": { "metadata": template["metadata"], "spec": template["spec"] },
    });
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "busy" }, "spec": spec })
}

/// The cells of the only line of `kubectl top`, once it is there.
async fn top(cluster: &Cluster, what: &str, enough: impl Fn(&[&str]) -> bool) -> Result<String> {
    let mut shown = String::new();
    wait_for(&format!("kubectl top {what} to show numbers"), crate::cluster::PATIENCE, async || {
        shown = cluster.kubectl(&format!("top {what} --no-headers")).await?;
        let cells: Vec<&str> = shown.split_whitespace().collect();
        ensure!(shown.lines().count() == 1 && enough(&cells), "{shown}");
        Ok(())
    })
    .await?;
    Ok(shown)
}

/// `123m` or `45Mi`.
fn number(cell: &str, unit: &str) -> Option<u64> {
    cell.strip_suffix(unit)?.parse().ok()
}

#[tokio::test]
async fn usage_is_shown_and_an_autoscaler_follows_it() {
    scenario("usage_is_shown_and_an_autoscaler_follows_it", async |cluster| {
        cluster.apply(&busy().to_string()).await?;
        cluster.kubectl("autoscale deployment busy --cpu=50% --min=1 --max=2").await?;
        let pods = cluster.pods_ready("app=busy", 1).await?;
        let name = pods[0]["metadata"]["name"].as_str().context("a name")?;
        // It may use half a core; a busy machine gives less.
        let works = |cpu: &str, memory: &str| number(cpu, "m").is_some_and(|n| (20..=700).contains(&n)) && number(memory, "Mi").is_some();
        top(cluster, &format!("pod {name}"), |cells| matches!(cells, [_, cpu, memory] if works(cpu, memory))).await?;
        top(cluster, "pods --containers -l app=busy", |cells| matches!(cells, [_, "main", cpu, memory] if works(cpu, memory))).await?;
        let known = |cpu: &str, memory: &str| number(cpu, "m") > Some(0) && number(memory, "Mi") > Some(0);
        top(cluster, "nodes", |cells| matches!(cells, [_, cpu, _, memory, _] if known(cpu, memory))).await?;
        let table = cluster.kubectl("get pods.metrics.k8s.io").await?;
        ensure!(table.starts_with("NAME") && table.contains("WINDOW") && table.contains(name), "{table}");

        // Who may view may see it; nobody else.
        let may = async |who: &str| cluster.kubectl(&format!("auth can-i list pods.metrics.k8s.io --as={who}")).await;
        ensure!(may("system:serviceaccount:default:default").await.is_err(), "nobody gave it that");
        cluster.kubectl("create rolebinding view --clusterrole=view --serviceaccount=default:default").await?;
        wait_for("the role to work", crate::cluster::PATIENCE, async || may("system:serviceaccount:default:default").await.map(drop))
            .await?;

        cluster.pods_ready("app=busy", 2).await?;
        cluster.told("busy", &["SuccessfulRescale", "cpu resource utilization (percentage of request) above target"]).await
    })
    .await;
}
