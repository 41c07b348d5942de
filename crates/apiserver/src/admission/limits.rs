//! LimitRanger: defaults and bounds of a namespace for containers, pods and claims.

use super::{Context, Operation, Outcome, list};
use ferrokube_api::Status;
use ferrokube_api::quantity::Quantity;
use ferrokube_api::quota::{Amounts, amounts, running};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};

/// The limits of each LimitRange of the namespace.
fn ranges(c: &Context<'_>) -> Vec<Vec<Value>> {
    let objects = c.objects.list("", "limitranges", c.namespace).into_iter();
    objects.filter_map(|o| o.decode::<Value>().ok()).map(|o| list(&o["spec"], "limits").cloned().collect()).collect()
}

/// Fills requests and limits that a container leaves open. Of several LimitRanges the last that had something to fill is told of.
pub(super) fn mutate(c: &Context<'_>, pod: &mut Value, _: &mut Outcome) -> Result<(), Status> {
    if !c.creates("", "pods") {
        return Ok(());
    }
    for limits in ranges(c) {
        let (requests, bounds) = (defaults(&limits, "defaultRequest"), defaults(&limits, "default"));
        let mut notes = Vec::new();
        for (kind, called) in [("containers", "container"), ("initContainers", "init container")] {
            for container in pod["spec"].get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
                let name = container["name"].as_str().unwrap_or_default().to_owned();
                for (field, defaults, word) in [("requests", &requests, "request"), ("limits", &bounds, "limit")] {
                    let set = fill(container, field, defaults);
                    if !set.is_empty() {
                        notes.push(format!("{} {word} for {called} {name}", set.join(", ")));
                    }
                }
            }
        }
        if !notes.is_empty() {
            pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"] = json!(format!("LimitRanger plugin set: {}", notes.join("; ")));
        }
    }
    Ok(())
}

/// What the limits give containers, sorted by name; a later one goes before an earlier one.
fn defaults(limits: &[Value], field: &str) -> BTreeMap<String, Value> {
    let given = limits.iter().filter(|l| l["type"] == "Container").filter_map(|l| l[field].as_object()).flatten();
    given.map(|(name, amount)| (name.clone(), amount.clone())).collect()
}

/// The names of the resources that were open.
fn fill(container: &mut Value, field: &str, defaults: &BTreeMap<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    for (name, amount) in defaults {
        let own = &mut container["resources"][field][name];
        if own.is_null() {
            *own = amount.clone();
            set.push(name.clone());
        }
    }
    set
}

/// Checks the bounds: all that one LimitRange has against the object is told at once. What is being deleted may go as it is.
pub(super) fn validate(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let Some(object) = object else { return Ok(()) };
    let is_pod = c.is("", "pods", &["resize"]);
    let is_claim = c.is("", "persistentvolumeclaims", &[]);
    let applies = match c.operation {
        Operation::Create => (is_pod || is_claim) && c.subresource.is_empty(),
        Operation::Update => is_claim || (is_pod && c.subresource == "resize"),
        _ => false,
    };
    if !applies || c.review.old.is_some_and(|old| !old["metadata"]["deletionTimestamp"].is_null()) {
        return Ok(());
    }
    for limits in ranges(c) {
        let mut errors = Vec::new();
        for limit in &limits {
            match limit["type"].as_str().unwrap_or_default() {
                "Container" if is_pod => {
                    for container in list(&object["spec"], "containers").chain(list(&object["spec"], "initContainers")) {
                        let of = |field: &str| amounts(&container["resources"][field]);
                        check(limit, "Container", &of("requests"), &of("limits"), &mut errors);
                    }
                }
                "Pod" if is_pod => check(limit, "Pod", &running(object, "requests"), &running(object, "limits"), &mut errors),
                "PersistentVolumeClaim" if is_claim => check_claim(limit, object, &mut errors),
                _ => {}
            }
        }
        if let Some(why) = aggregate(errors) {
            return Err(c.forbidden(Some(object), why));
        }
    }
    Ok(())
}

/// Errors as one text, each once, in the form of apimachinery's aggregates.
fn aggregate(errors: Vec<String>) -> Option<String> {
    let mut seen = HashSet::new();
    let once: Vec<String> = errors.into_iter().filter(|e| seen.insert(e.clone())).collect();
    match once.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

fn check(range: &Value, kind: &str, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    for (name, bound) in &amounts(&range["min"]) {
        let head = format!("minimum {name} usage per {kind} is {bound}");
        match (requests.get(name), limits.get(name)) {
            (None, _) => errors.push(format!("{head}.  No request is specified")),
            (Some(request), _) if request < bound => errors.push(format!("{head}, but request is {request}")),
            (_, Some(limit)) if limit < bound => errors.push(format!("{head}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, bound) in &amounts(&range["max"]) {
        let head = format!("maximum {name} usage per {kind} is {bound}");
        match (limits.get(name), requests.get(name)) {
            (None, _) => errors.push(format!("{head}.  No limit is specified")),
            (Some(limit), _) if limit > bound => errors.push(format!("{head}, but limit is {limit}")),
            (_, Some(request)) if request > bound => errors.push(format!("{head}, but request is {request}")),
            _ => {}
        }
    }
    for (name, bound) in &amounts(&range["maxLimitRequestRatio"]) {
        let head = format!("{name} max limit to request ratio per {kind} is {bound}");
        let some = |a: &Amounts| a.get(name).copied().filter(|q| !q.is_zero());
        match (some(requests), some(limits)) {
            (None, _) => errors.push(format!("{head}, but no request is specified or request is 0")),
            (_, None) => errors.push(format!("{head}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = limit.as_f64() / request.as_f64();
                if ratio > bound.as_f64() {
                    errors.push(format!("{head}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}

fn check_claim(range: &Value, claim: &Value, errors: &mut Vec<String>) {
    let requests = amounts(&claim["spec"]["resources"]["requests"]);
    let kind = "PersistentVolumeClaim";
    let mut bound = |word: &str, field: &str, breaks: fn(&Quantity, &Quantity) -> bool| {
        for (name, bound) in &amounts(&range[field]) {
            let head = format!("{word} {name} usage per {kind} is {bound}");
            match requests.get(name) {
                None => errors.push(format!("{head}.  No request is specified")),
                Some(request) if breaks(request, bound) => errors.push(format!("{head}, but request is {request}")),
                _ => {}
            }
        }
    };
    bound("minimum", "min", |request, bound| request < bound);
    bound("maximum", "max", |request, bound| request > bound);
}

#[cfg(test)]
mod tests {
    use super::aggregate;

    #[test]
    fn an_error_is_told_once() {
        let of = |errors: &[&str]| aggregate(errors.iter().map(|e| (*e).to_owned()).collect());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["a", "a"]).as_deref(), Some("a"));
        assert_eq!(of(&["a", "b", "a"]).as_deref(), Some("[a, b]"));
    }
}
