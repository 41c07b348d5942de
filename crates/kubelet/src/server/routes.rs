//! One table: path to handler.

use super::{Answer, full, logs, metrics, proxy, stats, text};
use crate::node::Shared;
use crate::runtime::Container;
use ferrokube_cri::v1 as cri;
use http::{Request, Response};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashMap;
use std::sync::Arc;

/// The query of a request; a key may come several times.
pub struct Query(Vec<(String, String)>);

impl Query {
    fn of(request: &Request<Incoming>) -> Self {
        let pairs = request.uri().query().unwrap_or_default().split('&').filter(|p| !p.is_empty());
        Query(pairs.map(|p| p.split_once('=').unwrap_or((p, ""))).map(|(k, v)| (decoded(k), decoded(v))).collect())
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// All values of a key.
    pub fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect()
    }

    /// Whether a key says yes, under any of its names.
    pub fn flag(&self, keys: &[&str]) -> bool {
        keys.iter().any(|k| matches!(self.get(k), Some("1" | "true")))
    }
}

/// Percent-decoding, with `+` as a space.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let plain = match byte {
            b'+' => b' ',
            b'%' => {
                let hex: Vec<u8> = rest.by_ref().take(2).collect();
                std::str::from_utf8(&hex).ok().and_then(|h| u8::from_str_radix(h, 16).ok()).unwrap_or(b'%')
            }
            other => other,
        };
        bytes.push(plain);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Answers a request that is authorized.
pub async fn route(request: Request<Incoming>, node: Arc<Shared>) -> Answer {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let query = Query::of(&request);
    match parts.as_slice() {
        ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] => text(200, "ok"),
        ["metrics"] => metrics::kubelet(&node).await,
        ["metrics", "resource"] => metrics::resource(&node).await,
        ["metrics", "cadvisor"] => metrics::cadvisor(&node).await,
        ["metrics", "probes"] => metrics::probes(&node),
        ["metrics", "slis"] => text(200, ""),
        ["stats", "summary"] => stats::summary(&node).await,
        ["pods"] => pods(&node),
        ["containerLogs", namespace, pod, container] => logs::serve(&node, namespace, pod, container, &query).await,
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            exec(request, &node, namespace, pod, container, &query).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            attach(request, &node, namespace, pod, container, &query).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => port_forward(request, &node, namespace, pod, &query).await,
        ["run", namespace, pod, container] => run(&node, namespace, pod, container, &query).await,
        _ => text(404, "404 page not found\n"),
    }
}

fn pods(node: &Shared) -> Answer {
    let pods: Vec<Arc<Pod>> = node.pods.lock().values().cloned().collect();
    let items: Vec<&Pod> = pods.iter().map(Arc::as_ref).collect();
    let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    let answer = Response::builder().header(http::header::CONTENT_TYPE, "application/json").body(full(list.to_string()));
    answer.expect("constant headers are valid")
}

/// The running instance of a container, or the answer that says why there is none.
async fn running(node: &Shared, namespace: &str, pod: &str, container: &str) -> Result<Container, Answer> {
    let found = node.pod(namespace, pod).ok_or_else(|| text(404, format!("pod does not exist: {namespace}/{pod}")))?;
    let observed =
        node.cri.observe(found.metadata.uid.as_deref().unwrap_or_default()).await.map_err(|e| text(500, e.message().to_owned()))?;
    let instance = observed.latest(container).filter(|c| c.running()).cloned();
    instance.ok_or_else(|| text(500, format!("container not found ({container:?})")))
}

async fn exec(request: Request<Incoming>, node: &Shared, namespace: &str, pod: &str, container: &str, query: &Query) -> Answer {
    let target = match running(node, namespace, pod, container).await {
        Ok(target) => target,
        Err(answer) => return answer,
    };
    let tty = query.flag(&["tty"]);
    let wanted = cri::ExecRequest {
        container_id: target.status.id,
        cmd: query.all("command"),
        tty,
        stdin: query.flag(&["input", "stdin"]),
        stdout: query.flag(&["output", "stdout"]),
        stderr: !tty && query.flag(&["error", "stderr"]),
    };
    match node.cri.runtime.clone().exec(wanted).await {
        Ok(answer) => proxy::pass(request, &answer.into_inner().url).await,
        Err(e) => text(500, e.message().to_owned()),
    }
}

async fn attach(request: Request<Incoming>, node: &Shared, namespace: &str, pod: &str, container: &str, query: &Query) -> Answer {
    let target = match running(node, namespace, pod, container).await {
        Ok(target) => target,
        Err(answer) => return answer,
    };
    let spec = node.pod(namespace, pod).map(|p| crate::pod::spec::containers_of(&p)).unwrap_or_default();
    let tty = spec.iter().find(|s| s.name == container).and_then(|s| s.fields.tty).unwrap_or(false);
    let wanted = cri::AttachRequest {
        container_id: target.status.id,
        tty,
        stdin: query.flag(&["input", "stdin"]),
        stdout: query.flag(&["output", "stdout"]),
        stderr: !tty && query.flag(&["error", "stderr"]),
    };
    match node.cri.runtime.clone().attach(wanted).await {
        Ok(answer) => proxy::pass(request, &answer.into_inner().url).await,
        Err(e) => text(500, e.message().to_owned()),
    }
}

async fn port_forward(request: Request<Incoming>, node: &Shared, namespace: &str, pod: &str, query: &Query) -> Answer {
    let Some(found) = node.pod(namespace, pod) else { return text(404, format!("pod does not exist: {namespace}/{pod}")) };
    let observed = match node.cri.observe(found.metadata.uid.as_deref().unwrap_or_default()).await {
        Ok(observed) => observed,
        Err(e) => return text(500, e.message().to_owned()),
    };
    let Some(sandbox) = observed.ready_sandbox() else { return text(500, format!("pod not found ({pod:?})")) };
    let ports = query.all("port").into_iter().chain(query.all("ports")).flat_map(|p| p.split(',').map(str::to_owned).collect::<Vec<_>>());
    let wanted = cri::PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port: ports.filter_map(|p| p.parse().ok()).collect() };
    match node.cri.runtime.clone().port_forward(wanted).await {
        Ok(answer) => proxy::pass(request, &answer.into_inner().url).await,
        Err(e) => text(500, e.message().to_owned()),
    }
}

async fn run(node: &Shared, namespace: &str, pod: &str, container: &str, query: &Query) -> Answer {
    let target = match running(node, namespace, pod, container).await {
        Ok(target) => target,
        Err(answer) => return answer,
    };
    let cmd = query.get("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
    let wanted = cri::ExecSyncRequest { container_id: target.status.id, cmd, timeout: 0 };
    match node.cri.runtime.clone().exec_sync(wanted).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            text(if answer.exit_code == 0 { 200 } else { 500 }, [answer.stdout, answer.stderr].concat())
        }
        Err(e) => text(500, e.message().to_owned()),
    }
}

/// Which pod and container an id belongs to, for stats.
pub fn names(labels: &std::collections::BTreeMap<String, String>) -> HashMap<&'static str, String> {
    use crate::runtime::labels::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID};
    let get = |name: &str| labels.get(name).cloned().unwrap_or_default();
    HashMap::from([("namespace", get(POD_NAMESPACE)), ("pod", get(POD_NAME)), ("container", get(CONTAINER_NAME)), ("uid", get(POD_UID))])
}
