//! Resources of containers and pods: requirements, sums and the quality of service that follows from them.

use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use crate::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeMap;

const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

fn amount(v: &Value) -> Quantity {
    Quantity::from_json(v).unwrap_or_default()
}

/// `hugepages-2Mi` and the like.
pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A resource of Kubernetes' own: without domain, or in `kubernetes.io`.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether more may be promised than there is.
pub fn overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// A resource that nodes may advertise on their own: `example.com/widget`.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

pub fn resource_name(name: &str, path: &At, e: &mut Errors) {
    let before = e.len();
    e.invalid_each(path, name, names::qualified_name(name));
    if e.len() > before {
        return;
    }
    if !name.contains('/') {
        if !STANDARD.contains(&name) && !is_huge_page(name) {
            // Names that only quotas know are standard, though not for containers.
            if !matches!(name, "pods" | "services" | "secrets" | "configmaps" | "persistentvolumeclaims" | "storage") {
                e.invalid(path, &name.into(), "must be a standard resource type or fully qualified");
            }
            e.invalid(path, &name.into(), "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        e.invalid(path, &name.into(), "doesn't follow extended resource name standard");
    }
}

/// An amount of a resource: not negative, whole where the resource is.
pub fn resource_amount(name: &str, value: &Value, path: &At, e: &mut Errors) {
    let Some(q) = check::non_negative_quantity(value, path, e) else { return };
    if (is_extended(name) || name.starts_with("requests.")) && !q.is_whole() && !is_native(name) {
        e.invalid(path, &q.to_string().into(), "must be an integer");
    }
}

/// Checks limits and requests of a container (or, with `path` there, of a pod).
pub fn validate(resources: &Value, claims: &[Value], path: &At, e: &mut Errors) {
    let mut huge = false;
    let mut own = false;
    for key in ["limits", "requests"] {
        let list_path = path.child(key);
        for (name, value) in entries(resources, key) {
            let at = list_path.key(name);
            resource_name(name, &at, e);
            resource_amount(name, value, &at, e);
            huge |= is_huge_page(name);
            own |= matches!(name, "cpu" | "memory");
            if is_huge_page(name) {
                huge_page_multiple(name, value, &at, e);
            }
        }
    }
    for (name, request) in entries(resources, "requests") {
        compare(name, request, resources, path, e);
    }
    if huge && !own {
        e.forbidden(path, "HugePages require cpu or memory");
    }
    resource_claims(resources, claims, path, e);
}

fn huge_page_multiple(name: &str, value: &Value, at: &At, e: &mut Errors) {
    let Ok(size) = Quantity::parse(&name["hugepages-".len()..]) else { return };
    if size.value() > 0 && amount(value).value() % size.value() != 0 {
        let why = format!("not multiple of {} which is resource unit of {name}", size);
        e.invalid(at, &amount(value).to_string().into(), &why);
    }
}

fn compare(name: &str, request: &Value, resources: &Value, path: &At, e: &mut Errors) {
    let (at, request) = (path.child("requests"), amount(request));
    match at_limit(resources, name) {
        Some(limit) if request != limit && !overcommit_allowed(name) => {
            let why = format!("must be equal to {name} limit of {limit}");
            e.invalid(&at, &request.to_string().into(), &why);
        }
        Some(limit) if request > limit => {
            let why = format!("must be less than or equal to {name} limit of {limit}");
            e.invalid(&at, &request.to_string().into(), &why);
        }
        None if !overcommit_allowed(name) => {
            e.required(&path.child("limits"), "Limit must be set for non overcommitable resources");
        }
        _ => {}
    }
}

fn at_limit(resources: &Value, name: &str) -> Option<Quantity> {
    at(resources, &["limits", name]).map(amount)
}

fn resource_claims(resources: &Value, known: &[Value], path: &At, e: &mut Errors) {
    let path = path.child("claims");
    let claims = list(resources, "claims");
    for (i, claim) in claims.iter().enumerate() {
        let (at, name) = (path.index(i), text(claim, "name"));
        if name.is_empty() {
            e.required(&at.child("name"), "");
        } else if claims[..i].iter().any(|c| text(c, "name") == name && text(c, "request") == text(claim, "request")) {
            e.duplicate(&at, &name.into());
        } else if !known.iter().any(|k| text(k, "name") == name) {
            e.not_found(&at.child("name"), &name.into());
        }
    }
}

type Sums = BTreeMap<String, Quantity>;

fn add(sums: &mut Sums, container: &Value, key: &str) {
    for (name, value) in at(container, &["resources"]).into_iter().flat_map(|r| entries(r, key)) {
        *sums.entry(name.to_owned()).or_default() += amount(value);
    }
}

fn at_least(sums: &mut Sums, other: &Sums) {
    for (name, value) in other {
        let sum = sums.entry(name.clone()).or_default();
        *sum = (*sum).max(*value);
    }
}

/// Whether an init container keeps running beside the others.
pub fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

/// What the containers of a pod need together: the sum of those that run at once, at least the largest init container.
pub fn aggregate(spec: &Value, key: &str) -> BTreeMap<String, Quantity> {
    let mut sums = Sums::new();
    list(spec, "containers").iter().for_each(|c| add(&mut sums, c, key));
    let (mut sidecars, mut largest) = (Sums::new(), Sums::new());
    for c in list(spec, "initContainers") {
        if is_sidecar(c) {
            add(&mut sums, c, key);
            add(&mut sidecars, c, key);
            at_least(&mut largest, &sidecars);
        } else {
            let mut now = sidecars.clone();
            add(&mut now, c, key);
            at_least(&mut largest, &now);
        }
    }
    at_least(&mut sums, &largest);
    sums
}

fn pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_page(name)
}

/// Requests at pod level default to those of the containers, else to the limits at pod level.
pub fn default_pod_level(spec: &mut Value) {
    if at(spec, &["resources", "limits"]).and_then(Value::as_object).is_none_or(|l| l.is_empty()) {
        return;
    }
    let sums = aggregate(spec, "requests");
    let resources = object(spec, "resources");
    let limits = resources["limits"].clone();
    let requests = object(resources, "requests");
    for (name, sum) in sums.iter().filter(|(n, _)| pod_level(n) && overcommit_allowed(n)) {
        fill(requests, name, sum.to_string());
    }
    for (name, limit) in limits.as_object().into_iter().flatten().filter(|(n, _)| pod_level(n)) {
        fill(requests, name, limit.clone());
    }
}

/// Resources at pod level: supported names, and room for the containers.
pub fn validate_pod_level(spec: &Value, claims: &[Value], path: &At, e: &mut Errors) {
    let Some(resources) = get(spec, "resources") else { return };
    if has(resources, "claims") {
        e.forbidden(&path.child("claims"), "claims cannot be set for Resources at pod-level");
    }
    for key in ["limits", "requests"] {
        for (name, _) in entries(resources, key).filter(|(n, _)| !pod_level(n)) {
            e.not_supported(&path.child(key), &name.into(), &["cpu", "hugepages-", "memory"]);
        }
    }
    validate(resources, claims, path, e);
    for (name, sum) in aggregate(spec, "requests") {
        let request = at(resources, &["requests", &name]).map(amount).unwrap_or_default();
        if pod_level(&name) && sum > request {
            let why = format!("must be greater than or equal to aggregate container requests of {sum}");
            e.invalid(&path.child("requests").key(&name), &request.to_string().into(), &why);
        }
    }
    for (i, c) in list(spec, "containers").iter().enumerate() {
        for (name, value) in at(c, &["resources"]).into_iter().flat_map(|r| entries(r, "limits")) {
            if let Some(limit) = at_limit(resources, name).filter(|limit| amount(value) > *limit) {
                let why = format!("must be less than or equal to pod limits of {limit}");
                let containers = path.child("containers");
                let at = containers.index(i);
                e.invalid(&at.key(name).child("limits"), &amount(value).to_string().into(), &why);
            }
        }
    }
}

/// `status.qosClass` of a pod with defaults.
pub fn qos_class(spec: &Value) -> &'static str {
    let containers: Vec<&Value> = match get(spec, "resources") {
        Some(_) => vec![spec],
        None => list(spec, "containers").iter().chain(list(spec, "initContainers")).collect(),
    };
    let (mut requests, mut limits) = ([Quantity::ZERO; 2], [Quantity::ZERO; 2]);
    let mut guaranteed = true;
    for c in containers {
        for (i, name) in ["cpu", "memory"].iter().enumerate() {
            let of = |key: &str| at(c, &["resources", key, name]).map(amount).unwrap_or_default();
            let limit = of("limits");
            requests[i] += of("requests");
            limits[i] += limit;
            guaranteed &= !limit.is_zero();
        }
    }
    if requests.iter().chain(&limits).all(Quantity::is_zero) {
        "BestEffort"
    } else if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}
