//! What processes cost, by `/proc`, and what machine this is.

use anyhow::Context;
use std::collections::HashMap;
use std::time::Duration;

/// `/proc` counts CPU time in hundredths of a second on every Linux there is.
const TICK: Duration = Duration::from_millis(10);

/// What some processes have used so far, together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Resident memory in bytes; pages that processes share count for each.
    pub resident: u64,
}

/// The processes of the server, whose cost is shown beside its figures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter {
    pids: Vec<u32>,
}

impl Meter {
    /// Measures these processes; none: shows nothing.
    pub fn new(pids: Vec<u32>) -> anyhow::Result<Meter> {
        for pid in &pids {
            usage_of(*pid).with_context(|| format!("--server-pid {pid}"))?;
        }
        Ok(Meter { pids })
    }

    /// What they have used so far; `None` when there are none, or one has gone.
    pub fn read(&self) -> Option<Usage> {
        if self.pids.is_empty() {
            return None;
        }
        self.pids.iter().try_fold(Usage::default(), |sum, pid| {
            let usage = usage_of(*pid).ok()?;
            Some(Usage { cpu: sum.cpu + usage.cpu, resident: sum.resident + usage.resident })
        })
    }
}

fn usage_of(pid: u32) -> anyhow::Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program is in parentheses and may hold anything; fields are counted behind it.
    let (_, fields) = stat.rsplit_once(')').context("no program name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<u32>().ok()).context("no CPU time");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(Usage { cpu: TICK * (ticks(11)? + ticks(12)?), resident: kib_field(&status, "VmRSS:").unwrap_or(0) * 1024 })
}

fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A process and all that it started, as far as `/proc` shows it.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, f)| f.split_whitespace().nth(1)?.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        found.extend(children.remove(&found[next]).into_iter().flatten());
        next += 1;
    }
    found
}

/// CPU time of processes so far, to the nanosecond: idle ones use less than `/proc`'s hundredths show. Threads that have ended do not
/// count, so this is for processes that keep theirs.
pub(crate) fn exact_cpu(pids: &[u32]) -> Duration {
    let tasks = pids.iter().flat_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Proportional memory of processes in bytes: a page that n of them share counts as 1/n.
pub(crate) fn proportional(pids: &[u32]) -> u64 {
    let of = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok().and_then(|t| kib_field(&t, "Pss:"));
    pids.iter().filter_map(of).sum::<u64>() * 1024
}

/// One line about this machine.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo").lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ").map(|(_, m)| m.to_owned()));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = kib_field(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0) >> 20;
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("Machine: {cores} cores ({}), {memory} GiB of memory, Linux {}.", cpu.as_deref().unwrap_or("unknown"), kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_measured() {
        let me = std::process::id();
        let usage = Meter::new(vec![me]).expect("it runs").read().expect("it still runs");
        assert!(usage.resident > 100_000, "{usage:?}");
        assert!(proportional(&tree(me)) > 0);
        assert!(exact_cpu(&[me]) > Duration::ZERO);
        assert!(Meter::new(vec![u32::MAX]).is_err());
        assert!(Meter::default().read().is_none());
    }
}
