//! Why a request did not do what was asked.

use crate::TransportError;
use ferrokube_api::{Reason, Status};

/// Why a request did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server said no.
    #[error("{0}")]
    Api(Box<Status>),
    /// The API server was not reached, or the connection broke. The write may or may not have happened.
    #[error("the API server could not be reached")]
    Transport(#[from] TransportError),
    /// The answer is not what it should be.
    #[error("the answer of the API server is not readable as {what}")]
    Decode {
        /// The type expected.
        what: &'static str,
        /// Where it fails.
        source: serde_json::Error,
    },
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Error::Api(Box::new(status))
    }
}

impl Error {
    /// The API server's answer, when it gave one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Error::Api(status) => Some(status),
            _ => None,
        }
    }

    fn is(&self, reason: Reason) -> bool {
        self.status().is_some_and(|s| s.is(reason))
    }

    /// 404 of an object.
    pub fn is_not_found(&self) -> bool {
        self.is(Reason::NotFound)
    }

    /// 409: the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.is(Reason::AlreadyExists)
    }

    /// 409: the object changed in between, or is another one; or the 422 by which a patch is told the latter.
    pub fn is_conflict(&self) -> bool {
        let other = |status: &Status| status.details.iter().flat_map(|d| &d.causes).any(|cause| cause.field == "metadata.uid");
        self.is(Reason::Conflict) || (self.is(Reason::Invalid) && self.status().is_some_and(other))
    }

    /// 403, also while a namespace terminates.
    pub fn is_forbidden(&self) -> bool {
        self.is(Reason::Forbidden)
    }

    /// 403 because the namespace is being deleted: no use in trying again.
    pub fn is_namespace_terminating(&self) -> bool {
        self.status().and_then(|s| s.details.as_ref()).is_some_and(|d| d.causes.iter().any(|c| c.kind == "NamespaceTerminating"))
    }
}

/// Turns "it is not there" into `None`.
pub trait Optional<T> {
    /// `Ok(None)` when the error is a 404.
    fn optional(self) -> crate::Result<Option<T>>;
}

impl<T> Optional<T> for crate::Result<T> {
    fn optional(self) -> crate::Result<Option<T>> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }
}
