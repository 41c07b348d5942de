//! Which requests a webhook wants to see: its rules and selectors.

use super::super::{Context, list};
use ferrokube_api::labels::Selector;
use serde_json::Value;

/// Whether the webhook wants to see the request.
pub(super) fn wants(c: &Context<'_>, hook: &Value, object: Option<&Value>) -> bool {
    list(hook, "rules").any(|rule| matches(c, rule)) && namespace_selected(c, hook, object) && object_selected(c, hook, object)
}

fn has(rule: &Value, field: &str, wanted: &str) -> bool {
    list(rule, field).filter_map(Value::as_str).any(|v| v == "*" || v == wanted)
}

fn matches(c: &Context<'_>, rule: &Value) -> bool {
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
    scope
        && resource
        && has(rule, "operations", super::operation(c.operation))
        && has(rule, "apiGroups", c.group)
        && has(rule, "apiVersions", c.version)
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
