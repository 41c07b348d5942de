//! This node: what all of the kubelet shares, the Node object and its lease.

pub mod conditions;
pub mod eviction;
pub mod lease;
pub mod load;
pub mod pressure;
pub mod status;
pub mod thresholds;

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::make::dns::Resolv;
use crate::pod::admission::Offer;
use crate::runtime::Cri;
use crate::static_pods::mirror::Mirrors;
use crate::volumes::Volumes;
use ferrokube_client::events::Recorder;
use ferrokube_client::{Cache, Client};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What the machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of CPUs.
    pub milli_cpu: i64,
    /// Bytes of memory.
    pub memory: i64,
}

impl Capacity {
    /// Reads it from the kernel.
    pub fn of_this_machine() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:")).and_then(|l| l.trim().strip_suffix("kB"));
        let kilobytes: i64 = total.and_then(|t| t.trim().parse().ok()).unwrap_or(0);
        Capacity { milli_cpu: cpus * 1000, memory: kilobytes * 1024 }
    }

    /// Bytes of memory that pods may use: all but the hard eviction threshold.
    pub fn memory_of_pods(&self) -> i64 {
        (self.memory - (100 << 20)).max(0)
    }
}

/// What the parts of the kubelet share; each part owns its own state.
pub struct Shared {
    /// Configuration.
    pub config: Config,
    /// The API, as `system:node:<name>`.
    pub client: Client,
    /// The container runtime.
    pub cri: Cri,
    /// Events.
    pub recorder: Recorder,
    /// Pod cgroups.
    pub cgroups: Cgroups,
    /// Pod volumes.
    pub volumes: Volumes,
    /// Services, for environment variables.
    pub services: Cache<Service>,
    /// This node, as the API has it.
    pub own: Cache<Node>,
    /// Node conditions that say that something is short; written by the eviction loop only.
    pub pressure: Mutex<BTreeSet<&'static str>>,
    /// How busy the machine is; the eviction loop leaves its readings here.
    pub load: load::Load,
    /// How often probes succeeded and failed.
    pub probed: crate::probes::Counters,
    /// What the machine has.
    pub capacity: Capacity,
    /// Name of the runtime.
    pub runtime_name: String,
    /// The pods of this node by UID, static ones and those of the API, as it has them; written by the pod manager only.
    pub pods: Mutex<HashMap<String, Arc<Pod>>>,
    /// Static pods and their copies in the API.
    pub mirrors: Mirrors,
}

impl Shared {
    /// Addresses of the node as text, primary first.
    pub fn host_ips(&self) -> Vec<String> {
        self.config.node_ips.iter().map(ToString::to_string).collect()
    }

    /// The host's resolv.conf, read anew: it changes with the network.
    pub fn host_resolv(&self) -> Resolv {
        Resolv::parse(&std::fs::read_to_string(&self.config.resolv_conf).unwrap_or_default())
    }

    /// The handler of a RuntimeClass.
    pub async fn runtime_handler(&self, class: &str) -> Result<String, String> {
        let found = self.client.get::<RuntimeClass>("", class).await;
        found.map(|c| c.handler).map_err(|e| format!("failed to get sandbox runtime: {e}"))
    }

    /// This node for events. Its UID is its name, as in every kubelet, and as `kubectl describe node` looks for it.
    pub fn reference(&self) -> ObjectReference {
        let name = Some(self.config.node_name.clone());
        ObjectReference { kind: Some("Node".into()), uid: name.clone(), name, ..ObjectReference::default() }
    }

    /// What this node offers to a pod.
    pub fn offer(&self) -> Offer {
        let node = self.own.get("", &self.config.node_name);
        let allocatable = status::allocatable(self);
        let number = |name: &str, text: &str| {
            let amount = ferrokube_api::quantity::Quantity::parse(text).ok()?;
            Some(if name == "cpu" { amount.milli_value() } else { amount.value() })
        };
        let counted = allocatable.iter().filter(|(name, _)| *name != "pods");
        let allocatable: BTreeMap<String, i64> = counted.filter_map(|(name, q)| Some((name.clone(), number(name, &q.0)?))).collect();
        Offer {
            name: self.config.node_name.clone(),
            labels: node.map(|n| n.metadata.labels.unwrap_or_default()),
            allocatable,
            max_pods: usize::try_from(self.config.max_pods).unwrap_or(usize::MAX),
            pressure: self.pressure.lock().clone(),
        }
    }

    /// Whether there is to be a pod of that UID on this node.
    pub fn has(&self, uid: &str) -> bool {
        self.pods.lock().contains_key(uid)
    }

    /// The pod of that name, as the API has it.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let pods = self.pods.lock();
        let named = |p: &&Arc<Pod>| p.metadata.name.as_deref() == Some(name) && p.metadata.namespace.as_deref() == Some(namespace);
        pods.values().find(named).cloned()
    }
}
