//! Where a pod may run: node selectors, affinity, tolerations, spreading.

use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// `affinity` of a pod.
pub fn affinity(spec: &Value, path: &At, e: &mut Errors) {
    let Some(affinity) = get(spec, "affinity") else { return };
    let path = path.child("affinity");
    if let Some(node) = get(affinity, "nodeAffinity") {
        let path = path.child("nodeAffinity");
        if let Some(selector) = get(node, REQUIRED) {
            node_selector(selector, &path.child(REQUIRED), e);
        }
        preferred_nodes(node, &path.child(PREFERRED), e);
    }
    for key in ["podAffinity", "podAntiAffinity"] {
        if let Some(pods) = get(affinity, key) {
            pod_affinity(pods, &path.child(key), e);
        }
    }
}

/// A `NodeSelector`.
pub fn node_selector(selector: &Value, path: &At, e: &mut Errors) {
    let path = path.child("nodeSelectorTerms");
    let terms = list(selector, "nodeSelectorTerms");
    if terms.is_empty() {
        return e.required(&path, "must have at least one node selector term");
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(term, true, &path.index(i), e);
    }
}

fn preferred_nodes(node: &Value, path: &At, e: &mut Errors) {
    for (i, term) in list(node, PREFERRED).iter().enumerate() {
        let at = path.index(i);
        weight(term, &at, e);
        if let Some(preference) = get(term, "preference") {
            node_term(preference, false, &at.child("preference"), e);
        }
    }
}

fn weight(term: &Value, at: &At, e: &mut Errors) {
    let n = int(term, "weight").unwrap_or_default();
    if !(1..=100).contains(&n) {
        e.invalid(&at.child("weight"), &n.into(), "must be in the range 1-100");
    }
}

fn node_term(term: &Value, strict: bool, path: &At, e: &mut Errors) {
    let expressions = path.child("matchExpressions");
    for (i, r) in list(term, "matchExpressions").iter().enumerate() {
        let at = expressions.index(i);
        node_operator(r, &at, e);
        check::label_name(text(r, "key"), &at.child("key"), e);
        if strict {
            check::label_values(r, &at, e);
        }
    }
    let fields = path.child("matchFields");
    for (i, r) in list(term, "matchFields").iter().enumerate() {
        node_field(r, &fields.index(i), e);
    }
}

fn node_operator(r: &Value, at: &At, e: &mut Errors) {
    let values = list(r, "values").len();
    let path = at.child("values");
    match text(r, "operator") {
        "In" | "NotIn" if values == 0 => e.required(&path, "must be specified when `operator` is 'In' or 'NotIn'"),
        "Exists" | "DoesNotExist" if values > 0 => {
            e.forbidden(&path, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if values != 1 => e.required(&path, "must be specified single value when `operator` is 'Lt' or 'Gt'"),
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => e.invalid(&at.child("operator"), &other.into(), "not a valid selector operator"),
    }
}

fn node_field(r: &Value, at: &At, e: &mut Errors) {
    match text(r, "operator") {
        "In" | "NotIn" if list(r, "values").len() != 1 => {
            e.required(&at.child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector");
        }
        "In" | "NotIn" => {}
        other => e.invalid(&at.child("operator"), &other.into(), "not a valid selector operator"),
    }
    if text(r, "key") != "metadata.name" {
        return e.invalid(&at.child("key"), &text(r, "key").into(), "not a valid field selector key");
    }
    for (i, value) in texts(r, "values").enumerate() {
        e.invalid_each(&at.child("values").index(i), value, names::dns1123_subdomain(value));
    }
}

fn pod_affinity(pods: &Value, path: &At, e: &mut Errors) {
    let required = path.child(REQUIRED);
    for (i, term) in list(pods, REQUIRED).iter().enumerate() {
        pod_term(term, &required.index(i), e);
    }
    let preferred = path.child(PREFERRED);
    for (i, term) in list(pods, PREFERRED).iter().enumerate() {
        let at = preferred.index(i);
        weight(term, &at, e);
        pod_term(term.get("podAffinityTerm").unwrap_or(&Value::Null), &at.child("podAffinityTerm"), e);
    }
}

fn pod_term(term: &Value, at: &At, e: &mut Errors) {
    for key in ["labelSelector", "namespaceSelector"] {
        if let Some(selector) = get(term, key) {
            check::label_selector(selector, &at.child(key), e);
        }
    }
    for ns in texts(term, "namespaces") {
        e.invalid_each(&at.child("namespace"), ns, names::dns1123_label(ns));
    }
    match_keys(term, at, e);
    let key = text(term, "topologyKey");
    if key.is_empty() {
        e.required(&at.child("topologyKey"), "can not be empty");
    }
    check::label_name(key, &at.child("topologyKey"), e);
}

/// Keys whose values the pod itself gives: of labels, beside a selector, and not both wanted and unwanted. By now the
/// wanted ones have become terms of the selector, which must not have had a term of that key before.
fn match_keys(term: &Value, at: &At, e: &mut Errors) {
    let selector = get(term, "labelSelector");
    for key in ["matchLabelKeys", "mismatchLabelKeys"] {
        let path = at.child(key);
        if selector.is_none() && !list(term, key).is_empty() {
            e.forbidden(&path, "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, label) in texts(term, key).enumerate() {
            check::label_name(label, &path.index(i), e);
        }
    }
    if let Some(selector) = selector.filter(|_| !list(term, "matchLabelKeys").is_empty()) {
        twice_selected(term, selector, at, e);
    }
    for (i, label) in texts(term, "matchLabelKeys").enumerate() {
        if texts(term, "mismatchLabelKeys").any(|l| l == label) {
            let path = at.child("matchLabelKeys");
            e.invalid(&path.index(i), &label.into(), "exists in both matchLabelKeys and mismatchLabelKeys");
        }
    }
}

fn twice_selected(term: &Value, selector: &Value, at: &At, e: &mut Errors) {
    let terms = list(selector, "matchExpressions");
    for (n, expression) in terms.iter().enumerate() {
        let key = text(expression, "key");
        let before = entries(selector, "matchLabels").any(|(k, _)| k == key) || terms[..n].iter().any(|t| text(t, "key") == key);
        if let Some(i) = list(term, "matchLabelKeys").iter().rposition(|k| k == key).filter(|_| before) {
            e.invalid(&at.index(i), &key.into(), "exists in both matchLabelKeys and labelSelector");
        }
    }
}

/// `tolerations`.
pub fn tolerations(spec: &Value, key: &str, path: &At, e: &mut Errors) {
    let path = path.child(key);
    for (i, t) in list(spec, key).iter().enumerate() {
        let at = path.index(i);
        let (taint, operator, value, effect) = (text(t, "key"), text(t, "operator"), text(t, "value"), text(t, "effect"));
        if !taint.is_empty() {
            check::label_name(taint, &at.child("key"), e);
        } else if operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            e.invalid(&at.child("operator"), &operator.into(), why);
        }
        if has(t, "tolerationSeconds") && effect != "NoExecute" {
            e.invalid(&at.child("effect"), &effect.into(), "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "Equal" | "" => {
                let wrong = names::label_value(value);
                if !wrong.is_empty() {
                    e.invalid(&at.child("operator"), &value.into(), &wrong.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                e.invalid(&at.child("operator"), &value.into(), "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            // Comparing is a feature that is off (TaintTolerationComparisonOperators); upstream names it all the same.
            "Lt" | "Gt" => e.not_supported(&at.child("operator"), &operator.into(), &["Equal", "Exists", "Lt", "Gt"]),
            other => e.not_supported(&at.child("operator"), &other.into(), &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            e.not_supported(&at.child("effect"), &effect.into(), &EFFECTS);
        }
    }
}

/// `taints` of a node.
pub fn taints(spec: &Value, path: &At, e: &mut Errors) {
    let path = path.child("taints");
    let all = list(spec, "taints");
    for (i, taint) in all.iter().enumerate() {
        let at = path.index(i);
        check::label_name(text(taint, "key"), &at.child("key"), e);
        let wrong = names::label_value(text(taint, "value"));
        if !wrong.is_empty() {
            e.invalid(&at.child("value"), &text(taint, "value").into(), &wrong.join(";"));
        }
        check::choice(taint, "effect", &EFFECTS, &at, e);
        let twin = |t: &Value| text(t, "key") == text(taint, "key") && text(t, "effect") == text(taint, "effect");
        if all[..i].iter().any(twin) {
            let field = |key: &str| Value::from(text(taint, key));
            let time = taint.get("timeAdded").unwrap_or(&NONE);
            let shown = format!(
                "{{\"Key\":{},\"Value\":{},\"Effect\":{},\"TimeAdded\":{time}}}: taints must be unique by key and effect pair",
                field("key"),
                field("value"),
                field("effect")
            );
            e.duplicate_shown(&at, &shown);
        }
    }
}

/// `topologySpreadConstraints`.
pub fn spread(spec: &Value, path: &At, e: &mut Errors) {
    const ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
    let path = path.child("topologySpreadConstraints");
    let all = list(spec, "topologySpreadConstraints");
    for (i, c) in all.iter().enumerate() {
        let at = path.index(i);
        let positive = |key: &str, e: &mut Errors| {
            if let Some(n) = int(c, key).filter(|n| *n <= 0) {
                e.invalid(&at.child(key), &n.into(), "must be greater than zero");
            }
        };
        positive("maxSkew", e);
        let (topology, action) = (text(c, "topologyKey"), text(c, "whenUnsatisfiable"));
        if topology.is_empty() {
            e.required(&at.child("topologyKey"), "can not be empty");
        }
        if !ACTIONS.contains(&action) {
            e.not_supported(&at.child("whenUnsatisfiable"), &action.into(), &ACTIONS);
        }
        let pair = |o: &Value| text(o, "topologyKey") == topology && text(o, "whenUnsatisfiable") == action;
        if all[i + 1..].iter().any(pair) {
            e.duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), &format!("{{{topology}, {action}}}").into());
        }
        positive("minDomains", e);
        if let Some(n) = int(c, "minDomains").filter(|_| action != "DoNotSchedule") {
            let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            e.invalid(&at.child("minDomains"), &n.into(), &why);
        }
        for key in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            check::choice_if_set(c, key, &["Honor", "Ignore"], &at, e);
        }
        match_keys(c, &at, e);
        if let Some(selector) = get(c, "labelSelector") {
            check::label_selector(selector, &at.child("labelSelector"), e);
        }
    }
}
