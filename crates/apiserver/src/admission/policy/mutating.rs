//! MutatingAdmissionPolicy: expressions that make an apply configuration or a JSON patch.

use super::super::Context;
use super::super::constraints::Seen;
use super::compile::{Mutation, Policy};
use super::run::{PER_POLICY, Scene, Variables};
use super::{Binding, Set, conditions, params};
use ferrokube_api::Status;
use ferrokube_api::apply::overlay;
use ferrokube_api::decode;
use ferrokube_api::patch::{Misfit, json_patch_explained};
use ferrokube_api::schema::Schema;
use ferrokube_cel::Budget;
use serde_json::Value;

/// Runs all policies, and those that ask for it once more after others changed what they had seen; whether the object
/// changed.
pub(super) async fn run(c: &Context<'_>, set: &Set, object: &mut Value) -> Result<bool, Status> {
    let mut last = None;
    for (at, (policy, bindings)) in set.policies.iter().enumerate() {
        if apply(c, policy, bindings, object).await? {
            last = Some(at);
        }
    }
    let Some(last) = last else { return Ok(false) };
    for (policy, bindings) in set.policies[..last].iter().filter(|(p, _)| p.spec["reinvocationPolicy"] == "IfNeeded") {
        apply(c, policy, bindings, object).await?;
    }
    Ok(true)
}

/// Applies a policy for each of its bindings and parameters.
async fn apply(c: &Context<'_>, policy: &Policy, bindings: &[Binding], object: &mut Value) -> Result<bool, Status> {
    let mut changed = false;
    let Some(seen) = policy.constraints.seen(c, Some(object)) else { return Ok(false) };
    for binding in bindings {
        if binding.constraints.seen(c, Some(object)).is_none() {
            continue;
        }
        match follow(c, policy, binding, &seen, object).await {
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

/// The object as a policy makes it for one of its bindings; `None` when it has nothing to do.
async fn follow(c: &Context<'_>, policy: &Policy, binding: &Binding, seen: &Seen, object: &Value) -> Result<Option<Value>, String> {
    let parameters = params::find(c, policy, binding).map_err(|why| format!("failed to configure binding: {why}"))?;
    if parameters.is_empty() {
        return Ok(None);
    }
    let view = seen.view(c, Some(object), c.review.old).await.map_err(|status| status.message)?;
    let (scene, schema) = (Scene::new(c, seen, &view), seen.schema(c));
    let mut made: Option<Value> = None;
    for params in &parameters {
        let before = made.as_ref().or(scene.object()).unwrap_or(object);
        let mutated = loop {
            let mutated = mutate(policy, &scene, schema.as_ref(), before, params.as_ref());
            if !c.questions.answer().await {
                break mutated?;
            }
        };
        made = mutated.or(made);
    }
    match made {
        None => Ok(None),
        Some(made) => seen.back(c, made).await.map(Some).map_err(|status| status.message),
    }
}

/// The object as the policy makes it; `None` when its conditions do not hold.
fn mutate(
    policy: &Policy,
    scene: &Scene<'_>,
    schema: Option<&Schema>,
    object: &Value,
    params: Option<&Value>,
) -> Result<Option<Value>, String> {
    if !conditions::hold(&policy.conditions, &scene.values(Some(object), params))? {
        return Ok(None);
    }
    let budget = Budget::new(PER_POLICY);
    let mut current = object.clone();
    for mutation in &policy.mutations {
        let made = evaluate(policy, mutation, scene, &current, params, &budget)?;
        if mutation.patch {
            current = patched(current, &made, schema)?;
        } else {
            let schema = schema.ok_or("apply configurations are not supported for this resource")?;
            current = overlay(&current, &made, schema).map_err(|e| format!("error applying patch: {e}"))?;
        }
    }
    Ok(Some(current))
}

/// An object under a JSON patch, read by its type again. A `test` that does not hold leaves it as it is.
fn patched(mut object: Value, patch: &Value, schema: Option<&Schema>) -> Result<Value, String> {
    match json_patch_explained(&mut object, patch) {
        Ok(()) => {}
        Err(Misfit::Test(_)) => return Ok(object),
        Err(why) => return Err(format!("JSON Patch: {why}")),
    }
    match schema {
        Some(schema) => decode::again(object, schema).map_err(|why| format!("Internal error occurred: {why}")),
        None => Ok(object),
    }
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
