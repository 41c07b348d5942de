//! Roles and bindings may only grant what their writer holds.

use super::{Context, Operation, Outcome};
use crate::authz::escalation;
use ferrokube_api::Status;
use serde_json::Value;

pub(super) fn validate(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let Some(object) = object.filter(|_| c.group == "rbac.authorization.k8s.io" && c.subresource.is_empty()) else { return Ok(()) };
    match c.operation {
        Operation::Create | Operation::Update => escalation::check(c.authorizer, c.user, c.resource, c.namespace, object, c.old),
        _ => Ok(()),
    }
}
