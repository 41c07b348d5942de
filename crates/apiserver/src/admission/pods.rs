//! Small plugins for pods and nodes: Priority, DefaultTolerationSeconds, TaintNodesByCondition, RuntimeClass,
//! PodTopologyLabels, PodResizeValidator.

use super::{Context, Operation, Outcome, array_mut, list};
use ferrokube_api::quantity::Quantity;
use ferrokube_api::{Cause, Object, Status};
use serde_json::{Value, json};
use std::sync::Arc;

const SCHEDULING: &str = "scheduling.k8s.io";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Labels of the node that its pods get.
const TOPOLOGY: &[&str] = &["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Priority: the number behind the class.
pub(super) fn priority(c: &Context<'_>, pod: &mut Value, _: &mut Outcome) -> Result<(), Status> {
    if !c.is("", "pods", &[]) {
        return Ok(());
    }
    match (c.operation, c.old) {
        (Operation::Create, _) => set_priority(c, pod),
        (Operation::Update, Some(old)) => {
            for field in ["priority", "preemptionPolicy"] {
                if pod["spec"][field].is_null() && !old["spec"][field].is_null() {
                    pod["spec"][field] = old["spec"][field].clone();
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn set_priority(c: &Context<'_>, pod: &mut Value) -> Result<(), Status> {
    let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class: Value = if name.is_empty() {
        default_class(c).unwrap_or_else(|| json!({ "metadata": { "name": "" }, "value": 0, "preemptionPolicy": "PreemptLowerPriority" }))
    } else {
        let found = c.objects.get(SCHEDULING, "priorityclasses", "", &name).and_then(|o| o.decode().ok());
        found.ok_or_else(|| c.forbidden(Some(pod), format!("no PriorityClass with name {name} was found")))?
    };
    let value = class["value"].as_i64().unwrap_or_default();
    if let Some(given) = pod["spec"]["priority"].as_i64().filter(|given| *given != value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(c.forbidden(Some(pod), why));
    }
    if let Some(policy) = class["preemptionPolicy"].as_str() {
        if let Some(given) = pod["spec"]["preemptionPolicy"].as_str().filter(|given| *given != policy) {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            );
            return Err(c.forbidden(Some(pod), why));
        }
        pod["spec"]["preemptionPolicy"] = json!(policy);
    }
    let spec = &mut pod["spec"];
    spec["priority"] = json!(value);
    if let Some(name) = class["metadata"]["name"].as_str().filter(|n| !n.is_empty()) {
        spec["priorityClassName"] = json!(name);
    }
    Ok(())
}

/// The class marked as default; the lowest when there are several.
fn default_class(c: &Context<'_>) -> Option<Value> {
    // Every new pod comes through here: only what can be a default is decoded.
    let may_be = |o: &Arc<Object>| o.mentions(b"\"globalDefault\":true");
    let candidates = c.objects.list(SCHEDULING, "priorityclasses", "").into_iter().filter(may_be);
    let classes = candidates.filter_map(|o| o.decode::<Value>().ok());
    classes.filter(|class| class["globalDefault"] == true).min_by_key(|class| class["value"].as_i64())
}

/// Priority: only one class is the default.
pub(super) fn priority_class(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let Some(class) = object.filter(|_| c.is(SCHEDULING, "priorityclasses", &[]) && c.operation != Operation::Delete) else {
        return Ok(());
    };
    if class["globalDefault"] != true {
        return Ok(());
    }
    match default_class(c) {
        Some(other) if other["metadata"]["name"] != class["metadata"]["name"] => {
            let name = other["metadata"]["name"].as_str().unwrap_or_default();
            Err(c.forbidden(object, format!("PriorityClass {name} is already marked as default. Only one default can exist")))
        }
        _ => Ok(()),
    }
}

/// DefaultTolerationSeconds: pods stay a while, five minutes unless flags say otherwise, on a node that does not answer.
pub(super) fn tolerations(c: &Context<'_>, pod: &mut Value, _: &mut Outcome) -> Result<(), Status> {
    if !c.is("", "pods", &[]) || !matches!(c.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    for (key, seconds) in [(NOT_READY, c.settings.not_ready_seconds), (UNREACHABLE, c.settings.unreachable_seconds)] {
        let covers = |t: &Value| {
            let text = |f: &str| t[f].as_str().unwrap_or_default();
            (text("key") == key || text("key").is_empty()) && (text("effect") == "NoExecute" || text("effect").is_empty())
        };
        if !list(&pod["spec"], "tolerations").any(covers) {
            let toleration = json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds });
            array_mut(&mut pod["spec"], "tolerations").push(toleration);
        }
    }
    Ok(())
}

/// TaintNodesByCondition: a new node takes no pods until the node lifecycle controller saw it ready.
pub(super) fn taint_new_node(c: &Context<'_>, node: &mut Value, _: &mut Outcome) -> Result<(), Status> {
    if c.creates("", "nodes") && !list(&node["spec"], "taints").any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule") {
        if !node["spec"].is_object() {
            node["spec"] = json!({});
        }
        array_mut(&mut node["spec"], "taints").push(json!({ "key": NOT_READY, "effect": "NoSchedule" }));
    }
    Ok(())
}

fn runtime_class(c: &Context<'_>, pod: &Value) -> Result<Option<Value>, Status> {
    let Some(name) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
    let class = c.objects.get("node.k8s.io", "runtimeclasses", "", name).and_then(|o| o.decode().ok());
    class.map(Some).ok_or_else(|| c.forbidden(Some(pod), format!("pod rejected: RuntimeClass {name:?} not found")))
}

/// RuntimeClass: overhead and placement of the class become those of the pod.
pub(super) fn runtime_defaults(c: &Context<'_>, pod: &mut Value, _: &mut Outcome) -> Result<(), Status> {
    if !c.creates("", "pods") {
        return Ok(());
    }
    let Some(class) = runtime_class(c, pod)? else { return Ok(()) };
    let fixed = &class["overhead"]["podFixed"];
    if fixed.is_object() {
        if !pod["spec"]["overhead"].is_null() && !same_amounts(&pod["spec"]["overhead"], fixed) {
            return Err(c.forbidden(Some(pod), "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
        }
        pod["spec"]["overhead"] = fixed.clone();
    }
    for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
        let own = &pod["spec"]["nodeSelector"][key];
        if !own.is_null() && own != value {
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let (theirs, own) = (text(value), text(own));
            let why = format!("conflict: runtimeClass.scheduling.nodeSelector[{key}] = {theirs}; pod.spec.nodeSelector[{key}] = {own}");
            return Err(c.forbidden(Some(pod), why));
        }
        pod["spec"]["nodeSelector"][key] = value.clone();
    }
    for toleration in list(&class["scheduling"], "tolerations") {
        if !list(&pod["spec"], "tolerations").any(|t| t == toleration) {
            array_mut(&mut pod["spec"], "tolerations").push(toleration.clone());
        }
    }
    Ok(())
}

/// RuntimeClass: nobody invents an overhead.
pub(super) fn runtime_overhead(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let Some(pod) = object.filter(|_| c.creates("", "pods")) else { return Ok(()) };
    let class = runtime_class(c, pod)?;
    let fixed = class.as_ref().map(|class| &class["overhead"]["podFixed"]).filter(|f| f.is_object());
    let own = &pod["spec"]["overhead"];
    match fixed {
        Some(fixed) if !same_amounts(own, fixed) => {
            Err(c.forbidden(object, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
        }
        None if !own.is_null() => {
            Err(c.forbidden(object, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
        }
        _ => Ok(()),
    }
}

fn same_amounts(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a.is_null() && b.is_null() };
    let equal = |x: &Value, y: &Value| Quantity::from_json(x).ok() == Quantity::from_json(y).ok();
    a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|other| equal(v, other)))
}

/// PodTopologyLabels: zone and region of the node, on the pod (through the Binding) that gets there.
pub(super) fn topology_labels(c: &Context<'_>, object: &mut Value, _: &mut Outcome) -> Result<(), Status> {
    if !c.group.is_empty() || c.operation != Operation::Create {
        return Ok(());
    }
    let target = match (c.resource, c.subresource, c.kind.1) {
        ("pods", "binding", _) | ("bindings", "", _) if matches!(object["target"]["kind"].as_str(), None | Some("" | "Node")) => {
            &object["target"]["name"]
        }
        ("pods", "", "Pod") => &object["spec"]["nodeName"],
        _ => return Ok(()),
    };
    let node = target.as_str().filter(|n| !n.is_empty()).and_then(|n| c.objects.get("", "nodes", "", n));
    let Some(node) = node else { return Ok(()) };
    let labels = TOPOLOGY.iter().filter_map(|key| Some((*key, node.label(key)?)));
    for (key, value) in labels.collect::<Vec<_>>() {
        object["metadata"]["labels"][key] = json!(value);
    }
    Ok(())
}

/// PodResizeValidator: a resize that the node can never give is refused at once.
pub(super) fn resize(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let resizes = c.group.is_empty() && c.resource == "pods" && c.subresource == "resize" && c.operation == Operation::Update;
    let Some(pod) = object.filter(|_| resizes) else { return Ok(()) };
    let Some(name) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) else { return Ok(()) };
    if c.old.is_some_and(|old| old["metadata"]["generation"] == pod["metadata"]["generation"]) {
        return Ok(());
    }
    let node: Arc<Object> = c.objects.get("", "nodes", "", name).ok_or_else(|| c.forbidden(object, format!("node {name:?} not found")))?;
    let refuse = |cause: &str, why: String| {
        let mut status = c.forbidden(object, &why);
        status.details.get_or_insert_default().causes.push(Cause { kind: cause.into(), message: why, field: String::new() });
        Err(status)
    };
    let allocatable: Value = node.decode::<Value>().map(|n| n["status"]["allocatable"].clone()).unwrap_or_default();
    let amount = |resource: &str| Quantity::from_json(&allocatable[resource]).unwrap_or_default();
    let wants = ferrokube_api::quota::pod_requests(pod);
    let want = |resource: &str| wants.get(resource).copied().unwrap_or_default();
    let mut lacks = Vec::new();
    let (cpu, free) = (want("cpu").milli_value(), amount("cpu").milli_value());
    if cpu > free {
        lacks.push(format!("cpu, requested: {cpu}, allocatable: {free}"));
    }
    let (memory, free) = (want("memory").value(), amount("memory").value());
    if memory > free {
        lacks.push(format!("memory, requested: {memory}, allocatable: {free}"));
    }
    if !lacks.is_empty() {
        return refuse("NodeCapacity", format!("Node didn't have enough allocatable resources: {}", lacks.join("; ")));
    }
    match node.label("kubernetes.io/os") {
        Some("linux") => Ok(()),
        os => refuse(
            "UnsupportedPlatform",
            format!("pod resize is only supported on linux nodes, node {name:?} is {:?}", os.unwrap_or_default()),
        ),
    }
}
