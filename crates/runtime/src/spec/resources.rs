//! Limits of a container in the words of the OCI spec.

use ferrokube_cri::v1::LinuxContainerResources;
use serde_json::{Map, Value, json};

/// What the node's kernel can account for.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeLimits {
    /// Swap is accounted, so a limit for it can be set.
    pub swap: bool,
    /// The hugetlb controller exists.
    pub hugetlb: bool,
    /// One unified hierarchy.
    pub v2: bool,
}

impl NodeLimits {
    /// Looks at the node.
    pub fn detect() -> Self {
        let v2 = crate::cgroup::is_v2();
        let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        Self {
            swap: v2 || std::path::Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
            hugetlb: if v2 {
                controllers.split_whitespace().any(|name| name == "hugetlb")
            } else {
                std::path::Path::new("/sys/fs/cgroup/hugetlb").is_dir()
            },
            v2,
        }
    }
}

/// `linux.resources` without devices. Zero and empty mean "not set".
pub fn resources(wanted: &LinuxContainerResources, node: NodeLimits) -> Map<String, Value> {
    let mut cpu = Map::new();
    for (name, value) in [("shares", wanted.cpu_shares), ("quota", wanted.cpu_quota), ("period", wanted.cpu_period)] {
        if value != 0 {
            cpu.insert(name.to_owned(), json!(value));
        }
    }
    for (name, value) in [("cpus", &wanted.cpuset_cpus), ("mems", &wanted.cpuset_mems)] {
        if !value.is_empty() {
            cpu.insert(name.to_owned(), json!(value));
        }
    }
    let mut memory = Map::new();
    if wanted.memory_limit_in_bytes != 0 {
        memory.insert("limit".to_owned(), json!(wanted.memory_limit_in_bytes));
    }
    if wanted.memory_swap_limit_in_bytes != 0 && node.swap {
        memory.insert("swap".to_owned(), json!(wanted.memory_swap_limit_in_bytes));
    }
    let mut all = Map::new();
    if !cpu.is_empty() {
        all.insert("cpu".to_owned(), Value::Object(cpu));
    }
    if !memory.is_empty() {
        all.insert("memory".to_owned(), Value::Object(memory));
    }
    if !wanted.hugepage_limits.is_empty() && node.hugetlb {
        let limits: Vec<Value> =
            wanted.hugepage_limits.iter().map(|limit| json!({"pageSize": limit.page_size, "limit": limit.limit})).collect();
        all.insert("hugepageLimits".to_owned(), Value::Array(limits));
    }
    if !wanted.unified.is_empty() && node.v2 {
        all.insert("unified".to_owned(), json!(wanted.unified));
    }
    all
}
