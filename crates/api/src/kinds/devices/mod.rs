//! Dynamic resource allocation: claims, their templates, classes and slices of devices.
//!
//! CEL expressions are measured here, not read: compiling them is the business of the server that evaluates them.

mod capacity;
mod claim;
mod slice;
mod status;

use super::json::*;
use super::{Hooks, check, common, meta, pod};
use crate::field::{At, Errors};
use crate::names;
use serde_json::Value;
use std::collections::HashSet;

pub(super) const CLAIM: Hooks = Hooks {
    default: Some(|o| default_spec(object(o, "spec"))),
    prepare_create: Some(common::reset_status),
    prepare_status: Some(|new, old, _| status::forget_released(new, old)),
    validate_create: Some(|o, e| claim::spec(spec(o), &At::field("spec"), e)),
    validate_update: Some(fixed),
    validate_status: Some(status::update),
    ..Hooks::NONE
};
pub(super) const TEMPLATE: Hooks = Hooks {
    default: Some(|o| default_spec(object(object(o, "spec"), "spec"))),
    validate_create: Some(template),
    validate_update: Some(fixed),
    ..Hooks::NONE
};
pub(super) const CLASS: Hooks =
    Hooks { validate_create: Some(|o, e| class(o, None, e)), validate_update: Some(|new, old, e| class(new, Some(old), e)), ..Hooks::NONE };
pub(super) const SLICE: Hooks = Hooks {
    default: Some(slice::default),
    prepare_create: Some(|o, context| slice::prepare(o, None, context)),
    prepare_update: Some(|new, old, context| slice::prepare(new, Some(old), context)),
    validate_create: Some(|o, e| slice::rules(o, None, e)),
    validate_update: Some(|new, old, e| slice::rules(new, Some(old), e)),
    ..Hooks::NONE
};

/// Most entries of most lists.
const MOST: usize = 32;
/// Longest CEL expression (bytes).
const LONGEST_EXPRESSION: usize = 10 << 10;
/// Largest parameters of a driver (bytes).
const LARGEST_PARAMETERS: usize = 10 << 10;
const LONGEST_POOL: usize = 253;

fn default_spec(spec: &mut Value) {
    let Some(devices) = get_mut(spec, "devices") else { return };
    for request in each_mut(devices, "requests") {
        if let Some(exactly) = get_mut(request, "exactly") {
            default_request(exactly);
        }
        each_mut(request, "firstAvailable").for_each(default_request);
    }
}

fn default_request(request: &mut Value) {
    fill_text(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        fill_int(request, "count", 1);
    }
    each_mut(request, "tolerations").for_each(|t| fill_text(t, "operator", "Equal"));
}

fn fixed(new: &Value, old: &Value, e: &mut Errors) {
    meta::immutable_value(new.get("spec"), old.get("spec"), &At::field("spec"), e);
}

fn template(o: &Value, e: &mut Errors) {
    let path = At::field("spec");
    let outer = spec(o);
    meta::template(outer.get("metadata").unwrap_or(&NONE), &path.child("metadata"), e);
    claim::spec(outer.get("spec").unwrap_or(&NONE), &path.child("spec"), e);
}

fn class(o: &Value, old: Option<&Value>, e: &mut Errors) {
    let path = At::field("spec");
    let spec = spec(o);
    selectors(spec, &path, e);
    // Parameters from before there was a limit may stay.
    let stored = old.is_some_and(|old| same(self::spec(old).get("config"), spec.get("config")));
    each(list(spec, "config"), Some(MOST), &path.child("config"), e, |config, at, e| configuration(config, stored, at, e));
    if let Some(name) = get(spec, "extendedResourceName").and_then(Value::as_str)
        && !pod::resources::is_extended(name)
    {
        e.invalid(&path.child("extendedResourceName"), &name.into(), "must be a valid extended resource name");
    }
}

/// Every item of a list, unless there are too many.
fn each(items: &[Value], most: Option<usize>, path: &At, e: &mut Errors, check: impl Fn(&Value, &At, &mut Errors)) {
    if let Some(most) = most.filter(|most| items.len() > *most) {
        return e.too_many(path, items.len(), most);
    }
    for (i, item) in items.iter().enumerate() {
        check(item, &path.index(i), e);
    }
}

/// The same, where what `key` gives is in the list once; told after everything else.
fn each_once(
    items: &[Value],
    most: Option<usize>,
    path: &At,
    e: &mut Errors,
    key: impl Fn(&Value) -> &str,
    check: impl Fn(&Value, &At, &mut Errors),
) {
    each(items, most, path, e, check);
    if most.is_some_and(|most| items.len() > most) {
        return;
    }
    let mut known = HashSet::new();
    for (i, item) in items.iter().enumerate().filter(|(_, item)| !known.insert(key(item))) {
        e.duplicate(&path.index(i), &key(item).into());
    }
}

fn itself(item: &Value) -> &str {
    item.as_str().unwrap_or_default()
}

fn by_name(item: &Value) -> &str {
    text(item, "name")
}

fn label(v: &Value, key: &str, at: &At, e: &mut Errors) {
    e.invalid_each(&at.child(key), text(v, key), names::dns1123_label(text(v, key)));
}

fn selectors(v: &Value, path: &At, e: &mut Errors) {
    each(list(v, "selectors"), Some(MOST), &path.child("selectors"), e, |selector, at, e| {
        let Some(cel) = get(selector, "cel") else { return e.required(&at.child("cel"), "") };
        let at = at.child("cel");
        match text(cel, "expression") {
            "" => e.required(&at.child("expression"), ""),
            text if text.len() > LONGEST_EXPRESSION => e.too_long(&at.child("expression"), LONGEST_EXPRESSION),
            _ => {}
        }
    });
}

/// Parameters for a driver.
fn configuration(config: &Value, stored: bool, path: &At, e: &mut Errors) {
    let Some(opaque) = get(config, "opaque") else { return e.required(&path.child("opaque"), "") };
    let path = path.child("opaque");
    pod::volumes::driver_name(text(opaque, "driver"), &path.child("driver"), e);
    raw(get(opaque, "parameters"), stored, &path.child("parameters"), e);
}

/// An object that only a driver reads.
fn raw(value: Option<&Value>, stored: bool, at: &At, e: &mut Errors) {
    match value {
        None => e.required(at, ""),
        Some(value) if !stored && serde_json::to_string(value).is_ok_and(|s| s.len() > LARGEST_PARAMETERS) => {
            e.too_long(at, LARGEST_PARAMETERS);
        }
        Some(Value::Object(_)) => {}
        Some(_) => e.invalid(at, &"<value omitted>".into(), "must be a valid JSON object"),
    }
}

/// The name of a pool: names of DNS with slashes between.
fn pool_name(name: &str, at: &At, e: &mut Errors) {
    if name.is_empty() {
        return e.required(at, "");
    }
    if name.len() > LONGEST_POOL {
        e.too_long(at, LONGEST_POOL);
    }
    for part in name.split('/') {
        e.invalid_each(at, part, names::dns1123_subdomain(part));
    }
}

/// A UID in the form that Kubernetes writes.
fn uid(v: &Value, key: &str, at: &At, e: &mut Errors) {
    const NORMAL: &str =
        "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
    let Some(uid) = get(v, key).and_then(Value::as_str) else { return };
    let at = at.child(key);
    if let Err(why) = uuid_form(uid) {
        e.invalid(&at, &uid.into(), &format!("error validating uid: {why}"));
    } else if uid.len() != 36 || uid.bytes().any(|b| b.is_ascii_uppercase()) {
        e.invalid(&at, &uid.into(), NORMAL);
    }
}

/// The forms that upstream's parser knows, and its words.
fn uuid_form(uid: &str) -> Result<(), String> {
    let hex = |s: &str| s.bytes().all(|b| b.is_ascii_hexdigit());
    let dashed = |s: &str| s.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && s.split('-').all(hex);
    let fits = match uid.len() {
        36 => dashed(uid),
        45 => match uid.split_at_checked(9) {
            Some((prefix, _)) if !prefix.eq_ignore_ascii_case("urn:uuid:") => return Err(format!("invalid urn prefix: {prefix:?}")),
            rest => rest.is_some_and(|(_, rest)| dashed(rest)),
        },
        38 => match uid.strip_prefix('{').and_then(|u| u.strip_suffix('}')) {
            None => return Err("invalid bracketed UUID format".to_owned()),
            Some(inner) => dashed(inner),
        },
        32 => hex(uid),
        n => return Err(format!("invalid UUID length: {n}")),
    };
    if fits { Ok(()) } else { Err("invalid UUID format".to_owned()) }
}

/// Conditions that must hold before a pod is bound, and those that say it will not be.
fn binding_conditions(v: &Value, at: &At, e: &mut Errors) {
    const MOST_CONDITIONS: usize = 4;
    let (wanted, failures): (Vec<&str>, Vec<&str>) =
        (texts(v, "bindingConditions").collect(), texts(v, "bindingFailureConditions").collect());
    let (path, failed) = (at.child("bindingConditions"), at.child("bindingFailureConditions"));
    for (key, path) in [("bindingConditions", &path), ("bindingFailureConditions", &failed)] {
        each(list(v, key), Some(MOST_CONDITIONS), path, e, |condition, at, e| check::label_name(itself(condition), at, e));
    }
    for (i, one) in wanted.iter().enumerate().filter(|(i, one)| wanted[..*i].contains(one)) {
        e.duplicate(&path.index(i), &(*one).into());
    }
    for (i, one) in failures.iter().enumerate() {
        if failures[..i].contains(one) {
            e.duplicate(&failed.index(i), &(*one).into());
        }
        if wanted.contains(one) {
            e.invalid(&failed.index(i), &(*one).into(), "bindingFailureConditions must not overlap with bindingConditions");
        }
    }
    let shown = |key: &str| v.get(key).unwrap_or(&NONE).to_string();
    match (wanted.is_empty(), failures.is_empty()) {
        (true, false) => {
            e.invalid_shown(&path, &shown("bindingConditions"), "bindingConditions are required to use bindingFailureConditions");
        }
        (false, true) => {
            e.invalid_shown(&failed, &shown("bindingFailureConditions"), "bindingFailureConditions are required to use bindingConditions");
        }
        _ => {}
    }
}

/// A name that may have a domain: `driver.example/model`. With more than one slash it is anything, as upstream has it.
fn qualified(name: &str, path: &At, e: &mut Errors) {
    let identifier = |id: &str, e: &mut Errors| {
        if id.len() > 32 {
            e.too_long(path, 32);
        }
        e.invalid_each(path, id, names::c_identifier(id));
    };
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [id] => identifier(id, e),
        [domain, id] => {
            if domain.is_empty() {
                e.invalid(path, &"".into(), "the domain must not be empty");
            } else {
                pod::volumes::driver_name(domain, path, e);
            }
            if id.is_empty() {
                e.invalid(path, &"".into(), "the name must not be empty");
            } else {
                identifier(id, e);
            }
        }
        _ => {}
    }
}
