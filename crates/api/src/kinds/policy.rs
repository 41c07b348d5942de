//! Limits on what namespaces and pods may do: budgets, quotas, ranges, priorities, leases.

use super::json::*;
use super::{Hooks, check, common, meta, pod};
use crate::field::{At, Errors};
use crate::names;
use crate::quantity::Quantity;
use serde_json::{Value, json};

const SPEC: At<'static> = At::field("spec");

pub(super) const BUDGET: Hooks = Hooks {
    prepare_create: Some(|o, _| {
        set(o, "status", json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}));
    }),
    validate_create: Some(|o, e| budget(o, true, e)),
    validate_update: Some(|new, old, e| budget(new, !has_odd_selector(old), e)),
    validate_status: Some(|new, _, e| budget_status(new.get("status").unwrap_or(&NONE), e)),
    ..Hooks::NONE
};
pub(super) const QUOTA: Hooks = Hooks {
    default: Some(default_quota),
    prepare_create: Some(common::reset_status),
    validate_create: Some(quota),
    validate_update: Some(quota_update),
    validate_status: Some(|new, _, e| {
        let path = At::field("status");
        let status = new.get("status").unwrap_or(&NONE);
        quota_amounts(status, "hard", &path, e);
        quota_amounts(status, "used", &path, e);
    }),
    ..Hooks::NONE
};
pub(super) const LIMIT_RANGE: Hooks = Hooks { default: Some(default_range), validate_create: Some(range), ..Hooks::NONE };
pub(super) const PRIORITY_CLASS: Hooks = Hooks {
    default: Some(|o| fill_text(o, "preemptionPolicy", "PreemptLowerPriority")),
    validate_create: Some(priority),
    validate_update: Some(priority_update),
    ..Hooks::NONE
};
pub(super) const LEASE: Hooks = Hooks {
    prepare_create: Some(|o, _| drop_coordination(o, None)),
    prepare_update: Some(|new, old, _| drop_coordination(new, Some(old))),
    validate_create: Some(lease),
    ..Hooks::NONE
};

fn budget_status(status: &Value, e: &mut Errors) {
    check::conditions(status, &At::field("status"), e);
    check::counters(status, &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"], &[], e);
}

/// Whether the selector of a budget breaks rules that came later.
fn has_odd_selector(o: &Value) -> bool {
    let mut e = Errors::default();
    if let Some(selector) = get(spec(o), "selector") {
        check::label_selector(selector, &SPEC, &mut e);
    }
    !e.is_empty()
}

/// A budget's spec as upstream quotes it: the fields of its own Go type.
fn shown_budget(spec: &Value) -> String {
    let fields = [
        ("minAvailable", "MinAvailable"),
        ("selector", "Selector"),
        ("maxUnavailable", "MaxUnavailable"),
        ("unhealthyPodEvictionPolicy", "UnhealthyPodEvictionPolicy"),
    ];
    let shown = fields.map(|(key, name)| format!("\"{name}\":{}", get(spec, key).unwrap_or(&NONE)));
    format!("{{{}}}", shown.join(","))
}

fn budget(o: &Value, strict_values: bool, e: &mut Errors) {
    let spec = spec(o);
    if has(spec, "minAvailable") && has(spec, "maxUnavailable") {
        e.invalid_shown(&SPEC, &shown_budget(spec), "minAvailable and maxUnavailable cannot be both set");
    }
    for key in ["minAvailable", "maxUnavailable"] {
        check::int_or_percent(spec, key, &SPEC, e);
        check::not_above_all(spec, key, &SPEC, e);
    }
    if let Some(selector) = get(spec, "selector") {
        check::label_selector_with(selector, strict_values, &SPEC.child("selector"), e);
    }
    check::choice_if_set(spec, "unhealthyPodEvictionPolicy", &["AlwaysAllow", "IfHealthyBudget"], &SPEC, e);
}

fn default_quota(o: &mut Value) {
    check::canonical_amounts(object(o, "spec"), "hard");
    if let Some(status) = get_mut(o, "status") {
        check::canonical_amounts(status, "hard");
        check::canonical_amounts(status, "used");
    }
}

/// Resources of which there are no parts.
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

fn quota_amounts(v: &Value, key: &str, path: &At, e: &mut Errors) {
    let path = path.child(key);
    for (name, amount) in entries(v, key) {
        let at = path.key(name);
        pod::resources::any_resource_name(name, &at, e);
        if !name.contains('/') && !pod::resources::of_quotas(name) {
            e.invalid(&at, &name.into(), "must be a standard resource for quota");
        }
        let Some(q) = check::non_negative_quantity(amount, &at, e) else { continue };
        if (COUNTED.contains(&name) || pod::resources::is_extended(name)) && !q.is_whole() {
            e.invalid(&at, &q.to_string().into(), "must be an integer");
        }
    }
}

const SCOPES: [&str; 7] =
    ["BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating", "PriorityClass", "Terminating", "VolumeAttributesClass"];

/// Whether a scope makes sense for a standard resource.
fn scope_fits(scope: &str, resource: &str) -> bool {
    const COMPUTE: [&str; 6] = ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    match scope {
        "BestEffort" => resource == "pods",
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            resource == "pods" || COMPUTE.contains(&resource)
        }
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

fn conflicting(scopes: &[&str]) -> bool {
    [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")].iter().any(|(a, b)| scopes.contains(a) && scopes.contains(b))
}

fn quota(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    quota_amounts(spec, "hard", &SPEC, e);
    let misfits = |scope: &str| {
        let standard = entries(spec, "hard").filter(|(name, _)| !name.contains('/') && pod::resources::of_quotas(name));
        standard.filter(|(name, _)| !scope_fits(scope, name)).count()
    };
    let scopes: Vec<&str> = texts(spec, "scopes").collect();
    let path = SPEC.child("scopes");
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            e.invalid(&path, &spec["scopes"], "unsupported scope");
        }
        (0..misfits(scope)).for_each(|_| e.invalid(&path, &spec["scopes"], "unsupported scope applied to resource"));
    }
    if conflicting(&scopes) {
        e.invalid(&path, &spec["scopes"], "conflicting scopes");
    }
    if let Some(selector) = get(spec, "scopeSelector") {
        scope_selector(selector, misfits, e);
    }
}

fn scope_selector(selector: &Value, misfits: impl Fn(&str) -> usize, e: &mut Errors) {
    let path = SPEC.child("scopeSelector");
    let path = path.child("matchExpressions");
    for term in list(selector, "matchExpressions") {
        let (scope, operator, values) = (text(term, "scopeName"), text(term, "operator"), list(term, "values").len());
        if !SCOPES.contains(&scope) {
            e.invalid(&path.child("scopeName"), &scope.into(), "unsupported scope");
        }
        (0..misfits(scope)).for_each(|_| e.invalid(&path, selector, "unsupported scope applied to resource"));
        if !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && operator != "Exists" && SCOPES.contains(&scope) {
            let why = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            e.invalid(&path.child("operator"), &operator.into(), why);
        }
        match operator {
            "In" | "NotIn" if values == 0 => {
                e.required(&path.child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector");
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                e.invalid(&path.child("values"), &term["values"], why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => e.invalid(&path.child("operator"), &other.into(), "not a valid selector operator"),
        }
    }
    let scopes: Vec<&str> = list(selector, "matchExpressions").iter().map(|t| text(t, "scopeName")).collect();
    if conflicting(&scopes) {
        e.invalid(&path, &selector["matchExpressions"], "conflicting scopes");
    }
}

fn quota_update(new: &Value, old: &Value, e: &mut Errors) {
    quota(new, e);
    let sorted = |o: &Value| {
        let mut scopes: Vec<String> = texts(spec(o), "scopes").map(str::to_owned).collect();
        scopes.sort_unstable();
        scopes
    };
    if sorted(new) != sorted(old) {
        e.invalid(&SPEC.child("scopes"), spec(new).get("scopes").unwrap_or(&NONE), check::IMMUTABLE);
    }
}

fn default_range(o: &mut Value) {
    for item in each_mut(object(o, "spec"), "limits") {
        for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            check::canonical_amounts(item, key);
        }
        if text(item, "type") != "Container" {
            continue;
        }
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            if let Some(Value::Object(amounts)) = get(item, from).cloned() {
                let target = object(item, to);
                amounts.into_iter().for_each(|(name, amount)| fill(target, &name, amount));
            }
        }
    }
}

fn range(o: &Value, e: &mut Errors) {
    let path = SPEC.child("limits");
    let items = list(spec(o), "limits");
    for (i, item) in items.iter().enumerate() {
        let at = path.index(i);
        let kind = text(item, "type");
        e.invalid_each(&at.child("type"), kind, names::qualified_name(kind));
        if !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
            e.invalid(&at.child("type"), &kind.into(), "must be a standard limit type or fully qualified");
        }
        if items[..i].iter().any(|other| text(other, "type") == kind) {
            e.duplicate(&at.child("type"), &kind.into());
        }
        let named = |key: &str, e: &mut Errors| {
            let path = at.child(key);
            entries(item, key).for_each(|(name, _)| range_resource(kind, name, &path.key(name), e));
        };
        named("max", e);
        named("min", e);
        for key in ["default", "defaultRequest"] {
            match kind {
                "Pod" if same(item.get(key), None) => {}
                "Pod" => e.forbidden(&at.child(key), "may not be specified when `type` is 'Pod'"),
                _ => named(key, e),
            }
        }
        if kind == "PersistentVolumeClaim"
            && super::json::at(item, &["min", "storage"]).is_none()
            && super::json::at(item, &["max", "storage"]).is_none()
        {
            e.required(&at.child("limits"), "either minimum or maximum storage value is required, but neither was provided");
        }
        named("maxLimitRequestRatio", e);
        range_order(item, &at, e);
        range_ratios(item, &at, e);
    }
}

/// Pods and containers have fewer resources than other things.
fn range_resource(kind: &str, name: &str, at: &At, e: &mut Errors) {
    if matches!(kind, "Pod" | "Container") {
        return pod::resources::resource_name(name, at, e);
    }
    pod::resources::any_resource_name(name, at, e);
}

/// A ratio of limit to request is at least one, and no more than the bounds allow.
fn range_ratios(item: &Value, at: &At, e: &mut Errors) {
    let path = at.child("maxLimitRequestRatio");
    let amount = |key: &str, name: &str| super::json::at(item, &[key, name]).and_then(|v| Quantity::from_json(v).ok());
    for (name, ratio) in entries(item, "maxLimitRequestRatio") {
        let Ok(ratio) = Quantity::from_json(ratio) else { continue };
        if ratio.as_f64() < 1.0 {
            e.invalid(&path.key(name), &ratio.to_string().into(), &format!("ratio {ratio} is less than 1"));
        }
        if let (Some(max), Some(min)) = (amount("max", name), amount("min", name)) {
            let most = max.as_f64() / min.as_f64();
            if ratio.as_f64() > most {
                e.invalid(&path.key(name), &ratio.to_string().into(), &format!("ratio {ratio} is greater than max/min = {most:.6}"));
            }
        }
    }
}

/// min ≤ default request ≤ default ≤ max, for every resource. Where the error stands and which amount it quotes is as upstream has it.
fn range_order(item: &Value, at: &At, e: &mut Errors) {
    struct Rule {
        low: (&'static str, &'static str),
        high: (&'static str, &'static str),
        field: &'static str,
        quotes_low: bool,
    }
    const MIN: (&str, &str) = ("min", "min");
    const MAX: (&str, &str) = ("max", "max");
    const REQUEST: (&str, &str) = ("defaultRequest", "default request");
    const RULES: [Rule; 6] = [
        Rule { low: MIN, high: MAX, field: "min", quotes_low: true },
        Rule { low: MIN, high: REQUEST, field: "defaultRequest", quotes_low: false },
        Rule { low: REQUEST, high: MAX, field: "defaultRequest", quotes_low: true },
        Rule { low: REQUEST, high: ("default", "default limit"), field: "defaultRequest", quotes_low: true },
        Rule { low: MIN, high: ("default", "default"), field: "default", quotes_low: true },
        Rule { low: ("default", "default"), high: MAX, field: "default", quotes_low: false },
    ];
    let amount = |key: &str, name: &str| super::json::at(item, &[key, name]).and_then(|v| Quantity::from_json(v).ok());
    for Rule { low, high, field, quotes_low } in RULES {
        for (name, _) in entries(item, low.0) {
            if let (Some(l), Some(h)) = (amount(low.0, name), amount(high.0, name))
                && l > h
            {
                let why = format!("{} value {l} is greater than {} value {h}", low.1, high.1);
                let quoted = if quotes_low { l } else { h };
                e.invalid(&at.child(field).key(name), &quoted.to_string().into(), &why);
            }
        }
    }
    for (name, _) in entries(item, "default").filter(|(name, _)| !pod::resources::overcommit_allowed(name)) {
        if let (Some(limit), Some(request)) = (amount("default", name), amount("defaultRequest", name))
            && limit != request
        {
            let why = format!("default value {limit} must equal to defaultRequest value {request} in {name}");
            e.invalid(&at.child("defaultRequest").key(name), &request.to_string().into(), &why);
        }
    }
}

fn priority(o: &Value, e: &mut Errors) {
    const SYSTEM: [(&str, i64); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
    const HIGHEST: i64 = 1_000_000_000;
    let (name, value) = (text_at(o, &["metadata", "name"]), int(o, "value").unwrap_or_default());
    if name.starts_with("system-") {
        let known = SYSTEM.iter().find(|(n, _)| *n == name);
        let why = match known {
            None => Some(format!("{name} is not a known system priority class")),
            Some((_, v)) if *v != value => Some(format!("value of {name} PriorityClass must be {v}")),
            Some(_) if flag(o, "globalDefault") => Some(format!("globalDefault of {name} PriorityClass must be false")),
            Some(_) => None,
        };
        if let Some(why) = why {
            let path = At::field("metadata");
            let why = format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}");
            e.forbidden(&path.child("name"), &why);
        }
    } else if value > HIGHEST {
        e.forbidden(&At::field("value"), &format!("maximum allowed value of a user defined priority is {HIGHEST}"));
    }
    check::choice_if_set(o, "preemptionPolicy", &["PreemptLowerPriority", "Never"], &At::ROOT, e);
}

fn priority_update(new: &Value, old: &Value, e: &mut Errors) {
    if int(new, "value") != int(old, "value") {
        e.forbidden(&At::field("value"), "may not be changed in an update.");
    }
    meta::immutable_value(new.get("preemptionPolicy"), old.get("preemptionPolicy"), &At::field("preemptionPolicy"), e);
}

/// Fields of a feature that is off (CoordinatedLeaderElection): only who has them keeps them.
fn drop_coordination(new: &mut Value, old: Option<&Value>) {
    for key in ["strategy", "preferredHolder"] {
        if let Some(lease) = get_mut(new, "spec").filter(|_| !old.is_some_and(|old| has(spec(old), key))) {
            remove(lease, key);
        }
    }
}

fn lease(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    if let Some(n) = int(spec, "leaseDurationSeconds").filter(|n| *n <= 0) {
        e.invalid(&SPEC.child("leaseDurationSeconds"), &n.into(), "must be greater than 0");
    }
    check::non_negative(spec, "leaseTransitions", &SPEC, e);
    if let Some(strategy) = get(spec, "strategy").and_then(Value::as_str) {
        // The field twice, as upstream has it.
        let path = SPEC.child("strategy");
        if strategy.contains('/') {
            e.invalid_each(&path.child("strategy"), strategy, names::qualified_name(strategy));
        } else {
            check::choice_if_set(spec, "strategy", &["OldestEmulationVersion"], &path, e);
        }
    }
    if !text(spec, "preferredHolder").is_empty() && text(spec, "strategy").is_empty() {
        e.forbidden(&SPEC.child("preferredHolder"), "may only be specified if `strategy` is defined");
    }
}
