//! Webhook configurations and admission policies: defaults, and which rules each kind follows.
//!
//! Whether expressions compile is checked where they are compiled, in the API server (`admission/policy/definition.rs`);
//! here stands everything that needs no CEL. Source: `pkg/apis/admissionregistration/{v1,validation}`.

mod policies;
mod rules;
mod webhooks;

use super::json::*;
use super::{Hooks, common};
use serde_json::{Map, Value};

pub(super) use webhooks::{client_config, review_versions};

pub(super) const VALIDATING_WEBHOOKS: Hooks = Hooks {
    default: Some(default_webhooks),
    validate_create: Some(webhooks::create),
    validate_update: Some(webhooks::update),
    ..Hooks::NONE
};
pub(super) const MUTATING_WEBHOOKS: Hooks = Hooks { default: Some(default_mutating), ..VALIDATING_WEBHOOKS };
pub(super) const POLICY: Hooks = Hooks {
    default: Some(default_policy),
    prepare_create: Some(common::reset_status),
    validate_create: Some(policies::validating),
    validate_update: Some(policies::validating_update),
    validate_status: Some(policies::status),
    ..Hooks::NONE
};
pub(super) const MUTATING_POLICY: Hooks = Hooks {
    default: Some(default_policy),
    validate_create: Some(policies::mutating),
    validate_update: Some(policies::mutating_update),
    ..Hooks::NONE
};
pub(super) const BINDING: Hooks =
    Hooks { default: Some(default_binding), validate_create: Some(policies::validating_binding), ..Hooks::NONE };
pub(super) const MUTATING_BINDING: Hooks = Hooks { validate_create: Some(policies::mutating_binding), ..BINDING };

fn default_webhooks(o: &mut Value) {
    for hook in each_mut(o, "webhooks") {
        fill_text(hook, "failurePolicy", "Fail");
        fill_text(hook, "matchPolicy", "Equivalent");
        fill(hook, "namespaceSelector", Map::new());
        fill(hook, "objectSelector", Map::new());
        fill(hook, "timeoutSeconds", 10);
        each_mut(hook, "rules").for_each(|r| fill_text(r, "scope", "*"));
        if let Some(service) = at_mut(hook, &["clientConfig", "service"]) {
            fill(service, "port", 443);
        }
    }
}

fn default_mutating(o: &mut Value) {
    default_webhooks(o);
    each_mut(o, "webhooks").for_each(|h| fill_text(h, "reinvocationPolicy", "Never"));
}

fn default_policy(o: &mut Value) {
    let spec = object(o, "spec");
    fill_text(spec, "failurePolicy", "Fail");
    if let Some(constraints) = get_mut(spec, "matchConstraints") {
        default_match(constraints);
    }
}

fn default_binding(o: &mut Value) {
    if let Some(resources) = at_mut(o, &["spec", "matchResources"]) {
        default_match(resources);
    }
}

fn default_match(m: &mut Value) {
    fill_text(m, "matchPolicy", "Equivalent");
    fill(m, "namespaceSelector", Map::new());
    fill(m, "objectSelector", Map::new());
    for key in ["resourceRules", "excludeResourceRules"] {
        each_mut(m, key).for_each(|r| fill_text(r, "scope", "*"));
    }
}
