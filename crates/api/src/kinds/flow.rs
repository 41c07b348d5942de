//! Priority and fairness: flow schemas and priority levels.

use super::json::*;
use super::{Hooks, check, common};
use crate::field::{At, Errors};
use crate::names;
use serde_json::{Map, Value, json};

pub(super) const SCHEMA: Hooks = Hooks {
    default: Some(|o| fill_int(object(o, "spec"), "matchingPrecedence", 1000)),
    prepare_create: Some(common::reset_status),
    validate_create: Some(schema),
    validate_status: Some(|new, _, e| status(new, e)),
    ..Hooks::NONE
};
pub(super) const LEVEL: Hooks = Hooks {
    default: Some(default_level),
    prepare_create: Some(common::reset_status),
    validate_create: Some(level),
    validate_status: Some(|new, _, e| status(new, e)),
    ..Hooks::NONE
};

const SPEC: At<'static> = At::field("spec");
const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";

/// The spec of a FlowSchema that must exist as it is.
pub fn mandatory_schema(name: &str) -> Option<Value> {
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let all = |subjects: Vec<Value>| {
        json!([{
            "subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }])
    };
    match name {
        EXEMPT => Some(json!({
            "priorityLevelConfiguration": {"name": EXEMPT}, "matchingPrecedence": 1,
            "rules": all(vec![group("system:masters")]),
        })),
        CATCH_ALL => Some(json!({
            "priorityLevelConfiguration": {"name": CATCH_ALL}, "matchingPrecedence": MOST_PRECEDENCE, "distinguisherMethod": {"type": "ByUser"},
            "rules": all(vec![group("system:unauthenticated"), group("system:authenticated")]),
        })),
        _ => None,
    }
}

/// The spec of a PriorityLevelConfiguration that must exist; what stands under `exempt` is the administrator's.
pub fn mandatory_level(name: &str) -> Option<Value> {
    match name {
        EXEMPT => Some(json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}})),
        CATCH_ALL => Some(json!({
            "type": "Limited",
            "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}},
        })),
        _ => None,
    }
}

const MOST_PRECEDENCE: i64 = 10_000;

fn default_level(o: &mut Value) {
    let spec = object(o, "spec");
    if text(spec, "type") == "Exempt" {
        let exempt = object(spec, "exempt");
        fill(exempt, "nominalConcurrencyShares", 0);
        fill(exempt, "lendablePercent", 0);
    }
    let Some(limited) = get_mut(spec, "limited") else { return };
    fill(limited, "nominalConcurrencyShares", 30);
    fill(limited, "lendablePercent", 0);
    let response = object(limited, "limitResponse");
    fill_text(response, "type", "Reject");
    if text(response, "type") == "Queue" {
        fill(response, "queuing", Map::new());
    }
    if let Some(queuing) = get_mut(response, "queuing") {
        fill_int(queuing, "queues", 64);
        fill_int(queuing, "handSize", 8);
        fill_int(queuing, "queueLengthLimit", 50);
    }
}

fn schema(o: &Value, e: &mut Errors) {
    let (spec, name) = (spec(o), text_at(o, &["metadata", "name"]));
    let n = int(spec, "matchingPrecedence").unwrap_or_default();
    let at = SPEC.child("matchingPrecedence");
    if n <= 0 {
        e.invalid(&at, &n.into(), "must be a positive value");
    }
    if n > MOST_PRECEDENCE {
        e.invalid(&at, &n.into(), &format!("must not be greater than {MOST_PRECEDENCE}"));
    }
    if n == 1 && name != EXEMPT {
        e.invalid(&at, &n.into(), "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if let Some(method) = get(spec, "distinguisherMethod") {
        const METHODS: [&str; 2] = ["ByNamespace", "ByUser"];
        if !METHODS.contains(&text(method, "type")) {
            let shown = json!({"Type": text(method, "type")});
            e.not_supported(&SPEC.child("distinguisherMethod").child("type"), &shown, &METHODS);
        }
    }
    let path = SPEC.child("priorityLevelConfiguration");
    match text_at(spec, &["priorityLevelConfiguration", "name"]) {
        "" => e.required(&path.child("name"), "must reference a priority level"),
        name => e.invalid_each(&path.child("name"), name, names::dns1123_subdomain(name)),
    }
    let rules = SPEC.child("rules");
    for (i, rule) in list(spec, "rules").iter().enumerate() {
        schema_rule(rule, &rules.index(i), e);
    }
    if mandatory_schema(name).is_some_and(|fixed| !same(Some(spec), Some(&fixed))) {
        e.invalid(&SPEC, spec, &format!("spec of '{name}' must equal the fixed value"));
    }
    status(o, e);
}

/// Conditions: each type once, and none without one.
fn status(o: &Value, e: &mut Errors) {
    let at = At::field("status");
    let path = at.child("conditions");
    let all = list_at(o, &["status", "conditions"]);
    for (i, condition) in all.iter().enumerate() {
        let (at, kind) = (path.index(i), text(condition, "type"));
        if all[..i].iter().any(|c| text(c, "type") == kind) {
            e.duplicate(&at.child("type"), &kind.into());
        }
        if kind.is_empty() {
            e.required(&at.child("type"), "must not be empty");
        }
    }
}

fn schema_rule(rule: &Value, at: &At, e: &mut Errors) {
    let path = at.child("subjects");
    if list(rule, "subjects").is_empty() {
        e.required(&path, "subjects must contain at least one value");
    }
    for (i, subject) in list(rule, "subjects").iter().enumerate() {
        self::subject(subject, &path.index(i), e);
    }
    if list(rule, "resourceRules").is_empty() && list(rule, "nonResourceRules").is_empty() {
        e.required(at, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    let path = at.child("resourceRules");
    for (i, rule) in list(rule, "resourceRules").iter().enumerate() {
        resource_rule(rule, &path.index(i), e);
    }
    let path = at.child("nonResourceRules");
    for (i, rule) in list(rule, "nonResourceRules").iter().enumerate() {
        path_rule(rule, &path.index(i), e);
    }
}

fn subject(subject: &Value, at: &At, e: &mut Errors) {
    const KINDS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = text(subject, "kind");
    let Some((_, wanted)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        return e.not_supported(&at.child("kind"), &kind.into(), &["Group", "ServiceAccount", "User"]);
    };
    let path = at.child(wanted);
    match get(subject, wanted) {
        None => e.required(&path, &format!("{wanted} is required when subject kind is '{kind}'")),
        Some(who) if kind == "ServiceAccount" => {
            match text(who, "name") {
                "" => e.required(&path.child("name"), ""),
                "*" => {}
                name => e.invalid_each(&path.child("name"), name, names::dns1123_subdomain(name)),
            }
            match text(who, "namespace") {
                "" => e.required(&path.child("namespace"), "must specify namespace for service account"),
                ns => e.invalid_each(&path.child("namespace"), ns, names::dns1123_label(ns)),
            }
        }
        Some(who) => check::required(who, "name", &path, e),
    }
    for (name, field) in KINDS.iter().filter(|(_, field)| field != wanted && has(subject, field)) {
        e.forbidden(&at.child(field), &format!("{field} is forbidden when subject kind is not '{name}'"));
    }
}

const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// A list of names that must hold something, and nothing beside a `*`. Whether it holds names to look at.
fn names_or_all(rule: &Value, key: &str, none: &str, what: &str, at: &At, e: &mut Errors) -> bool {
    let values: Vec<&str> = texts(rule, key).collect();
    if values.is_empty() {
        e.required(&at.child(key), none);
        return false;
    }
    let all = values.contains(&"*");
    if all && values.len() > 1 {
        e.invalid(&at.child(key), &rule[key], &format!("if '*' is present, must not specify other {what}"));
    }
    !all
}

fn verbs(rule: &Value, at: &At, e: &mut Errors) {
    let named = names_or_all(rule, "verbs", "verbs must contain at least one value", "verbs", at, e);
    if named && !texts(rule, "verbs").all(|v| VERBS.contains(&v)) {
        // Only supported verbs are allowed; the whole list is shown.
        e.not_supported(&at.child("verbs"), &rule["verbs"], &VERBS);
    }
}

fn resource_rule(rule: &Value, at: &At, e: &mut Errors) {
    verbs(rule, at, e);
    names_or_all(rule, "apiGroups", "resource rules must supply at least one api group", "api groups", at, e);
    names_or_all(rule, "resources", "resource rules must supply at least one resource", "resources", at, e);
    if list(rule, "namespaces").is_empty() {
        if !flag(rule, "clusterScope") {
            let why = "resource rules that are not cluster scoped must supply at least one namespace";
            e.required(&at.child("namespaces"), why);
        }
        return;
    }
    if names_or_all(rule, "namespaces", "", "namespaces", at, e) {
        let path = at.child("namespaces");
        for (i, ns) in texts(rule, "namespaces").enumerate() {
            for why in names::dns1123_label(ns) {
                e.invalid(&path.index(i), &ns.into(), &format!("each member of this list must be '*' or a DNS-1123 label; {why}"));
            }
        }
    }
}

fn path_rule(rule: &Value, at: &At, e: &mut Errors) {
    verbs(rule, at, e);
    let none = "nonResourceURLs must contain at least one value";
    if !names_or_all(rule, "nonResourceURLs", none, "non-resource URLs", at, e) {
        return;
    }
    let list_path = at.child("nonResourceURLs");
    for (i, url) in texts(rule, "nonResourceURLs").enumerate() {
        let path = list_path.index(i);
        let why = match url {
            "" => "must not be empty",
            "/" => continue,
            url if !url.starts_with('/') => "must start with slash",
            url if url.contains(' ') => "must not contain white-space",
            url if url.contains("//") => "must not contain double slash",
            url if url.contains('*') && (url.matches('*').count() > 1 || !url.ends_with("/*")) => "wildcard can only do suffix matching",
            _ => continue,
        };
        e.invalid(&path, &url.into(), why);
    }
}

fn level(o: &Value, e: &mut Errors) {
    let (spec, name) = (spec(o), text_at(o, &["metadata", "name"]));
    level_spec(spec, name, e);
    if let Some(mut fixed) = mandatory_level(name) {
        let mut except = "";
        if name == EXEMPT {
            copy(&mut fixed, spec, "exempt");
            except = " except the 'spec.exempt' field";
        }
        if !same(Some(spec), Some(&fixed)) {
            e.invalid(&SPEC, spec, &format!("spec of '{name}'{except} must equal the fixed value"));
        }
    }
    status(o, e);
}

fn level_spec(spec: &Value, name: &str, e: &mut Errors) {
    let (kind, exempt, limited) = (text(spec, "type"), get(spec, "exempt"), get(spec, "limited"));
    if (name == EXEMPT) != (kind == "Exempt") {
        e.invalid(&SPEC.child("type"), &kind.into(), "type must be 'Exempt' if and only if name is 'exempt'");
    }
    match kind {
        "Exempt" => {
            if limited.is_some() {
                e.forbidden(&SPEC.child("limited"), "must be nil if the type is not Limited");
            }
            let path = SPEC.child("exempt");
            shares(exempt.unwrap_or(&NONE), &path, e);
            lendable(exempt.unwrap_or(&NONE), &path, e);
        }
        "Limited" => {
            if exempt.is_some() {
                e.forbidden(&SPEC.child("exempt"), "must be nil if the type is Limited");
            }
            match limited {
                None => e.required(&SPEC.child("limited"), "must not be empty when type is Limited"),
                Some(limited) => self::limited(limited, &SPEC.child("limited"), e),
            }
        }
        other => e.not_supported(&SPEC.child("type"), &other.into(), &["Exempt", "Limited"]),
    }
}

fn shares(v: &Value, path: &At, e: &mut Errors) {
    if let Some(n) = int(v, "nominalConcurrencyShares").filter(|n| *n < 0) {
        e.invalid(&path.child("nominalConcurrencyShares"), &n.into(), "must be a non-negative integer");
    }
}

fn lendable(v: &Value, path: &At, e: &mut Errors) {
    check::within(v, "lendablePercent", 0, 100, path, e);
}

fn limited(limited: &Value, path: &At, e: &mut Errors) {
    shares(limited, path, e);
    limit_response(limited.get("limitResponse").unwrap_or(&NONE), &path.child("limitResponse"), e);
    lendable(limited, path, e);
    if let Some(n) = int(limited, "borrowingLimitPercent").filter(|n| *n < 0) {
        e.invalid(&path.child("borrowingLimitPercent"), &n.into(), "if specified, must be a non-negative integer");
    }
}

fn limit_response(response: &Value, at: &At, e: &mut Errors) {
    let path = at.child("queuing");
    match (text(response, "type"), get(response, "queuing")) {
        ("Reject", Some(_)) => e.forbidden(&path, "must be nil if limited.limitResponse.type is not Limited"),
        ("Reject", None) => {}
        ("Queue", None) => e.required(&path, "must not be empty if limited.limitResponse.type is Limited"),
        ("Queue", Some(queuing)) => self::queuing(queuing, &path, e),
        (other, _) => e.not_supported(&at.child("type"), &other.into(), &["Queue", "Reject"]),
    }
}

/// Queues and hands: what shuffle sharding can deal from the bits of one hash.
fn queuing(queuing: &Value, at: &At, e: &mut Errors) {
    const MOST_QUEUES: i64 = 10_000_000;
    const HASH_BITS: i64 = 60;
    let of = |key: &str| int(queuing, key).unwrap_or_default();
    let (length, queues, hand) = (of("queueLengthLimit"), of("queues"), of("handSize"));
    let mut wrong = |key: &str, n: i64, why: String| e.invalid(&at.child(key), &n.into(), &why);
    let positive = || "must be positive".to_owned();
    if length <= 0 {
        wrong("queueLengthLimit", length, positive());
    }
    if queues <= 0 {
        wrong("queues", queues, positive());
    } else if queues > MOST_QUEUES {
        wrong("queues", queues, format!("must not be greater than {MOST_QUEUES}"));
    }
    if hand <= 0 {
        wrong("handSize", hand, positive());
    } else if hand > queues {
        wrong("handSize", hand, format!("should not be greater than queues ({queues})"));
    } else if (queues as f64).log2() * hand as f64 > HASH_BITS as f64 {
        let why = format!("required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}");
        wrong("handSize", hand, why);
    }
}
