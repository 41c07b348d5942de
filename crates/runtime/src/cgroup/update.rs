//! Changes the limits of a running cgroup: UpdateContainerResources, and in-place resize above it.

use std::io::{Error, Result};
use std::path::Path;

use ferrokube_cri::v1::LinuxContainerResources;

use super::{folder, is_v2};

/// Writes those of the resources that are set. Zero and empty mean "leave as it is", as in the interface.
pub fn update(cgroup: &str, resources: &LinuxContainerResources) -> Result<()> {
    let writes = if is_v2() { v2_writes(resources) } else { v1_writes(resources, swap_is_counted(cgroup)) };
    for (controller, file, value) in order(writes, cgroup) {
        let path = folder(controller, cgroup).join(&file);
        write(&path, &value)?;
    }
    Ok(())
}

fn write(path: &Path, value: &str) -> Result<()> {
    std::fs::write(path, value).map_err(|error| Error::new(error.kind(), format!("writing {value:?} to {}: {error}", path.display())))
}

fn swap_is_counted(cgroup: &str) -> bool {
    folder("memory", cgroup).join("memory.memsw.limit_in_bytes").exists()
}

/// A file to write: controller, file, value.
type Write = (&'static str, String, String);

fn v1_writes(resources: &LinuxContainerResources, swap: bool) -> Vec<Write> {
    let mut writes: Vec<Write> = Vec::new();
    let mut put = |controller, file: &str, value: String| writes.push((controller, file.to_owned(), value));
    if resources.cpu_shares > 0 {
        put("cpu", "cpu.shares", resources.cpu_shares.to_string());
    }
    if resources.cpu_period > 0 {
        put("cpu", "cpu.cfs_period_us", resources.cpu_period.to_string());
    }
    if resources.cpu_quota != 0 {
        put("cpu", "cpu.cfs_quota_us", resources.cpu_quota.to_string());
    }
    if resources.memory_limit_in_bytes != 0 {
        put("memory", "memory.limit_in_bytes", resources.memory_limit_in_bytes.to_string());
    }
    if resources.memory_swap_limit_in_bytes != 0 && swap {
        put("memory", "memory.memsw.limit_in_bytes", resources.memory_swap_limit_in_bytes.to_string());
    }
    cpusets(resources, &mut put);
    for limit in &resources.hugepage_limits {
        put("hugetlb", &format!("hugetlb.{}.limit_in_bytes", limit.page_size), limit.limit.to_string());
    }
    writes
}

fn cpusets(resources: &LinuxContainerResources, put: &mut impl FnMut(&'static str, &str, String)) {
    if !resources.cpuset_cpus.is_empty() {
        put("cpuset", "cpuset.cpus", resources.cpuset_cpus.clone());
    }
    if !resources.cpuset_mems.is_empty() {
        put("cpuset", "cpuset.mems", resources.cpuset_mems.clone());
    }
}

fn v2_writes(resources: &LinuxContainerResources) -> Vec<Write> {
    let mut writes: Vec<Write> = Vec::new();
    let mut put = |controller, file: &str, value: String| writes.push((controller, file.to_owned(), value));
    if resources.cpu_shares > 0 {
        put("cpu", "cpu.weight", weight(resources.cpu_shares).to_string());
    }
    match (resources.cpu_quota, resources.cpu_period) {
        (0, 0) => {}
        (quota, period) => {
            let quota = if quota > 0 { quota.to_string() } else { "max".to_owned() };
            let value = if period > 0 { format!("{quota} {period}") } else { quota };
            put("cpu", "cpu.max", value);
        }
    }
    let bytes = |limit: i64| if limit < 0 { "max".to_owned() } else { limit.to_string() };
    if resources.memory_limit_in_bytes != 0 {
        put("memory", "memory.max", bytes(resources.memory_limit_in_bytes));
    }
    if resources.memory_swap_limit_in_bytes != 0 {
        let swap = match (resources.memory_swap_limit_in_bytes, resources.memory_limit_in_bytes) {
            (both, memory) if both > 0 && memory > 0 => both.saturating_sub(memory).max(0),
            (both, _) => both,
        };
        put("memory", "memory.swap.max", bytes(swap));
    }
    cpusets(resources, &mut put);
    for limit in &resources.hugepage_limits {
        put("hugetlb", &format!("hugetlb.{}.max", limit.page_size), limit.limit.to_string());
    }
    for (file, value) in &resources.unified {
        // The key names a file of the cgroup itself and nothing elsewhere.
        if !file.contains('/') {
            put("", file, value.clone());
        }
    }
    writes
}

/// v1 shares (2..262144) as a v2 weight (1..10000), the way every OCI runtime converts them.
fn weight(shares: i64) -> i64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9999) / 262_142
}

/// Memory and memory+swap limit each other on v1: when the limit grows, the sum goes first.
fn order(mut writes: Vec<Write>, cgroup: &str) -> Vec<Write> {
    let find = |writes: &[Write], name: &str| writes.iter().position(|(_, file, _)| file == name);
    if let (Some(limit), Some(sum)) = (find(&writes, "memory.limit_in_bytes"), find(&writes, "memory.memsw.limit_in_bytes")) {
        let present = std::fs::read_to_string(folder("memory", cgroup).join("memory.memsw.limit_in_bytes")).unwrap_or_default();
        let present: u64 = present.trim().parse().unwrap_or(0);
        if writes[limit].2.parse::<u64>().is_ok_and(|wanted| wanted > present) {
            writes.swap(limit, sum);
        }
    }
    writes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_at_the_known_points() {
        for (shares, expected) in [(2, 1), (1024, 39), (262_144, 10_000), (0, 1)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn only_what_is_set_is_written() {
        assert!(v1_writes(&LinuxContainerResources::default(), true).is_empty());
        assert!(v2_writes(&LinuxContainerResources::default()).is_empty());
        let resources = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            memory_limit_in_bytes: 1 << 20,
            cpuset_cpus: "0".into(),
            unified: [("memory.high".to_owned(), "5".to_owned()), ("../x".to_owned(), "5".to_owned())].into(),
            ..Default::default()
        };
        let v2: Vec<(String, String)> = v2_writes(&resources).into_iter().map(|(_, file, value)| (file, value)).collect();
        let expected = [("cpu.max", "max 100000"), ("memory.max", "1048576"), ("cpuset.cpus", "0"), ("memory.high", "5")];
        assert_eq!(v2, expected.map(|(file, value)| (file.to_owned(), value.to_owned())));
        let v1: Vec<String> = v1_writes(&resources, true).into_iter().map(|(_, file, _)| file).collect();
        assert_eq!(v1, ["cpu.cfs_period_us", "cpu.cfs_quota_us", "memory.limit_in_bytes", "cpuset.cpus"]);
    }
}
