//! Workloads against a server and whatever scheduler it has: objects are created, hollow nodes take the pods up, and what
//! counts is the time from the create request of a pod until a watch shows it on a node.

use super::Args;
use super::workloads::{Thing, Workload};
use crate::connect::{Call, Server};
use crate::hollow::{AT_ONCE, Bound, Kubelets, PREFIX, Work};
use crate::load::{self, Until};
use crate::objects::revision_of;
use crate::process::Meter;
use crate::table::{self, Table};
use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Collections that a workload may leave something in, beside its namespaces.
const CLUSTER_WIDE: [&str; 2] = ["/api/v1/persistentvolumes", "/apis/storage.k8s.io/v1/csinodes"];

/// How often it is asked whether something is gone.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Measures.
pub(super) async fn run(args: &Args, workloads: &[Workload]) -> anyhow::Result<()> {
    let server = args.target.server()?;
    let rows = Table::new(&[
        "workload (server, hollow nodes)",
        "nodes",
        "before",
        "pods",
        "pods/s",
        "p50",
        "p99",
        "threshold",
        "CPU each",
        "memory",
    ]);
    for workload in workloads {
        let scene = Scene { args, server: server.clone(), workload: *workload };
        let result = tokio::select! {
            result = scene.measure(&rows) => result,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        };
        // Whatever happened, nothing is left behind.
        let cleared = scene.clear().await;
        result.and(cleared).with_context(|| workload.name)?;
    }
    Ok(())
}

struct Scene<'a> {
    args: &'a Args,
    server: Server,
    workload: Workload,
}

/// Admission taints new nodes until a controller has seen that they are ready; there may be none.
fn untainted(node: &Value) -> Call {
    let path = format!("/api/v1/nodes/{}", node["metadata"]["name"].as_str().unwrap_or_default());
    let patch = serde_json::json!({"spec": {"taints": node["spec"]["taints"]}});
    Call { content_type: "application/merge-patch+json", ..Call::new(Method::PATCH, path, patch.to_string()) }
}

impl Scene<'_> {
    fn namespaces(&self) -> Vec<String> {
        (self.workload.namespaces)().into_iter().map(|(name, _)| name).collect()
    }

    async fn measure(&self, rows: &Table) -> anyhow::Result<()> {
        let workload = self.workload;
        let list = self.server.ok(0, Call::get("/api/v1/pods?limit=1")).await?;
        let revision = revision_of(&list).context("a list without resourceVersion")?;
        let mut kubelets = Kubelets::start(&self.server, workload.nodes, &revision, self.work()).await?;
        self.prepare(&kubelets).await?;
        self.create_pods((0..workload.init).map(workload.init_pod).collect()).await?;
        if workload.init_placed {
            self.wait(&mut kubelets, workload.init, &mut HashMap::new()).await?;
        }
        let pods: Vec<Value> = (0..workload.pods).map(workload.pod).collect();
        let meter = Meter::new(self.args.server_pid.clone())?;
        let (began, before) = (Instant::now(), meter.read());
        let sent = self.create_pods(pods).await?;
        let mut bound = HashMap::new();
        self.wait(&mut kubelets, workload.pods, &mut bound).await?;
        let after = meter.read();
        let cpu =
            before.as_ref().zip(after.as_ref()).map(|(a, b)| (b.cpu - a.cpu) / u32::try_from(workload.pods.max(1)).unwrap_or(u32::MAX));
        let mut took = Vec::with_capacity(bound.len());
        for (key, at) in &sent {
            took.extend(bound.get(key).map(|seen: &Instant| seen.duration_since(*at)));
        }
        took.sort_unstable();
        let elapsed = bound.values().max().map_or(Duration::ZERO, |last| last.duration_since(began));
        rows.row(vec![
            workload.name.to_owned(),
            workload.nodes.to_string(),
            workload.init.to_string(),
            workload.pods.to_string(),
            table::rate(took.len(), elapsed),
            table::time(table::quantile(&took, 0.5)),
            table::time(table::quantile(&took, 0.99)),
            table::known(workload.threshold.map(|t| t.to_string())),
            table::known(cpu.map(table::time)),
            table::known(after.map(|u| table::mebibytes(u.resident))),
        ]);
        Ok(())
    }

    fn work(&self) -> Work {
        if self.args.run_pods { Work::Run } else { Work::Watch }
    }

    /// Everything but pods.
    async fn prepare(&self, kubelets: &Kubelets) -> anyhow::Result<()> {
        let workload = self.workload;
        let mut first: Vec<Thing> = Vec::new();
        for (name, labels) in (workload.namespaces)() {
            let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
            first.push(("/api/v1/namespaces".to_owned(), namespace));
        }
        self.create(first).await?;
        let account = serde_json::json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let accounts = self.namespaces().into_iter().map(|n| (format!("/api/v1/namespaces/{n}/serviceaccounts"), account.clone()));
        self.create(accounts.chain((workload.things)()).collect()).await?;
        let nodes: Vec<Value> = (0..workload.nodes).map(workload.node).collect();
        for (at, some) in nodes.chunks(AT_ONCE).enumerate() {
            self.create(some.iter().map(|n| ("/api/v1/nodes".to_owned(), n.clone())).collect()).await?;
            self.create(some.iter().flat_map(workload.with_node).collect()).await?;
            self.send(some.iter().map(untainted).collect(), false).await?;
            kubelets.are_there(at * AT_ONCE + some.len());
        }
        Ok(())
    }

    async fn create(&self, things: Vec<Thing>) -> anyhow::Result<()> {
        let calls = things.into_iter().map(|(path, object)| Call::new(Method::POST, path, object.to_string()));
        self.send(calls.collect(), true).await.map(drop)
    }

    /// Creates pods with what belongs to them; when each was sent, by namespace and name.
    async fn create_pods(&self, pods: Vec<Value>) -> anyhow::Result<Vec<(Key, Instant)>> {
        self.create(pods.iter().flat_map(self.workload.with_pod).collect()).await?;
        let text = |pod: &Value, field: &str| Box::from(pod["metadata"][field].as_str().unwrap_or_default());
        let keys: Vec<Key> = pods.iter().map(|p| (text(p, "namespace"), text(p, "name"))).collect();
        let calls = pods
            .into_iter()
            .zip(&keys)
            .map(|(pod, (namespace, _))| Call::new(Method::POST, format!("/api/v1/namespaces/{namespace}/pods"), pod.to_string()));
        let sent = self.send(calls.collect(), false).await?;
        Ok(keys.into_iter().zip(sent).collect())
    }

    /// Makes requests, some at once; when each was sent. `known`: what is there already is as good.
    async fn send(&self, calls: Vec<Call>, known: bool) -> anyhow::Result<Vec<Instant>> {
        let count = calls.len();
        let calls: Arc<Vec<Mutex<Option<Call>>>> = Arc::new(calls.into_iter().map(|c| Mutex::new(Some(c))).collect());
        let sent: Arc<Mutex<Vec<Option<Instant>>>> = Arc::new(Mutex::new(vec![None; count]));
        let (server, times) = (self.server.clone(), sent.clone());
        let operation = move |worker: usize, serial: usize| {
            let (server, times, calls) = (server.clone(), times.clone(), calls.clone());
            async move {
                let call = calls[serial].lock().unwrap_or_else(PoisonError::into_inner).take().context("each call is made once")?;
                times.lock().unwrap_or_else(PoisonError::into_inner)[serial] = Some(Instant::now());
                let what = format!("{} {}", call.method, call.path);
                let (status, body) = server.call(worker, call).await?;
                if !status.is_success() && !(known && status == StatusCode::CONFLICT) {
                    bail!("{what}: {status}: {}", String::from_utf8_lossy(&body));
                }
                Ok(body.len())
            }
        };
        let made = load::run(self.args.concurrency, Until::Count(count), &Meter::default(), operation).await;
        if let Some(error) = made.first_error {
            bail!("{} of {count} requests failed, the first one: {error}", made.errors);
        }
        let sent = std::mem::take(&mut *sent.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(sent.into_iter().flatten().collect())
    }

    /// Waits until so many pods more are on nodes.
    async fn wait(&self, kubelets: &mut Kubelets, count: usize, bound: &mut HashMap<Key, Instant>) -> anyhow::Result<()> {
        let patience = Duration::from_secs(self.args.timeout);
        let mut open = count;
        while open > 0 {
            let next = tokio::time::timeout(patience, kubelets.bound.recv()).await;
            let Ok(seen) = next else { bail!("no pod was bound for {patience:?}; {open} of {count} are not") };
            let Bound { namespace, name, at } = seen.context("the watch of pods has ended")?;
            if bound.insert((namespace, name), at).is_none() {
                open -= 1;
            }
        }
        Ok(())
    }

    /// Deletes all that was made.
    async fn clear(&self) -> anyhow::Result<()> {
        let delete = |path: String| Call::new(Method::DELETE, path, Bytes::new());
        let mut calls = Vec::new();
        for namespace in self.namespaces() {
            for collection in ["pods", "persistentvolumeclaims", "services"] {
                calls.push(delete(format!("/api/v1/namespaces/{namespace}/{collection}")));
            }
            calls.push(delete(format!("/api/v1/namespaces/{namespace}")));
        }
        calls.push(delete("/api/v1/nodes?labelSelector=ferrokube-bench".to_owned()));
        let names: BTreeSet<String> = (0..self.workload.nodes).map(|i| format!("{PREFIX}{i}")).collect();
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        calls.extend(names.iter().map(|n| delete(format!("{leases}/{n}"))));
        calls.extend(
            (self.workload.things)()
                .iter()
                .filter(|(p, _)| p.ends_with("priorityclasses"))
                .map(|(path, thing)| delete(format!("{path}/{}", thing["metadata"]["name"].as_str().unwrap_or_default()))),
        );
        let uses = |path: &str| {
            let node = (self.workload.node)(0);
            let things = (self.workload.with_node)(&node).into_iter().chain((self.workload.with_pod)(&(self.workload.pod)(0)));
            things.into_iter().any(|(p, _)| p == path)
        };
        for path in CLUSTER_WIDE.iter().filter(|path| uses(path)) {
            let list = self.server.ok(0, Call::get(*path)).await?;
            let list: Value = serde_json::from_slice(&list)?;
            let ours = |name: &&str| name.starts_with(PREFIX) || name.starts_with("bench-");
            let items = list["items"].as_array().into_iter().flatten();
            calls.extend(items.filter_map(|i| i["metadata"]["name"].as_str()).filter(ours).map(|n| delete(format!("{path}/{n}"))));
        }
        for call in calls {
            let what = call.path.clone();
            let (status, body) = self.server.call(0, call).await?;
            if !status.is_success() && status != StatusCode::NOT_FOUND {
                eprintln!("deleting {what}: {status}: {}", String::from_utf8_lossy(&body));
            }
        }
        self.wait_until_gone().await
    }

    /// Namespaces end in their own time, and the next workload wants the same ones.
    async fn wait_until_gone(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(self.args.timeout);
        for namespace in self.namespaces() {
            while self.server.call(0, Call::get(format!("/api/v1/namespaces/{namespace}"))).await?.0 != StatusCode::NOT_FOUND {
                if Instant::now() > deadline {
                    bail!("namespace {namespace} is still there after {} seconds", self.args.timeout);
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }
}

/// Namespace and name.
type Key = (Box<str>, Box<str>);
