//! What namespaces say about their pods in annotations: PodNodeSelector and PodTolerationRestriction.
//!
//! Source: `plugin/pkg/admission/{podnodeselector,podtolerationrestriction}`.

use super::{Context, Operation, Outcome, list};
use ferrokube_api::Status;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const SELECTOR: &str = "scheduler.alpha.kubernetes.io/node-selector";
const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const WHITELIST: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";
const CLUSTER_DEFAULT: &str = "clusterDefaultNodeSelector";

fn annotation(c: &Context<'_>, key: &str) -> Option<String> {
    let namespace: Value = c.objects.get("", "namespaces", "", c.namespace)?.decode().ok()?;
    namespace["metadata"]["annotations"][key].as_str().map(str::to_owned)
}

/// `a=b,c=d`.
fn labels(text: &str) -> Result<BTreeMap<String, String>, Status> {
    let pairs = text.split(',').map(str::trim).filter(|p| !p.is_empty());
    let pair = |p: &str| match p.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.trim_start_matches('=').trim().to_owned())),
        None => Err(Status::untyped(format!("invalid selector: [{p}]"))),
    };
    pairs.map(pair).collect()
}

fn node_selector_of(c: &Context<'_>) -> Result<BTreeMap<String, String>, Status> {
    match annotation(c, SELECTOR).or_else(|| c.settings.node_selectors.get(CLUSTER_DEFAULT).cloned()) {
        Some(text) => labels(&text),
        None => Ok(BTreeMap::new()),
    }
}

fn conflict(pod: &Value, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().any(|(key, value)| pod["spec"]["nodeSelector"][key].as_str().is_some_and(|own| own != value))
}

const CONFLICT: &str = "pod node label selector conflicts with its namespace node label selector";

/// PodNodeSelector: pods of a namespace go to its nodes.
pub(super) fn node_selector(c: &Context<'_>, pod: &mut Value, _: &mut Outcome) -> Result<(), Status> {
    if !c.creates("", "pods") {
        return Ok(());
    }
    let wanted = node_selector_of(c)?;
    if conflict(pod, &wanted) {
        return Err(c.forbidden(Some(pod), CONFLICT));
    }
    for (key, value) in wanted {
        pod["spec"]["nodeSelector"][key] = json!(value);
    }
    Ok(())
}

/// PodNodeSelector: and nowhere that the cluster does not let them.
pub(super) fn node_selector_allowed(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let Some(pod) = object.filter(|_| c.creates("", "pods")) else { return Ok(()) };
    if conflict(pod, &node_selector_of(c)?) {
        return Err(c.forbidden(object, CONFLICT));
    }
    let allowed = labels(c.settings.node_selectors.get(c.namespace).map_or("", String::as_str))?;
    let own = pod["spec"]["nodeSelector"].as_object();
    let outside = |(key, value): (&String, &Value)| allowed.get(key).map(String::as_str) != value.as_str();
    if !allowed.is_empty() && own.into_iter().flatten().any(outside) {
        return Err(c.forbidden(object, "pod node label selector labels conflict with its namespace whitelist"));
    }
    Ok(())
}

fn tolerations_of(c: &Context<'_>, key: &str, otherwise: &[Value]) -> Result<Vec<Value>, Status> {
    match annotation(c, key) {
        None => Ok(otherwise.to_vec()),
        Some(text) if text.is_empty() => Ok(Vec::new()),
        Some(text) => serde_json::from_str(&text).map_err(|e| Status::untyped(e.to_string())),
    }
}

fn text<'t>(toleration: &'t Value, key: &str) -> &'t str {
    toleration[key].as_str().unwrap_or_default()
}

/// Whether everything that `b` tolerates is tolerated by `a` (`tolerations.isSuperset`).
fn covers(a: &Value, b: &Value) -> bool {
    let exists = |t: &Value| text(t, "operator") == "Exists";
    if text(a, "key") != text(b, "key") && !(text(a, "key").is_empty() && exists(a)) {
        return false;
    }
    if !text(a, "effect").is_empty() && text(a, "effect") != text(b, "effect") {
        return false;
    }
    if text(a, "effect") == "NoExecute" {
        let seconds = |t: &Value| t["tolerationSeconds"].as_i64().unwrap_or(i64::MAX);
        if seconds(a) < seconds(b) {
            return false;
        }
    }
    exists(a) || (!exists(b) && text(a, "value") == text(b, "value"))
}

/// Both lists without what another of them covers (`MergeTolerations`).
fn merged(first: Vec<Value>, second: Vec<Value>) -> Vec<Value> {
    let all: Vec<Value> = first.into_iter().chain(second).collect();
    let kept = |i: usize, t: &Value| {
        // Of two that cover each other the first stays.
        !all.iter().enumerate().any(|(j, other)| j != i && covers(other, t) && (!covers(t, other) || j < i))
    };
    all.iter().enumerate().filter(|(i, t)| kept(*i, t)).map(|(_, t)| t.clone()).collect()
}

fn pod_tolerations(pod: &Value) -> Vec<Value> {
    list(&pod["spec"], "tolerations").cloned().collect()
}

/// PodTolerationRestriction: pods tolerate what their namespace does, and memory pressure when they ask for resources.
pub(super) fn tolerations(c: &Context<'_>, pod: &mut Value, _: &mut Outcome) -> Result<(), Status> {
    if !c.is("", "pods", &[]) || !matches!(c.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let mut all = pod_tolerations(pod);
    if c.operation == Operation::Create {
        all = merged(tolerations_of(c, DEFAULTS, &c.settings.tolerations.default)?, all);
    }
    if ferrokube_api::kinds::qos_class(&pod["spec"]) != "BestEffort" {
        let pressure = json!({"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"});
        all = merged(all, vec![pressure]);
    }
    if !all.is_empty() {
        pod["spec"]["tolerations"] = json!(all);
    }
    Ok(())
}

/// PodTolerationRestriction: pods tolerate nothing else than their namespace may.
pub(super) fn tolerations_allowed(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let writes = c.is("", "pods", &[]) && matches!(c.operation, Operation::Create | Operation::Update);
    let Some(pod) = object.filter(|_| writes) else { return Ok(()) };
    let allowed = tolerations_of(c, WHITELIST, &c.settings.tolerations.whitelist)?;
    let own = pod_tolerations(pod);
    if !allowed.is_empty() && !own.iter().all(|t| allowed.iter().any(|a| covers(a, t))) {
        return Err(Status::untyped(
            "pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_cover_each_other_as_upstream_says() {
        let all = json!({"operator": "Exists"});
        let any = json!({"key": "a", "operator": "Exists"});
        let one = json!({"key": "a", "operator": "Equal", "value": "x", "effect": "NoSchedule"});
        let brief = json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let long = json!({"key": "a", "operator": "Exists", "effect": "NoExecute"});
        assert!(covers(&all, &one) && covers(&any, &one) && !covers(&one, &any) && covers(&long, &brief) && !covers(&brief, &long));
        assert_eq!(merged(vec![any.clone()], vec![one, brief]), [any]);
    }
}
