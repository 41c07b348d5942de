//! Authorization: who may do what. The union of the privileged group, the Node authorizer and RBAC, in that order.
//!
//! Pure reads from the caches: nothing here waits, writes or talks to anyone. A denial says why in the words of the
//! Go authorizer, because people and kubectl search for them.

pub mod escalation;
mod index;
mod node;
pub mod reviews;
pub mod rules;

pub(crate) use node::PodReferences;
pub use node::identity as node_identity;

use crate::attributes::{Attributes, UserInfo};
use crate::objects::Objects;
use ferrokube_api::{Reason, Status};
use rules::Rule;
use std::sync::Arc;

/// Members may do everything, whatever the roles say.
pub const PRIVILEGED_GROUP: &str = "system:masters";

/// What an authorizer says. There is no veto: what nobody allows is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and why (for the audit log).
    Allow(String),
    /// Nobody said yes; the reasons, which may be empty.
    NoOpinion(String),
}

impl Decision {
    /// Whether it is a yes.
    pub fn allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }

    /// The 403 that a client gets when it is no.
    pub fn into_result(self, attributes: &Attributes) -> Result<(), Status> {
        match self {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) => Err(forbidden(attributes, &reason)),
        }
    }

    /// Why.
    pub fn reason(&self) -> &str {
        match self {
            Decision::Allow(reason) | Decision::NoOpinion(reason) => reason,
        }
    }
}

/// The authorizer of the server.
pub struct Authorizer {
    objects: Arc<dyn Objects>,
    roles: index::Roles,
}

impl Authorizer {
    /// Over the given caches.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Authorizer { objects, roles: index::Roles::default() }
    }

    /// Decides.
    pub fn authorize(&self, attributes: &Attributes) -> Decision {
        if privileged(&attributes.user) {
            return Decision::Allow(String::new());
        }
        let by_node = node::authorize(&*self.objects, attributes);
        if let Some(Ok(())) = by_node {
            return Decision::Allow(String::new());
        }
        let node_reason = by_node.and_then(Result::err).unwrap_or_default();
        match self.roles.current(&*self.objects).authorize(attributes) {
            Decision::NoOpinion(reason) => {
                let reasons: Vec<String> = [node_reason, reason].into_iter().filter(|r| !r.is_empty()).collect();
                Decision::NoOpinion(reasons.join("\n"))
            }
            allow => allow,
        }
    }

    /// Decides, with the 403 that a client gets when it is no.
    pub fn check(&self, attributes: &Attributes) -> Result<(), Status> {
        self.authorize(attributes).into_result(attributes)
    }

    /// All rules that apply to a user in a namespace (empty: cluster-wide ones only), and the roles that could not be found.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Arc<[Rule]>>, Vec<String>) {
        self.roles.current(&*self.objects).rules_for(user, namespace)
    }

    /// Rules of a Role (`namespace` set) or ClusterRole, aggregated ones included; `None` when it does not exist.
    pub fn rules_of(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        self.roles.current(&*self.objects).rules_of(kind, namespace, name)
    }

    /// The rules that aggregated ClusterRoles should hold, for those that hold others: name and rules.
    pub(crate) fn stale_aggregates(&self) -> Vec<(String, Arc<[Rule]>)> {
        self.roles.current(&*self.objects).stale_aggregates()
    }
}

/// Whether the user is in the privileged group.
pub fn privileged(user: &UserInfo) -> bool {
    user.groups.iter().any(|g| g == PRIVILEGED_GROUP)
}

/// What was not allowed, as the Go server says it.
fn sentence(a: &Attributes) -> String {
    let (user, verb) = (&a.user.name, &a.verb);
    if !a.is_resource() {
        return format!("User {user:?} cannot {verb} path {:?}", a.path);
    }
    let resource = if a.subresource.is_empty() { a.resource.clone() } else { format!("{}/{}", a.resource, a.subresource) };
    let place = if a.namespace.is_empty() { "at the cluster scope".to_owned() } else { format!("in the namespace {:?}", a.namespace) };
    format!("User {user:?} cannot {verb} resource {resource:?} in API group {:?} {place}", a.group)
}

/// The 403 for a refused request.
pub fn forbidden(attributes: &Attributes, reason: &str) -> Status {
    let mut why = sentence(attributes);
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    if attributes.is_resource() {
        return Status::forbidden(&attributes.group, &attributes.resource, &attributes.name, &why);
    }
    let mut status = Status::failure(403, Reason::Forbidden, format!("forbidden: {why}"));
    status.details = Some(ferrokube_api::status::Details::default());
    status
}

#[cfg(test)]
mod tests;
