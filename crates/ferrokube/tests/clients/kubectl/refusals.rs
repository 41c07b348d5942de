//! Answers that mean "not now" and "no longer": what kubectl makes of 429 and 410 over the wire.

use super::Kubectl;
use crate::hollow;
use crate::plane::{PATIENCE, scenario, scenario_with};
use anyhow::{Context as _, Result, ensure};
use ferrokube_testkit::tools::clients;
use ferrokube_testkit::{free_port, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A level without a single seat, where nobody queues.
fn no_room() -> Value {
    let limited = json!({"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}});
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": {"name": "no-room"},
        "spec": {"type": "Limited", "limited": limited}
    })
}

/// Everything that Alice asks for falls under it.
fn alices() -> Value {
    let rule = json!({
        "subjects": [{"kind": "User", "user": {"name": "alice"}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    });
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "alices"},
        "spec": {"priorityLevelConfiguration": {"name": "no-room"}, "matchingPrecedence": 50, "rules": [rule]}
    })
}

/// Alice's kubectl meets a 429, and then there is room for her. Says whether it met one and ended well all the same.
async fn waits_for_room(kubectl: &Kubectl<'_>, map: &str) -> Result<bool> {
    kubectl.feed("apply -f -", &alices().to_string()).await?;
    wait_for("Alice to be refused", PATIENCE, async || {
        let refused = kubectl.plane.run(&kubectl.program, &["get", "--raw", "/api", "--as=alice", "--request-timeout=1s"], "").await;
        ensure!(refused.is_err(), "she was served");
        Ok(())
    })
    .await?;
    let mut command = kubectl.plane.command(&kubectl.program);
    command.args(["create", "configmap", map, "--as=alice", "-v=8"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("kubectl")?;
    let mut lines = BufReader::new(child.stderr.take().context("its log")?).lines();
    let mut met = false;
    while let Some(line) = lines.next_line().await? {
        if !met && line.contains("429") {
            met = true;
            kubectl.run("delete flowschema alices").await?;
        }
    }
    let ended = child.wait().await?;
    if !met {
        kubectl.run("delete flowschema alices").await?;
    }
    Ok(met && ended.success())
}

#[tokio::test]
async fn kubectl_comes_again_when_there_was_no_room() {
    scenario("kubectl_comes_again_when_there_was_no_room", clients::kubectl_newer, async |plane, program| {
        let kubectl = Kubectl::new(plane, program);
        kubectl.run("create clusterrolebinding alice --clusterrole=edit --user=alice").await?;
        kubectl.feed("create -f -", &no_room().to_string()).await?;
        let mut tries = 0;
        // It gives up after ten tries, a second apart; a machine that is busier than that gets another round.
        wait_for("kubectl to wait for room", PATIENCE, async || {
            tries += 1;
            let map = format!("room-{tries}");
            ensure!(waits_for_room(&kubectl, &map).await?, "kubectl gave up");
            kubectl.says(&format!("get configmap {map} -o name"), &format!("configmap/{map}")).await
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn kubectl_is_told_that_a_page_has_expired() {
    let flags = ["--etcd-compaction-interval=1s"];
    scenario_with(&flags, "kubectl_is_told_that_a_page_has_expired", clients::kubectl_newer, async |plane, program| {
        let kubectl = Kubectl::new(plane, program);
        for name in ["a", "b", "c"] {
            kubectl.run(&format!("create configmap {name}")).await?;
        }
        let first: Value = serde_json::from_str(&kubectl.run(&format!("get --raw {MAPS}?limit=1")).await?)?;
        let token = first["metadata"]["continue"].as_str().context("a token")?;
        let next = format!("get --raw {MAPS}?limit=1&continue={token}");
        let expired = wait_for("the page to expire", PATIENCE, async || {
            // History goes as it grows.
            kubectl.run("annotate configmap c seen=now --overwrite").await?;
            kubectl.run("annotate configmap c seen-").await?;
            kubectl.fails(&next).await
        })
        .await?;
        let words = "Error from server (Expired): The provided continue parameter is too old to display a consistent list result.";
        ensure!(expired.contains(words), "{expired}");
        // Stock kubectl does not go on by itself; who lists anew sees all.
        let own = "get configmaps --field-selector=metadata.name!=kube-root-ca.crt -o name";
        kubectl.prints(own, "configmap/a\nconfigmap/b\nconfigmap/c").await
    })
    .await;
}

/// The flag that has the server come again where it was.
fn at_one_port() -> String {
    format!("--port={}", free_port())
}

/// The server forgets all that was until now, and what it still has in memory goes with it: it crashes and comes again.
async fn forget(kubectl: &Kubectl<'_>) -> Result<()> {
    let now: Value = serde_json::from_str(&kubectl.run(&format!("get --raw {MAPS}?limit=1")).await?)?;
    let now = now["metadata"]["resourceVersion"].as_str().context("a version")?;
    let then = format!("get --raw {MAPS}?limit=1&resourceVersionMatch=Exact&resourceVersion={now}");
    wait_for("history to be forgotten", PATIENCE, async || {
        // History goes as it grows.
        kubectl.run("annotate namespace default seen=now --overwrite").await?;
        kubectl.run("annotate namespace default seen-").await?;
        let told = kubectl.fails(&then).await?;
        ensure!(told.contains("Error from server (Expired)"), "{told}");
        Ok(())
    })
    .await?;
    kubectl.plane.crash().await
}

#[tokio::test]
async fn kubectl_get_is_told_in_its_watch_that_history_is_gone_and_ends() {
    let flags = ["--etcd-compaction-interval=1s", &at_one_port()];
    let name = "kubectl_get_is_told_in_its_watch_that_history_is_gone_and_ends";
    scenario_with(&flags, name, clients::kubectl_newer, async |plane, program| {
        let kubectl = Kubectl::new(plane, program);
        // More than a pipe holds: until somebody reads, kubectl stands still between its list and its watch.
        let large = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "large"}, "data": {"k": "x".repeat(300_000)}});
        kubectl.feed("create -f -", &large.to_string()).await?;
        let mut command = plane.command(&kubectl.program);
        command.args(["get", "configmaps", "--watch", "-o", "json"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("kubectl")?;
        let mut printed = child.stdout.take().context("what it prints")?;
        let mut text = vec![printed.read_u8().await.context("it has its list")?];
        forget(&kubectl).await?;
        printed.read_to_end(&mut text).await?;
        let told: Vec<Value> = serde_json::Deserializer::from_slice(&text).into_iter().collect::<Result<_, _>>()?;
        let (last, listed) = told.split_last().context("it printed something")?;
        ensure!(listed.iter().any(|map| map["metadata"]["name"] == "large"), "the list");
        ensure!((&last["kind"], &last["code"], &last["reason"]) == (&json!("Status"), &json!(410), &json!("Expired")), "{last}");
        let words = last["message"].as_str().unwrap_or_default();
        ensure!(words.starts_with("too old resource version: "), "{words}");
        ensure!(child.wait().await?.success(), "as in front of any server");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn kubectl_rollout_status_goes_on_when_history_went_with_the_server() {
    let flags = ["--etcd-compaction-interval=1s", &at_one_port()];
    let name = "kubectl_rollout_status_goes_on_when_history_went_with_the_server";
    scenario_with(&flags, name, clients::kubectl_newer, async |plane, program| {
        let kubectl = Kubectl::new(plane, program);
        kubectl.run("create deployment web --image=busybox").await?;
        let mut command = plane.command(&kubectl.program);
        command.args(["rollout", "status", "deployment/web", "-v=4"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("kubectl")?;
        let mut said = child.stderr.take().context("its log")?;
        let log = tokio::spawn(async move {
            let mut log = String::new();
            said.read_to_string(&mut log).await.map(|_| log)
        });
        let mut lines = BufReader::new(child.stdout.take().context("what it prints")?).lines();
        while !lines.next_line().await?.context("it waits")?.contains("0 of 1 updated replicas are available") {}
        // It stands still while the server forgets what it had told it, goes and comes back.
        let pid = Pid::from_raw(i32::try_from(child.id().context("it runs")?)?);
        kill(pid, Signal::SIGSTOP)?;
        // It lists anew after a watch that ends within a second and without an event, and would not be told.
        kubectl.run("annotate deployment web seen=now").await?;
        forget(&kubectl).await?;
        kill(pid, Signal::SIGCONT)?;
        let _node = hollow::start(plane).await?;
        let mut last = String::new();
        while let Some(line) = lines.next_line().await? {
            last = line;
        }
        let log = log.await??;
        ensure!(child.wait().await?.success() && last == "deployment \"web\" successfully rolled out", "{last}\n{log}");
        ensure!(log.contains("too old resource version"), "it was told:\n{log}");
        Ok(())
    })
    .await;
}
