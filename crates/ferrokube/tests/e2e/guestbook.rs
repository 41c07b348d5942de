//! The example of the README: deployed, reached in every way, changed, and taken away again.

use crate::cluster::{Cluster, PATIENCE, example, scenario};
use anyhow::{Context as _, Result, ensure};
use ferrokube_testkit::wait_for;
use serde_json::Value;
use std::collections::BTreeSet;

const ENTRY: &str = "hello-from-the-job";

#[tokio::test]
async fn the_guestbook_runs_and_is_reachable_in_every_way() {
    scenario("the_guestbook_runs_and_is_reachable_in_every_way", async |cluster| {
        deploy(cluster).await?;
        reach(cluster).await
    })
    .await;
}

#[tokio::test]
async fn the_guestbook_is_looked_into_changed_and_deleted() {
    scenario("the_guestbook_is_looked_into_changed_and_deleted", async |cluster| {
        deploy(cluster).await?;
        look_into(cluster).await?;
        forward(cluster).await?;
        change(cluster).await?;
        delete(cluster).await
    })
    .await;
}

pub async fn deploy(cluster: &Cluster) -> Result<()> {
    let nodes = cluster.kubectl("get nodes").await?;
    ensure!(nodes.contains("Ready") && nodes.contains("v1.36."), "{nodes}");
    cluster.apply(&example("guestbook.yaml")?).await?;
    let again = cluster.apply(&example("guestbook.yaml")?).await?;
    // kubectl cannot compare `stringData`, so it always says that the secret was configured.
    let same = |line: &str| line.ends_with("unchanged") || line.starts_with("secret/");
    ensure!(again.lines().all(same), "a second apply changes nothing:\n{again}");
    cluster.kubectl("rollout status deployment/guestbook --timeout=180s").await?;
    cluster.kubectl("wait --for=condition=complete job/guestbook-first-entry --timeout=180s").await?;
    cluster.pods_ready("tier=frontend", 3).await?;
    Ok(())
}

async fn reach(cluster: &Cluster) -> Result<()> {
    let service = cluster.get("service guestbook").await?;
    let ip = service["spec"]["clusterIP"].as_str().context("a cluster IP")?.to_owned();
    let node = cluster.node.address().to_owned();
    let pod = frontends(cluster).await?[0].clone();
    let from_node = [format!("http://{ip}/cgi-bin/read"), format!("http://{node}:30080/cgi-bin/read")];
    for url in &from_node {
        wait_for(&format!("{url} from the node"), PATIENCE, async || served(&cluster.fetch(url).await?)).await?;
    }
    let names = ["guestbook", "guestbook.default", "guestbook.default.svc.cluster.local"];
    let from_pod: Vec<_> = names.iter().map(|name| (*name).to_owned()).chain([ip.clone(), format!("{node}:30080")]).collect();
    for host in from_pod {
        let command = format!("timeout 5 wget -q -O - http://{host}/cgi-bin/read");
        wait_for(&format!("{host} from a pod"), PATIENCE, async || served(&cluster.in_pod(&pod, &command).await?)).await?;
    }

    // Requests are spread over the front ends.
    let mut answered = BTreeSet::new();
    wait_for("all three front ends to have answered", PATIENCE, async || {
        let answer = cluster.fetch(&from_node[0]).await?;
        answered.insert(answer.lines().next().unwrap_or_default().to_owned());
        ensure!(answered.len() == 3, "{answered:?}");
        Ok(())
    })
    .await?;

    // What nobody serves is refused at once instead of leaking or hanging.
    let prefix = ip.rsplit_once('.').context("IPv4")?.0;
    let refused = cluster.node.exec(["timeout", "30", "bash", "-c", &format!("exec 3<>/dev/tcp/{prefix}.251/80")]).await;
    let text = format!("{:#}", refused.err().context("nobody serves there")?);
    ensure!(!text.contains("exit status: 124"), "an unallocated service address hangs: {text}");
    Ok(())
}

fn served(answer: &str) -> Result<()> {
    ensure!(answer.starts_with("The guestbook, served by guestbook-") && answer.contains(ENTRY), "{answer}");
    Ok(())
}

async fn frontends(cluster: &Cluster) -> Result<Vec<String>> {
    let pods = cluster.get("pods -l tier=frontend").await?;
    let names = pods["items"].as_array().context("a list")?.iter();
    Ok(names.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

async fn look_into(cluster: &Cluster) -> Result<()> {
    let store = cluster.get("pods -l tier=store").await?;
    let store = store["items"][0]["metadata"]["name"].as_str().context("the store")?.to_owned();
    let _ = cluster.in_pod(&store, "wget -q -O - http://127.0.0.1:8080/nothing").await; // httpd writes down what it refuses.
    wait_for("the request in the log", PATIENCE, async || {
        let log = cluster.kubectl(&format!("logs {store} --tail=20")).await?;
        ensure!(log.contains("response:404"), "{log}");
        Ok(())
    })
    .await?;
    let job = cluster.kubectl("logs job/guestbook-first-entry").await?;
    ensure!(job.trim() == "stored", "{job}");
    let entries = cluster.in_pod(&store, "cat /data/entries; echo $TOKEN").await?;
    ensure!(entries == format!("{ENTRY}\nopen-sesame\n"), "{entries}");
    let failed = cluster.kubectl_args(&["exec", &store, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).await;
    let text = format!("{:#}", failed.err().context("exit 7 is a failure")?);
    ensure!(text.contains("out") && text.contains("err") && text.contains("exit code 7"), "{text}");
    let described = cluster.kubectl(&format!("describe pod {store}")).await?;
    for word in ["Scheduled", "Started", "guestbook-store", "Ready", "busybox:1.36"] {
        ensure!(described.contains(word), "describe lacks {word}:\n{described}");
    }
    let wide = cluster.kubectl("get pods,services,deployments,replicasets,jobs,endpointslices -o wide").await?;
    ensure!(wide.contains("CLUSTER-IP") && wide.contains("1/1"), "{wide}");
    let explained = cluster.kubectl("explain deployment.spec.replicas").await?;
    ensure!(explained.contains("replicas") && explained.contains("integer"), "{explained}");
    Ok(())
}

async fn forward(cluster: &Cluster) -> Result<()> {
    let log = cluster.lab.dir().join("port-forward.log");
    let _forward = cluster.spawn_kubectl("port-forward service/guestbook 18080:80", &log)?;
    wait_for("the forwarded port", PATIENCE, async || served(&cluster.fetch("http://127.0.0.1:18080/cgi-bin/read").await?)).await
}

async fn change(cluster: &Cluster) -> Result<()> {
    cluster.kubectl("scale deployment/guestbook --replicas=5").await?;
    cluster.pods_ready("tier=frontend", 5).await?;
    cluster.kubectl("scale deployment/guestbook --replicas=2").await?;
    cluster.pods_ready("tier=frontend", 2).await?;

    cluster.kubectl_args(&["set", "env", "deployment/guestbook", "TITLE=Another title"]).await?;
    cluster.kubectl("rollout status deployment/guestbook --timeout=180s").await?;
    answers(cluster, "Another title").await?;
    let history = cluster.kubectl("rollout history deployment/guestbook").await?;
    ensure!(history.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count() == 2, "{history}");
    cluster.kubectl("rollout undo deployment/guestbook").await?;
    cluster.kubectl("rollout status deployment/guestbook --timeout=180s").await?;
    answers(cluster, "The guestbook").await?;

    let diff = cluster.kubectl_args(&["diff", "-f", &example_path()]).await;
    let text = format!("{:#}", diff.err().context("replicas differ")?);
    ensure!(text.contains("replicas: 2") && text.contains("replicas: 3"), "{text}");
    Ok(())
}

fn example_path() -> String {
    ferrokube_testkit::tools::workspace().join("examples/guestbook.yaml").display().to_string()
}

async fn answers(cluster: &Cluster, title: &str) -> Result<()> {
    let url = format!("http://{}:30080/cgi-bin/read", cluster.node.address());
    wait_for(&format!("{title:?} from every front end"), PATIENCE, async || {
        for _ in 0..6 {
            let answer = cluster.fetch(&url).await?;
            ensure!(answer.starts_with(title), "{answer}");
        }
        Ok(())
    })
    .await
}

async fn delete(cluster: &Cluster) -> Result<()> {
    cluster.kubectl_args(&["delete", "-f", &example_path(), "--timeout=180s"]).await?;
    cluster
        .until("every object to be gone", "pods,services,deployments,replicasets,jobs,configmaps,endpointslices -l app=guestbook", nothing)
        .await?;
    cluster.until("the job's pod to be gone", "pods", nothing).await?;
    wait_for("the node port to be closed", PATIENCE, async || {
        ensure!(cluster.fetch(&format!("http://{}:30080/", cluster.node.address())).await.is_err(), "it answers");
        Ok(())
    })
    .await
}

fn nothing(list: &Value) -> Result<()> {
    let names: Vec<_> = list["items"].as_array().context("a list")?.iter().map(|object| object["metadata"]["name"].to_string()).collect();
    ensure!(names.is_empty(), "{names:?}");
    Ok(())
}
