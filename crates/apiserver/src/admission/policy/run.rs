//! What an expression of a policy sees: `object`, `oldObject`, `request`, `params`, `namespaceObject`, `authorizer`,
//! `variables`.

use super::super::constraints::Seen;
use super::super::versions::View;
use super::super::webhook;
use super::super::{Context, Operation};
use super::compile::Compiled;
use crate::attributes::{Attributes, UserInfo};
use ferrokube_cel::policy::{NAMESPACE, REQUEST};
use ferrokube_cel::{Authorizer, Authz, Budget, Check, Decision, EvalError, Evaluated, Lazy, Value as Cel};
use serde_json::Value;
use std::cell::OnceCell;
use std::rc::Rc;

/// Units that all expressions of a policy may cost for one request.
pub(super) const PER_POLICY: u64 = 10_000_000;

/// The facts of a request that expressions look at, as one who matches it sees it.
pub(super) struct Scene<'s> {
    c: Context<'s>,
    request: Value,
    namespace: Value,
    view: &'s View<'s>,
}

impl<'s> Scene<'s> {
    pub fn new(c: &Context<'s>, seen: &Seen, view: &'s View<'s>) -> Scene<'s> {
        let in_namespace = !c.namespace.is_empty() && !(c.group.is_empty() && c.resource == "namespaces");
        let namespace = if in_namespace { c.objects.get("", "namespaces", "", c.namespace) } else { None };
        let namespace = namespace.and_then(|n| n.decode().ok()).unwrap_or(Value::Null);
        Scene { c: *c, request: webhook::request(c, seen, view), namespace, view }
    }

    /// The object; `None` for a delete.
    pub fn object(&self) -> Option<&Value> {
        self.view.object.as_deref()
    }

    /// The values of [`ferrokube_cel::policy::environment`].
    pub fn values<'a>(&'a self, object: Option<&'a Value>, params: Option<&'a Value>) -> Vec<Cel<'a>> {
        let json = |v: Option<&'a Value>| v.map_or(Cel::Null, Cel::json);
        let c = &self.c;
        let asked = Check {
            group: c.group.to_owned(),
            resource: c.resource.to_owned(),
            subresource: c.subresource.to_owned(),
            namespace: if c.resource == "namespaces" && c.group.is_empty() { String::new() } else { c.namespace.to_owned() },
            name: c.name.to_owned(),
            ..Check::default()
        };
        let who: &'a dyn Authorizer = self;
        let mut values = vec![
            if c.operation == Operation::Delete { Cel::Null } else { json(object) },
            json(self.view.old.as_deref()),
            Cel::typed(&self.request, &REQUEST),
            Cel::typed(&self.namespace, &NAMESPACE),
            Cel::Authz(Rc::new(Authz::Authorizer(who, Check::default()))),
            Cel::Authz(Rc::new(Authz::Resource(who, asked))),
        ];
        if let Some(params) = params {
            values.push(Cel::json(params));
        }
        values
    }
}

impl Authorizer for Scene<'_> {
    fn authorize(&self, check: &Check) -> Decision {
        let user = match &check.service_account {
            None => self.c.user.clone(),
            Some((namespace, name)) => UserInfo::component(
                &format!("system:serviceaccount:{namespace}:{name}"),
                &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
            ),
        };
        let attributes = Attributes {
            user,
            verb: check.verb.clone(),
            group: check.group.clone(),
            version: if check.path.is_some() { String::new() } else { "*".to_owned() },
            resource: check.resource.clone(),
            subresource: check.subresource.clone(),
            namespace: check.namespace.clone(),
            name: check.name.clone(),
            path: check.path.clone().unwrap_or_default(),
            field_selector: check.field_selector.clone().unwrap_or_default(),
            label_selector: check.label_selector.clone().unwrap_or_default(),
        };
        let decision = self.c.questions.authorize(&attributes);
        Decision { allowed: decision.allowed(), reason: decision.reason().to_owned(), error: None }
    }
}

/// `variables`: each worked out when it is first asked for.
pub(super) struct Variables<'a> {
    programs: &'a [(String, Compiled)],
    base: Vec<Cel<'a>>,
    known: Vec<OnceCell<Evaluated<'a>>>,
    budget: &'a Budget,
}

impl std::fmt::Debug for Variables<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("variables")
    }
}

impl<'a> Variables<'a> {
    pub fn new(programs: &'a [(String, Compiled)], base: Vec<Cel<'a>>, budget: &'a Budget) -> Self {
        Variables { programs, base, known: programs.iter().map(|_| OnceCell::new()).collect(), budget }
    }

    /// The values of an environment that ends with `variables`.
    pub fn values(&'a self) -> Vec<Cel<'a>> {
        let mut values = self.base.clone();
        values.push(Cel::Lazy(self));
        values
    }
}

impl<'a> Lazy<'a> for Variables<'a> {
    fn field(&'a self, name: &str) -> Option<Evaluated<'a>> {
        let at = self.programs.iter().position(|(n, _)| n == name)?;
        let value = self.known[at].get_or_init(|| match &self.programs[at].1 {
            Ok(program) => program.eval(&self.values(), self.budget),
            Err(why) => Err(failure(format!("composited variable {name:?} fails to compile: {why}"))),
        });
        Some(value.clone())
    }
}

/// A failure that is not one of evaluation.
pub(super) fn failure(message: String) -> EvalError {
    EvalError { message, exhausted: false }
}
