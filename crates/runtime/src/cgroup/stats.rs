//! What a cgroup has used, from the accounting files of either version.

use std::path::Path;

use super::{flat_value, folder, is_v2};

/// Usage of one cgroup. What the kernel does not tell is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// CPU time, nanoseconds.
    pub cpu_nanoseconds: Option<u64>,
    /// Memory charged, bytes.
    pub memory_usage: Option<u64>,
    /// Of that, what cannot be reclaimed at once: usage less inactive file pages.
    pub memory_working_set: Option<u64>,
    /// The limit, bytes; none when unlimited.
    pub memory_limit: Option<u64>,
    /// Anonymous memory, bytes.
    pub rss: Option<u64>,
    /// Page faults.
    pub page_faults: Option<u64>,
    /// Page faults that read a disk.
    pub major_page_faults: Option<u64>,
    /// Swap used, bytes.
    pub swap_usage: Option<u64>,
    /// Swap that may be used, bytes.
    pub swap_limit: Option<u64>,
    /// Processes (tasks).
    pub processes: Option<u64>,
}

/// Above this a v1 limit means "none": the kernel rounds its maximum down to a page.
const UNLIMITED: u64 = 1 << 62;

/// Reads the usage of a cgroup; none when it does not exist.
pub fn stats(cgroup: &str) -> Option<Stats> {
    if !folder("memory", cgroup).is_dir() {
        return None;
    }
    Some(if is_v2() { v2(&folder("", cgroup)) } else { v1(cgroup) })
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn v1(cgroup: &str) -> Stats {
    let memory = folder("memory", cgroup);
    let stat = std::fs::read_to_string(memory.join("memory.stat")).unwrap_or_default();
    let usage = number(&memory.join("memory.usage_in_bytes"));
    let with_swap = number(&memory.join("memory.memsw.usage_in_bytes"));
    let limit = number(&memory.join("memory.limit_in_bytes")).filter(|limit| *limit < UNLIMITED);
    let with_swap_limit = number(&memory.join("memory.memsw.limit_in_bytes")).filter(|limit| *limit < UNLIMITED);
    Stats {
        cpu_nanoseconds: number(&folder("cpuacct", cgroup).join("cpuacct.usage")),
        memory_usage: usage,
        memory_working_set: usage.map(|usage| usage.saturating_sub(flat_value(&stat, "total_inactive_file").unwrap_or(0))),
        memory_limit: limit,
        rss: flat_value(&stat, "total_rss"),
        page_faults: flat_value(&stat, "total_pgfault"),
        major_page_faults: flat_value(&stat, "total_pgmajfault"),
        swap_usage: with_swap.zip(usage).map(|(both, usage)| both.saturating_sub(usage)),
        swap_limit: with_swap_limit.zip(limit).map(|(both, limit)| both.saturating_sub(limit)),
        processes: number(&folder("pids", cgroup).join("pids.current")),
    }
}

fn v2(folder: &Path) -> Stats {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let (stat, cpu) = (read("memory.stat"), read("cpu.stat"));
    let usage = number(&folder.join("memory.current"));
    Stats {
        cpu_nanoseconds: flat_value(&cpu, "usage_usec").map(|micros| micros.saturating_mul(1000)),
        memory_usage: usage,
        memory_working_set: usage.map(|usage| usage.saturating_sub(flat_value(&stat, "inactive_file").unwrap_or(0))),
        memory_limit: number(&folder.join("memory.max")),
        rss: flat_value(&stat, "anon"),
        page_faults: flat_value(&stat, "pgfault"),
        major_page_faults: flat_value(&stat, "pgmajfault"),
        swap_usage: number(&folder.join("memory.swap.current")),
        swap_limit: number(&folder.join("memory.swap.max")),
        processes: number(&folder.join("pids.current")),
    }
}
