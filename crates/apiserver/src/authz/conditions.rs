//! Match conditions: which questions a webhook is asked at all. Expressions over `request`, a SubjectAccessReviewSpec.
//!
//! Source: `apiserver/pkg/authorization/cel`. All must hold; one that does not settles it, whatever others fail.

use super::webhook::{field_requirements, label_requirements};
use crate::attributes::Attributes;
use ferrokube_cel::{Budget, Decl, Env, Program, Type, Value as CelValue};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

/// Conditions of a webhook at most.
const MOST: usize = 64;
/// What all conditions of a webhook may cost together.
const BUDGET: u64 = 2_500_000;

static REQUEST: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let text = || Decl::simple(Type::String);
    let requirement =
        || Decl::object("kubernetes.SelectorRequirement", [("key", text()), ("operator", text()), ("values", Decl::list(text()))]);
    let selector = |name: &str| Decl::object(name, [("rawSelector", text()), ("requirements", Decl::list(requirement()))]);
    let resource = Decl::object(
        "kubernetes.ResourceAttributes",
        [
            ("namespace", text()),
            ("verb", text()),
            ("group", text()),
            ("version", text()),
            ("resource", text()),
            ("subresource", text()),
            ("name", text()),
            ("fieldSelector", selector("kubernetes.FieldSelectorAttributes")),
            ("labelSelector", selector("kubernetes.LabelSelectorAttributes")),
        ],
    );
    let path = Decl::object("kubernetes.NonResourceAttributes", [("path", text()), ("verb", text())]);
    Arc::new(Decl::object(
        "kubernetes.SubjectAccessReviewSpec",
        [
            ("resourceAttributes", resource),
            ("nonResourceAttributes", path),
            ("user", text()),
            ("groups", Decl::list(text())),
            ("extra", Decl::map(Decl::list(text()))),
            ("uid", text()),
        ],
    ))
});

/// What the conditions say of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Matched {
    Yes,
    No,
    Error(String),
}

/// The conditions of a webhook.
#[derive(Debug, Default)]
pub(super) struct Conditions(Vec<Program>);

fn request(a: &Attributes) -> Value {
    let mut spec = json!({ "user": a.user.name, "groups": a.user.groups, "uid": a.user.uid, "extra": a.user.extra });
    if !a.is_resource() {
        spec["nonResourceAttributes"] = json!({ "path": a.path, "verb": a.verb });
        return spec;
    }
    let mut resource = json!({
        "namespace": a.namespace, "verb": a.verb, "group": a.group, "version": a.version,
        "resource": a.resource, "subresource": a.subresource, "name": a.name,
    });
    for (name, requirements) in
        [("fieldSelector", field_requirements(&a.field_selector)), ("labelSelector", label_requirements(&a.label_selector))]
    {
        if !requirements.is_empty() {
            resource[name] = json!({ "requirements": requirements });
        }
    }
    spec["resourceAttributes"] = resource;
    spec
}

impl Conditions {
    /// Compiles; the error says which one is wrong.
    pub fn compile(sources: &[String]) -> Result<Self, String> {
        if sources.len() > MOST {
            return Err(format!(": Too many: {}: must have at most {MOST} items", sources.len()));
        }
        let env = Env::new().with("request", REQUEST.clone());
        let compile = |(at, source): (usize, &String)| {
            let fail = |why: String| format!("[{at}].expression: Invalid value: {source:?}: {why}");
            let program = env.compile(source).map_err(|e| fail(format!("compilation failed: {e}")))?;
            if matches!(program.result(), Type::Bool) { Ok(program) } else { Err(fail("must evaluate to bool".to_owned())) }
        };
        sources.iter().enumerate().map(compile).collect::<Result<_, _>>().map(Conditions)
    }

    pub fn matches(&self, a: &Attributes) -> Matched {
        if self.0.is_empty() {
            return Matched::Yes;
        }
        let request = request(a);
        let budget = Budget::new(BUDGET);
        let mut error = None;
        for program in &self.0 {
            match program.eval(&[CelValue::typed(&request, &REQUEST)], &budget) {
                Ok(CelValue::Bool(true)) => {}
                Ok(CelValue::Bool(false)) => return Matched::No,
                Ok(_) => _ = error.get_or_insert_with(|| format!("{:?} did not come to a boolean", program.source())),
                Err(e) => _ = error.get_or_insert(e.message),
            }
        }
        error.map_or(Matched::Yes, Matched::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::UserInfo;

    fn conditions(sources: &[&str]) -> Result<Conditions, String> {
        Conditions::compile(&sources.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn only_what_all_conditions_want_is_asked() {
        let pods = Attributes {
            user: UserInfo::component("jane", &["dev"]),
            verb: "list".into(),
            version: "v1".into(),
            resource: "pods".into(),
            namespace: "kube-system".into(),
            label_selector: "a=b".into(),
            ..Attributes::default()
        };
        let path = Attributes { user: pods.user.clone(), verb: "get".into(), path: "/metrics".into(), ..Attributes::default() };
        let ask = |sources: &[&str], a: &Attributes| conditions(sources).expect("they compile").matches(a);
        let kube = "has(request.resourceAttributes) && request.resourceAttributes.namespace == 'kube-system'";
        assert_eq!(ask(&[kube], &pods), Matched::Yes);
        assert_eq!(ask(&[kube], &path), Matched::No);
        assert_eq!(ask(&[kube, "!('dev' in request.groups)"], &pods), Matched::No);
        let selector = "request.resourceAttributes.labelSelector.requirements.exists(r, r.key == 'a' && r.operator == 'In')";
        assert_eq!(ask(&[selector], &pods), Matched::Yes);
        assert!(matches!(ask(&["request.resourceAttributes.verb == 'get'"], &path), Matched::Error(_)));
        assert_eq!(ask(&["request.resourceAttributes.verb == 'get'", "request.user == 'joe'"], &path), Matched::No, "a no settles it");
        assert_eq!(ask(&[], &path), Matched::Yes);
    }

    #[test]
    fn a_condition_that_makes_no_sense_is_refused() {
        for source in ["request.", "request.nonsense == ''", "request.user", "object.x == 1"] {
            assert!(conditions(&[source]).is_err(), "{source}");
        }
    }
}
