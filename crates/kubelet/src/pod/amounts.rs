//! What a pod as a whole was promised (`status.allocatedResources`) and has (`status.resources`), as the scheduler and autoscalers read
//! it while a resize is under way. Source: `convertToAPIPodLevelResourcesStatus`.

use crate::make::resources::Totals;
use ferrokube_api::quantity::Quantity;
use ferrokube_api::quota::{Amounts, pod_limits, pod_requests};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The part of a pod that amounts depend on.
fn outline(pod: &Pod) -> Value {
    let Some(spec) = &pod.spec else { return Value::Null };
    let container = |c: &Container| json!({ "resources": c.resources, "restartPolicy": c.restart_policy });
    let containers: Vec<Value> = spec.containers.iter().map(container).collect();
    let init: Vec<Value> = spec.init_containers.iter().flatten().map(container).collect();
    json!({ "spec": { "containers": containers, "initContainers": init, "resources": spec.resources, "overhead": spec.overhead } })
}

fn written(amounts: Amounts) -> Option<BTreeMap<String, Text>> {
    let written: BTreeMap<_, _> = amounts.into_iter().map(|(name, amount)| (name, Text(amount.to_string()))).collect();
    Some(written).filter(|w| !w.is_empty())
}

/// Requests that were promised, and requests and limits that are in force. `promised` is the pod with its promise, `cgroup` what its cgroup
/// was given, when that is known.
pub fn of_pod(promised: &Pod, cgroup: Option<Totals>) -> (Option<BTreeMap<String, Text>>, ResourceRequirements) {
    let outline = outline(promised);
    let requests = pod_requests(&outline);
    let allocated = written(requests.clone());
    let runs = promised.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    let (Some(cgroup), true) = (cgroup, runs) else {
        return (allocated.clone(), ResourceRequirements { claims: None, requests: allocated, limits: written(pod_limits(&outline)) });
    };
    let own = promised.spec.as_ref().and_then(|s| s.resources.as_ref());
    let named = |map: Option<&BTreeMap<String, Text>>| -> Amounts {
        map.into_iter().flatten().filter_map(|(name, text)| Some((name.clone(), Quantity::parse(&text.0).ok()?))).collect()
    };
    let (mut has, mut limits) = (named(own.and_then(|r| r.requests.as_ref())), named(own.and_then(|r| r.limits.as_ref())));
    has.extend(requests.get("memory").map(|memory| ("memory".to_owned(), *memory)));
    if requests.contains_key("cpu") {
        // In the format it was asked for with, when it is that.
        let given = Quantity::milli(cgroup.cpu_request);
        has.insert("cpu".to_owned(), requests.get("cpu").copied().filter(|cpu| *cpu == given).unwrap_or(given));
    }
    limits.extend(cgroup.cpu_limit.map(|limit| ("cpu".to_owned(), Quantity::milli(limit))));
    limits.extend(cgroup.memory_limit.map(|limit| ("memory".to_owned(), Quantity::bytes(limit))));
    (allocated, ResourceRequirements { claims: None, requests: written(has), limits: written(limits) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::make::resources::pod_totals;

    fn told(phase: &str, spec: &Value, given: Option<&Value>) -> Value {
        let pod = |spec: &Value| -> Pod { serde_json::from_value(json!({ "spec": spec, "status": { "phase": phase } })).expect("a pod") };
        let (allocated, resources) = of_pod(&pod(spec), given.map(|spec| pod_totals(&pod(spec))));
        json!({ "allocated": allocated, "has": resources })
    }

    #[test]
    fn a_pod_tells_what_it_was_promised_and_what_it_has() {
        let sized = |cpu: &str, memory: &str| {
            let amounts = json!({ "cpu": cpu, "memory": memory });
            let disk = json!({ "requests": { "cpu": "100m", "ephemeral-storage": "1Gi" } });
            json!({ "containers": [{ "name": "a", "resources": { "requests": amounts, "limits": amounts } }, { "name": "b", "resources": disk }] })
        };
        let (small, large) = (sized("200m", "32Mi"), sized("500m", "64Mi"));
        let waiting = told("Pending", &small, None);
        let sum = json!({ "cpu": "300m", "memory": "32Mi", "ephemeral-storage": "1Gi" });
        assert_eq!(waiting["allocated"], sum);
        assert_eq!(waiting["has"], json!({ "requests": sum, "limits": { "cpu": "200m", "memory": "32Mi" } }));
        let granted = told("Running", &large, Some(&small));
        assert_eq!(granted["allocated"], json!({ "cpu": "600m", "memory": "64Mi", "ephemeral-storage": "1Gi" }));
        // One container has no limit, so the cgroup of the pod has none.
        assert_eq!(granted["has"], json!({ "requests": { "cpu": "300m", "memory": "64Mi" } }), "the cgroup is not as promised yet");
    }

    #[test]
    fn amounts_of_the_pod_itself_go_before_those_of_its_containers() {
        let spec = |cpu: &str| {
            let own = json!({ "requests": { "cpu": cpu, "memory": "1Gi" }, "limits": { "cpu": cpu, "memory": "1Gi" } });
            json!({ "resources": own, "containers": [{ "name": "a", "resources": { "requests": { "cpu": "100m" } } }] })
        };
        let done = told("Running", &spec("2"), Some(&spec("2")));
        let all = json!({ "cpu": "2", "memory": "1Gi" });
        assert_eq!(done, json!({ "allocated": all, "has": { "requests": all, "limits": all } }));
        let under_way = told("Running", &spec("2"), Some(&spec("1")));
        assert_eq!(under_way["allocated"]["cpu"], "2");
        assert_eq!((&under_way["has"]["requests"]["cpu"], &under_way["has"]["limits"]["cpu"]), (&json!("1"), &json!("1")));
        assert_eq!(told("Running", &json!({ "containers": [{ "name": "a" }] }), None), json!({ "allocated": null, "has": {} }));
    }
}
