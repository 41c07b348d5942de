//! MutatingAdmissionPolicy: expressions that make an apply configuration or a JSON patch.

use super::super::Context;
use super::super::webhook::matching;
use super::compile::{Mutation, Policy};
use super::run::{PER_POLICY, Scene, Variables};
use super::{Binding, Set, conditions, params};
use ferrokube_api::Status;
use ferrokube_api::apply::overlay;
use ferrokube_api::patch::json_patch;
use ferrokube_cel::Budget;
use serde_json::Value;

/// Runs all policies, and those that ask for it once more after others changed what they had seen; whether the object
/// changed.
pub(super) fn run(c: &Context<'_>, set: &Set, object: &mut Value) -> Result<bool, Status> {
    let mut last = None;
    for (at, (policy, bindings)) in set.policies.iter().enumerate() {
        if apply(c, policy, bindings, object)? {
            last = Some(at);
        }
    }
    let Some(last) = last else { return Ok(false) };
    for (policy, bindings) in set.policies[..last].iter().filter(|(p, _)| p.spec["reinvocationPolicy"] == "IfNeeded") {
        apply(c, policy, bindings, object)?;
    }
    Ok(true)
}

/// Applies a policy for each of its bindings and parameters.
fn apply(c: &Context<'_>, policy: &Policy, bindings: &[Binding], object: &mut Value) -> Result<bool, Status> {
    let mut changed = false;
    if !matching::constrained(c, &policy.spec["matchConstraints"], Some(object)) {
        return Ok(false);
    }
    for binding in bindings {
        if !matching::constrained(c, &binding.spec["matchResources"], Some(object)) {
            continue;
        }
        let mutated = params::find(c, policy, binding).map_err(|why| format!("failed to configure binding: {why}")).and_then(|found| {
            let mut made: Option<Value> = None;
            for params in &found {
                let before = made.as_ref().unwrap_or(object);
                made = mutate(c, policy, before, params.as_ref())?.or(made);
            }
            Ok(made)
        });
        match mutated {
            Ok(None) => {}
            Ok(Some(made)) => {
                changed |= made != *object;
                *object = made;
            }
            Err(why) if policy.fails_closed() => {
                let said = format!("MutatingAdmissionPolicy '{}' with binding '{}' denied request: {why}", policy.name, binding.name);
                return Err(c.forbidden(Some(object), said));
            }
            Err(why) => tracing::debug!(policy = policy.name, binding = binding.name, why, "a mutating policy failed and is ignored"),
        }
    }
    Ok(changed)
}

/// The object as the policy makes it; `None` when its conditions do not hold.
fn mutate(c: &Context<'_>, policy: &Policy, object: &Value, params: Option<&Value>) -> Result<Option<Value>, String> {
    let scene = Scene::new(c, Some(object));
    if !conditions::hold(&policy.conditions, &scene.values(Some(object), params))? {
        return Ok(None);
    }
    let budget = Budget::new(PER_POLICY);
    let mut current = object.clone();
    for mutation in &policy.mutations {
        let made = evaluate(policy, mutation, &scene, &current, params, &budget)?;
        if mutation.patch {
            json_patch(&mut current, made).map_err(|e| format!("JSON Patch: {}", e.message))?;
        } else {
            let schema = c.review.schema.ok_or("apply configurations are not supported for this resource")?;
            current = overlay(&current, &made, schema).map_err(|e| format!("error applying patch: {e}"))?;
        }
    }
    Ok(Some(current))
}

/// The configuration or the patch.
fn evaluate(
    policy: &Policy,
    mutation: &Mutation,
    scene: &Scene<'_>,
    object: &Value,
    params: Option<&Value>,
    budget: &Budget,
) -> Result<Value, String> {
    let program = mutation.program.as_ref().map_err(Clone::clone)?;
    // Variables see what earlier mutations made.
    let variables = Variables::new(&policy.variables, scene.values(Some(object), params), budget);
    let value =
        program.eval(&variables.values(), budget).map_err(|e| format!("expression '{}' resulted in error: {e}", program.source()))?;
    value.to_json().ok_or_else(|| format!("expression '{}' has a value that cannot stand in an object", program.source()))
}
