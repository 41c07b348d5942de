//! `/stats/summary`: usage of the node and its pods in the words of `stats/v1alpha1`.

use super::routes::names;
use super::{Answer, full, text};
use crate::node::{Shared, status::filesystem};
use ferrokube_cri::v1 as cri;
use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Usage of every container, as the runtime counts it.
pub async fn containers(node: &Shared) -> Result<Vec<cri::ContainerStats>, tonic::Status> {
    Ok(node.cri.runtime.clone().list_container_stats(cri::ListContainerStatsRequest::default()).await?.into_inner().stats)
}

fn time(nanos: i64) -> Value {
    Timestamp::from_nanosecond(nanos.into()).map_or(Value::Null, |t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into())
}

fn number(value: &Option<cri::UInt64Value>) -> Value {
    value.as_ref().map_or(Value::Null, |v| v.value.into())
}

fn cpu(usage: Option<&cri::CpuUsage>) -> Value {
    usage.map_or(Value::Null, |u| {
        json!({"time": time(u.timestamp), "usageNanoCores": number(&u.usage_nano_cores), "usageCoreNanoSeconds": number(&u.usage_core_nano_seconds)})
    })
}

fn memory(usage: Option<&cri::MemoryUsage>) -> Value {
    usage.map_or(Value::Null, |u| {
        json!({
            "time": time(u.timestamp), "workingSetBytes": number(&u.working_set_bytes), "usageBytes": number(&u.usage_bytes),
            "rssBytes": number(&u.rss_bytes), "availableBytes": number(&u.available_bytes),
            "pageFaults": number(&u.page_faults), "majorPageFaults": number(&u.major_page_faults),
        })
    })
}

/// Answers `/stats/summary`.
pub async fn summary(node: &Shared) -> Answer {
    let containers = match containers(node).await {
        Ok(stats) => stats,
        Err(e) => return text(500, e.message().to_owned()),
    };
    let mut pods: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for stats in &containers {
        let Some(attributes) = &stats.attributes else { continue };
        let names = names(&attributes.labels);
        let reference = json!({"name": names["pod"], "namespace": names["namespace"], "uid": names["uid"]});
        let entry = pods.entry(names["uid"].clone()).or_insert_with(|| (reference, Vec::new()));
        let rootfs = stats
            .writable_layer
            .as_ref()
            .map(|w| json!({"time": time(w.timestamp), "usedBytes": number(&w.used_bytes), "inodesUsed": number(&w.inodes_used)}));
        entry.1.push(
            json!({"name": names["container"], "cpu": cpu(stats.cpu.as_ref()), "memory": memory(stats.memory.as_ref()), "rootfs": rootfs}),
        );
    }
    let pods: Vec<Value> = pods.into_values().map(|(reference, containers)| pod(reference, containers)).collect();
    let (size, available) = filesystem(&node.config.root);
    let now = time(i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0));
    let machine = Machine::read();
    let nano_cores = node.load.rate(tokio::time::Instant::now(), machine.cpu_nanos);
    let body = json!({
        "node": {
            "nodeName": node.config.node_name,
            "cpu": {"time": now, "usageNanoCores": nano_cores, "usageCoreNanoSeconds": machine.cpu_nanos},
            "memory": {"time": now, "workingSetBytes": machine.used_memory, "availableBytes": machine.available_memory, "usageBytes": machine.used_memory},
            "fs": {"time": now, "capacityBytes": size, "availableBytes": available, "usedBytes": size - available},
        },
        "pods": pods,
    });
    let answer = Response::builder().header(http::header::CONTENT_TYPE, "application/json").body(full(body.to_string()));
    answer.expect("constant headers are valid")
}

fn pod(reference: Value, containers: Vec<Value>) -> Value {
    // What is not known of one container is not known of the pod.
    let sum = |part: &str, field: &str| containers.iter().map(|c| c[part][field].as_u64()).sum::<Option<u64>>();
    let time = containers.first().map(|c| c["cpu"]["time"].clone()).unwrap_or_default();
    json!({
        "podRef": reference,
        "cpu": {"time": time, "usageNanoCores": sum("cpu", "usageNanoCores"), "usageCoreNanoSeconds": sum("cpu", "usageCoreNanoSeconds")},
        "memory": {"time": time, "workingSetBytes": sum("memory", "workingSetBytes"), "usageBytes": sum("memory", "usageBytes"), "rssBytes": sum("memory", "rssBytes")},
        "containers": containers,
    })
}

/// What the machine as a whole has used.
pub struct Machine {
    /// CPU time since boot, all CPUs, in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory that is not available.
    pub used_memory: u64,
    /// Memory that is available.
    pub available_memory: u64,
}

impl Machine {
    /// Reads `/proc`.
    pub fn read() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields: Vec<u64> = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal, in hundredths of a second.
        let busy: u64 = fields.iter().enumerate().filter(|(i, _)| !matches!(i, 3 | 4) && *i < 8).map(|(_, n)| n).sum();
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kilobytes = |name: &str| {
            let line = meminfo.lines().find_map(|l| l.strip_prefix(name));
            line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let (total, available) = (kilobytes("MemTotal:") * 1024, kilobytes("MemAvailable:") * 1024);
        Machine { cpu_nanos: busy * 10_000_000, used_memory: total.saturating_sub(available), available_memory: available }
    }
}
