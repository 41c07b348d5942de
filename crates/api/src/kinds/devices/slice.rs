//! Slices: the devices that a driver has in a pool.

use super::{binding_conditions, by_name, capacity, each, each_once, label, pool_name, qualified};
use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::kinds::{HookContext, check, meta, pod};
use crate::{names, time};
use serde_json::{Value, json};

const SPEC: At<'static> = At::field("spec");
const MOST_DEVICES: usize = 128;
/// With taints or shared counters, a slice holds fewer.
const MOST_COMPLEX: usize = 64;
const MOST_FACTS: usize = 32;
const MOST_TAINTS: usize = 16;
const MOST_SETS: usize = 8;
const MOST_CONSUMED: usize = 2;
const MOST_COUNTERS: usize = 32;
const LONGEST_VALUE: usize = 64;
const LONGEST_KEY: usize = 63 + 1 + 32;
const LONGEST_COUNTER: usize = 63;

/// Amounts in canonical form.
pub fn default(o: &mut Value) {
    for device in each_mut(object(o, "spec"), "devices") {
        for (_, capacity) in device.get_mut("capacity").and_then(Value::as_object_mut).into_iter().flatten() {
            if let Some(value) = get_mut(capacity, "value") {
                check::canonical_amount(value);
            }
        }
    }
}

/// Taints have the time of their making. Fields of features that are off (DRAListTypeAttributes, DRANodeAllocatableResources) are kept
/// by who has them.
pub fn prepare(new: &mut Value, old: Option<&Value>, context: &HookContext) {
    const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];
    let devices = || old.into_iter().flat_map(|old| list(spec(old), "devices"));
    let mapped = devices().any(|device| has(device, "nodeAllocatableResourceMappings"));
    let listed = devices().flat_map(|device| entries(device, "attributes")).any(|(_, value)| LISTS.iter().any(|key| has(value, key)));
    let now = time::format_time(context.now);
    for device in each_mut(object(new, "spec"), "devices") {
        each_mut(device, "taints").for_each(|taint| fill(taint, "timeAdded", now.as_str()));
        if !mapped {
            remove(device, "nodeAllocatableResourceMappings");
        }
        let attributes = device.get_mut("attributes").and_then(Value::as_object_mut).filter(|_| !listed);
        for (_, value) in attributes.into_iter().flatten() {
            LISTS.iter().for_each(|key| drop(remove(value, key)));
        }
    }
}

/// A slice, new or changed: whose devices they are stays.
pub fn rules(o: &Value, old: Option<&Value>, e: &mut Errors) {
    let (spec, old) = (spec(o), old.map(spec));
    pod::volumes::driver_name(text(spec, "driver"), &SPEC.child("driver"), e);
    pool(spec.get("pool").unwrap_or(&NONE), &SPEC.child("pool"), e);
    if let Some(old) = old {
        let path = SPEC.child("pool");
        meta::immutable_value(at(spec, &["pool", "name"]), at(old, &["pool", "name"]), &path.child("name"), e);
        ["driver", "nodeName"].iter().for_each(|key| check::immutable(spec, old, key, &SPEC, e));
    }
    where_they_are(spec, e);
    if has(spec, "sharedCounters") && has(spec, "devices") {
        e.invalid(&SPEC, &"".into(), "only one of `sharedCounters` or `devices` is allowed");
    }
    let devices = list(spec, "devices");
    let complex = |d: &Value| !list(d, "taints").is_empty() || !list(d, "consumesCounters").is_empty();
    let most = if devices.iter().any(complex) { MOST_COMPLEX } else { MOST_DEVICES };
    each_once(devices, Some(most), &SPEC.child("devices"), e, by_name, |device, at, e| {
        let before = old.and_then(|old| list(old, "devices").iter().find(|d| by_name(d) == by_name(device)));
        self::device(device, before, flag(spec, "perDeviceNodeSelection"), at, e);
    });
    each_once(list(spec, "sharedCounters"), Some(MOST_SETS), &SPEC.child("sharedCounters"), e, by_name, |set, at, e| {
        check::required_form(set, "name", names::dns1123_label, at, e);
        counters(set, at, e);
    });
}

/// Where something is, by exactly one field. Gives those that are set.
fn places(v: &Value, empty_name: &str, one_term: bool, path: &At, e: &mut Errors) -> Vec<&'static str> {
    let mut set = Vec::new();
    match get(v, "nodeName").and_then(Value::as_str) {
        None => {}
        Some("") => e.invalid(&path.child("nodeName"), &"".into(), empty_name),
        Some(name) => {
            set.push("`nodeName`");
            e.invalid_each(&path.child("nodeName"), name, names::dns1123_subdomain(name));
        }
    }
    if let Some(selector) = get(v, "nodeSelector") {
        set.push("`nodeSelector`");
        let path = path.child("nodeSelector");
        pod::placement::node_selector(selector, &path, e);
        if one_term && list(selector, "nodeSelectorTerms").len() != 1 {
            let terms = selector.get("nodeSelectorTerms").unwrap_or(&NONE);
            e.invalid_shown(&path.child("nodeSelectorTerms"), &terms.to_string(), "must have exactly one node selector term");
        }
    }
    set.extend(only_true(v, "allNodes", "`allNodes`", path, e));
    set
}

fn only_true(v: &Value, key: &str, shown: &'static str, path: &At, e: &mut Errors) -> Option<&'static str> {
    let value = get(v, key)?;
    if *value == true {
        return Some(shown);
    }
    e.invalid(&path.child(key), value, "must be either unset or set to true");
    None
}

fn where_they_are(spec: &Value, e: &mut Errors) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut set = places(spec, "must be either unset or set to a non-empty string", true, &SPEC, e);
    set.extend(only_true(spec, "perDeviceNodeSelection", "`perDeviceNodeSelection`", &SPEC, e));
    match set.len() {
        0 => e.required(&SPEC, ONE),
        1 => {}
        _ => e.invalid(&SPEC, &format!("{{{}}}", set.join(", ")).into(), &format!("{ONE}, but multiple fields are set")),
    }
}

fn pool(pool: &Value, path: &At, e: &mut Errors) {
    pool_name(text(pool, "name"), &path.child("name"), e);
    let count = int(pool, "resourceSliceCount").unwrap_or_default();
    if count <= 0 {
        e.invalid(&path.child("resourceSliceCount"), &count.into(), "must be greater than zero");
    }
    if let Some(n) = int(pool, "generation").filter(|n| *n < 0) {
        e.invalid(&path.child("generation"), &n.into(), "must be greater than or equal to zero");
    }
}

/// A key as it stands in a path: long ones are cut in the middle.
fn shortened(key: &str, most: usize) -> String {
    let (Some(head), Some(tail)) = (key.get(..(most - 2) / 2), key.get(key.len().saturating_sub((most - 3) / 2)..)) else {
        return key.to_owned();
    };
    if key.len() <= most { key.to_owned() } else { format!("{head}...{tail}") }
}

fn device(device: &Value, before: Option<&Value>, chooses_nodes: bool, at: &At, e: &mut Errors) {
    label(device, "name", at, e);
    let facts = entries(device, "attributes").count() + entries(device, "capacity").count();
    if facts > MOST_FACTS {
        let why = format!("the total number of attributes and capacities must not exceed {MOST_FACTS}");
        e.invalid(at, &facts.into(), &why);
    }
    let path = at.child("attributes");
    for (name, value) in entries(device, "attributes") {
        let key = shortened(name, LONGEST_KEY);
        qualified(name, &path.key(&key), e);
        attribute(value, &path.key(&key), e);
    }
    let path = at.child("capacity");
    for (name, value) in entries(device, "capacity") {
        let key = shortened(name, LONGEST_KEY);
        qualified(name, &path.key(&key), e);
        capacity::rules(value, flag(device, "allowMultipleAllocations"), &path.key(&key), e);
    }
    if !before.is_some_and(|before| same(before.get("taints"), device.get("taints"))) {
        each(list(device, "taints"), Some(MOST_TAINTS), &at.child("taints"), e, taint);
    }
    let (consumed, path) = (list(device, "consumesCounters"), at.child("consumesCounters"));
    each_once(
        consumed,
        Some(MOST_CONSUMED),
        &path,
        e,
        |one| text(one, "counterSet"),
        |one, at, e| {
            check::required_form(one, "counterSet", names::dns1123_label, at, e);
            counters(one, at, e);
        },
    );
    node(device, chooses_nodes, at, e);
    binding_conditions(device, at, e);
}

fn node(device: &Value, chooses_nodes: bool, at: &At, e: &mut Errors) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    const ELSEWHERE: &str =
        "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    if !chooses_nodes {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|key| has(device, key)) {
            e.invalid(at, &NONE, ELSEWHERE);
        }
        return;
    }
    let set = places(device, "must not be empty", false, at, e);
    match set.len() {
        0 => e.required(at, ONE),
        1 => {}
        _ => e.invalid(at, &format!("{{{}}}", set.join(", ")).into(), ONE),
    }
}

fn taint(taint: &Value, at: &At, e: &mut Errors) {
    check::label_name(text(taint, "key"), &at.child("key"), e);
    e.invalid_each(&at.child("value"), text(taint, "value"), names::label_value(text(taint, "value")));
    check::choice(taint, "effect", &super::claim::EFFECTS, at, e);
}

/// Any amount will do; only how many there are and their names matter.
fn counters(v: &Value, at: &At, e: &mut Errors) {
    let path = at.child("counters");
    match entries(v, "counters").count() {
        0 => return e.required(&path, ""),
        n if n > MOST_COUNTERS => return e.too_many(&path, n, MOST_COUNTERS),
        _ => {}
    }
    for (name, _) in entries(v, "counters") {
        e.invalid_each(&path.key(&shortened(name, LONGEST_COUNTER)), name, names::dns1123_label(name));
    }
}

/// An attribute as upstream quotes it: the fields of its own Go type.
fn shown(value: &Value) -> String {
    let fields = [("int", "IntValue"), ("bool", "BoolValue"), ("string", "StringValue"), ("version", "VersionValue")];
    let shown = fields.map(|(key, name)| format!("\"{name}\":{}", get(value, key).unwrap_or(&NONE)));
    format!("{{{}}}", shown.join(","))
}

fn attribute(value: &Value, at: &At, e: &mut Errors) {
    const ONE: &str = "exactly one value must be specified";
    if text(value, "string").len() > LONGEST_VALUE {
        e.too_long(&at.child("string"), LONGEST_VALUE);
    }
    if let Some(version) = get(value, "version").and_then(Value::as_str) {
        if !is_semantic(version) {
            e.invalid(&at.child("version"), &json!(version), "must be a string compatible with semver.org spec 2.0.0");
        }
        if version.len() > LONGEST_VALUE {
            e.too_long(&at.child("version"), LONGEST_VALUE);
        }
    }
    match ["bool", "int", "string", "version"].iter().filter(|key| has(value, key)).count() {
        0 => e.invalid(at, &"".into(), ONE),
        1 => {}
        _ => e.invalid_shown(at, &shown(value), ONE),
    }
}

/// `1.2.3-rc.1+build`.
fn is_semantic(version: &str) -> bool {
    let (version, build) = version.split_once('+').map_or((version, None), |(v, build)| (v, Some(build)));
    let (core, release) = version.split_once('-').map_or((version, None), |(core, release)| (core, Some(release)));
    let digits = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
    let number = |n: &str| digits(n) && (n == "0" || !n.starts_with('0'));
    let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    core.split('.').count() == 3
        && core.split('.').all(number)
        && release.is_none_or(|release| release.split('.').all(|w| if digits(w) { number(w) } else { word(w) }))
        && build.is_none_or(|build| build.split('.').all(word))
}

#[cfg(test)]
mod tests {
    use super::{is_semantic, shortened};

    #[test]
    fn long_keys_are_cut_in_the_middle() {
        assert_eq!(shortened("0123456789abcdef", 16), "0123456789abcdef");
        assert_eq!(shortened("0123456789abcdefg", 16), "0123456...bcdefg");
    }

    #[test]
    fn versions_are_semantic_or_not() {
        for good in ["1.2.3", "0.0.0", "1.2.3-rc.1", "1.2.3+build.5", "1.2.3-rc.1+b", "1.2.3-0-1", "1.2.3+01"] {
            assert!(is_semantic(good), "{good}");
        }
        for bad in ["", "1.2", "01.2.3", "v1.2.3", "1.2.x", "1.2.3-rc..1", "1.2.3-01", "1.2.3+"] {
            assert!(!is_semantic(bad), "{bad}");
        }
    }
}
