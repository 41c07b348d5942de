//! `bench controllers`: what the controllers of a cluster are worth, on hollow nodes.
//!
//! A Deployment through its life with the time and the requests of each phase, how soon a lost pod is replaced while a
//! thousand pods a second change, how soon objects with broken owner references go, and what many pods cost in memory. Needs a server with a scheduler and
//! controllers; whose they are does not matter.

mod churn;
mod garbage;
mod life;
mod requests;

use crate::connect::{Call, Server, Target};
use crate::hollow::{AT_ONCE, Kubelets, PREFIX, Work};
use crate::load::{self, Until};
use crate::objects::revision_of;
use crate::process::Meter;
use crate::table::{self, Table};
use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where everything is that the measurement makes, nodes apart.
const NAMESPACE: &str = "bench-controllers";
/// Pods that a hollow node takes.
const PODS_PER_NODE: usize = 110;

/// Options of `bench controllers`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Replicas of the Deployment
    #[arg(long, default_value_t = 10_000)]
    replicas: usize,
    /// Changes of pods a second while lost pods are replaced; 0 leaves it out
    #[arg(long, default_value_t = 1_000)]
    churn: u32,
    /// How long they change, in seconds
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Objects with broken owner references; 0 leaves it out
    #[arg(long, default_value_t = 10_000)]
    garbage: usize,
    /// Pods to measure memory with; 0 leaves it out
    #[arg(long, default_value_t = 0)]
    memory_pods: usize,
    /// Processes of the server and the controllers, to show their CPU time and memory
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    server_pid: Vec<u32>,
    /// How long to wait for a state, in seconds
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

/// A cluster of hollow nodes.
struct Room {
    server: Server,
    meter: Meter,
    patience: Duration,
    nodes: usize,
    _kubelets: Kubelets,
}

/// Measures.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let server = args.target.server()?;
    let nodes = args.replicas.max(1).div_ceil(PODS_PER_NODE) * 5 / 4 + 1;
    let result = tokio::select! {
        result = measure(&args, &server, nodes) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    // Whatever happened, nothing is left behind.
    result.and(clear(&server, nodes).await)
}

async fn measure(args: &Args, server: &Server, nodes: usize) -> anyhow::Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    server.ok(0, Call::new(Method::POST, "/api/v1/namespaces", namespace.to_string())).await?;
    let list = server.ok(0, Call::get("/api/v1/pods?limit=1")).await?;
    let revision = revision_of(&list).context("a list without resourceVersion")?;
    let kubelets = Kubelets::start(server, nodes, &revision, Work::Run).await?;
    make_nodes(server, nodes, &kubelets).await?;
    let meter = Meter::new(args.server_pid.clone())?;
    let room = Room { server: server.clone(), meter, patience: Duration::from_secs(args.timeout), nodes, _kubelets: kubelets };
    if args.replicas > 0 {
        life::measure(&room, args.replicas).await?;
    }
    if args.churn > 0 {
        churn::measure(&room, args.churn, Duration::from_secs(args.seconds)).await?;
    }
    if args.garbage > 0 {
        garbage::measure(&room, args.garbage).await?;
    }
    if args.memory_pods > 0 {
        memory(&room, args.memory_pods).await?;
    }
    Ok(())
}

async fn make_nodes(server: &Server, nodes: usize, kubelets: &Kubelets) -> anyhow::Result<()> {
    for first in (0..nodes).step_by(AT_ONCE) {
        let some = first..nodes.min(first + AT_ONCE);
        let create = some.clone().map(|i| Call::new(Method::POST, "/api/v1/nodes", crate::scheduler::node(i).to_string()));
        all(server, create.collect()).await?;
        // Admission taints new nodes until a controller has seen that they are ready.
        let untaint = some.clone().map(|i| {
            let call = Call::new(Method::PATCH, format!("/api/v1/nodes/{PREFIX}{i}"), json!({"spec": {"taints": null}}).to_string());
            Call { content_type: "application/merge-patch+json", ..call }
        });
        all(server, untaint.collect()).await?;
        kubelets.are_there(some.end);
    }
    Ok(())
}

/// Makes requests, many at once, that must all succeed.
async fn all(server: &Server, calls: Vec<Call>) -> anyhow::Result<()> {
    let (count, server, calls) = (calls.len(), server.clone(), Arc::new(calls));
    let operation = move |worker: usize, serial: usize| {
        let (server, call) = (server.clone(), calls[serial].clone());
        async move { server.ok(worker, call).await.map(|body| body.len()) }
    };
    let made = load::run(64, Until::Count(count), &Meter::default(), operation).await;
    match made.first_error {
        Some(error) => bail!("{} of {count} requests failed, the first one: {error}", made.errors),
        None => Ok(()),
    }
}

/// What pods cost: made on nodes at once, without an owner, so that every controller keeps them and nobody changes them.
async fn memory(room: &Room, count: usize) -> anyhow::Result<()> {
    let before = room.meter.read().context("--server-pid names the processes whose memory is meant")?;
    let pod = |i: usize| {
        let mut pod = life::pod(&json!({"app": "memory"}));
        pod["metadata"]["name"] = format!("memory-{i}").into();
        pod["spec"]["nodeName"] = format!("{PREFIX}{}", i % room.nodes).into();
        Call::new(Method::POST, format!("/api/v1/namespaces/{NAMESPACE}/pods"), pod.to_string())
    };
    let (began, mut made) = (Instant::now(), 0);
    while made < count {
        let next = (made + 10_000).min(count);
        all(&room.server, (made..next).map(pod).collect()).await?;
        made = next;
    }
    // Until the kubelets have said that the last one runs.
    room.until("the last pod to run", async |room| {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/memory-{}", count - 1);
        let pod: Value = serde_json::from_slice(&room.server.ok(0, Call::get(path)).await?)?;
        Ok((pod["status"]["phase"] == "Running").then_some(()))
    })
    .await?;
    let after = room.meter.read().context("a process has gone")?;
    let rows = Table::new(&["memory", "pods", "before", "after", "each", "made in"]);
    rows.row(vec![
        "pods that nothing happens to".to_owned(),
        count.to_string(),
        table::mebibytes(before.resident),
        table::mebibytes(after.resident),
        format!("{} B", after.resident.saturating_sub(before.resident) / count as u64),
        table::time(began.elapsed()),
    ]);
    Ok(())
}

impl Room {
    /// Asks again and again until there is an answer.
    async fn until<T>(&self, what: &str, mut ask: impl AsyncFnMut(&Self) -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(answer) = ask(self).await? {
                return Ok(answer);
            }
            if Instant::now() > deadline {
                bail!("waited {:?} in vain for {what}", self.patience);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Deletes all that was made.
async fn clear(server: &Server, nodes: usize) -> anyhow::Result<()> {
    let delete = |path: String| Call::new(Method::DELETE, path, Bytes::new());
    let namespaced = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments");
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods?gracePeriodSeconds=0");
    let leases = |i: usize| format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{PREFIX}{i}");
    let mut paths =
        vec![namespaced, pods, format!("/api/v1/namespaces/{NAMESPACE}"), "/api/v1/nodes?labelSelector=ferrokube-bench".to_owned()];
    paths.extend((0..nodes).map(leases));
    for path in paths {
        let (status, body) = server.call(0, delete(path.clone())).await?;
        if !status.is_success() && status != StatusCode::NOT_FOUND {
            eprintln!("deleting {path}: {status}: {}", String::from_utf8_lossy(&body));
        }
    }
    Ok(())
}
