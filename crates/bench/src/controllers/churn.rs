//! How soon a lost pod is replaced while many others change.
//!
//! Pods of many Deployments are patched at a steady rate, each patch being news for every controller that follows pods; now
//! and then one is taken away at once, and what counts is the time from that request until a watch shows its successor.

use super::life::deployment;
use super::{NAMESPACE, Room};
use crate::connect::Call;
use crate::table::{self, Table};
use anyhow::Context;
use http::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const DEPLOYMENTS: usize = 100;
const REPLICAS: usize = 10;
/// Between two pods that are taken away.
const LOSS: Duration = Duration::from_millis(50);

/// What the watch of pods shows: the owner of a pod that is new.
type Added = mpsc::UnboundedReceiver<(String, Instant)>;

/// Measures.
pub(super) async fn measure(room: &Room, rate: u32, time: Duration) -> anyhow::Result<()> {
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments");
    let make = (0..DEPLOYMENTS).map(|i| Call::new(Method::POST, path.as_str(), deployment(&format!("churn-{i}"), REPLICAS).to_string()));
    super::all(&room.server, make.collect()).await?;
    let pods = room.until("the pods to run", async |room| running(room).await).await?;
    // One Deployment is left alone by the patches: its pods are the ones that are lost.
    let (lost, patched): (Vec<_>, Vec<_>) = pods.into_iter().partition(|(name, _)| name.starts_with("churn-0-"));
    let revision = crate::objects::revision_of(&room.server.ok(0, Call::get("/api/v1/pods?limit=1")).await?).context("no revision")?;
    let mut tasks = JoinSet::new();
    let (sender, mut added) = mpsc::unbounded_channel();
    let mut lines =
        room.server.again(1)?.lines(0, &format!("/api/v1/namespaces/{NAMESPACE}/pods?watch=1&resourceVersion={revision}")).await?;
    tasks.spawn(async move {
        let tell = |line: &[u8]| {
            if !line.starts_with(br#"{"type":"ADDED""#) {
                return;
            }
            if let Some(name) =
                serde_json::from_slice::<Value>(line).ok().and_then(|e| e["object"]["metadata"]["name"].as_str().map(str::to_owned))
            {
                // The receiver goes when enough is seen.
                let _ = sender.send((name, Instant::now()));
            }
        };
        while lines.next(tell).await.unwrap_or(false) {}
    });
    let changes = tokio::spawn(change(room.server.clone(), patched, rate, time));
    let mut took = replace(room, lost, &mut added, time).await?;
    let made = changes.await?;
    took.sort_unstable();
    let rows = Table::new(&["a lost pod is replaced (request to watch)", "changes/s", "lost", "p50", "p99", "longest"]);
    rows.row(vec![
        format!("{DEPLOYMENTS} Deployments of {REPLICAS}"),
        table::rate(made, time),
        took.len().to_string(),
        table::time(table::quantile(&took, 0.5)),
        table::time(table::quantile(&took, 0.99)),
        table::time(took.last().copied().unwrap_or_default()),
    ]);
    Ok(())
}

/// Names of the pods once all of them run.
async fn running(room: &Room) -> anyhow::Result<Option<Vec<(String, String)>>> {
    let list: Value = serde_json::from_slice(&room.server.ok(0, Call::get(format!("/api/v1/namespaces/{NAMESPACE}/pods"))).await?)?;
    let pods = list["items"].as_array().context("a list")?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let named =
        pods.iter().filter(|p| p["status"]["phase"] == "Running").map(|p| (text(&p["metadata"]["name"]), text(&p["metadata"]["uid"])));
    let named: Vec<_> = named.collect();
    Ok((named.len() == DEPLOYMENTS * REPLICAS).then_some(named))
}

/// Patches pods at a rate for a time; how many patches were made.
async fn change(server: crate::connect::Server, pods: Vec<(String, String)>, rate: u32, time: Duration) -> usize {
    const WORKERS: u32 = 32;
    let end = Instant::now() + time;
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (server, pods) = (server.clone(), pods.clone());
        workers.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) * WORKERS / rate.max(1));
            let mut made = 0;
            for (n, (name, _)) in pods.iter().cycle().enumerate().skip(worker as usize).step_by(WORKERS as usize) {
                ticks.tick().await;
                if Instant::now() >= end {
                    break;
                }
                let body = json!({"metadata": {"annotations": {"changed": n.to_string()}}}).to_string();
                let call = Call::new(Method::PATCH, format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}"), body);
                let call = Call { content_type: "application/merge-patch+json", ..call };
                made += usize::from(server.call(worker as usize, call).await.is_ok_and(|(status, _)| status.is_success()));
            }
            made
        });
    }
    workers.join_all().await.into_iter().sum()
}

/// Takes one pod after the other away and waits for its successor.
async fn replace(room: &Room, lost: Vec<(String, String)>, added: &mut Added, time: Duration) -> anyhow::Result<Vec<Duration>> {
    let end = Instant::now() + time;
    let mut there: std::collections::VecDeque<String> = lost.into_iter().map(|(name, _)| name).collect();
    let mut took = Vec::new();
    while Instant::now() < end {
        let name = there.pop_front().context("a pod")?;
        let body = r#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}"#;
        let at = Instant::now();
        room.server.ok(1, Call::new(Method::DELETE, format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}"), body)).await?;
        let successor = async {
            loop {
                let (name, seen) = added.recv().await?;
                if name.starts_with("churn-0-") {
                    return Some((name, seen));
                }
            }
        };
        let (name, seen) =
            tokio::time::timeout(room.patience, successor).await.context("no successor came")?.context("the watch has ended")?;
        took.push(seen.duration_since(at));
        there.push_back(name);
        tokio::time::sleep(LOSS).await;
    }
    Ok(took)
}
