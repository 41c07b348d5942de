//! `/metrics/resources` of the scheduler: what each pod requests and is limited to.
//!
//! Nobody keeps it: the pods are listed page by page when somebody asks, and one pod at a time is a tree of values.
//! Source: `pkg/scheduler/metrics/resources`.

use super::pages::{self, Answer};
use ferrokube_api::quota::{Amounts, pod_limits, pod_requests};
use ferrokube_client::{Client, Error, Target};
use http::{Method, StatusCode};
use serde_json::Value;
use std::fmt::Write;

/// Pods asked for at once.
const PAGE: usize = 500;

struct Family {
    name: &'static str,
    help: &'static str,
    of: fn(&Value) -> Amounts,
}

const FAMILIES: [Family; 2] = [
    Family {
        name: "kube_pod_resource_limit",
        help: "[STABLE] Resources limit for workloads on the cluster, broken down by pod. This shows the resource usage the scheduler and kubelet expect per pod for resources along with the unit for the resource if any.",
        of: pod_limits,
    },
    Family {
        name: "kube_pod_resource_request",
        help: "[STABLE] Resources requested by workloads on the cluster, broken down by pod. This shows the resource usage the scheduler and kubelet expect per pod for resources along with the unit for the resource if any.",
        of: pod_requests,
    },
];

/// The page.
pub async fn page(client: &Client) -> Answer {
    match collected(client).await {
        Ok(text) => pages::text(StatusCode::OK, text),
        Err(e) => {
            tracing::warn!("pods cannot be listed for /metrics/resources: {e}");
            pages::text(StatusCode::INTERNAL_SERVER_ERROR, "pods cannot be listed\n".to_owned())
        }
    }
}

async fn collected(client: &Client) -> Result<String, Error> {
    let target = Target { version: "v1".into(), resource: "pods".into(), ..Target::default() };
    let (mut lines, mut next) = ([String::new(), String::new()], String::new());
    loop {
        let list = client.request(Method::GET, &target, &format!("limit={PAGE}&continue={next}"), None).await?;
        for pod in list["items"].as_array().into_iter().flatten() {
            FAMILIES.iter().zip(&mut lines).for_each(|(family, lines)| write_pod(family, pod, lines));
        }
        match list["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
            Some(token) => token.clone_into(&mut next),
            None => break,
        }
    }
    let head = |f: &Family| format!("# HELP {name} {}\n# TYPE {name} gauge\n", f.help, name = f.name);
    Ok(FAMILIES.iter().zip(lines).filter(|(_, lines)| !lines.is_empty()).map(|(family, lines)| head(family) + &lines).collect())
}

/// A pod that is over uses nothing.
fn write_pod(family: &Family, pod: &Value, out: &mut String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (meta, spec) = (&pod["metadata"], &pod["spec"]);
    let node = text(&spec["nodeName"]);
    if !node.is_empty() && matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return;
    }
    let priority = spec["priority"].as_i64().map(|p| p.to_string()).unwrap_or_default();
    let (namespace, name, scheduler) = (text(&meta["namespace"]), text(&meta["name"]), text(&spec["schedulerName"]));
    for (resource, amount) in (family.of)(pod).iter().filter(|(_, amount)| !amount.is_zero()) {
        // A string takes what is written to it.
        let _ = writeln!(
            out,
            "{}{{namespace={namespace:?},node={node:?},pod={name:?},priority={priority:?},resource={resource:?},scheduler={scheduler:?},unit={:?}}} {}",
            family.name,
            unit(resource),
            amount.as_f64()
        );
    }
}

fn unit(resource: &str) -> &'static str {
    match resource {
        "cpu" => "cores",
        "memory" | "storage" | "ephemeral-storage" => "bytes",
        other if other.starts_with("hugepages-") => "bytes",
        _ => "integer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_shows_what_it_takes_until_it_is_over() {
        let mut pod = json!({"metadata": {"namespace": "a", "name": "p"}, "spec": {"nodeName": "n", "schedulerName": "s", "priority": 7,
            "containers": [{"resources": {"requests": {"cpu": "250m", "memory": "1Ki", "example.com/x": "2"}, "limits": {"cpu": "0"}}}]}});
        let shown = |family: &Family, pod: &Value| {
            let mut out = String::new();
            write_pod(family, pod, &mut out);
            out
        };
        let labels = |resource: &str, unit: &str| {
            format!(r#"{{namespace="a",node="n",pod="p",priority="7",resource="{resource}",scheduler="s",unit="{unit}"}}"#)
        };
        let expected = format!(
            "kube_pod_resource_request{} 0.25\nkube_pod_resource_request{} 2\nkube_pod_resource_request{} 1024\n",
            labels("cpu", "cores"),
            labels("example.com/x", "integer"),
            labels("memory", "bytes")
        );
        assert_eq!(shown(&FAMILIES[1], &pod), expected);
        assert_eq!(shown(&FAMILIES[0], &pod), "", "a limit of nothing is none");
        pod["status"]["phase"] = "Succeeded".into();
        assert_eq!(shown(&FAMILIES[1], &pod), "");
    }
}
