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

/// Names without a domain that quotas know, besides huge pages.
const KNOWN: [&str; 19] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// Whether quotas count a resource without a domain.
pub fn of_quotas(name: &str) -> bool {
    KNOWN.contains(&name) || is_huge_page(name.strip_prefix("requests.").unwrap_or(name))
}

/// The name of any resource; says whether it is one.
pub fn any_resource_name(name: &str, path: &At, e: &mut Errors) -> bool {
    let before = e.len();
    e.invalid_each(path, name, names::qualified_name(name));
    if e.len() == before && !name.contains('/') && name != "storage" && !of_quotas(name) {
        e.invalid(path, &name.into(), "must be a standard resource type or fully qualified");
    }
    e.len() == before
}

/// The name of a resource of containers.
pub fn resource_name(name: &str, path: &At, e: &mut Errors) {
    any_resource_name(name, path, e);
    if !name.contains('/') {
        if !STANDARD.contains(&name) && !is_huge_page(name) {
            e.invalid(path, &name.into(), "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        e.invalid(path, &name.into(), "doesn't follow extended resource name standard");
    }
}

/// The name of a resource that a pod as a whole may have.
fn pod_resource_name(name: &str, path: &At, e: &mut Errors) {
    if any_resource_name(name, path, e) && !pod_level(name) {
        e.not_supported(path, &name.into(), &["cpu", "hugepages-", "memory"]);
    }
}

/// An amount of a resource: not negative, whole where the resource is.
pub fn resource_amount(name: &str, value: &Value, path: &At, e: &mut Errors) {
    let Some(q) = check::non_negative_quantity(value, path, e) else { return };
    if !q.is_whole() && is_extended(name) {
        e.invalid(path, &q.to_string().into(), "must be an integer");
    }
}

/// Checks limits and requests of a container.
pub fn validate(resources: &Value, claims: &[Value], path: &At, e: &mut Errors) {
    requirements(resources, resource_name, claims, path, e);
}

fn requirements(resources: &Value, named: fn(&str, &At, &mut Errors), claims: &[Value], path: &At, e: &mut Errors) {
    let (mut huge, mut own) = (false, false);
    for key in ["limits", "requests"] {
        let list_path = path.child(key);
        for (name, value) in entries(resources, key) {
            let at = list_path.key(name);
            named(name, &at, e);
            resource_amount(name, value, &at, e);
            if key == "requests" {
                compare(name, value, resources, path, e);
            }
            own |= matches!(name, "cpu" | "memory");
            if is_huge_page(name) {
                huge = true;
                huge_page_multiple(name, value, &at, e);
            }
        }
    }
    if huge && !own {
        e.forbidden(path, "HugePages require cpu or memory");
    }
    resource_claims(resources, claims, path, e);
}

fn huge_page_multiple(name: &str, value: &Value, at: &At, e: &mut Errors) {
    let size = Quantity::parse(&name["hugepages-".len()..]).ok().filter(|s| *s > Quantity::ZERO && s.is_whole());
    if size.is_none_or(|size| amount(value).value() % size.value() != 0) {
        let shown = amount(value).to_string();
        let why = format!("{shown} is not positive integer multiple of {name}");
        e.invalid(at, &shown.into(), &why);
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

/// Claims of a container: each once, all its requests or one of them, and known to the pod.
fn resource_claims(resources: &Value, known: &[Value], path: &At, e: &mut Errors) {
    let path = path.child("claims");
    let claims = list(resources, "claims");
    for (i, claim) in claims.iter().enumerate() {
        let (at, name, request) = (path.index(i), text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            e.required(&at, "");
            continue;
        }
        if !request.is_empty() {
            e.invalid_each(&at.child("request"), request, names::dns1123_label(request));
        }
        let twins = || claims[..i].iter().filter(|c| text(c, "name") == name);
        let whole = twins().any(|c| text(c, "request").is_empty());
        if whole || (request.is_empty() && twins().next().is_some()) {
            e.duplicate(&at, &name.into());
        } else if twins().any(|c| text(c, "request") == request) {
            e.duplicate(&at, &format!("{name}/{request}").into());
        }
        if !known.iter().any(|k| text(k, "name") == name) {
            e.not_found_because(&at, &name.into(), &unknown_claim(known));
        }
    }
}

fn unknown_claim(known: &[Value]) -> String {
    const WHY: &str = "must be one of the names in pod.spec.resourceClaims";
    let mut all: Vec<&str> = known.iter().map(|k| text(k, "name")).filter(|n| !n.is_empty()).collect();
    all.sort_unstable();
    all.dedup();
    if all.is_empty() { format!("{WHY} which is empty") } else { format!("{WHY}: {}", all.join(", ")) }
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

/// Resources at pod level: huge pages are limited to what the containers may have, and requests default to those of the
/// containers, else to the limits.
pub fn default_pod_level(spec: &mut Value) {
    let said = |spec: &Value, key: &str| !same(at(spec, &["resources", key]), None);
    if said(spec, "limits") || said(spec, "requests") {
        default_huge_pages(spec);
    }
    if !said(spec, "limits") {
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

fn default_huge_pages(spec: &mut Value) {
    let sums = aggregate(spec, "limits");
    let resources = object(spec, "resources");
    for (name, sum) in sums.iter().filter(|(n, _)| is_huge_page(n)) {
        if at(resources, &["requests", name]).is_none() {
            fill(object(resources, "limits"), name, sum.to_string());
        }
    }
}

/// Resources at pod level: supported names, and room for the containers.
pub fn validate_pod_level(spec: &Value, claims: &[Value], path: &At, e: &mut Errors) {
    let Some(resources) = get(spec, "resources") else { return };
    if text_at(spec, &["os", "name"]) == "windows" {
        return e.forbidden(path, "may not be set for a windows pod");
    }
    if has(resources, "claims") {
        e.forbidden(&path.child("claims"), "claims may not be set for Resources at pod-level");
    }
    requirements(resources, pod_resource_name, claims, path, e);
    room_for(spec, resources, "requests", |_| true, path, e);
    room_for(spec, resources, "limits", is_huge_page, path, e);
    let containers = path.child("containers");
    for (i, c) in list(spec, "containers").iter().enumerate() {
        for (name, value) in at(c, &["resources"]).into_iter().flat_map(|r| entries(r, "limits")) {
            if let Some(limit) = at_limit(resources, name).filter(|limit| amount(value) > *limit) {
                let why = format!("must be less than or equal to pod limits of {limit}");
                let at = containers.index(i);
                e.invalid(&at.key(name).child("limits"), &amount(value).to_string().into(), &why);
            }
        }
    }
}

/// What a pod has of a resource is no less than what its containers have together.
fn room_for(spec: &Value, resources: &Value, key: &str, counts: fn(&str) -> bool, path: &At, e: &mut Errors) {
    for (name, sum) in aggregate(spec, key).iter().filter(|(name, _)| counts(name)) {
        let Some(own) = at(resources, &[key, name]).map(amount).filter(|own| sum > own) else { continue };
        let why = format!("must be greater than or equal to aggregate container {key} of {sum}");
        e.invalid(&path.child(key).key(name), &own.to_string().into(), &why);
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
