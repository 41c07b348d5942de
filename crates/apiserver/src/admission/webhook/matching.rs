//! Which requests a webhook wants to see: its rules and selectors.

use super::super::{Context, list};
use super::review::operation;
use super::versions::{self, Other};
use ferrokube_api::labels::Selector;
use serde_json::Value;

/// How a webhook sees a request that it wants to see.
pub(super) enum Seen {
    /// As it is.
    Own,
    /// In another version of its resource.
    As(Other),
}

impl Seen {
    pub(super) fn other(self) -> Option<Other> {
        match self {
            Seen::Own => None,
            Seen::As(other) => Some(other),
        }
    }
}

/// Whether the webhook wants to see the request, and how.
pub(super) fn wants(c: &Context<'_>, hook: &Value, object: Option<&Value>) -> Option<Seen> {
    let seen = if list(hook, "rules").any(|rule| matches(c, rule, c.group, c.version)) {
        Seen::Own
    } else if hook["matchPolicy"] == "Exact" || !list(hook, "rules").any(|rule| about(c, rule)) {
        return None;
    } else {
        let named = |other: &Other| list(hook, "rules").any(|rule| matches(c, rule, &other.group, &other.version));
        Seen::As(versions::equivalents(c).into_iter().find(named)?)
    };
    (namespace_selected(c, hook, object) && object_selected(c, hook, object)).then_some(seen)
}

fn has(rule: &Value, field: &str, wanted: &str) -> bool {
    list(rule, field).filter_map(Value::as_str).any(|v| v == "*" || v == wanted)
}

/// Whether the rule is about the resource and the operation of the request, whatever its group and version.
fn about(c: &Context<'_>, rule: &Value) -> bool {
    // A Namespace is not in a namespace, although its requests carry one.
    let is_namespace = c.group.is_empty() && c.resource == "namespaces";
    let namespaced = !c.namespace.is_empty() && !is_namespace;
    let scope = match rule["scope"].as_str() {
        Some("Cluster") => !namespaced,
        Some("Namespaced") => namespaced,
        _ => true,
    };
    let resource = list(rule, "resources").filter_map(Value::as_str).any(|pattern| match pattern.split_once('/') {
        None => c.subresource.is_empty() && (pattern == "*" || pattern == c.resource),
        Some((resource, subresource)) => {
            (resource == "*" || resource == c.resource) && (subresource == "*" || subresource == c.subresource)
        }
    });
    scope && resource && has(rule, "operations", operation(c.operation))
}

fn matches(c: &Context<'_>, rule: &Value, group: &str, version: &str) -> bool {
    about(c, rule) && has(rule, "apiGroups", group) && has(rule, "apiVersions", version)
}

/// A selector that cannot be read selects everything: the webhook is then asked rather than passed by.
fn selector(value: &Value) -> Option<Selector> {
    if !value.is_object() {
        return None;
    }
    Selector::from_label_selector(Some(value)).ok().filter(|s| !s.is_everything())
}

fn namespace_selected(c: &Context<'_>, hook: &Value, object: Option<&Value>) -> bool {
    let Some(selector) = selector(&hook["namespaceSelector"]) else { return true };
    if c.group.is_empty() && c.resource == "namespaces" {
        let labels = object.or(c.review.old).map(|o| &o["metadata"]["labels"]);
        return selector.matches_map(labels);
    }
    if c.namespace.is_empty() {
        return true;
    }
    c.objects.get("", "namespaces", "", c.namespace).is_none_or(|namespace| selector.matches(&namespace))
}

fn object_selected(c: &Context<'_>, hook: &Value, object: Option<&Value>) -> bool {
    let Some(selector) = selector(&hook["objectSelector"]) else { return true };
    [object, c.review.old].into_iter().flatten().any(|o| selector.matches_map(Some(&o["metadata"]["labels"])))
}

/// Whether the request is within `matchConstraints` of a policy or `matchResources` of a binding. Without rules everything is.
pub(in super::super) fn constrained(c: &Context<'_>, constraints: &Value, object: Option<&Value>) -> bool {
    let named = |rule: &Value| {
        let mut names = list(rule, "resourceNames").filter_map(Value::as_str).peekable();
        names.peek().is_none() || names.any(|n| n == c.name)
    };
    let hit = |rule: &Value| matches(c, rule, c.group, c.version) && named(rule);
    let rules = list(constraints, "resourceRules").next().is_none() || list(constraints, "resourceRules").any(hit);
    rules
        && !list(constraints, "excludeResourceRules").any(hit)
        && namespace_selected(c, constraints, object)
        && object_selected(c, constraints, object)
}
