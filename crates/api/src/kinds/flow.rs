//! Priority and fairness: flow schemas and priority levels.

use super::json::*;
use super::{Hooks, check, common};
use crate::field::{At, Errors};
use crate::names;
use serde_json::{Map, Value};

pub(super) const SCHEMA: Hooks = Hooks {
    default: Some(|o| fill_int(object(o, "spec"), "matchingPrecedence", 1000)),
    prepare_create: Some(common::reset_status),
    validate_create: Some(schema),
    ..Hooks::NONE
};
pub(super) const LEVEL: Hooks =
    Hooks { default: Some(default_level), prepare_create: Some(common::reset_status), validate_create: Some(level), ..Hooks::NONE };

const SPEC: At<'static> = At::field("spec");

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
    let spec = spec(o);
    let n = int(spec, "matchingPrecedence").unwrap_or_default();
    let at = SPEC.child("matchingPrecedence");
    if !(1..=10000).contains(&n) {
        e.invalid(&at, &n.into(), "must be a value between 1 and 10000");
    }
    if n == 1 && text_at(o, &["metadata", "name"]) != "exempt" {
        e.invalid(&at, &n.into(), "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if let Some(method) = get(spec, "distinguisherMethod") {
        check::choice(method, "type", &["ByNamespace", "ByUser"], &SPEC.child("distinguisherMethod"), e);
    }
    let path = SPEC.child("priorityLevelConfiguration");
    let level = spec.get("priorityLevelConfiguration").unwrap_or(&NONE);
    check::required_form(level, "name", names::dns1123_subdomain, &path, e);
    let rules = SPEC.child("rules");
    for (i, rule) in list(spec, "rules").iter().enumerate() {
        let at = rules.index(i);
        if list(rule, "subjects").is_empty() {
            e.required(&at.child("subjects"), "subjects must contain at least one value");
        }
        if list(rule, "resourceRules").is_empty() && list(rule, "nonResourceRules").is_empty() {
            e.required(&at, "at least one of resourceRules and nonResourceRules has to be non-empty");
        }
    }
}

fn level(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    let (exempt, limited) = (get(spec, "exempt"), get(spec, "limited"));
    match text(spec, "type") {
        "Exempt" if limited.is_some() => e.forbidden(&SPEC.child("limited"), "must be nil if the type is not Limited"),
        "Exempt" => {}
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

fn limited(limited: &Value, path: &At, e: &mut Errors) {
    check::non_negative(limited, "nominalConcurrencyShares", path, e);
    check::within(limited, "lendablePercent", 0, 100, path, e);
    let at = path.child("limitResponse");
    let response = limited.get("limitResponse").unwrap_or(&NONE);
    match (text(response, "type"), get(response, "queuing")) {
        ("Reject", Some(_)) => e.forbidden(&at.child("queuing"), "must be nil if limited.limitResponse.type is not Limited"),
        ("Reject", None) => {}
        ("Queue", None) => e.required(&at.child("queuing"), "must not be empty if limited.limitResponse.type is Limited"),
        ("Queue", Some(queuing)) => {
            let at = at.child("queuing");
            for key in ["queueLengthLimit", "queues", "handSize"] {
                if let Some(n) = int(queuing, key).filter(|n| *n <= 0) {
                    e.invalid(&at.child(key), &n.into(), "must be positive");
                }
            }
            let (hand, queues) = (int(queuing, "handSize").unwrap_or_default(), int(queuing, "queues").unwrap_or_default());
            if hand > queues {
                let why = format!("should not be greater than queues ({queues})");
                e.invalid(&at.child("handSize"), &hand.into(), &why);
            }
        }
        (other, _) => e.not_supported(&at.child("type"), &other.into(), &["Queue", "Reject"]),
    }
}
