//! What the pipeline itself costs: requests of callers in the same process, on a durable store in a folder of its own.
//! `cargo run --release -p ferrokube-apiserver --example inprocess -- <folder> [objects] [only]`; `only` is a part of the names of the
//! rows to run.

#[path = "../tests/common/pki.rs"]
mod pki;

/// As the binary has it: allocation is a good part of what a request costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use bytes::Bytes;
use ferrokube_apiserver::{ApiServer, UserInfo};
use ferrokube_store::embedded::{Embedded, Options};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

struct Load {
    server: Arc<ApiServer>,
    user: UserInfo,
    only: String,
}

impl Load {
    async fn send(&self, method: &str, uri: &str, media: &str, body: Bytes) -> usize {
        let request = http::Request::builder().method(method).uri(uri).header("content-type", media).body(body).expect("a request");
        let response = self.server.call(self.user.clone(), request).await;
        assert!(response.status().is_success(), "{method} {uri}: {}", response.status());
        response.into_body().collect().await.map_or(0, |body| body.len())
    }

    /// Runs `count` requests, `width` at a time, and prints the rate and the quantiles of their time.
    async fn run(
        self: &Arc<Self>,
        name: &str,
        count: usize,
        width: usize,
        make: impl Fn(usize) -> (&'static str, String, &'static str, Value),
    ) {
        if !name.contains(&self.only) {
            return;
        }
        let started = Instant::now();
        let requests = (0..count).map(|n| {
            let (method, uri, media, body) = make(n);
            let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
            let load = self.clone();
            async move {
                let task = tokio::spawn(async move {
                    let began = Instant::now();
                    load.send(method, &uri, media, body).await;
                    began.elapsed()
                });
                task.await.expect("a request that ends")
            }
        });
        let mut times: Vec<Duration> = stream::iter(requests).buffer_unordered(width).collect().await;
        let took = started.elapsed();
        times.sort();
        let at = |q: usize| times[(times.len() - 1) * q / 100];
        println!("{name:42} {:>8.0}/s   p50 {:>9.1?}  p99 {:>9.1?}", count as f64 / took.as_secs_f64(), at(50), at(99));
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse().ok());
    line.unwrap_or(0) / 1024
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "load", "tier": "x"}}, "spec": {"containers": [{"name": "c", "image": "registry.example/load:1",
        "env": [{"name": "A", "value": "x".repeat(600)}], "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}]}})
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = std::path::PathBuf::from(arguments.next().unwrap_or_else(|| "/tmp/ferrokube-inprocess".to_owned()));
    let objects: usize = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let only = arguments.next().unwrap_or_default();
    let started = Instant::now();
    let store = Arc::new(Embedded::open(&folder, Options::default())?);
    let running = ApiServer::start(pki::Pki::make()?.config(store)).await?;
    println!("start {:?}, resident {} MiB", started.elapsed(), resident());
    let user = UserInfo::component("kubernetes-admin", &["system:masters"]);
    let load = Arc::new(Load { server: running.server.clone(), user, only });
    let request = http::Request::post("/api/v1/namespaces/default/serviceaccounts").header("content-type", "application/json");
    load.server.call(load.user.clone(), request.body(r#"{"metadata":{"name":"default"}}"#.into())?).await;
    const JSON: &str = "application/json";
    const MERGE: &str = "application/merge-patch+json";
    let data = "x".repeat(1000);
    for width in [1, 16, 64, 256] {
        let count = if width == 1 { 500 } else { 5000 };
        load.run(&format!("create ConfigMap 1 KiB at {width}"), count, width, |n| {
            ("POST", MAPS.to_owned(), JSON, json!({"metadata": {"name": format!("m-{width}-{n}")}, "data": {"k": data}}))
        })
        .await;
    }
    load.run("get at 64", 50_000, 64, |n| ("GET", format!("{MAPS}/m-256-{}", n % 5000), JSON, Value::Null)).await;
    load.run("merge patch at 64", 5000, 64, |n| ("PATCH", format!("{MAPS}/m-64-{n}"), MERGE, json!({"data": {"k": n.to_string()}}))).await;
    load.run("apply at 64", 5000, 64, |n| {
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m-16-{n}")}, "data": {"a": n.to_string()}});
        ("PATCH", format!("{MAPS}/m-16-{n}?fieldManager=load&force=true"), "application/apply-patch+yaml", object)
    })
    .await;
    load.run("create Pod at 64", objects, 64, |n| ("POST", PODS.to_owned(), JSON, pod(&format!("p{n}")))).await;
    println!("{objects} pods: resident {} MiB", resident());
    let marked = |n: usize, round: usize| {
        let mut pod = pod(&format!("p{n}"));
        pod["metadata"]["labels"]["mark"] = json!(round.to_string());
        pod
    };
    let changed = |n: usize| ("PATCH", format!("{PODS}/p{n}"), "application/strategic-merge-patch+json", marked(n, 1));
    load.run("create Pod, then strategic patch at 64", objects, 64, changed).await;
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": null}]}});
    load.run("create Pod, then patch status at 64", objects, 64, |n| {
        ("PATCH", format!("{PODS}/p{n}/status"), "application/strategic-merge-patch+json", status.clone())
    })
    .await;
    let lease = |n: usize, round: usize| {
        json!({"metadata": {"name": format!("l{n}")}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 40,
            "renewTime": format!("2026-01-01T00:00:00.{round:06}Z")}})
    };
    load.run("create Lease at 64", 2000, 64, |n| ("PUT", format!("{LEASES}/l{n}"), JSON, lease(n, 0))).await;
    load.run("create Lease, then patch at 64", 2000, 64, |n| ("PATCH", format!("{LEASES}/l{n}"), MERGE, lease(n, 1))).await;
    for (name, uri) in [
        ("list", PODS.to_owned()),
        ("list by label", format!("{PODS}?labelSelector=app%3Dload")),
        ("list by node", format!("{PODS}?fieldSelector=spec.nodeName%3Dx")),
    ] {
        let began = Instant::now();
        let bytes = load.send("GET", &uri, JSON, Bytes::new()).await;
        println!("{name}: {bytes} bytes in {:?}", began.elapsed());
    }
    load.run("delete at 64", 5000, 64, |n| ("DELETE", format!("{MAPS}/m-256-{n}"), JSON, Value::Null)).await;
    let began = Instant::now();
    load.send("DELETE", PODS, JSON, Bytes::new()).await;
    println!("delete collection of {objects} pods: {:?}, resident {} MiB", began.elapsed(), resident());
    running.stop().await;
    Ok(())
}
