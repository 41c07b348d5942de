//! Policies as programs.

use super::super::constraints::Constraints;
use super::list;
use ferrokube_cel::policy::environment;
use ferrokube_cel::{Decl, Env, Program, Type};
use serde_json::Value;

/// A program, or what is wrong with its expression.
pub(in super::super) type Compiled = Result<Program, String>;

/// A match condition: its name and its expression.
pub(in super::super) type Condition = (String, Compiled);

/// A policy with its expressions compiled.
#[derive(Debug)]
pub(super) struct Policy {
    pub name: String,
    pub spec: Value,
    pub constraints: Constraints,
    pub conditions: Vec<Condition>,
    /// In their order: one may use those before it.
    pub variables: Vec<(String, Compiled)>,
    pub validations: Vec<Validation>,
    /// Key and value.
    pub annotations: Vec<(String, Compiled)>,
    pub mutations: Vec<Mutation>,
}

/// One of `spec.validations`.
#[derive(Debug)]
pub(super) struct Validation {
    pub expression: String,
    pub message: String,
    pub reason: String,
    pub program: Compiled,
    pub message_program: Option<Compiled>,
}

/// One of `spec.mutations`.
#[derive(Debug)]
pub(super) struct Mutation {
    /// A JSON patch, else an apply configuration.
    pub patch: bool,
    pub program: Compiled,
}

/// Compiles an expression whose value must be of one of the types.
pub(super) fn expression(env: &Env, source: &str, wanted: &[Type], what: &str) -> Compiled {
    let program = env.compile(source).map_err(|issues| format!("compilation failed: {issues}"))?;
    let given = program.result();
    if wanted.is_empty() || wanted.contains(given) || *given == Type::Dyn {
        return Ok(program);
    }
    Err(format!("compilation failed: {what}"))
}

/// Compiles the expression of a message, which asks nobody what is allowed.
pub(super) fn message(env: &Env, source: &str) -> Compiled {
    let compile = |env: &Env| expression(env, source, &[Type::String], "must evaluate to string");
    compile(&env.clone().without("authorizer"))?;
    // It runs with the values of all variables, in their order.
    compile(env)
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().trim().to_owned()
}

/// The conditions of a policy or a webhook: name and program.
pub(in super::super) fn conditions(spec: &Value, params: bool) -> Vec<Condition> {
    let env = environment(params);
    list(spec, "matchConditions")
        .map(|c| (text(c, "name"), expression(&env, &text(c, "expression"), &[Type::Bool], "must evaluate to bool")))
        .collect()
}

/// The variables of a policy, and the environment in which they can be used.
pub(super) fn variables(spec: &Value, env: Env) -> (Vec<(String, Compiled)>, Env) {
    let mut fields: Vec<(String, Decl)> = Vec::new();
    let mut out = Vec::new();
    let with = |fields: &[(String, Decl)]| {
        env.clone().with("variables", Decl::object("kubernetes.variables", fields.iter().cloned().map(|(n, d)| (n.as_str().to_owned(), d))))
    };
    for variable in list(spec, "variables") {
        let (name, source) = (text(variable, "name"), text(variable, "expression"));
        let compiled = expression(&with(&fields), &source, &[], "");
        let ty = compiled.as_ref().map_or(Type::Dyn, |p| p.result().clone());
        fields.push((name.clone(), Decl::simple(ty)));
        out.push((name, compiled));
    }
    (out, with(&fields))
}

impl Policy {
    pub fn compile(policy: &Value) -> Policy {
        let spec = &policy["spec"];
        let params = !spec["paramKind"].is_null();
        let (variables, env) = variables(spec, environment(params));
        let validations = list(spec, "validations").map(|v| {
            let message_expression = text(v, "messageExpression");
            Validation {
                program: expression(&env, &text(v, "expression"), &[Type::Bool], "must evaluate to bool"),
                expression: text(v, "expression"),
                message: text(v, "message"),
                reason: text(v, "reason"),
                message_program: (!message_expression.is_empty()).then(|| message(&env, &message_expression)),
            }
        });
        let annotations = list(spec, "auditAnnotations").map(|a| {
            let wanted = [Type::String, Type::Null];
            (text(a, "key"), expression(&env, &text(a, "valueExpression"), &wanted, "must evaluate to one of [string null_type]"))
        });
        Policy {
            name: policy["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            constraints: Constraints::of_policy(&spec["matchConstraints"]),
            conditions: conditions(spec, params),
            validations: validations.collect(),
            annotations: annotations.collect(),
            mutations: list(spec, "mutations").map(|m| mutation(m, &env)).collect(),
            variables,
            spec: spec.clone(),
        }
    }

    /// Whether a failure refuses the request.
    pub fn fails_closed(&self) -> bool {
        self.spec["failurePolicy"] != "Ignore"
    }
}

/// Compiles one of `spec.mutations`.
pub(super) fn mutation(mutation: &Value, env: &Env) -> Mutation {
    let env = env.clone().with_mutations();
    let patch = mutation["patchType"] == "JSONPatch";
    let program = if patch {
        let wanted = [Type::list(Type::Named("JSONPatch".into())), Type::list(Type::Dyn)];
        expression(&env, &text(&mutation["jsonPatch"], "expression"), &wanted, "must evaluate to list(JSONPatch)")
    } else {
        let wanted = [Type::Named("Object".into())];
        expression(&env, &text(&mutation["applyConfiguration"], "expression"), &wanted, "must evaluate to Object")
    };
    Mutation { patch, program }
}
