//! Workloads against a server and whatever scheduler it has: objects are created, hollow nodes take the pods up, and what
//! counts is the time from the create request of a pod until a watch shows it on a node.

use super::play::{Ground, Play};
use super::script::{Act, Workload};
use super::{Args, rows};
use crate::connect::{Call, Server};
use crate::hollow::{Kubelets, PREFIX, Work};
use crate::objects::revision_of;
use crate::process::Meter;
use crate::table::Table;
use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Collections that a workload may leave something in, beside its namespaces. Names of what is ours begin with `bench-`.
const CLUSTER_WIDE: [(&str, &str); 5] = [
    ("persistentvolumes", "/api/v1/persistentvolumes"),
    ("csinodes", "/apis/storage.k8s.io/v1/csinodes"),
    ("resourceslices", "/apis/resource.k8s.io/v1/resourceslices"),
    ("deviceclasses", "/apis/resource.k8s.io/v1/deviceclasses"),
    ("priorityclasses", "/apis/scheduling.k8s.io/v1/priorityclasses"),
];

/// How often it is asked whether something is gone.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Measures.
pub(super) async fn run(args: &Args, workloads: &[Workload]) -> anyhow::Result<()> {
    let server = args.target.server()?;
    let table = rows::table("workload (server, hollow nodes)");
    for workload in workloads {
        if workload.configuration.is_some() {
            eprintln!("{}: left out, it wants its own configuration of the scheduler", workload.name);
            continue;
        }
        let scene = Scene { args, server: server.clone(), workload };
        let result = tokio::select! {
            result = scene.measure(&table) => result,
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
    workload: &'a Workload,
}

impl Scene<'_> {
    fn namespaces(&self) -> Vec<String> {
        (self.workload.namespaces)().into_iter().map(|(name, _)| name).collect()
    }

    async fn measure(&self, table: &Table) -> anyhow::Result<()> {
        let list = self.server.ok(0, Call::get("/api/v1/pods?limit=1")).await?;
        let revision = revision_of(&list).context("a list without resourceVersion")?;
        let work = if self.args.run_pods { Work::Run } else { Work::Watch };
        let mut kubelets = Kubelets::start(&self.server, self.workload.nodes(), &revision, work).await?;
        let seen = kubelets.pods.take().context("the pods are seen once")?;
        let are_there = |nodes| kubelets.are_there(nodes);
        let meter = Meter::new(self.args.server_pid.clone())?;
        let ground = Ground::Server(self.server.clone());
        let limits = (self.args.concurrency, Duration::from_secs(self.args.timeout));
        let outcome = Play::new(ground, self.workload, limits, seen, meter, &are_there).play().await;
        rows::row(table, self.workload, &outcome?);
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
            calls.extend(self.let_go(&namespace).await?);
            calls.push(delete(format!("/api/v1/namespaces/{namespace}")));
        }
        calls.push(delete("/api/v1/nodes?labelSelector=ferrokube-bench".to_owned()));
        let names: BTreeSet<String> = (0..self.workload.nodes()).map(|i| format!("{PREFIX}{i}")).collect();
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        calls.extend(names.iter().map(|n| delete(format!("{leases}/{n}"))));
        let used = self.collections();
        for (_, path) in CLUSTER_WIDE.iter().filter(|(resource, _)| used.contains(*resource)) {
            let list = self.server.ok(0, Call::get(*path)).await?;
            let list: Value = serde_json::from_slice(&list)?;
            let ours = |name: &&str| name.starts_with(PREFIX) || name.starts_with("bench-") || *name == "bench";
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

    /// Takes the finalizers off pods that were given some: nobody else will.
    async fn let_go(&self, namespace: &str) -> anyhow::Result<Vec<Call>> {
        let list = self.server.ok(0, Call::get(format!("/api/v1/namespaces/{namespace}/pods"))).await?;
        let list: Value = serde_json::from_slice(&list)?;
        let kept = list["items"].as_array().into_iter().flatten().filter(|pod| pod["metadata"]["finalizers"].is_array());
        let free = |name: &str| Call {
            content_type: "application/merge-patch+json",
            ..Call::new(Method::PATCH, format!("/api/v1/namespaces/{namespace}/pods/{name}"), r#"{"metadata":{"finalizers":null}}"#)
        };
        Ok(kept.filter_map(|pod| pod["metadata"]["name"].as_str()).map(free).collect())
    }

    /// The resources of all that the workload makes beside nodes and pods.
    fn collections(&self) -> BTreeSet<String> {
        let with = |act: &Act| match act {
            Act::Nodes { of, with, .. } => with(&of(0)),
            Act::Pods(pods) => (pods.with)(&(pods.of)(0)),
            _ => Vec::new(),
        };
        let beside = self.workload.acts.iter().flat_map(with);
        let paths = self.workload.things().chain(beside).map(|(path, _)| path);
        paths.filter_map(|path| path.rsplit('/').next().map(str::to_owned)).collect()
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
