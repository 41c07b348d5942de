//! Usage of containers and pods: cgroups, the writable layer, and the pod's network interfaces.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferrokube_cri::v1;
use parking_lot::Mutex;

use super::model::{Container, Sandbox, Status, now};
use super::view::matches_labels;
use super::{Engine, find};
use crate::cgroup::{self, Stats};
use crate::error::{Error, Result};

/// A usage in nanocores needs two readings; the second one comes with the next request.
const SHORTEST: i64 = 500_000_000;

/// What was used since a reading of longer ago says nothing of now: it counts as none.
const LONGEST: i64 = 60_000_000_000;

/// The last reading of CPU time, and the rate that it gave.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: i64,
    cpu: u64,
    rate: Option<u64>,
}

/// Readings by cgroup owner.
#[derive(Debug, Default)]
pub struct History(Mutex<BTreeMap<String, Reading>>);

impl History {
    /// Nanocores since the last reading that is old enough to compare with.
    fn rate(&self, id: &str, at: i64, cpu: u64) -> Option<u64> {
        let mut readings = self.0.lock();
        let Some(last) = readings.get_mut(id) else {
            readings.insert(id.to_owned(), Reading { at, cpu, rate: None });
            return None;
        };
        let passed = at - last.at;
        if passed < SHORTEST {
            return last.rate;
        }
        if passed > LONGEST {
            *last = Reading { at, cpu, rate: None };
            return None;
        }
        let used = u128::from(cpu.saturating_sub(last.cpu)) * 1_000_000_000;
        let rate = u64::try_from(used / u128::try_from(passed).unwrap_or(1).max(1)).ok();
        *last = Reading { at, cpu, rate };
        rate
    }

    pub(super) fn forget(&self, id: &str) {
        self.0.lock().remove(id);
    }
}

fn value(value: u64) -> v1::UInt64Value {
    v1::UInt64Value { value }
}

fn memory(stats: &Stats, timestamp: i64) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp,
        working_set_bytes: stats.memory_working_set.map(value),
        available_bytes: stats.memory_limit.zip(stats.memory_working_set).map(|(limit, used)| value(limit.saturating_sub(used))),
        usage_bytes: stats.memory_usage.map(value),
        rss_bytes: stats.rss.map(value),
        page_faults: stats.page_faults.map(value),
        major_page_faults: stats.major_page_faults.map(value),
        psi: None,
    }
}

impl Engine {
    fn cpu(&self, id: &str, stats: &Stats, timestamp: i64) -> v1::CpuUsage {
        v1::CpuUsage {
            timestamp,
            usage_core_nano_seconds: stats.cpu_nanoseconds.map(value),
            usage_nano_cores: stats.cpu_nanoseconds.and_then(|cpu| self.cpu_history.rate(id, timestamp, cpu)).map(value),
            psi: None,
        }
    }

    /// ContainerStats. Walks the writable layer, so it blocks.
    pub fn container_stats(&self, container: &Container) -> v1::ContainerStats {
        let config = container.config();
        let timestamp = now();
        let stats = cgroup::stats(&container.record.cgroup).filter(|_| container.pid().is_some());
        let layer = self.images.writable_layer_usage(&container.id).ok();
        v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes {
                id: container.id.clone(),
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            }),
            cpu: stats.as_ref().map(|stats| self.cpu(&container.id, stats, timestamp)),
            memory: stats.as_ref().map(|stats| memory(stats, timestamp)),
            writable_layer: layer.map(|usage| v1::FilesystemUsage {
                timestamp,
                fs_id: Some(v1::FilesystemIdentifier { mountpoint: self.images.fs_info().mountpoint.to_string_lossy().into_owned() }),
                used_bytes: Some(value(usage.bytes)),
                inodes_used: Some(value(usage.inodes)),
            }),
            swap: stats.as_ref().and_then(|stats| stats.swap_usage.map(|used| (used, stats.swap_limit))).map(|(used, limit)| {
                v1::SwapUsage {
                    timestamp,
                    swap_available_bytes: limit.map(|limit| value(limit.saturating_sub(used))),
                    swap_usage_bytes: Some(value(used)),
                }
            }),
            io: None,
        }
    }

    /// ListContainerStats: of containers that run.
    pub async fn list_container_stats(self: &Arc<Self>, filter: Option<v1::ContainerStatsFilter>) -> Result<Vec<v1::ContainerStats>> {
        let filter = filter.unwrap_or_default();
        let wanted: Vec<Arc<Container>> = self
            .containers()
            .into_iter()
            .filter(|container| {
                container.id.starts_with(&filter.id)
                    && container.sandbox_id.starts_with(&filter.pod_sandbox_id)
                    && matches_labels(&filter.label_selector, &container.config().labels)
                    && matches!(container.current(), Status::Running { .. })
            })
            .collect();
        self.blocking(move |engine| wanted.iter().map(|container| engine.container_stats(container)).collect()).await
    }

    /// ContainerStats of one.
    pub async fn one_container_stats(self: &Arc<Self>, id: &str) -> Result<v1::ContainerStats> {
        let container = find(&self.index.read().containers, id, "container")?;
        self.blocking(move |engine| engine.container_stats(&container)).await
    }

    /// PodSandboxStats of one.
    pub async fn one_sandbox_stats(self: &Arc<Self>, id: &str) -> Result<v1::PodSandboxStats> {
        let sandbox = self.sandbox(id)?;
        self.blocking(move |engine| engine.sandbox_stats(&sandbox)).await
    }

    /// ListPodSandboxStats: of sandboxes that are ready.
    pub async fn list_sandbox_stats(self: &Arc<Self>, filter: Option<v1::PodSandboxStatsFilter>) -> Result<Vec<v1::PodSandboxStats>> {
        let filter = filter.unwrap_or_default();
        let wanted: Vec<Arc<Sandbox>> = self
            .sandboxes()
            .into_iter()
            .filter(|sandbox| {
                sandbox.id.starts_with(&filter.id) && matches_labels(&filter.label_selector, &sandbox.config.labels) && sandbox.is_ready()
            })
            .collect();
        self.blocking(move |engine| wanted.iter().map(|sandbox| engine.sandbox_stats(sandbox)).collect()).await
    }

    async fn blocking<T: Send + 'static>(self: &Arc<Self>, work: impl FnOnce(&Self) -> T + Send + 'static) -> Result<T> {
        let engine = self.clone();
        tokio::task::spawn_blocking(move || work(&engine)).await.map_err(|error| Error::Internal(error.to_string()))
    }

    fn sandbox_stats(&self, sandbox: &Sandbox) -> v1::PodSandboxStats {
        let timestamp = now();
        let stats = cgroup::stats(&self.cgroup_parent(sandbox));
        let containers = self.containers_of(&sandbox.id);
        let running = containers.iter().filter(|container| container.pid().is_some());
        let network = sandbox.netns().and_then(|netns| interfaces(&netns).ok()).map(|all| network_usage(all, timestamp));
        v1::PodSandboxStats {
            attributes: Some(v1::PodSandboxAttributes {
                id: sandbox.id.clone(),
                metadata: sandbox.config.metadata.clone(),
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
            }),
            linux: Some(v1::LinuxPodSandboxStats {
                cpu: stats.as_ref().map(|stats| self.cpu(&sandbox.id, stats, timestamp)),
                memory: stats.as_ref().map(|stats| memory(stats, timestamp)),
                network,
                process: stats.as_ref().map(|stats| v1::ProcessUsage { timestamp, process_count: stats.processes.map(value) }),
                containers: running.map(|container| self.container_stats(container)).collect(),
                io: None,
            }),
            windows: None,
        }
    }
}

fn network_usage(mut all: Vec<v1::NetworkInterfaceUsage>, timestamp: i64) -> v1::NetworkUsage {
    all.retain(|interface| interface.name != "lo");
    let default = all.iter().position(|interface| interface.name == crate::cni::INTERFACE).map(|index| all.remove(index));
    v1::NetworkUsage { timestamp, default_interface: default, interfaces: all }
}

/// The counters of every interface in a pod's network.
fn interfaces(netns: &std::path::Path) -> std::io::Result<Vec<v1::NetworkInterfaceUsage>> {
    let text = crate::sandbox::namespaces::in_network(netns, || std::fs::read_to_string("/proc/thread-self/net/dev"))?;
    Ok(text.lines().filter_map(interface).collect())
}

fn interface(line: &str) -> Option<v1::NetworkInterfaceUsage> {
    let (name, counters) = line.split_once(':')?;
    let counters: Vec<u64> = counters.split_whitespace().filter_map(|counter| counter.parse().ok()).collect();
    let at = |index: usize| counters.get(index).copied().map(value);
    Some(v1::NetworkInterfaceUsage { name: name.trim().to_owned(), rx_bytes: at(0), rx_errors: at(2), tx_bytes: at(8), tx_errors: at(10) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_readings_apart() {
        let history = History::default();
        assert_eq!(history.rate("a", 0, 0), None);
        assert_eq!(history.rate("a", 1_000, 5), None);
        assert_eq!(history.rate("a", 1_000_000_000, 500_000_000), Some(500_000_000));
        assert_eq!(history.rate("a", 1_100_000_000, 900_000_000), Some(500_000_000));
        assert_eq!(history.rate("a", 1_000_000_000_000, 950_000_000), None, "nobody asked for a long time");
        assert_eq!(history.rate("a", 1_001_000_000_000, 1_150_000_000), Some(200_000_000));
        history.forget("a");
        assert_eq!(history.rate("a", 2_000_000_000, 0), None);
    }

    #[test]
    fn interface_counters_are_found_in_their_columns() {
        let line = "  eth0: 100 1 2 0 0 0 0 0 200 3 4 0 0 0 0 0";
        let usage = interface(line).expect("a line of counters");
        assert_eq!((usage.name.as_str(), usage.rx_bytes, usage.rx_errors), ("eth0", Some(value(100)), Some(value(2))));
        assert_eq!((usage.tx_bytes, usage.tx_errors), (Some(value(200)), Some(value(4))));
        assert!(interface("Inter-|   Receive").is_none());
    }
}
