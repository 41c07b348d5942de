//! `/metrics`, `/metrics/resource` and `/metrics/cadvisor` in the Prometheus text format.

use super::routes::names;
use super::stats::{Machine, containers};
use super::{Answer, full};
use crate::node::Shared;
use ferrokube_cri::v1 as cri;
use http::Response;
use std::collections::BTreeMap;
use std::fmt::Write;

fn answer(body: String) -> Answer {
    let answer = Response::builder().header(http::header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8").body(full(body));
    answer.expect("constant headers are valid")
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    let _ = if labels.is_empty() { writeln!(out, "{name} {value}") } else { writeln!(out, "{name}{{{}}} {value}", labels.join(",")) };
}

/// Counters of the kubelet itself.
pub async fn kubelet(node: &Shared) -> Answer {
    let listed = node.cri.runtime.clone().list_containers(cri::ListContainersRequest::default()).await;
    let containers = listed.map(|l| l.into_inner().containers).unwrap_or_default();
    let mut out = String::new();
    head(&mut out, "kubernetes_build_info", "gauge", "[BETA] A metric with a constant '1' value labeled by version of the node agent.");
    line(&mut out, "kubernetes_build_info", &[("git_version", &node.config.version), ("platform", "linux")], 1.0);
    head(&mut out, "kubelet_running_containers", "gauge", "[ALPHA] Number of containers currently running");
    for (name, state) in [
        ("created", cri::ContainerState::ContainerCreated),
        ("running", cri::ContainerState::ContainerRunning),
        ("exited", cri::ContainerState::ContainerExited),
        ("unknown", cri::ContainerState::ContainerUnknown),
    ] {
        let count = containers.iter().filter(|c| c.state() == state).count();
        line(&mut out, "kubelet_running_containers", &[("container_state", name)], count as f64);
    }
    head(&mut out, "kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.");
    line(&mut out, "kubelet_node_name", &[("node", &node.config.node_name)], 1.0);
    let pods: Vec<_> = node.pods.lock().values().cloned().collect();
    let running = pods.iter().filter(|p| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")).count();
    head(&mut out, "kubelet_running_pods", "gauge", "[ALPHA] Number of pods that have a running pod sandbox");
    line(&mut out, "kubelet_running_pods", &[], running as f64);
    head(&mut out, "kubelet_desired_pods", "gauge", "[ALPHA] The number of pods the kubelet is being instructed to run.");
    line(&mut out, "kubelet_desired_pods", &[("static", "")], pods.len() as f64);
    answer(out)
}

fn value(v: &Option<cri::UInt64Value>) -> Option<f64> {
    v.as_ref().map(|v| v.value as f64)
}

/// What metrics-server reads.
pub async fn resource(node: &Shared) -> Answer {
    let mut out = String::new();
    let machine = Machine::read();
    head(&mut out, "node_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the node in core-seconds");
    line(&mut out, "node_cpu_usage_seconds_total", &[], machine.cpu_nanos as f64 / 1e9);
    head(&mut out, "node_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the node in bytes");
    line(&mut out, "node_memory_working_set_bytes", &[], machine.used_memory as f64);
    let stats = containers(node).await;
    let failed = stats.is_err();
    let stats = stats.unwrap_or_default();
    let cpu = |s: &cri::ContainerStats| s.cpu.as_ref().and_then(|c| value(&c.usage_core_nano_seconds)).map(|n| n / 1e9);
    let memory = |s: &cri::ContainerStats| s.memory.as_ref().and_then(|m| value(&m.working_set_bytes));
    let series: [(&str, &str, &str, &dyn Fn(&cri::ContainerStats) -> Option<f64>); 2] = [
        ("cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in core-seconds", &cpu),
        ("memory_working_set_bytes", "gauge", "Current working set in bytes", &memory),
    ];
    for (name, kind, help, read) in series {
        per_container(&mut out, name, kind, help, &stats, read);
    }
    start_times(node, &mut out).await;
    head(&mut out, "resource_scrape_error", "gauge", "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise");
    line(&mut out, "resource_scrape_error", &[], f64::from(u8::from(failed)));
    answer(out)
}

async fn start_times(node: &Shared, out: &mut String) {
    let state = Some(cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning.into() });
    let filter = Some(cri::ContainerFilter { state, ..cri::ContainerFilter::default() });
    let Ok(listed) = node.cri.runtime.clone().list_containers(cri::ListContainersRequest { filter }).await else { return };
    head(out, "container_start_time_seconds", "gauge", "[STABLE] Start time of the container since unix epoch in seconds");
    for container in listed.into_inner().containers {
        let request = cri::ContainerStatusRequest { container_id: container.id.clone(), verbose: false };
        // A container that went in between has no start time to tell.
        let Ok(answer) = node.cri.runtime.clone().container_status(request).await else { continue };
        let Some(status) = answer.into_inner().status else { continue };
        let names = names(&container.labels);
        let labels = [("container", names["container"].as_str()), ("namespace", &names["namespace"]), ("pod", &names["pod"])];
        line(out, "container_start_time_seconds", &labels, status.started_at as f64 / 1e9);
    }
}

/// Results of probes.
pub fn probes(node: &Shared) -> Answer {
    let mut out = String::new();
    head(
        &mut out,
        "prober_probe_total",
        "counter",
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
    );
    for (key, count) in node.probed.all() {
        let result = if key.healthy { "successful" } else { "failed" };
        let labels = [
            ("container", key.container.as_str()),
            ("namespace", &key.namespace),
            ("pod", &key.pod),
            ("pod_uid", &key.pod_uid),
            ("probe_type", key.kind.as_str()),
            ("result", result),
        ];
        line(&mut out, "prober_probe_total", &labels, count as f64);
    }
    answer(out)
}

fn per_container(
    out: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    stats: &[cri::ContainerStats],
    read: &dyn Fn(&cri::ContainerStats) -> Option<f64>,
) {
    let mut pods: BTreeMap<(String, String), f64> = BTreeMap::new();
    let full = format!("container_{name}");
    head(out, &full, kind, &format!("[STABLE] {help}"));
    for stats in stats {
        let (Some(attributes), Some(value)) = (&stats.attributes, read(stats)) else { continue };
        let names = names(&attributes.labels);
        line(out, &full, &[("container", &names["container"]), ("namespace", &names["namespace"]), ("pod", &names["pod"])], value);
        *pods.entry((names["namespace"].clone(), names["pod"].clone())).or_default() += value;
    }
    let full = format!("pod_{name}");
    head(out, &full, kind, &format!("[STABLE] {help}"));
    for ((namespace, pod), value) in pods {
        line(out, &full, &[("namespace", &namespace), ("pod", &pod)], value);
    }
}

/// The part of cAdvisor's series that CRI stats can tell.
pub async fn cadvisor(node: &Shared) -> Answer {
    let mut out = String::new();
    let stats = containers(node).await.unwrap_or_default();
    type Read = fn(&cri::ContainerStats) -> Option<f64>;
    let series: [(&str, &str, Read); 4] = [
        ("container_cpu_usage_seconds_total", "counter", |s| {
            s.cpu.as_ref().and_then(|c| value(&c.usage_core_nano_seconds)).map(|n| n / 1e9)
        }),
        ("container_memory_working_set_bytes", "gauge", |s| s.memory.as_ref().and_then(|m| value(&m.working_set_bytes))),
        ("container_memory_rss", "gauge", |s| s.memory.as_ref().and_then(|m| value(&m.rss_bytes))),
        ("container_fs_usage_bytes", "gauge", |s| s.writable_layer.as_ref().and_then(|w| value(&w.used_bytes))),
    ];
    for (name, kind, read) in series {
        head(&mut out, name, kind, "As cAdvisor counts it.");
        for stats in &stats {
            let (Some(attributes), Some(value)) = (&stats.attributes, read(stats)) else { continue };
            let names = names(&attributes.labels);
            let id = attributes.id.as_str();
            line(
                &mut out,
                name,
                &[("container", &names["container"]), ("id", id), ("namespace", &names["namespace"]), ("pod", &names["pod"])],
                value,
            );
        }
    }
    answer(out)
}
