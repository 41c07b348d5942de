//! When the node runs short: node conditions, and which pod has to go. Pure; [`super::eviction`] measures and acts.
//!
//! Source: `pkg/kubelet/eviction`, with its transition period.

use super::thresholds::{Threshold, Thresholds};
use crate::make::resources::request_and_limit;
use ferrokube_api::quantity::Quantity;
use k8s_openapi::api::core::v1::Pod;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// evictionPressureTransitionPeriod: a condition stays this long after it was last true.
pub const TRANSITION: Duration = Duration::from_secs(300);

/// A filesystem: bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filesystem {
    /// Size in bytes.
    pub size: u64,
    /// Available bytes.
    pub available: u64,
    /// All inodes; 0 when the filesystem does not count them.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

/// What is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Bytes of memory in all.
    pub memory: u64,
    /// Bytes of memory that can be had.
    pub memory_available: u64,
    /// Where pods live.
    pub nodefs: Filesystem,
    /// Where images live.
    pub imagefs: Filesystem,
}

/// A threshold that is crossed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossed {
    /// Node condition.
    pub condition: &'static str,
    /// What pods are ranked by, and the word in the message.
    pub resource: &'static str,
    /// The threshold as it is written.
    pub threshold: String,
    /// What there is.
    pub available: String,
}

/// The thresholds that are crossed, memory first.
pub fn crossed(signals: &Signals, thresholds: &Thresholds) -> Vec<Crossed> {
    let mut found = Vec::new();
    let memory = thresholds.memory.map_or(0, |threshold| threshold.of(signals.memory));
    if signals.memory_available < memory {
        found.push(Crossed {
            condition: "MemoryPressure",
            resource: "memory",
            threshold: Quantity::bytes(memory.try_into().unwrap_or(i64::MAX)).to_string(),
            available: format!("{}Ki", signals.memory_available / 1024),
        });
    }
    let filesystems =
        [(&signals.nodefs, thresholds.nodefs, thresholds.nodefs_inodes), (&signals.imagefs, thresholds.imagefs, thresholds.imagefs_inodes)];
    for (fs, bytes, inodes) in filesystems {
        // Nothing in all: the filesystem does not count it.
        let below =
            |have: u64, all: u64, threshold: Option<Threshold>| threshold.map(|t| t.of(all)).filter(|least| all > 0 && have < *least);
        if let Some(least) = below(fs.available, fs.size, bytes) {
            let (threshold, available) = (least.to_string(), format!("{}Ki", fs.available / 1024));
            found.push(Crossed { condition: "DiskPressure", resource: "ephemeral-storage", threshold, available });
        }
        if let Some(least) = below(fs.inodes_free, fs.inodes, inodes) {
            let (threshold, available) = (least.to_string(), fs.inodes_free.to_string());
            found.push(Crossed { condition: "DiskPressure", resource: "inodes", threshold, available });
        }
    }
    found
}

/// Remembers since when conditions hold, so that they do not flap.
#[derive(Debug, Default)]
pub struct Memory {
    last: BTreeMap<&'static str, Instant>,
}

impl Memory {
    /// The conditions that hold now.
    pub fn conditions(&mut self, crossed: &[Crossed], now: Instant) -> BTreeSet<&'static str> {
        self.last.extend(crossed.iter().map(|c| (c.condition, now)));
        self.last.retain(|_, at| now.duration_since(*at) < TRANSITION);
        self.last.keys().copied().collect()
    }
}

/// Usage of one pod: bytes by container, of the resource that is short.
pub type Usage = BTreeMap<String, u64>;

/// The pod that has to go first: one that uses more than it asked for, then the least important, then the one that
/// is furthest above its request. Critical pods never go.
pub fn victim<'a>(pods: &'a [Arc<Pod>], usage: &BTreeMap<String, Usage>, resource: &str) -> Option<&'a Arc<Pod>> {
    let priority = |p: &Pod| p.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    let rank = |p: &Arc<Pod>| {
        let used = usage.get(p.metadata.uid.as_deref().unwrap_or_default()).map_or(0, |u| u.values().sum::<u64>());
        let over = i128::from(used) - i128::from(crate::make::resources::requested(p, resource));
        (over <= 0, priority(p), -over)
    };
    pods.iter().filter(|p| priority(p) < 2_000_000_000).min_by_key(|p| rank(p))
}

/// The text of the pod's status and of the event.
pub fn message(pod: &Pod, crossed: &Crossed, usage: Option<&Usage>) -> String {
    let mut text = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        crossed.resource, crossed.threshold, crossed.available
    );
    for container in pod.spec.iter().flat_map(|s| &s.containers) {
        let request = request_and_limit(container.resources.as_ref(), crossed.resource).0.unwrap_or(0);
        let used = usage.and_then(|u| u.get(&container.name)).copied().unwrap_or(0);
        if i128::from(used) > i128::from(request) {
            text += &format!(
                "Container {} was using {}Ki, request is {request}, has larger consumption of {}. ",
                container.name,
                used / 1024,
                crossed.resource
            );
        }
    }
    text
}

/// Something of a pod's own storage that is over its limit: the text of the eviction.
pub fn over_storage_limits(pod: &Pod, empty_dirs: &BTreeMap<String, u64>, containers: &Usage) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    for volume in spec.volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()) else { continue };
        let bytes = Quantity::parse(&limit.0).ok().and_then(|q| u64::try_from(q.value()).ok()).filter(|b| *b > 0);
        if bytes.is_some_and(|b| empty_dirs.get(&volume.name).is_some_and(|used| *used > b)) {
            return Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.0));
        }
    }
    let limit = |c: &k8s_openapi::api::core::v1::Container| {
        let text = c.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage")?.0.clone();
        let bytes = Quantity::parse(&text).ok().and_then(|q| u64::try_from(q.value()).ok())?;
        Some((bytes, text))
    };
    let used = |name: &str| containers.get(name).copied().unwrap_or(0);
    for container in &spec.containers {
        if let Some((_, text)) = limit(container).filter(|(bytes, _)| used(&container.name) > *bytes) {
            return Some(format!("Container {} exceeded its local ephemeral storage limit {text:?}. ", container.name));
        }
    }
    let all: Option<u64> = spec.containers.iter().map(|c| limit(c).map(|(bytes, _)| bytes)).sum();
    let total = empty_dirs.values().chain(containers.values()).sum::<u64>();
    let over = all.filter(|limit| total > *limit)?;
    Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {over}. "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(uid: &str, spec: Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": spec})).unwrap())
    }

    fn plenty() -> Signals {
        let fs = Filesystem { size: 1000 << 20, available: 500 << 20, inodes: 1000, inodes_free: 500 };
        Signals { memory: 4 << 30, memory_available: 1 << 30, nodefs: fs, imagefs: fs }
    }

    fn short(signals: &Signals) -> Vec<Crossed> {
        crossed(signals, &Thresholds::default())
    }

    #[test]
    fn thresholds_are_crossed_below_them_only() {
        assert_eq!(short(&plenty()), []);
        let memory = Signals { memory_available: (100 << 20) - 1, ..plenty() };
        assert_eq!(short(&memory)[0].condition, "MemoryPressure");
        let nearly_full = Filesystem { available: 120 << 20, ..plenty().imagefs };
        assert_eq!(short(&Signals { imagefs: nearly_full, ..plenty() })[0].resource, "ephemeral-storage");
        assert_eq!(short(&Signals { nodefs: nearly_full, ..plenty() }), [], "pods get down to a tenth");
        let few_inodes = Filesystem { inodes_free: 49, ..plenty().nodefs };
        assert_eq!(short(&Signals { nodefs: few_inodes, ..plenty() })[0].resource, "inodes");
        let uncounted = Filesystem { inodes: 0, inodes_free: 0, ..plenty().nodefs };
        assert_eq!(short(&Signals { nodefs: uncounted, ..plenty() }), []);
    }

    #[test]
    fn a_condition_stays_five_minutes_after_it_was_last_true() {
        let mut memory = Memory::default();
        let short = short(&Signals { memory_available: 0, ..plenty() });
        let start = Instant::now();
        assert_eq!(memory.conditions(&short, start), BTreeSet::from(["MemoryPressure"]));
        assert_eq!(memory.conditions(&[], start + TRANSITION - Duration::from_secs(1)).len(), 1);
        assert_eq!(memory.conditions(&[], start + TRANSITION).len(), 0);
    }

    #[test]
    fn the_first_to_go_is_over_its_request_then_unimportant_then_greedy() {
        let asks = |mib: u64| json!({"containers": [{"name": "c", "resources": {"requests": {"memory": format!("{mib}Mi")}}}]});
        let with_priority = |mut spec: Value, priority: i64| {
            spec["priority"] = json!(priority);
            spec
        };
        let pods = [
            pod("modest", asks(500)),
            pod("greedy", asks(100)),
            pod("greedier", asks(100)),
            pod("important", with_priority(asks(0), 100)),
            pod("critical", with_priority(asks(0), 2_000_001_000)),
        ];
        let used = |mib: u64| Usage::from([("c".to_owned(), mib << 20)]);
        let usage = BTreeMap::from([
            ("modest".to_owned(), used(400)),
            ("greedy".to_owned(), used(150)),
            ("greedier".to_owned(), used(300)),
            ("important".to_owned(), used(900)),
            ("critical".to_owned(), used(9000)),
        ]);
        let mut left = pods.to_vec();
        let mut order = Vec::new();
        while let Some(next) = victim(&left, &usage, "memory").cloned() {
            order.push(next.metadata.name.clone().unwrap());
            left.retain(|p| p.metadata.name != next.metadata.name);
        }
        assert_eq!(order, ["greedier", "greedy", "important", "modest"]);
        let text = message(&pods[2], &short(&Signals { memory_available: 0, ..plenty() })[0], usage.get("greedier"));
        assert_eq!(
            text,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 0Ki. \
             Container c was using 307200Ki, request is 104857600, has larger consumption of memory. "
        );
    }

    #[test]
    fn a_pod_that_fills_its_own_limits_is_told_which() {
        let spec = json!({
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}],
            "containers": [{"name": "c", "resources": {"limits": {"ephemeral-storage": "2Mi"}}}],
        });
        let pod = pod("p", spec);
        let check = |dir: u64, container: u64| {
            over_storage_limits(&pod, &BTreeMap::from([("v".into(), dir)]), &Usage::from([("c".into(), container)]))
        };
        assert_eq!(check(1 << 20, 1 << 20), None);
        assert_eq!(check((1 << 20) + 1, 0).unwrap(), "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ");
        assert_eq!(check(0, 3 << 20).unwrap(), "Container c exceeded its local ephemeral storage limit \"2Mi\". ");
        assert_eq!(check(1 << 20, 3 << 19).unwrap(), "Pod ephemeral local storage usage exceeds the total limit of containers 2097152. ");
    }
}
