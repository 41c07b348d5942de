//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: CEL that changes or refuses a write.
//!
//! Policies are compiled once and kept until a policy or a binding changes; where there are none, a write pays for two
//! comparisons of numbers. Everything here is evaluated in the process, over caches, with a budget. Policies and bindings
//! themselves are never intercepted, so that a broken policy can always be removed. Source: apiserver
//! `admission/plugin/policy`.

mod access;
mod compile;
mod conditions;
mod definition;
mod mutating;
mod params;
mod run;
mod validating;

pub(super) use access::check as check_access;
pub(super) use compile::{Condition, conditions};
pub(super) use conditions::holds;
pub use definition::check;

use super::constraints::Constraints;
use super::kept::Kept;
pub(crate) use super::webhook::GROUP;
use super::{Context, Outcome, list};
use crate::objects::Objects;
use compile::Policy;
use ferrokube_api::Status;
use serde_json::Value;

/// A binding of a policy.
#[derive(Debug)]
struct Binding {
    name: String,
    spec: Value,
    constraints: Constraints,
}

/// All policies of one kind, compiled, with their bindings.
#[derive(Debug, Default)]
struct Set {
    policies: Vec<(Policy, Vec<Binding>)>,
}

/// What stands in the caches, compiled.
#[derive(Debug, Default)]
pub(super) struct Policies {
    validating: Kept<Set>,
    mutating: Kept<Set>,
}

/// The kinds of the validating policies and of their bindings.
const VALIDATING: [&str; 2] = ["validatingadmissionpolicies", "validatingadmissionpolicybindings"];
const MUTATING: [&str; 2] = ["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"];

impl Policies {
    /// Runs the mutating policies; whether one changed the object.
    pub(super) async fn mutate(&self, c: &Context<'_>, object: &mut Value) -> Result<bool, Status> {
        let set = self.mutating.current(c.objects, GROUP, &MUTATING, |_| build(c.objects, MUTATING));
        if set.policies.is_empty() || is_exempt(c) { Ok(false) } else { Box::pin(mutating::run(c, &set, object)).await }
    }

    /// Runs the validating policies.
    pub(super) async fn validate(&self, c: &Context<'_>, object: Option<&Value>, outcome: &mut Outcome) -> Result<(), Status> {
        let set = self.validating.current(c.objects, GROUP, &VALIDATING, |_| build(c.objects, VALIDATING));
        if set.policies.is_empty() || is_exempt(c) { Ok(()) } else { Box::pin(validating::run(c, &set, object, outcome)).await }
    }
}

/// Policies never see policies, nor the questions that evaluating them may lead to.
fn is_exempt(c: &Context<'_>) -> bool {
    (c.group == GROUP && c.resource.contains("admissionpolic")) || matches!(c.group, "authentication.k8s.io" | "authorization.k8s.io")
}

fn build(objects: &dyn Objects, [policies, bindings]: [&str; 2]) -> Set {
    let all = |resource: &str| objects.list(GROUP, resource, "").into_iter().filter_map(|o| o.decode::<Value>().ok());
    let bindings: Vec<Value> = all(bindings).collect();
    let mut set = Set::default();
    for policy in all(policies) {
        let own = bindings.iter().filter(|b| b["spec"]["policyName"] == policy["metadata"]["name"]);
        let own: Vec<Binding> = own.map(Binding::of).collect();
        if !own.is_empty() {
            set.policies.push((Policy::compile(&policy), own));
        }
    }
    set
}

impl Binding {
    fn of(object: &Value) -> Binding {
        Binding {
            name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            spec: object["spec"].clone(),
            constraints: Constraints::of_policy(&object["spec"]["matchResources"]),
        }
    }
}

#[cfg(test)]
mod tests;
