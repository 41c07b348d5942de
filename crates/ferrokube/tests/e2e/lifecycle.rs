//! The life of a cluster: killed and continued, stopped, reset, without nodes, and refused for good reasons.

use crate::cluster::{Cluster, PATIENCE, ferrokube, scenario};
use crate::guestbook;
use anyhow::{Context as _, Result, ensure};
use ferrokube_testkit::wait_for;
use serde_json::Value;

/// What must not change over a restart: pods by name with their address, restarts and container ids.
async fn pods(cluster: &Cluster) -> Result<Vec<String>> {
    let list = cluster.get("pods").await?;
    let line = |pod: &Value| {
        let containers = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let containers: Vec<_> = containers.iter().map(|c| format!("{}/{}", c["containerID"], c["restartCount"])).collect();
        format!("{} {} {} {containers:?}", pod["metadata"]["name"], pod["metadata"]["uid"], pod["status"]["podIP"])
    };
    let mut lines: Vec<_> = list["items"].as_array().context("a list")?.iter().map(line).collect();
    lines.sort();
    Ok(lines)
}

#[tokio::test]
async fn a_killed_cluster_continues_with_its_pods() {
    scenario("a_killed_cluster_continues_with_its_pods", async |cluster| {
        guestbook::deploy(cluster).await?;
        let before = pods(cluster).await?;
        let url = format!("http://{}:30080/cgi-bin/read", cluster.node.address());
        wait_for("the node port", PATIENCE, async || cluster.fetch(&url).await).await?;
        ensure!(cluster.kill_above_shims() > 0, "there was something to kill");
        let _ = cluster.ended().await?;
        let answer = wait_for("the containers to go on without a cluster", PATIENCE, async || cluster.fetch(&url).await).await?;
        ensure!(answer.contains("served by"), "{answer}");
        cluster.up(&[]).await?;
        cluster.pods_ready("tier=frontend", 3).await?;
        let after = pods(cluster).await?;
        ensure!(before == after, "same pods, same addresses, no restart:\n{before:#?}\n{after:#?}");
        cluster.kubectl("scale deployment/guestbook --replicas=4").await?;
        cluster.pods_ready("tier=frontend", 4).await?;
        let pod = cluster.get("pods -l tier=store").await?["items"][0]["metadata"]["name"].as_str().context("the store")?.to_owned();
        ensure!(cluster.in_pod(&pod, "cat /data/entries").await?.contains("hello"), "exec works in containers from before");
        cluster.kubectl_args(&["delete", "pod", &pod, "--timeout=180s"]).await?;
        cluster.pods_ready("tier=store", 1).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn down_and_reset_leave_no_trace() {
    scenario("down_and_reset_leave_no_trace", async |cluster| {
        let traces = "ip -o link | grep -v -e ' lo:' -e eth0; ip route show table all | grep -v -e eth0 -e ' lo '; cat /proc/self/mounts | grep -e /var/lib -e /run/ | grep -v -e ' /run ' -e ' /var/lib '; \
                      find /sys/fs/cgroup -type d -name '*kubepods*' -o -type d -name '*ferrokube*' | head; true";
        cluster.kubectl("create deployment web --image=busybox:1.36 --replicas=2 -- httpd -f -p 80").await?;
        cluster.pods_ready("app=web", 2).await?;
        cluster.node.exec([ferrokube(), "down"]).await?;
        let status = cluster.ended().await?;
        ensure!(status.success(), "up ends cleanly: {status}");
        cluster.up(&[]).await?;
        cluster.pods_ready("app=web", 2).await?;
        cluster.node.exec([ferrokube(), "reset"]).await?;
        let _ = cluster.ended().await?;
        let left = cluster.node.exec(["bash", "-c", traces]).await?;
        ensure!(left.trim().is_empty(), "left over after reset:\n{left}");
        ensure!(cluster.kill_above_shims() == 0 && !cluster.has_shims(), "processes are left over after reset");
        let rules = cluster.node.exec(["bash", "-c", "command -v nft >/dev/null && nft list ruleset || true"]).await?;
        ensure!(rules.trim().is_empty(), "left over rules:\n{rules}");
        cluster.up(&[]).await?;
        ensure!(cluster.kubectl("get deployments").await.is_ok_and(|list| !list.contains("web")), "a reset cluster starts empty");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_control_plane_alone_needs_no_root() {
    let name = "the_control_plane_alone_needs_no_root";
    let Some(cluster) = Cluster::prepare(name) else { return };
    let run = async {
        let data = cluster.lab.dir().join("nobody");
        std::fs::create_dir_all(&data)?;
        std::os::unix::fs::chown(&data, Some(65534), Some(65534))?;
        let home = format!("HOME={}", data.display());
        let log = cluster.lab.dir().join("control-plane.log");
        let open = std::fs::Permissions::from(std::os::unix::fs::PermissionsExt::from_mode(0o755));
        std::fs::set_permissions(cluster.lab.dir(), open)?;
        let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", &home];
        let _up = cluster.node.spawn([&as_nobody[..], &[ferrokube(), "up", "--control-plane-only"]].concat(), &log)?;
        let kubectl = ferrokube_testkit::tools::kubectl()?.display().to_string();
        let namespaces = wait_for("the API as nobody", PATIENCE, async || {
            let output = cluster.node.exec([&as_nobody[..], &[&kubectl, "get", "namespaces"]].concat()).await;
            output.with_context(|| std::fs::read_to_string(&log).unwrap_or_default())
        })
        .await?;
        ensure!(namespaces.contains("kube-system"), "{namespaces}");
        Ok(())
    };
    if let Err(error) = run.await {
        panic!("{name}: {error:#}");
    }
}

#[tokio::test]
async fn up_refuses_with_a_reason() {
    let name = "up_refuses_with_a_reason";
    let Some(mut cluster) = Cluster::prepare(name) else { return };
    let run = async {
        let wrong = cluster.node.exec([ferrokube(), "up", "--no-such-flag"]).await;
        let text = format!("{:#}", wrong.err().context("a wrong flag fails")?);
        ensure!(text.contains("--no-such-flag") && text.contains("exit status: 2"), "{text}");
        let unprivileged = cluster.node.exec(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", ferrokube(), "up"]).await;
        let text = format!("{:#}", unprivileged.err().context("a node needs root")?);
        ensure!(text.contains("root") && text.contains("--control-plane-only"), "says what is missing and what works without: {text}");
        let _taken = ferrokube_testkit::registry::Registry::start_in(Some(cluster.node.netns()), "0.0.0.0:6443".parse()?)?;
        cluster.start(&[])?;
        ensure!(!cluster.ended().await?.success(), "a taken port fails");
        let log = cluster.log();
        ensure!(log.contains("6443") && log.contains("in use"), "{log}");
        Ok(())
    };
    let result: Result<()> = run.await;
    if let Err(error) = result {
        panic!("{name}: {error:#}");
    }
}

#[tokio::test]
async fn another_clusters_kubeconfig_is_kept() {
    let name = "another_clusters_kubeconfig_is_kept";
    let Some(mut cluster) = Cluster::prepare(name) else { return };
    let run = async {
        let folder = cluster.node.home().join(".kube");
        std::fs::create_dir_all(&folder)?;
        let other = "apiVersion: v1\nkind: Config\nclusters: [{name: other, cluster: {server: 'https://127.0.0.1:1'}}]\n\
                     contexts: [{name: other, context: {cluster: other, user: other}}]\nusers: [{name: other, user: {token: keep-me}}]\ncurrent-context: other\n";
        std::fs::write(folder.join("config"), other)?;
        cluster.up(&[]).await?;
        let config = cluster.kubectl("config view --raw -o json").await?;
        ensure!(config.contains("keep-me"), "the other cluster is still there");
        ensure!(cluster.kubectl("config current-context").await?.trim() != "other", "the new one is current");
        Ok(())
    };
    let result: Result<()> = run.await;
    if let Err(error) = result {
        panic!("{name}: {error:#}");
    }
}
