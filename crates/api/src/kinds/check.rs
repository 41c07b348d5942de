//! Checks that many kinds share, in the words of apimachinery's validation packages.

use super::json::*;
use crate::field::{At, Errors};
use crate::{names, quantity::Quantity};
use serde_json::Value;

pub const NEGATIVE: &str = "must be greater than or equal to 0";
pub const IMMUTABLE: &str = "field is immutable";

/// A field that must not be empty.
pub fn required(v: &Value, key: &str, path: &At, e: &mut Errors) {
    if text(v, key).is_empty() {
        e.required(&path.child(key), "");
    }
}

/// A text that must be one of a list; empty is a missing value.
pub fn choice(v: &Value, key: &str, allowed: &[&str], path: &At, e: &mut Errors) {
    match text(v, key) {
        "" => e.required(&path.child(key), ""),
        value => choice_value(value, allowed, &path.child(key), e),
    }
}

/// A text that must be one of a list when it is there.
pub fn choice_if_set(v: &Value, key: &str, allowed: &[&str], path: &At, e: &mut Errors) {
    if let Some(value) = get(v, key).and_then(Value::as_str) {
        choice_value(value, allowed, &path.child(key), e);
    }
}

/// A text that must be one of a list; none is as wrong as another.
pub fn member(v: &Value, key: &str, allowed: &[&str], path: &At, e: &mut Errors) {
    choice_value(text(v, key), allowed, &path.child(key), e);
}

fn choice_value(value: &str, allowed: &[&str], path: &At, e: &mut Errors) {
    if !allowed.contains(&value) {
        e.not_supported(path, &value.into(), allowed);
    }
}

/// A number that must not be below zero.
pub fn non_negative(v: &Value, key: &str, path: &At, e: &mut Errors) {
    if let Some(n) = int(v, key).filter(|n| *n < 0) {
        e.invalid(&path.child(key), &n.into(), NEGATIVE);
    }
}

/// A number within bounds, when it is there.
pub fn within(v: &Value, key: &str, lo: i64, hi: i64, path: &At, e: &mut Errors) {
    if let Some(n) = int(v, key).filter(|n| !(lo..=hi).contains(n)) {
        e.invalid(&path.child(key), &n.into(), &names::inclusive_range(lo, hi));
    }
}

/// A field that must not change.
pub fn immutable(new: &Value, old: &Value, key: &str, path: &At, e: &mut Errors) {
    if !same(new.get(key), old.get(key)) {
        e.invalid(&path.child(key), new.get(key).unwrap_or(&Value::Null), IMMUTABLE);
    }
}

/// A text in some form, when it is not empty.
pub fn form(v: &Value, key: &str, check: fn(&str) -> Vec<String>, path: &At, e: &mut Errors) {
    let value = text(v, key);
    if !value.is_empty() {
        e.invalid_each(&path.child(key), value, check(value));
    }
}

/// A text in some form that must be there.
pub fn required_form(v: &Value, key: &str, check: fn(&str) -> Vec<String>, path: &At, e: &mut Errors) {
    required(v, key, path, e);
    form(v, key, check, path, e);
}

/// A label key.
pub fn label_name(value: &str, path: &At, e: &mut Errors) {
    e.invalid_each(path, value, names::qualified_name(value));
}

/// A map of labels.
pub fn labels(v: &Value, key: &str, path: &At, e: &mut Errors) {
    for (k, value) in entries(v, key) {
        let value = value.as_str().unwrap_or_default();
        e.invalid_each(&path.child(key), k, names::qualified_name(k));
        e.invalid_each(&path.child(key), value, names::label_value(value));
    }
}

/// A `metav1.LabelSelector`.
pub fn label_selector(selector: &Value, path: &At, e: &mut Errors) {
    label_selector_with(selector, true, path, e);
}

/// The same, where values of expressions may be what older objects have in them.
pub fn label_selector_with(selector: &Value, strict_values: bool, path: &At, e: &mut Errors) {
    labels(selector, "matchLabels", path, e);
    let list_path = path.child("matchExpressions");
    for (i, term) in list(selector, "matchExpressions").iter().enumerate() {
        let at = list_path.index(i);
        selector_operator(term, &at, e);
        label_name(text(term, "key"), &at.child("key"), e);
        if strict_values {
            label_values(term, &at, e);
        }
    }
}

fn selector_operator(term: &Value, at: &At, e: &mut Errors) {
    let values = list(term, "values");
    match text(term, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            e.required(&at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            e.forbidden(&at.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => e.invalid(&at.child("operator"), &other.into(), "not a valid selector operator"),
    }
}

/// The `values` of a selector term.
pub fn label_values(term: &Value, at: &At, e: &mut Errors) {
    for (i, value) in texts(term, "values").enumerate() {
        e.invalid_each(&at.child("values").index(i), value, names::label_value(value));
    }
}

/// An amount that is not below zero; says nothing about texts that are no amounts, which decoding refuses.
pub fn non_negative_quantity(value: &Value, path: &At, e: &mut Errors) -> Option<Quantity> {
    match Quantity::from_json(value) {
        Ok(q) if q.is_negative() => {
            e.invalid(path, &q.to_string().into(), NEGATIVE);
            Some(q)
        }
        Ok(q) => Some(q),
        Err(why) => {
            e.invalid(path, value, &why.to_string());
            None
        }
    }
}

/// An amount that there can be; told as a whole number.
pub fn basic_amount(value: &Value, path: &At, e: &mut Errors) {
    if let Some(q) = Quantity::from_json(value).ok().filter(|q| q.value() < 0) {
        e.invalid(path, &q.value().into(), "must be a valid resource quantity");
    }
}

/// Writes the amounts of a resource list in canonical form, rounded up to thousandths.
pub fn canonical_amounts(v: &mut Value, key: &str) {
    for (_, amount) in v.get_mut(key).and_then(Value::as_object_mut).into_iter().flatten() {
        canonical_amount(amount);
    }
}

/// Writes an amount in canonical form, rounded up to thousandths.
pub fn canonical_amount(amount: &mut Value) {
    let Ok(mut q) = Quantity::from_json(amount) else { return };
    q.round_up_to_milli();
    let text = q.to_string();
    if amount.as_str() != Some(&text) {
        *amount = text.into();
    }
}

/// A port: a number or a name.
pub fn port(value: Option<&Value>, path: &At, e: &mut Errors) {
    match value {
        Some(Value::String(name)) => e.invalid_each(path, name.as_str(), names::port_name(name)),
        Some(Value::Number(n)) => e.invalid_each(path, n.clone(), names::port_number(n.as_i64().unwrap_or(-1))),
        _ => e.invalid_each(path, 0, names::port_number(0)),
    }
}

/// A number or percentage that must not be negative.
pub fn int_or_percent(v: &Value, key: &str, path: &At, e: &mut Errors) {
    match get(v, key) {
        Some(Value::String(s)) => e.invalid_each(&path.child(key), s.as_str(), names::percent(s)),
        Some(_) => non_negative(v, key, path, e),
        None => {}
    }
}

/// A percentage above 100.
pub fn not_above_all(v: &Value, key: &str, path: &At, e: &mut Errors) {
    if let Some(s) = get(v, key).and_then(Value::as_str)
        && names::parse_percent(s).is_some_and(|p| p > 100)
    {
        e.invalid(&path.child(key), &s.into(), "must not be greater than 100%");
    }
}

/// A path that goes down only.
pub fn local_path(value: &str, path: &At, e: &mut Errors) {
    if value.starts_with('/') {
        e.invalid(path, &value.into(), "must be a relative path");
    }
    no_backsteps(value, path, e);
}

/// A path without `..`.
pub fn no_backsteps(value: &str, path: &At, e: &mut Errors) {
    if value.split('/').any(|part| part == "..") {
        e.invalid(path, &value.into(), "must not contain '..'");
    }
}

/// A path that goes down only and does not start with `..`.
pub fn local_non_reserved_path(value: &str, path: &At, e: &mut Errors) {
    local_path(value, path, e);
    if value.starts_with("..") && !value.starts_with("../") {
        e.invalid(path, &value.into(), "must not start with '..'");
    }
}

/// A list of `metav1.Condition` (`ValidateConditions`).
pub fn conditions(v: &Value, path: &At, e: &mut Errors) {
    const STATES: [&str; 3] = ["False", "True", "Unknown"];
    let path = path.child("conditions");
    let all = list(v, "conditions");
    for (i, condition) in all.iter().enumerate() {
        let (at, kind, reason) = (path.index(i), text(condition, "type"), text(condition, "reason"));
        if all[..i].iter().any(|c| text(c, "type") == kind) {
            e.duplicate(&at.child("type"), &kind.into());
        }
        label_name(kind, &at.child("type"), e);
        if !STATES.contains(&text(condition, "status")) {
            e.not_supported(&at.child("status"), &text(condition, "status").into(), &STATES);
        }
        if let Some(n) = int(condition, "observedGeneration").filter(|n| *n < 0) {
            e.invalid(&at.child("observedGeneration"), &n.into(), "must be greater than or equal to zero");
        }
        if text(condition, "lastTransitionTime").is_empty() {
            e.required(&at.child("lastTransitionTime"), "must be set");
        }
        if reason.is_empty() {
            e.required(&at.child("reason"), "must be set");
        } else {
            e.invalid_each(&at.child("reason"), reason, names::condition_reason(reason));
            if reason.len() > 1024 {
                e.too_long(&at.child("reason"), 1024);
            }
        }
        if text(condition, "message").len() > 32768 {
            e.too_long(&at.child("message"), 32768);
        }
    }
}

/// Counters of a status: none below zero, and none above another.
pub fn counters(status: &Value, keys: &[&str], bounds: &[(&str, &str, &str)], e: &mut Errors) {
    let path = At::field("status");
    keys.iter().for_each(|key| non_negative(status, key, &path, e));
    let of = |key: &str| int(status, key).unwrap_or_default();
    for (key, _, why) in bounds.iter().filter(|(key, bound, _)| of(key) > of(bound)) {
        e.invalid(&path.child(key), &of(key).into(), why);
    }
}

/// A counter that only grows.
pub fn not_decremented(new: &Value, old: &Value, key: &str, e: &mut Errors) {
    let (now, was) = (int(new, key), int(old, key));
    if was.is_some() && now.unwrap_or_default() < was.unwrap_or_default() {
        e.invalid(&At::field("status").child(key), &now.unwrap_or_default().into(), "cannot be decremented");
    }
}
