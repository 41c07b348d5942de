//! The calls into admission, in one place: what travels is described once for the mutating and the validating half.

use super::rules::View;
use crate::admission::{Operation, Outcome, Reservation, Review, policy};
use crate::authz::escalation;
use crate::pipeline::Request;
use ferrokube_api::Status;
use ferrokube_api::field::Errors;
use ferrokube_api::kinds::HookContext;
use serde_json::Value;

/// What is being done to which object.
#[derive(Clone, Copy)]
pub struct Act<'a> {
    /// Create, update, delete or connect.
    pub operation: Operation,
    /// Name of the object.
    pub name: &'a str,
    /// As stored.
    pub old: Option<&'a Value>,
    /// Options of the request.
    pub options: &'a Value,
    /// Nothing is stored.
    pub dry_run: bool,
}

impl Request<'_> {
    fn review<'r>(&'r self, act: Act<'r>, kind: (&'r str, &'r str)) -> Review<'r> {
        Review {
            user: &self.user,
            operation: act.operation,
            group: &self.info.group,
            version: &self.info.version,
            resource: &self.info.resource,
            subresource: &self.info.subresource,
            kind,
            namespace: self.namespace(),
            name: act.name,
            old: act.old,
            options: act.options,
            dry_run: act.dry_run,
            schema: (kind == self.own_kind()).then_some(&self.entry.schema),
        }
    }

    /// Group and kind of the row's objects.
    pub fn own_kind(&self) -> (&str, &str) {
        (&self.entry.kind.group, &self.entry.kind.kind)
    }

    /// The mutating half.
    pub async fn mutate(&self, act: Act<'_>, kind: (&str, &str), object: &mut Value) -> Result<(), Status> {
        let mut outcome = Outcome::default();
        // Boxed: what admission may have to wait for would lie in the future of every write, on every stack that it passes.
        let result = Box::pin(self.server.admission.mutate(&self.review(act, kind), object, &mut outcome)).await;
        self.remember(outcome);
        result
    }

    /// The validating half.
    pub async fn admit(&self, act: Act<'_>, kind: (&str, &str), object: Option<&Value>) -> Result<Reservation, Status> {
        let mut outcome = Outcome::default();
        let result = Box::pin(self.server.admission.validate(&self.review(act, kind), object, &mut outcome)).await;
        self.remember(outcome);
        result
    }

    /// Nobody grants what they do not hold, nor has the server read for them what they may not read.
    pub async fn check_escalation(&self, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        let (user, resource) = (&self.user, &*self.entry.kind.resource);
        match &*self.entry.kind.group {
            "rbac.authorization.k8s.io" => escalation::check(&self.server.authorizer, user, resource, self.namespace(), object, old).await,
            policy::GROUP => {
                let mut errors = Errors::default();
                Box::pin(self.server.admission.check_parameters(user, resource, object, old, &mut errors)).await;
                self.verdict(super::prepare::text(object, "name"), errors)
            }
            _ => Ok(()),
        }
    }

    /// What hooks may know.
    pub fn hook_context(&self) -> HookContext {
        HookContext { now: self.now }
    }

    /// 422 when something was found.
    pub fn verdict(&self, name: &str, errors: Errors) -> Result<(), Status> {
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(&self.entry.kind.group, &self.entry.kind.kind, name, errors.into_causes()))
    }

    /// Sets the defaults of the kind.
    pub fn default_object(&self, object: &mut Value) {
        if let Some(default) = self.entry.kind.hooks.default {
            default(object);
        }
        if self.entry.custom.is_some() {
            ferrokube_api::schema::set_defaults(object, self.entry.schema.root());
        }
    }

    /// Validation of a change through a view.
    pub fn validate_change(&self, new: &Value, old: &Value, view: View) -> Result<(), Status> {
        let hooks = &self.entry.kind.hooks;
        let mut errors = Errors::default();
        ferrokube_api::kinds::meta::validate_update(new, old, &mut errors);
        match (view, hooks.validate_update, hooks.validate_create) {
            (View::Status, ..) => {
                if let Some(check) = hooks.validate_status {
                    check(new, old, &mut errors);
                }
            }
            (View::Main | View::Scale, Some(check), _) => check(new, old, &mut errors),
            (View::Main | View::Scale, None, Some(check)) => check(new, &mut errors),
            _ => {
                if let Some(rules) = hooks.view(view.subresource()) {
                    (rules.validate)(new, old, &mut errors);
                }
            }
        }
        crate::special::devices::check_selectors(&self.entry, new, Some(old), &mut errors);
        crate::special::signing::check(&self.entry, new, Some(old), &mut errors);
        crate::crd::validate(&self.entry, new, Some(old), &self.server.metrics.times, &mut errors);
        policy::check(&self.entry, new, Some(old), &mut errors);
        self.verdict(super::prepare::text(new, "name"), errors)
    }
}
