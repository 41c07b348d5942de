//! What a kubelet tells at `/stats/summary` (`stats/v1alpha1`), as far as it is needed here.
//!
//! Kubelets leave out what they do not know, and runtimes know different things: every field may be missing. Must never fail
//! because of a part that nobody here looks at.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

/// One look at a node or at a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// When the CPU was looked at.
    pub time: Option<Timestamp>,
    /// CPU in use, as the kubelet sees it.
    pub nano_cores: Option<u64>,
    /// CPU time used so far.
    pub core_nanos: Option<u64>,
    /// Memory that cannot be taken away.
    pub working_set: Option<u64>,
}

/// Samples of the containers of one pod, by name.
pub type Containers = BTreeMap<String, Sample>;

/// All that a kubelet told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The node as a whole.
    pub node: Sample,
    /// Pods by namespace and name, with the UID: another pod of the same name is another one.
    pub pods: BTreeMap<(String, String), (String, Containers)>,
}

impl Reading {
    /// The containers of a pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&(String, Containers)> {
        self.pods.get(&(namespace.to_owned(), name.to_owned()))
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Summary {
    node: Option<Part>,
    pods: Option<Vec<Pod>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Pod {
    pod_ref: PodRef,
    containers: Option<Vec<Part>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodRef {
    name: String,
    namespace: String,
    uid: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Part {
    name: String,
    cpu: Option<Cpu>,
    memory: Option<Memory>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Cpu {
    #[serde(deserialize_with = "time")]
    time: Option<Timestamp>,
    usage_nano_cores: Option<u64>,
    usage_core_nano_seconds: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Memory {
    working_set_bytes: Option<u64>,
}

/// A time that makes no sense is none.
fn time<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Timestamp>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.and_then(|text| text.parse().ok()))
}

impl From<Part> for Sample {
    fn from(part: Part) -> Self {
        let cpu = part.cpu.unwrap_or_default();
        Sample {
            time: cpu.time,
            nano_cores: cpu.usage_nano_cores,
            core_nanos: cpu.usage_core_nano_seconds,
            working_set: part.memory.and_then(|m| m.working_set_bytes),
        }
    }
}

/// Reads a summary.
///
/// # Errors
/// It is no such document.
pub fn read(json: &[u8]) -> Result<Reading, serde_json::Error> {
    let summary: Summary = serde_json::from_slice(json)?;
    let pods = summary.pods.unwrap_or_default().into_iter().map(|pod| {
        let containers = pod.containers.unwrap_or_default().into_iter().map(|mut c| (std::mem::take(&mut c.name), c.into()));
        ((pod.pod_ref.namespace, pod.pod_ref.name), (pod.pod_ref.uid, containers.collect()))
    });
    Ok(Reading { pods: pods.collect(), node: summary.node.unwrap_or_default().into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_known_is_read_and_what_is_missing_is_none() {
        let at = "2026-01-02T03:04:05Z";
        let text = json!({
            "node": {"nodeName": "n", "cpu": {"time": at, "usageNanoCores": 7, "usageCoreNanoSeconds": 70}, "memory": {"workingSetBytes": 4096}, "fs": []},
            "pods": [
                {"podRef": {"name": "p", "namespace": "a", "uid": "u"}, "containers": [
                    {"name": "full", "cpu": {"time": at, "usageNanoCores": 1, "usageCoreNanoSeconds": 2}, "memory": {"workingSetBytes": 3}, "rootfs": null},
                    {"name": "count", "cpu": {"time": "yesterday", "usageNanoCores": null, "usageCoreNanoSeconds": 2}, "memory": null},
                    {"name": "empty"},
                ]},
                {"podRef": {"name": "q", "namespace": "a", "uid": "v"}, "containers": null},
            ],
        });
        let reading = read(text.to_string().as_bytes()).expect("a summary");
        let time: Timestamp = at.parse().expect("a time");
        assert_eq!(reading.node, Sample { time: Some(time), nano_cores: Some(7), core_nanos: Some(70), working_set: Some(4096) });
        let (uid, containers) = reading.pod("a", "p").expect("the pod");
        assert_eq!(uid, "u");
        assert_eq!(containers["full"], Sample { time: Some(time), nano_cores: Some(1), core_nanos: Some(2), working_set: Some(3) });
        assert_eq!(containers["count"], Sample { core_nanos: Some(2), ..Sample::default() });
        assert_eq!(containers["empty"], Sample::default());
        assert_eq!(reading.pod("a", "q"), Some(&("v".to_owned(), Containers::new())));
        assert_eq!(read(b"{}").expect("an empty summary"), Reading::default());
        assert!(read(b"404 page not found").is_err());
    }
}
