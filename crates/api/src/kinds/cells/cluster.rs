//! Nodes, namespaces, events, configuration, access, admission, extension.

use super::*;
use crate::kinds::event as events;
use std::collections::BTreeSet;

pub fn node(o: &Value, c: &HookContext) -> Cells {
    let mut state = match condition(o, "Ready") {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if at(o, &["spec", "unschedulable"]) == Some(&Value::Bool(true)) {
        state.push_str(",SchedulingDisabled");
    }
    let info = |key: &str| text_at(o, &["status", "nodeInfo", key]);
    let address = |kind: &str| {
        let all = list_at(o, &["status", "addresses"]);
        all.iter().find(|a| text(a, "type") == kind).map_or(NONE, |a| text(a, "address"))
    };
    cells![
        name(o),
        state,
        or(&roles(o), NONE),
        age(o, c),
        info("kubeletVersion"),
        address("InternalIP"),
        address("ExternalIP"),
        or(info("osImage"), UNKNOWN),
        or(info("kernelVersion"), UNKNOWN),
        or(info("containerRuntimeVersion"), UNKNOWN),
    ]
}

fn roles(o: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in at(o, &["metadata"]).into_iter().flat_map(|m| entries(m, "labels")) {
        match (key.strip_prefix("node-role.kubernetes.io/"), value.as_str()) {
            (Some(role), _) if !role.is_empty() => drop(roles.insert(role)),
            (None, Some(role)) if key == "kubernetes.io/role" && !role.is_empty() => drop(roles.insert(role)),
            _ => {}
        }
    }
    roles.into_iter().collect::<Vec<_>>().join(",")
}

pub fn namespace(o: &Value, c: &HookContext) -> Cells {
    cells![name(o), text_at(o, &["status", "phase"]), age(o, c)]
}

pub fn event_new(o: &Value, c: &HookContext) -> Cells {
    let mut core = o.clone();
    if let Some(convert) = events::EVENTS.to_storage {
        convert(&mut core);
    }
    event(&core, c)
}

pub fn event(o: &Value, c: &HookContext) -> Cells {
    let empty = Value::Null;
    let involved = o.get("involvedObject").unwrap_or(&empty);
    let series = get(o, "series");
    let first = since(o, if has(o, "firstTimestamp") { "firstTimestamp" } else { "eventTime" }, c);
    let last = match series {
        Some(series) => since(series, "lastObservedTime", c),
        None if has(o, "lastTimestamp") => since(o, "lastTimestamp", c),
        None => first.clone(),
    };
    let count = series.map_or_else(|| int(o, "count").unwrap_or_default().max(1), |s| int(s, "count").unwrap_or_default());
    let kind = text(involved, "kind").to_lowercase();
    let target = match text(involved, "name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = or(text_at(o, &["source", "component"]), text(o, "reportingComponent"));
    let instance = or(text_at(o, &["source", "host"]), text(o, "reportingInstance"));
    let source = if instance.is_empty() { component.to_owned() } else { format!("{component}, {instance}") };
    cells![
        last,
        text(o, "type"),
        text(o, "reason"),
        target,
        text(involved, "fieldPath"),
        source,
        text(o, "message").trim(),
        first,
        count,
        name(o),
    ]
}

fn len(o: &Value, key: &str) -> usize {
    o.get(key).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

pub fn config_map(o: &Value, c: &HookContext) -> Cells {
    cells![name(o), len(o, "data") + len(o, "binaryData"), age(o, c)]
}

pub fn secret(o: &Value, c: &HookContext) -> Cells {
    cells![name(o), text(o, "type"), len(o, "data"), age(o, c)]
}

pub fn component_status(o: &Value, _: &HookContext) -> Cells {
    let healthy = list(o, "conditions").iter().find(|c| text(c, "type") == "Healthy");
    let state = match healthy.map(|c| text(c, "status")) {
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
        None => "Unknown",
    };
    cells![name(o), state, healthy.map_or("", |c| text(c, "message")), healthy.map_or("", |c| text(c, "error"))]
}

pub fn resource_quota(o: &Value, c: &HookContext) -> Cells {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in at(o, &["status"]).into_iter().flat_map(|s| entries(s, "hard")) {
        let used = at(o, &["status", "used", resource]).map_or("0".to_owned(), shown);
        let list = if resource.starts_with("limits.") { &mut limits } else { &mut requests };
        list.push(format!("{resource}: {used}/{}", shown(hard)));
    }
    cells![name(o), requests.join(", "), limits.join(", "), age(o, c)]
}

pub fn role_binding(o: &Value, c: &HookContext) -> Cells {
    let role = format!("{}/{}", text_at(o, &["roleRef", "kind"]), text_at(o, &["roleRef", "name"]));
    let of = |kind: &str| {
        let subjects = list(o, "subjects").iter().filter(|s| text(s, "kind") == kind);
        let shown = subjects.map(|s| match (kind, text(s, "namespace")) {
            ("ServiceAccount", ns) => format!("{ns}/{}", text(s, "name")),
            _ => text(s, "name").to_owned(),
        });
        shown.collect::<Vec<_>>().join(", ")
    };
    cells![name(o), role, age(o, c), of("User"), of("Group"), of("ServiceAccount")]
}

pub fn signing_request(o: &Value, c: &HookContext) -> Cells {
    let has = |kind: &str| condition(o, kind).is_some();
    let mut state = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !text_at(o, &["status", "certificate"]).is_empty() {
        state.push_str(",Issued");
    }
    let duration = at(o, &["spec", "expirationSeconds"]).and_then(Value::as_i64);
    cells![
        name(o),
        age(o, c),
        or(text_at(o, &["spec", "signerName"]), NONE),
        text_at(o, &["spec", "username"]),
        duration.map_or(NONE.to_owned(), time::human_duration),
        state,
    ]
}

pub fn lease(o: &Value, c: &HookContext) -> Cells {
    cells![name(o), text_at(o, &["spec", "holderIdentity"]), age(o, c)]
}

pub fn priority_class(o: &Value, c: &HookContext) -> Cells {
    let value = int(o, "value").unwrap_or_default();
    cells![name(o), value, flag(o, "globalDefault"), age(o, c), text(o, "preemptionPolicy")]
}

pub fn runtime_class(o: &Value, c: &HookContext) -> Cells {
    cells![name(o), text(o, "handler"), age(o, c)]
}

pub fn webhooks(o: &Value, c: &HookContext) -> Cells {
    cells![name(o), list(o, "webhooks").len(), age(o, c)]
}

fn param_kind(o: &Value) -> String {
    at(o, &["spec", "paramKind"]).map_or(UNSET.to_owned(), |p| format!("{}/{}", text(p, "apiVersion"), text(p, "kind")))
}

pub fn validating_policy(o: &Value, c: &HookContext) -> Cells {
    cells![name(o), list_at(o, &["spec", "validations"]).len(), param_kind(o), age(o, c)]
}

pub fn mutating_policy(o: &Value, c: &HookContext) -> Cells {
    cells![name(o), list_at(o, &["spec", "mutations"]).len(), param_kind(o), age(o, c)]
}

pub fn policy_binding(o: &Value, c: &HookContext) -> Cells {
    let reference = at(o, &["spec", "paramRef"]);
    let shown = match reference.map(|r| (text(r, "namespace"), text(r, "name"))) {
        None => UNSET.to_owned(),
        Some((_, "")) => selector(reference.and_then(|r| get(r, "selector"))),
        Some(("", name)) => format!("*/{name}"),
        Some((namespace, name)) => format!("{namespace}/{name}"),
    };
    cells![name(o), text_at(o, &["spec", "policyName"]), shown, age(o, c)]
}

pub fn flow_schema(o: &Value, c: &HookContext) -> Cells {
    cells![
        name(o),
        text_at(o, &["spec", "priorityLevelConfiguration", "name"]),
        int_at(o, &["spec", "matchingPrecedence"]),
        or(text_at(o, &["spec", "distinguisherMethod", "type"]), NONE),
        age(o, c),
        condition(o, "Dangling").unwrap_or("?"),
    ]
}

pub fn priority_level(o: &Value, c: &HookContext) -> Cells {
    let limited = |key: &str| at(o, &["spec", "limited", key]).map_or(NONE.into(), Clone::clone);
    let queuing = |key: &str| at(o, &["spec", "limited", "limitResponse", "queuing", key]).map_or(NONE.into(), Value::clone);
    vec![
        name(o).into(),
        text_at(o, &["spec", "type"]).into(),
        limited("nominalConcurrencyShares"),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        age(o, c).into(),
    ]
}

pub fn resource_claim(o: &Value, c: &HookContext) -> Cells {
    let mut state = Vec::new();
    if deleted(o) {
        state.push("deleted");
    }
    if at(o, &["status", "allocation"]).is_some() {
        state.push("allocated");
        if !list_at(o, &["status", "reservedFor"]).is_empty() {
            state.push("reserved");
        }
    } else if !deleted(o) {
        state.push("pending");
    }
    cells![name(o), state.join(","), age(o, c)]
}

pub fn resource_slice(o: &Value, c: &HookContext) -> Cells {
    let spec = |key: &str| text_at(o, &["spec", key]);
    cells![name(o), spec("nodeName"), spec("driver"), text_at(o, &["spec", "pool", "name"]), age(o, c)]
}

pub fn api_service(o: &Value, c: &HookContext) -> Cells {
    let service = at(o, &["spec", "service"]).map_or("Local".to_owned(), |s| format!("{}/{}", text(s, "namespace"), text(s, "name")));
    let available = list_at(o, &["status", "conditions"]).iter().find(|c| text(c, "type") == "Available");
    let state = match available.map(|a| (text(a, "status"), text(a, "reason"))) {
        None => "Unknown".to_owned(),
        Some(("True", _)) => "True".to_owned(),
        Some((status, reason)) => format!("{status} ({reason})"),
    };
    cells![name(o), service, state, age(o, c)]
}
