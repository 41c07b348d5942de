//! A node without a kernel: pods that are placed on it become ready, those that end end well, and those that are to go
//! are gone. Only the API is spoken, as a kubelet speaks it.

use crate::plane::Plane;
use anyhow::Result;
use ferrokube_api::{Change, Object, Selection};
use ferrokube_client::http::HttpTransport;
use ferrokube_client::{Client, DeleteOptions, Patch, Target, kubeconfig};
use futures_util::StreamExt as _;
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// The node's name.
pub const NAME: &str = "hollow-1";

/// The address of its pods: one that documentation is made with. Nothing here talks to it.
const POD_IP: &str = "192.0.2.1";

/// The node's work, which ends when this is dropped.
pub struct Hollow(Vec<JoinHandle<()>>);

impl Drop for Hollow {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

fn core(resource: &str, name: &str) -> Target {
    Target { version: "v1".into(), resource: resource.into(), name: name.into(), ..Target::default() }
}

/// The administrator's way to the API server.
pub fn transport(plane: &Plane) -> Result<HttpTransport> {
    let parse = |text: &str| serde_saphyr::from_str::<Value>(text).map_err(|e| e.to_string());
    let (endpoint, credentials) = kubeconfig::load(&plane.kubeconfig(), parse)?;
    Ok(HttpTransport::new(&endpoint, credentials)?)
}

/// Registers the node and begins to work.
pub async fn start(plane: &Plane) -> Result<Hollow> {
    let client = Client::new(Arc::new(transport(plane)?), "hollow");
    let resources = json!({"cpu": "8", "memory": "16Gi", "pods": "110"});
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"});
    let status = json!({
        "capacity": resources, "allocatable": resources, "conditions": [ready],
        // Nobody listens on port 1.
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 1}},
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": NAME}],
    });
    let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": NAME, "labels": {"kubernetes.io/hostname": NAME}}, "status": status});
    client.request(Method::POST, &core("nodes", ""), "", Some(&node)).await?;
    let beat = tokio::spawn(heartbeat(client.clone()));
    let pods = tokio::spawn(async move {
        let mine =
            Selection { version: "v1".into(), resource: "pods".into(), fields: format!("spec.nodeName={NAME}"), ..Selection::default() };
        let mut changes = client.subscribe(mine);
        while let Some(change) = changes.next().await {
            if let Change::Set(pod) = change {
                // A pod that changed meanwhile comes again.
                let _ = tend(&client, &pod).await;
            }
        }
    });
    Ok(Hollow(vec![beat, pods]))
}

/// The lease says that the node lives.
async fn heartbeat(client: Client) {
    let target = Target {
        group: "coordination.k8s.io".into(),
        version: "v1".into(),
        resource: "leases".into(),
        namespace: "kube-node-lease".into(),
        name: NAME.into(),
        ..Target::default()
    };
    let mut every = tokio::time::interval(Duration::from_secs(5));
    loop {
        every.tick().await;
        let spec = json!({"holderIdentity": NAME, "leaseDurationSeconds": 40, "renewTime": format!("{:.6}", Timestamp::now())});
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME}, "spec": spec});
        // The next beat is not far when this one is lost.
        let _ = client.patch_target(&target, &Patch::Apply("hollow", lease)).await;
    }
}

async fn tend(client: &Client, pod: &Object) -> Result<()> {
    let value: Value = pod.decode()?;
    let target = Target { namespace: pod.key.namespace.to_string(), ..core("pods", &pod.key.name) };
    if value["metadata"]["deletionTimestamp"].is_string() {
        let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(&pod.uid) };
        client.delete_target(&target, &now).await?;
    } else if value["status"]["phase"] == "Pending" {
        client.patch_target(&target.sub("status"), &Patch::Strategic(json!({"status": status(&value)}))).await?;
    }
    Ok(())
}

/// What a kubelet would say once all is well.
fn status(pod: &Value) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let ends = pod["spec"]["restartPolicy"] != "Always";
    let state = match ends {
        true => json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}}),
        false => json!({"running": {"startedAt": now}}),
    };
    let container = |c: &Value| json!({"name": c["name"], "image": c["image"], "imageID": c["image"], "restartCount": 0, "ready": !ends, "started": !ends, "state": state});
    let containers: Vec<_> = pod["spec"]["containers"].as_array().into_iter().flatten().map(container).collect();
    let ready = if ends { json!({"status": "False", "reason": "PodCompleted"}) } else { json!({"status": "True"}) };
    let condition = |kind: &str| json!({"type": kind, "status": ready["status"], "reason": ready["reason"], "lastTransitionTime": now});
    json!({
        "phase": if ends { "Succeeded" } else { "Running" }, "startTime": now, "podIP": POD_IP, "podIPs": [{"ip": POD_IP}],
        "hostIP": "127.0.0.1", "containerStatuses": containers, "conditions": [condition("Ready"), condition("ContainersReady")],
    })
}
