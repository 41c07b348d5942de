//! `bench pods`: real pods on a running cluster, from the create request to Ready and from the delete request to gone.

use crate::api::Room;
use crate::connect::{Call, Server, Target};
use crate::objects::{Subject, revision_of};
use crate::process::Meter;
use crate::table::{self, Table};
use anyhow::{Context, bail};
use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Options of `bench pods`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Image of the pods' container; it should be on the nodes already
    #[arg(long)]
    image: String,
    /// Command of the container, instead of the image's own
    #[arg(long, num_args = 1.., value_name = "WORD", allow_hyphen_values = true)]
    command: Vec<String>,
    /// Put the pods on this node without a scheduler
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Pods that are started one after the other
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// Pods that are started at once
    #[arg(long, default_value_t = 50)]
    burst: usize,
    /// How long to wait for any of it, in seconds
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

/// What a watch told of a pod, and when.
#[derive(Debug)]
struct Seen {
    at: Instant,
    name: String,
    what: Moment,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Moment {
    Created,
    Scheduled,
    Ready,
    Gone,
    /// The container can't start; the reason is the kubelet's.
    Stuck(String),
    /// The watch can't go on.
    Lost(String),
}

/// Measures.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let room = Room::new(args.target.server()?, Meter::default()).await?;
    let result = tokio::select! {
        result = measure(&args, &room) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let left = room.leave().await;
    result.and(left)
}

async fn measure(args: &Args, room: &Room) -> anyhow::Result<()> {
    let patience = Duration::from_secs(args.timeout);
    let mut events = watch(&room.server, &Subject::Pod.path(&room.namespace)).await?;
    let rows = Table::new(&["pods", "count", "p50", "p99", "longest"]);
    let mut ready = Vec::new();
    let mut gone = Vec::new();
    for n in 0..args.runs {
        let names = vec![format!("one-{n}")];
        ready.extend(start(args, room, &names, &mut events, patience).await?);
        gone.extend(stop(room, &names, &mut events, patience).await?);
    }
    show(&rows, "one by one: create to Ready", &mut ready);
    show(&rows, "one by one: delete to gone", &mut gone);
    if args.burst > 0 {
        let names: Vec<String> = (0..args.burst).map(|n| format!("burst-{n}")).collect();
        show(&rows, &format!("{} at once: create to Ready", args.burst), &mut start(args, room, &names, &mut events, patience).await?);
        show(&rows, &format!("{} at once: delete to gone", args.burst), &mut stop(room, &names, &mut events, patience).await?);
    }
    Ok(())
}

fn show(rows: &Table, what: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let cells = [table::quantile(took, 0.5), table::quantile(took, 0.99), took.last().copied().unwrap_or_default()];
    rows.row([what.to_owned(), took.len().to_string()].into_iter().chain(cells.map(table::time)).collect());
}

/// The pod of a name.
fn pod(args: &Args, name: &str) -> serde_json::Value {
    let mut container = serde_json::json!({"name": "main", "image": args.image, "imagePullPolicy": "IfNotPresent"});
    if !args.command.is_empty() {
        container["command"] = args.command.clone().into();
    }
    let mut spec = serde_json::json!({"containers": [container], "terminationGracePeriodSeconds": 1});
    if let Some(node) = &args.node {
        spec["nodeName"] = node.clone().into();
    }
    serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}}, "spec": spec})
}

/// Creates pods at once; how long each took from the first request until it was Ready.
async fn start(
    args: &Args,
    room: &Room,
    names: &[String],
    events: &mut mpsc::Receiver<Seen>,
    patience: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let path = Subject::Pod.path(&room.namespace);
    let at = Instant::now();
    let requests = names.iter().enumerate().map(|(lane, name)| {
        let body = pod(args, name).to_string();
        room.server.ok(lane, Call::new(Method::POST, path.as_str(), body))
    });
    futures_util::future::try_join_all(requests).await?;
    wait(names, &Moment::Ready, at, events, patience).await
}

/// Deletes pods at once; how long each took from the first request until it was gone.
async fn stop(room: &Room, names: &[String], events: &mut mpsc::Receiver<Seen>, patience: Duration) -> anyhow::Result<Vec<Duration>> {
    let path = Subject::Pod.path(&room.namespace);
    let at = Instant::now();
    let requests = names
        .iter()
        .enumerate()
        .map(|(lane, name)| room.server.ok(lane, Call::new(Method::DELETE, format!("{path}/{name}"), Bytes::new())));
    futures_util::future::try_join_all(requests).await?;
    wait(names, &Moment::Gone, at, events, patience).await
}

/// Waits until each of `names` has come to a moment.
async fn wait(
    names: &[String],
    what: &Moment,
    since: Instant,
    events: &mut mpsc::Receiver<Seen>,
    patience: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let mut open: HashMap<&str, Moment> = names.iter().map(|n| (n.as_str(), Moment::Created)).collect();
    let mut took = Vec::new();
    let deadline = tokio::time::Instant::from_std(since + patience);
    while !open.is_empty() {
        let seen = match tokio::time::timeout_at(deadline, events.recv()).await {
            Ok(seen) => seen.context("the watch of pods has ended")?,
            Err(_) => bail!("after {patience:?} these pods are not {what:?}: {open:?}"),
        };
        match seen.what {
            Moment::Lost(why) => bail!("the watch of pods failed: {why}"),
            moment if moment == *what => {
                if open.remove(seen.name.as_str()).is_some() {
                    took.push(seen.at.duration_since(since));
                }
            }
            moment => {
                if let Some(last) = open.get_mut(seen.name.as_str()) {
                    *last = moment;
                }
            }
        }
    }
    Ok(took)
}

/// Follows the pods of a namespace.
async fn watch(server: &Server, path: &str) -> anyhow::Result<mpsc::Receiver<Seen>> {
    let list = server.ok(0, Call::get(path)).await?;
    let revision = revision_of(&list).context("a list without resourceVersion")?;
    let mut lines = server.again(1)?.lines(0, &format!("{path}?watch=1&resourceVersion={revision}")).await?;
    let (sender, events) = mpsc::channel(4096);
    tokio::spawn(async move {
        loop {
            let mut batch = Vec::new();
            let more = lines.next(|line| batch.extend(moment(line))).await;
            for seen in batch {
                if sender.send(seen).await.is_err() {
                    return;
                }
            }
            let end = match more {
                Ok(true) => continue,
                Ok(false) => "the server closed it".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            // The receiver may have gone as well.
            let _ = sender.send(Seen { at: Instant::now(), name: String::new(), what: Moment::Lost(end) }).await;
            return;
        }
    });
    Ok(events)
}

#[derive(Deserialize)]
struct Event {
    r#type: String,
    object: serde_json::Value,
}

/// What a line of the watch says, if it is something that is waited for.
fn moment(line: &[u8]) -> Option<Seen> {
    let at = Instant::now();
    let event: Event = serde_json::from_slice(line).ok()?;
    let name = event.object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let holds = |kind: &str| {
        let conditions = event.object["status"]["conditions"].as_array();
        conditions.is_some_and(|c| c.iter().any(|c| c["type"] == kind && c["status"] == "True"))
    };
    let waiting = event.object["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].as_str();
    let what = match event.r#type.as_str() {
        "DELETED" => Moment::Gone,
        "ERROR" => Moment::Lost(String::from_utf8_lossy(line).into_owned()),
        _ if holds("Ready") => Moment::Ready,
        _ => match waiting {
            Some(reason) if reason != "ContainerCreating" && reason != "PodInitializing" => Moment::Stuck(reason.to_owned()),
            _ if holds("PodScheduled") => Moment::Scheduled,
            _ => return None,
        },
    };
    Some(Seen { at, name, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_line_tells_the_moment() {
        let line = |kind: &str, status: &str| format!(r#"{{"type":"{kind}","object":{{"metadata":{{"name":"p"}},"status":{status}}}}}"#);
        let ready = r#"{"conditions":[{"type":"PodScheduled","status":"True"},{"type":"Ready","status":"True"}]}"#;
        let stuck = r#"{"containerStatuses":[{"state":{"waiting":{"reason":"ErrImagePull"}}}]}"#;
        let table = [
            ("MODIFIED", ready, Some(Moment::Ready)),
            ("DELETED", ready, Some(Moment::Gone)),
            ("MODIFIED", stuck, Some(Moment::Stuck("ErrImagePull".into()))),
            ("MODIFIED", r#"{"conditions":[{"type":"PodScheduled","status":"True"}]}"#, Some(Moment::Scheduled)),
            ("ADDED", "{}", None),
        ];
        for (kind, status, want) in table {
            let seen = moment(line(kind, status).as_bytes());
            assert_eq!(seen.as_ref().map(|s| s.what.clone()), want, "{kind} {status}");
            assert!(seen.is_none_or(|s| s.name == "p"));
        }
    }
}
