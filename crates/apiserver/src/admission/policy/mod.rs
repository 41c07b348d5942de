//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: CEL that changes or refuses a write.
//!
//! Policies are compiled once and kept until a policy or a binding changes; where there are none, a write pays for two
//! comparisons of numbers. Everything here is evaluated in the process, over caches, with a budget. Policies and bindings
//! themselves are never intercepted, so that a broken policy can always be removed. Source: apiserver
//! `admission/plugin/policy`.

mod compile;
mod conditions;
mod definition;
mod mutating;
mod params;
mod run;
mod validating;

pub(super) use conditions::admits;
pub use definition::check;

use super::webhook::GROUP;
use super::{Context, Outcome, list};
use crate::objects::Objects;
use compile::Policy;
use ferrokube_api::Status;
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;

/// A binding of a policy.
#[derive(Debug)]
struct Binding {
    name: String,
    spec: Value,
}

/// All policies of one kind, compiled, with their bindings.
#[derive(Debug, Default)]
struct Set {
    /// Revisions of policies and bindings that this was made from.
    seen: (u64, u64),
    policies: Vec<(Policy, Vec<Binding>)>,
}

/// What stands in the caches, compiled.
#[derive(Debug, Default)]
pub(super) struct Policies {
    validating: Mutex<Arc<Set>>,
    mutating: Mutex<Arc<Set>>,
}

impl Policies {
    /// Runs the mutating policies; whether one changed the object.
    pub(super) fn mutate(&self, c: &Context<'_>, object: &mut Value) -> Result<bool, Status> {
        let set = current(&self.mutating, c.objects, "mutatingadmissionpolicies", "mutatingadmissionpolicybindings");
        if set.policies.is_empty() || is_exempt(c) { Ok(false) } else { mutating::run(c, &set, object) }
    }

    /// Runs the validating policies.
    pub(super) fn validate(&self, c: &Context<'_>, object: Option<&Value>, outcome: &mut Outcome) -> Result<(), Status> {
        let set = current(&self.validating, c.objects, "validatingadmissionpolicies", "validatingadmissionpolicybindings");
        if set.policies.is_empty() || is_exempt(c) { Ok(()) } else { validating::run(c, &set, object, outcome) }
    }
}

/// Policies never see policies, nor the questions that evaluating them may lead to.
fn is_exempt(c: &Context<'_>) -> bool {
    (c.group == GROUP && c.resource.contains("admissionpolic")) || matches!(c.group, "authentication.k8s.io" | "authorization.k8s.io")
}

fn current(kept: &Mutex<Arc<Set>>, objects: &dyn Objects, policies: &str, bindings: &str) -> Arc<Set> {
    let seen = (objects.revision(GROUP, policies), objects.revision(GROUP, bindings));
    let mut kept = kept.lock();
    if kept.seen != seen {
        *kept = Arc::new(build(objects, policies, bindings, seen));
    }
    kept.clone()
}

fn build(objects: &dyn Objects, policies: &str, bindings: &str, seen: (u64, u64)) -> Set {
    let all = |resource: &str| objects.list(GROUP, resource, "").into_iter().filter_map(|o| o.decode::<Value>().ok());
    let name = |o: &Value| o["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let bindings: Vec<Binding> = all(bindings).map(|o| Binding { name: name(&o), spec: o["spec"].clone() }).collect();
    let mut set = Set { seen, policies: Vec::new() };
    for policy in all(policies) {
        let own = bindings.iter().filter(|b| b.spec["policyName"] == policy["metadata"]["name"]);
        let own: Vec<Binding> = own.map(|b| Binding { name: b.name.clone(), spec: b.spec.clone() }).collect();
        if !own.is_empty() {
            set.policies.push((Policy::compile(&policy), own));
        }
    }
    set
}

#[cfg(test)]
mod tests;
