//! Expressions of policies and match conditions as they are written: what does not compile is refused.

use super::super::list;
use super::compile::{self, Compiled, expression};
use crate::registry::Entry;
use ferrokube_api::field::{Errors, Path};
use ferrokube_cel::Type;
use ferrokube_cel::policy::environment;
use serde_json::Value;

/// Checks the expressions of a policy or of webhooks. What stood there before is accepted, as it has been.
pub fn check(entry: &Entry, object: &Value, old: Option<&Value>, errors: &mut Errors) {
    if entry.kind.group != super::GROUP {
        return;
    }
    let spec = Path::new("spec");
    match &*entry.kind.resource {
        "validatingadmissionpolicies" | "mutatingadmissionpolicies" if old.is_none_or(|o| o["spec"] != object["spec"]) => {
            policy(&object["spec"], &spec, errors);
        }
        "validatingwebhookconfigurations" | "mutatingwebhookconfigurations" => {
            for (i, hook) in list(object, "webhooks").enumerate() {
                let same = |o: &Value| list(o, "webhooks").any(|h| h["matchConditions"] == hook["matchConditions"]);
                if !old.is_some_and(same) {
                    conditions(hook, false, &Path::new("webhooks").index(i), errors);
                }
            }
        }
        _ => {}
    }
}

fn refuse(compiled: &Compiled, source: &Value, path: &Path, errors: &mut Errors) {
    // An empty expression has been told already.
    if let Err(why) = compiled
        && source.as_str().is_some_and(|s| !s.trim().is_empty())
    {
        errors.invalid(path, source, why);
    }
}

fn conditions(spec: &Value, params: bool, path: &Path, errors: &mut Errors) {
    let compiled = compile::conditions(spec, params);
    for (i, (condition, (_, program))) in list(spec, "matchConditions").zip(&compiled).enumerate() {
        refuse(program, &condition["expression"], &path.child("matchConditions").index(i).child("expression"), errors);
    }
}

fn policy(spec: &Value, path: &Path, errors: &mut Errors) {
    let params = !spec["paramKind"].is_null();
    conditions(spec, params, path, errors);
    let (variables, env) = compile::variables(spec, environment(params));
    for (i, (variable, (_, program))) in list(spec, "variables").zip(&variables).enumerate() {
        refuse(program, &variable["expression"], &path.child("variables").index(i).child("expression"), errors);
    }
    for (i, validation) in list(spec, "validations").enumerate() {
        let at = path.child("validations").index(i);
        if let Some(source) = validation["expression"].as_str() {
            let compiled = expression(&env, source.trim(), &[Type::Bool], "must evaluate to bool");
            refuse(&compiled, &validation["expression"], &at.child("expression"), errors);
        }
        if let Some(source) = validation["messageExpression"].as_str() {
            refuse(&compile::message(&env, source.trim()), &validation["messageExpression"], &at.child("messageExpression"), errors);
        }
    }
    for (i, annotation) in list(spec, "auditAnnotations").enumerate() {
        let source = &annotation["valueExpression"];
        let wanted = [Type::String, Type::Null];
        let compiled = expression(&env, source.as_str().unwrap_or_default(), &wanted, "must evaluate to one of [string null_type]");
        refuse(&compiled, source, &path.child("auditAnnotations").index(i).child("valueExpression"), errors);
    }
    for (i, mutation) in list(spec, "mutations").enumerate() {
        let key = if mutation["patchType"] == "JSONPatch" { "jsonPatch" } else { "applyConfiguration" };
        let at = path.child("mutations").index(i).child(key).child("expression");
        refuse(&compile::mutation(mutation, &env).program, &mutation[key]["expression"], &at, errors);
    }
}
