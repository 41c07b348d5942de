//! NamespaceLifecycle: nothing is created in a namespace that does not exist or is going away, and some never go.

use super::{Context, Operation, Outcome};
use ferrokube_api::{Cause, Status};
use serde::Deserialize;
use serde_json::Value;

/// Namespaces that may not be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub(super) fn mutate(c: &Context<'_>, object: &mut Value, _: &mut Outcome) -> Result<(), Status> {
    check(c, Some(object))
}

/// Deletes only have a validating half.
pub(super) fn validate(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    if c.operation == Operation::Delete { check(c, object) } else { Ok(()) }
}

fn check(c: &Context<'_>, object: Option<&Value>) -> Result<(), Status> {
    let is_namespace = c.kind == ("", "Namespace") || (c.group.is_empty() && c.resource == "namespaces");
    if is_namespace {
        let doomed = c.operation == Operation::Delete && IMMORTAL.contains(&c.name);
        return if doomed { Err(Status::forbidden("", "namespaces", c.name, "this namespace may not be deleted")) } else { Ok(()) };
    }
    let access_review = c.group == "authorization.k8s.io" && c.resource == "localsubjectaccessreviews";
    if c.namespace.is_empty() || c.operation == Operation::Delete || access_review {
        return Ok(());
    }
    let namespace = c.objects.get("", "namespaces", "", c.namespace).ok_or_else(|| Status::not_found("", "namespaces", c.namespace))?;
    if c.operation == Operation::Create && terminating(&namespace) {
        let why = format!("unable to create new content in namespace {} because it is being terminated", c.namespace);
        let mut status = c.forbidden(object, why);
        status.details.get_or_insert_default().causes.push(Cause {
            kind: "NamespaceTerminating".into(),
            message: format!("namespace {} is being terminated", c.namespace),
            field: "metadata.namespace".into(),
        });
        return Err(status);
    }
    Ok(())
}

fn terminating(namespace: &ferrokube_api::Object) -> bool {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Status {
        phase: String,
    }
    #[derive(Deserialize)]
    struct Namespace {
        #[serde(default)]
        status: Status,
    }
    namespace.decode::<Namespace>().is_ok_and(|n| n.status.phase == "Terminating")
}
