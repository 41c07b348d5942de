//! Pods.

use super::*;
use crate::kinds::pod::resources::is_sidecar;
use jiff::Timestamp;

/// What the containers of a pod add up to.
struct Summary {
    reason: String,
    restarts: i64,
    last: Option<Timestamp>,
    ready: usize,
}

/// What [`pod`] looks at.
pub const POD_PATHS: &[&str] = &[
    "metadata.name",
    "metadata.creationTimestamp",
    "metadata.deletionTimestamp",
    "spec.nodeName",
    "spec.readinessGates",
    "spec.containers.name",
    "spec.initContainers.name",
    "spec.initContainers.restartPolicy",
    "status",
];

pub fn pod(o: &Value, c: &HookContext) -> Cells {
    let empty = Value::Null;
    let (spec, status) = (o.get("spec").unwrap_or(&empty), o.get("status").unwrap_or(&empty));
    let total = list(spec, "containers").len() + list(spec, "initContainers").iter().filter(|c| is_sidecar(c)).count();
    let mut s = summary(o, spec, status);
    let ended = matches!(text(status, "phase"), "Succeeded" | "Failed");
    if deleted(o) && text(status, "reason") == "NodeLost" {
        s.reason = "Unknown".to_owned();
    } else if deleted(o) && !ended {
        s.reason = "Terminating".to_owned();
    }
    let restarts = match s.last {
        Some(last) if s.restarts != 0 => {
            format!("{} ({} ago)", s.restarts, time::human_duration(time::seconds_since(last, c.now)))
        }
        _ => s.restarts.to_string(),
    };
    let ip = list(status, "podIPs").first().map_or("", |ip| text(ip, "ip"));
    cells![
        name(o),
        format!("{}/{total}", s.ready),
        s.reason,
        restarts,
        age(o, c),
        or(ip, NONE),
        or(text(spec, "nodeName"), NONE),
        or(text(status, "nominatedNodeName"), NONE),
        readiness_gates(o, spec),
    ]
}

fn readiness_gates(o: &Value, spec: &Value) -> String {
    let gates = list(spec, "readinessGates");
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let passed = gates.iter().filter(|g| condition(o, text(g, "conditionType")) == Some("True")).count();
    format!("{passed}/{}", gates.len())
}

fn summary(o: &Value, spec: &Value, status: &Value) -> Summary {
    let gated = list(status, "conditions").iter().any(|c| text(c, "type") == "PodScheduled" && text(c, "reason") == "SchedulingGated");
    let reason = if gated { "SchedulingGated" } else { or(text(status, "reason"), text(status, "phase")) };
    let mut s = Summary { reason: reason.to_owned(), restarts: 0, last: None, ready: 0 };
    let mut sidecars = (0, None);
    let initializing = init_containers(spec, status, &mut s, &mut sidecars);
    if !initializing || condition(o, "Initialized") == Some("True") {
        (s.restarts, s.last) = sidecars;
        main_containers(o, status, &mut s);
    }
    s
}

fn last_end(container: &Value) -> Option<Timestamp> {
    time::parse_time(text_at(container, &["lastState", "terminated", "finishedAt"]))
}

/// Why a container ended: its reason, else its signal, else its exit code.
fn end_reason(ended: &Value, prefix: &str) -> String {
    match (text(ended, "reason"), int(ended, "signal").unwrap_or_default()) {
        ("", 0) => format!("{prefix}ExitCode:{}", int(ended, "exitCode").unwrap_or_default()),
        ("", signal) => format!("{prefix}Signal:{signal}"),
        (reason, _) => format!("{prefix}{reason}"),
    }
}

/// Walks the init containers up to the first that is not through; says whether there is one.
fn init_containers(spec: &Value, status: &Value, s: &mut Summary, sidecars: &mut (i64, Option<Timestamp>)) -> bool {
    let inits = list(spec, "initContainers");
    for (i, container) in list(status, "initContainerStatuses").iter().enumerate() {
        let restarts = int(container, "restartCount").unwrap_or_default();
        s.restarts += restarts;
        s.last = s.last.max(last_end(container));
        let sidecar = inits.iter().any(|c| text(c, "name") == text(container, "name") && is_sidecar(c));
        if sidecar {
            sidecars.0 += restarts;
            sidecars.1 = sidecars.1.max(last_end(container));
        }
        let ended = at(container, &["state", "terminated"]);
        let waiting = text_at(container, &["state", "waiting", "reason"]);
        if ended.is_some_and(|e| int(e, "exitCode").unwrap_or_default() == 0) {
            continue;
        }
        if sidecar && flag(container, "started") {
            s.ready += usize::from(flag(container, "ready"));
            continue;
        }
        s.reason = match ended {
            Some(ended) => end_reason(ended, "Init:"),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{i}/{}", inits.len()),
        };
        return true;
    }
    false
}

fn main_containers(o: &Value, status: &Value, s: &mut Summary) {
    let mut running = false;
    for container in list(status, "containerStatuses").iter().rev() {
        s.restarts += int(container, "restartCount").unwrap_or_default();
        s.last = s.last.max(last_end(container));
        let waiting = text_at(container, &["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            s.reason = waiting.to_owned();
        } else if let Some(ended) = at(container, &["state", "terminated"]) {
            s.reason = end_reason(ended, "");
        } else if flag(container, "ready") && at(container, &["state", "running"]).is_some() {
            running = true;
            s.ready += 1;
        }
    }
    if s.reason == "Completed" && running {
        let ready = condition(o, "Ready") == Some("True");
        s.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

pub fn pod_template(o: &Value, _: &HookContext) -> Cells {
    let (names, images) = containers(at(o, &["template", "spec"]));
    cells![name(o), names, images, labels(at(o, &["template", "metadata", "labels"]))]
}
