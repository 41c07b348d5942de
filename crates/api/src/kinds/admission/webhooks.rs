//! Webhook configurations. What a rule found too late in objects of before may stay as it is.

use super::rules;
use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;

const HARMLESS: [&str; 2] = ["None", "NoneOnDryRun"];
const SIDE_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// What the stored object broke already.
#[derive(Default)]
struct Tolerated {
    side_effects: bool,
    unknown_reviews: bool,
    repeated_names: bool,
    label_values: bool,
    conditions: bool,
}

impl Tolerated {
    fn of(old: &Value, new: &Value) -> Tolerated {
        let (was, now) = (list(old, "webhooks"), list(new, "webhooks"));
        let unknown = |h: &Value| !list(h, "admissionReviewVersions").is_empty() && !knows_a_review(h, "admissionReviewVersions");
        let name = |i: usize| text(&was[i], "name");
        Tolerated {
            side_effects: was.iter().any(|h| !HARMLESS.contains(&text(h, "sideEffects"))),
            unknown_reviews: was.iter().any(unknown),
            repeated_names: (0..was.len()).any(|i| (0..i).any(|j| name(j) == name(i))),
            label_values: was.iter().any(has_odd_selector),
            conditions: was.len() == now.len() && was.iter().zip(now).all(|(a, b)| a.get("matchConditions") == b.get("matchConditions")),
        }
    }
}

fn has_odd_selector(hook: &Value) -> bool {
    let mut found = Errors::default();
    for key in SELECTORS {
        check::label_selector(hook.get(key).unwrap_or(&NONE), &At::ROOT, &mut found);
    }
    !found.is_empty()
}

const SELECTORS: [&str; 2] = ["namespaceSelector", "objectSelector"];

pub(super) fn create(o: &Value, e: &mut Errors) {
    webhooks(o, &Tolerated::default(), e);
}

pub(super) fn update(new: &Value, old: &Value, e: &mut Errors) {
    webhooks(new, &Tolerated::of(old, new), e);
}

fn webhooks(o: &Value, may: &Tolerated, e: &mut Errors) {
    let path = At::field("webhooks");
    let hooks = list(o, "webhooks");
    for (i, hook) in hooks.iter().enumerate() {
        let (at, name) = (path.index(i), text(hook, "name"));
        webhook(hook, may, &at, e);
        let none = "must specify one of v1, v1beta1";
        review_versions(hook, "admissionReviewVersions", none, !may.unknown_reviews, &at, e);
        if !may.repeated_names && !name.is_empty() && hooks[..i].iter().any(|h| text(h, "name") == name) {
            e.duplicate(&at.child("name"), &name.into());
        }
    }
}

fn webhook(hook: &Value, may: &Tolerated, at: &At, e: &mut Errors) {
    match text(hook, "name") {
        "" => e.required(&at.child("name"), ""),
        name => match names::fully_qualified_name(name) {
            why if why.is_empty() => {}
            why => e.invalid(&at.child("name"), &name.into(), &why.join(",")),
        },
    }
    let path = at.child("rules");
    for (i, rule) in list(hook, "rules").iter().enumerate() {
        rules::rule(rule, &path.index(i), e);
    }
    check::choice_if_set(hook, "failurePolicy", &rules::FAILURE_POLICIES, at, e);
    check::choice_if_set(hook, "matchPolicy", &rules::MATCH_POLICIES, at, e);
    side_effects(hook, may, &at.child("sideEffects"), e);
    if let Some(n) = int(hook, "timeoutSeconds").filter(|n| !(1..=30).contains(n)) {
        e.invalid(&at.child("timeoutSeconds"), &n.into(), "the timeout value must be between 1 and 30 seconds");
    }
    for key in SELECTORS {
        if let Some(selector) = get(hook, key) {
            check::label_selector_with(selector, !may.label_values, &at.child(key), e);
        }
    }
    check::choice_if_set(hook, "reinvocationPolicy", &rules::REINVOCATION, at, e);
    client_config(hook.get("clientConfig").unwrap_or(&NONE), &at.child("clientConfig"), e);
    if !may.conditions {
        rules::match_conditions(hook, at, e);
    }
}

fn side_effects(hook: &Value, may: &Tolerated, at: &At, e: &mut Errors) {
    let allowed: &[&str] = if may.side_effects { &SIDE_EFFECTS } else { &HARMLESS };
    match get(hook, "sideEffects").and_then(Value::as_str) {
        None => e.required(at, &format!("must specify one of {}", allowed.join(", "))),
        Some(given) if allowed.contains(&given) => {}
        Some(other) => e.not_supported(at, &other.into(), allowed),
    }
}

fn knows_a_review(v: &Value, key: &str) -> bool {
    texts(v, key).any(|version| REVIEWS.contains(&version))
}

/// The versions of reviews that a webhook understands: each once, and one that this server sends.
pub(in crate::kinds) fn review_versions(v: &Value, key: &str, none: &str, must_know: bool, at: &At, e: &mut Errors) {
    let path = at.child(key);
    let all: Vec<&str> = texts(v, key).collect();
    if all.is_empty() {
        return e.required(&path, none);
    }
    for (i, version) in all.iter().enumerate() {
        if all[..i].contains(version) {
            e.invalid(&path.index(i), &(*version).into(), "duplicate version");
            continue;
        }
        e.invalid_each(&path.index(i), *version, names::dns1035_label(version));
    }
    if must_know && !knows_a_review(v, key) {
        e.invalid(&path, &v[key], "must include at least one of v1, v1beta1");
    }
}

/// Where a webhook listens: a service or a URL.
pub(in crate::kinds) fn client_config(config: &Value, at: &At, e: &mut Errors) {
    match (get(config, "url").and_then(Value::as_str), get(config, "service")) {
        (None, None) | (Some(_), Some(_)) => e.required(at, "exactly one of url or service is required"),
        (Some(url), None) => webhook_url(url, &at.child("url"), e),
        (None, Some(service)) => {
            let path = at.child("service");
            for key in ["name", "namespace"] {
                if text(service, key).is_empty() {
                    e.required(&path.child(key), &format!("service {key} is required"));
                }
            }
            if let Some(n) = int(service, "port") {
                for why in names::port_number(n) {
                    e.invalid(&path.child("port"), &n.into(), &format!("port is not valid: {why}"));
                }
            }
            if let Some(url) = get(service, "path").and_then(Value::as_str) {
                service_path(url, &path.child("path"), e);
            }
        }
    }
}

fn webhook_url(url: &str, at: &At, e: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        e.invalid(at, &scheme.into(), &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let (rest, fragment) = rest.split_once('#').map_or((rest, ""), |(r, f)| (r, f));
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(r, q)| (r, q));
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(u, h)| (Some(u), h));
    if host.is_empty() {
        e.invalid(at, &"".into(), &format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        e.invalid(at, &user.into(), "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        e.invalid(at, &fragment.into(), "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        e.invalid(at, &query.into(), "query parameters are not permitted in the URL");
    }
}

fn service_path(path: &str, at: &At, e: &mut Errors) {
    if path == "/" || path.is_empty() {
        return;
    }
    if path == "//" {
        return e.invalid(at, &path.into(), "segment[0] may not be empty");
    }
    if !path.starts_with('/') {
        e.invalid(at, &path.into(), "must start with a '/'");
    }
    let inner = path.strip_prefix('/').unwrap_or(path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    for (i, segment) in inner.split('/').enumerate() {
        if segment.is_empty() {
            e.invalid(at, &path.into(), &format!("segment[{i}] may not be empty"));
            continue;
        }
        for why in names::dns1123_subdomain(segment) {
            e.invalid(at, &path.into(), &format!("segment[{i}]: {why}"));
        }
    }
}
