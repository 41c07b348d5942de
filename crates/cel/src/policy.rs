//! What expressions of admission policies and match conditions see, and the check of a policy against the types it
//! matches (`status.typeChecking`).
//!
//! The server evaluates with `object` of unknown type, because a policy may match anything. The check here goes over the types that
//! the policy's rules name, and finds the fields that they do not have. Source: apiserver
//! `admission/plugin/policy/validating/typechecking.go`.

use crate::env::Env;
use crate::issue::Issues;
use crate::schema::Decl;
use crate::types::Type;
use ferrokube_api::schema::{Shape, TypeId, TypeRef};
use serde_json::Value as Json;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// Most types that a policy is checked against.
const MAX_TYPES: usize = 10;

fn text() -> Decl {
    Decl::simple(Type::String)
}

/// `kubernetes.AdmissionRequest`.
pub static REQUEST: LazyLock<Decl> = LazyLock::new(|| {
    let three = |name: &str, last: &'static str| Decl::object(name, [("group", text()), ("version", text()), (last, text())]);
    let user = Decl::object(
        "kubernetes.UserInfo",
        [("username", text()), ("uid", text()), ("groups", Decl::list(text())), ("extra", Decl::map(Decl::list(text())))],
    );
    Decl::object(
        "kubernetes.AdmissionRequest",
        [
            ("uid", text()),
            ("kind", three("kubernetes.GroupVersionKind", "kind")),
            ("resource", three("kubernetes.GroupVersionResource", "resource")),
            ("subResource", text()),
            ("requestKind", three("kubernetes.GroupVersionKind", "kind")),
            ("requestResource", three("kubernetes.GroupVersionResource", "resource")),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Decl::simple(Type::Bool)),
            ("options", Decl::simple(Type::Dyn)),
        ],
    )
});

/// `kubernetes.Namespace`.
pub static NAMESPACE: LazyLock<Decl> = LazyLock::new(|| {
    let names = || Decl::map(text());
    let meta = Decl::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", names()),
            ("annotations", names()),
            ("UID", text()),
            ("creationTimestamp", Decl::simple(Type::Timestamp)),
            ("deletionGracePeriodSeconds", Decl::simple(Type::Int)),
            ("deletionTimestamp", Decl::simple(Type::Timestamp)),
            ("generation", Decl::simple(Type::Int)),
            ("resourceVersion", text()),
            ("finalizers", Decl::list(text())),
        ],
    );
    let spec = Decl::object("kubernetes.NamespaceSpec", [("finalizers", Decl::list(text()))]);
    let status = Decl::object("kubernetes.NamespaceStatus", [("phase", text())]);
    Decl::object("kubernetes.Namespace", [("metadata", meta), ("spec", spec), ("status", status)])
});

/// The variables of policies and match conditions: `object`, `oldObject`, `request`, `namespaceObject`, `authorizer`,
/// `authorizer.requestResource`, and `params` when the policy takes some.
pub fn environment(params: bool) -> Env {
    typed_environment(&Arc::new(Decl::simple(Type::Dyn)), params.then(|| Arc::new(Decl::simple(Type::Dyn))))
}

fn typed_environment(object: &Arc<Decl>, params: Option<Arc<Decl>>) -> Env {
    let env = Env::new()
        .with("object", object.clone())
        .with("oldObject", object.clone())
        .with("request", REQUEST.clone())
        .with("namespaceObject", NAMESPACE.clone())
        .with_type("authorizer", Type::Opaque("kubernetes.authorization.Authorizer"))
        .with_type("authorizer.requestResource", Type::Opaque("kubernetes.authorization.ResourceCheck"));
    match params {
        Some(params) => env.with("params", params),
        None => env,
    }
}

impl Decl {
    /// A type of the type table, built in or custom. Types that contain themselves are dyn from there on.
    pub fn of_type(ty: TypeRef<'_>) -> Decl {
        convert(ty, &mut HashMap::new()).as_ref().clone()
    }
}

fn convert(ty: TypeRef<'_>, known: &mut HashMap<TypeId, Arc<Decl>>) -> Arc<Decl> {
    if let Some(decl) = known.get(&ty.id()) {
        return decl.clone();
    }
    // While the type is being made, it is dyn inside itself.
    known.insert(ty.id(), Arc::new(Decl::simple(Type::Dyn)));
    let decl = match ty.shape() {
        Shape::Bool => Decl::simple(Type::Bool),
        Shape::Int32 | Shape::Int64 => Decl::simple(Type::Int),
        Shape::Double => Decl::simple(Type::Double),
        Shape::String => Decl::simple(Type::String),
        Shape::Bytes => Decl::simple(Type::Bytes),
        Shape::Time | Shape::MicroTime => Decl::simple(Type::Timestamp),
        Shape::List(_) => ty.element().map_or(Decl::simple(Type::Dyn), |e| Decl::list(convert(e, known).as_ref().clone())),
        Shape::Map(_) => ty.element().map_or(Decl::simple(Type::Dyn), |e| Decl::map(convert(e, known).as_ref().clone())),
        Shape::Struct(..) if !ty.node().preserve_unknown => {
            let fields: Vec<(String, Decl)> = ty
                .fields()
                .iter()
                .filter_map(|f| Some((crate::schema::escape(&f.name)?, convert(ty.of(f), known).as_ref().clone())))
                .collect();
            Decl::object(&ty.node().name, fields)
        }
        _ => Decl::simple(Type::Dyn),
    };
    let decl = Arc::new(decl);
    known.insert(ty.id(), decl.clone());
    decl
}

/// What is wrong with an expression of a policy for some of the types it matches: `fieldRef` and `warning` of
/// `status.typeChecking.expressionWarnings`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpressionWarning {
    /// `spec.validations[0].expression`.
    pub field: String,
    /// One paragraph per type: `apps/v1, Kind=Deployment: ERROR: ...`.
    pub warning: String,
}

fn list<'v>(value: &'v Json, key: &str) -> impl Iterator<Item = &'v Json> {
    value[key].as_array().into_iter().flatten()
}

/// Checks the expressions of a ValidatingAdmissionPolicy against the types that its rules name without wildcards.
/// `resolve` tells, for a group, a version and a resource, the kind and the declaration of its objects.
pub fn type_check(policy: &Json, resolve: impl Fn(&str, &str, &str) -> Option<(String, Decl)>) -> Vec<ExpressionWarning> {
    let spec = &policy["spec"];
    let params = (!spec["paramKind"].is_null()).then(|| Arc::new(Decl::simple(Type::Dyn)));
    let mut warnings: Vec<ExpressionWarning> = Vec::new();
    for (kind, decl) in matched(spec, resolve) {
        let env = typed_environment(&Arc::new(decl), params.clone());
        each(spec, &env, &mut |field, issues| {
            let text = format!("{kind}: {issues}");
            match warnings.iter_mut().find(|w| w.field == field) {
                Some(known) => known.warning.push_str(&format!("\n{text}")),
                None => warnings.push(ExpressionWarning { field, warning: text }),
            }
        });
    }
    warnings
}

/// The types, by `group/version, Kind=kind`.
fn matched(spec: &Json, resolve: impl Fn(&str, &str, &str) -> Option<(String, Decl)>) -> Vec<(String, Decl)> {
    let mut found: Vec<(String, Decl)> = Vec::new();
    for rule in list(&spec["matchConstraints"], "resourceRules") {
        let plain = |key: &str| -> Vec<&str> {
            list(rule, key).filter_map(Json::as_str).filter(|v| !v.contains('*') && !v.contains('/')).collect()
        };
        for group in plain("apiGroups") {
            for version in plain("apiVersions") {
                for resource in plain("resources") {
                    let Some((kind, decl)) = resolve(group, version, resource) else { continue };
                    let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
                    let name = format!("{version}, Kind={kind}");
                    if found.len() < MAX_TYPES && !found.iter().any(|(n, _)| *n == name) {
                        found.push((name, decl));
                    }
                }
            }
        }
    }
    found
}

/// Compiles every expression of a policy; what does not compile is told with its field.
fn each(spec: &Json, env: &Env, tell: &mut dyn FnMut(String, Issues)) {
    let mut fields: Vec<(String, Decl)> = Vec::new();
    let with = |fields: &[(String, Decl)]| env.clone().with("variables", Decl::object("kubernetes.variables", fields.iter().cloned()));
    for (i, variable) in list(spec, "variables").enumerate() {
        let compiled = with(&fields).compile(variable["expression"].as_str().unwrap_or_default());
        let ty = compiled.as_ref().map_or(Type::Dyn, |p| p.result().clone());
        fields.push((variable["name"].as_str().unwrap_or_default().to_owned(), Decl::simple(ty)));
        if let Err(issues) = compiled {
            tell(format!("spec.variables[{i}].expression"), issues);
        }
    }
    let full = with(&fields);
    let places = [
        ("matchConditions", "expression", env),
        ("validations", "expression", &full),
        ("validations", "messageExpression", &full),
        ("auditAnnotations", "valueExpression", &full),
    ];
    for (of, key, env) in places {
        for (i, item) in list(spec, of).enumerate() {
            if let Some(Err(issues)) = item[key].as_str().filter(|s| !s.is_empty()).map(|s| env.compile(s)) {
                tell(format!("spec.{of}[{i}].{key}"), issues);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrokube_api::schema::Types;
    use serde_json::json;

    #[test]
    fn fields_that_a_matched_type_lacks_are_found() {
        let resolve = |group: &str, version: &str, resource: &str| {
            let kind = match resource {
                "deployments" => "Deployment",
                "pods" => "Pod",
                _ => return None,
            };
            let types = Types::builtin();
            let ty = types.get(types.name_of(group, version, kind)?)?;
            Some((kind.to_owned(), Decl::of_type(ty)))
        };
        let policy = json!({"spec": {
            "matchConstraints": {"resourceRules": [
                {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]},
                {"apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["pods"]}]},
            "variables": [{"name": "replicas", "expression": "object.spec.replicas"}],
            "validations": [
                {"expression": "variables.replicas > 1 && object.spec.template.spec.containers.all(c, c.image != '')"},
                {"expression": "object.spec.replica > 1"},
                {"expression": "object.metadata.labels['a'] == 'b' && variables.replicas == 'x'", "messageExpression": "1 + 'a'"}]}});
        let warnings = type_check(&policy, resolve);
        let shown: Vec<(&str, &str)> = warnings.iter().map(|w| (w.field.as_str(), w.warning.lines().next().unwrap_or_default())).collect();
        assert_eq!(
            shown,
            [
                ("spec.validations[1].expression", "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'replica'"),
                (
                    "spec.validations[2].expression",
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:58: found no matching overload for '_==_' applied to '(int, string)'"
                ),
                (
                    "spec.validations[2].messageExpression",
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'"
                ),
            ]
        );
    }
}
