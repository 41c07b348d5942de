//! Nodes and pods as the API has them now: who is asked about, and where a pod runs.
//!
//! They are listed when somebody asks: a cache of all pods would cost every cluster what few look at. Of each object only what is
//! needed is decoded. Must never judge a selector: the API server does, and its words are passed on.

use crate::routes::Selectors;
use bytes::Bytes;
use ferrokube_client::{Client, Result, Target};
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

/// Name and labels.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Metadata {
    pub name: String,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Node {
    pub metadata: Metadata,
    status: NodeStatus,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub metadata: Metadata,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct NodeStatus {
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: String,
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    name: String,
    state: State,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct State {
    running: Option<serde::de::IgnoredAny>,
}

impl Node {
    /// Whether its kubelet speaks to anybody: one whose state is unknown would only be waited for.
    fn speaks(&self) -> bool {
        !self.status.conditions.iter().any(|c| c.r#type == "Ready" && c.status == "Unknown")
    }
}

impl Pod {
    /// The node that it runs on, if it runs.
    pub fn runs_on(&self) -> Option<&str> {
        (self.status.phase == "Running" && !self.spec.node_name.is_empty()).then_some(self.spec.node_name.as_str())
    }

    /// Its containers that run, sidecars included.
    pub fn running(&self) -> Vec<String> {
        let all = self.status.container_statuses.iter().chain(&self.status.init_container_statuses);
        all.filter(|c| c.state.running.is_some()).map(|c| c.name.clone()).collect()
    }
}

/// Nodes that are asked about themselves.
pub fn speaking(nodes: &[Node]) -> BTreeSet<&str> {
    nodes.iter().filter(|n| n.speaks()).map(|n| n.metadata.name.as_str()).collect()
}

/// Nodes that are asked about these pods: those that host one, and no other.
pub fn hosts<'p>(pods: impl IntoIterator<Item = &'p Pod>) -> BTreeSet<&'p str> {
    pods.into_iter().filter_map(Pod::runs_on).collect()
}

fn target(resource: &str, namespace: &str, name: &str) -> Target {
    Target { version: "v1".into(), resource: resource.into(), namespace: namespace.into(), name: name.into(), ..Target::default() }
}

async fn read<T: DeserializeOwned>(client: &Client, what: &'static str, path: &str) -> Result<T> {
    let answer = client.send(Method::GET, path, None, Bytes::new()).await?;
    serde_json::from_slice(answer.body()).map_err(|source| ferrokube_client::Error::Decode { what, source })
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

async fn list<T: DeserializeOwned>(client: &Client, target: &Target, selectors: &Selectors) -> Result<Vec<T>> {
    let path = format!("{}{}", target.path(), selectors.query());
    Ok(read::<List<T>>(client, "a list", &path).await?.items)
}

/// The selected nodes.
pub async fn nodes(client: &Client, selectors: &Selectors) -> Result<Vec<Node>> {
    list(client, &target("nodes", "", ""), selectors).await
}

/// One node.
pub async fn node(client: &Client, name: &str) -> Result<Node> {
    read(client, "Node", &target("nodes", "", name).path()).await
}

/// The selected pods, of all namespaces when it is empty.
pub async fn pods(client: &Client, namespace: &str, selectors: &Selectors) -> Result<Vec<Pod>> {
    list(client, &target("pods", namespace, ""), selectors).await
}

/// One pod.
pub async fn pod(client: &Client, namespace: &str, name: &str) -> Result<Pod> {
    read(client, "Pod", &target("pods", namespace, name).path()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, node: &str, phase: &str) -> Pod {
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        let status = json!({"phase": phase, "containerStatuses": [{"name": "main", "state": running}, {"name": "over", "state": {"terminated": {}}}],
            "initContainerStatuses": [{"name": "sidecar", "state": running}]});
        let object = json!({"metadata": {"name": name, "namespace": "a"}, "spec": {"nodeName": node, "containers": []}, "status": status});
        serde_json::from_value(object).expect("a pod")
    }

    #[test]
    fn only_nodes_that_host_a_running_pod_are_asked() {
        let pods = [
            pod("a", "n1", "Running"),
            pod("b", "n1", "Running"),
            pod("c", "n2", "Succeeded"),
            pod("d", "", "Pending"),
            pod("e", "n3", "Running"),
        ];
        assert_eq!(hosts(&pods), BTreeSet::from(["n1", "n3"]));
        assert_eq!(hosts(&[]), BTreeSet::new());
        assert_eq!(pods[0].running(), ["main", "sidecar"]);
    }

    #[test]
    fn a_node_of_which_nothing_is_heard_is_not_asked() {
        let node = |name: &str, conditions: Value| -> Node {
            serde_json::from_value(json!({"metadata": {"name": name}, "status": {"conditions": conditions}})).expect("a node")
        };
        let ready = |status: &str| json!([{"type": "Ready", "status": status}, {"type": "MemoryPressure", "status": "Unknown"}]);
        let nodes = [node("up", ready("True")), node("ill", ready("False")), node("away", ready("Unknown")), node("new", json!([]))];
        assert_eq!(speaking(&nodes), BTreeSet::from(["up", "ill", "new"]));
    }
}
