//! What `authorizer` of a policy can be asked. The answers come from whoever evaluates; the builder lives here.

use std::fmt;
use std::rc::Rc;

/// A question to the authorizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of authorizer.Attributes")]
pub struct Check {
    /// Namespace and name, when not the user of the request is meant.
    pub service_account: Option<(String, String)>,
    /// For a path that is no resource.
    pub path: Option<String>,
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: Option<String>,
    pub label_selector: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the CEL library")]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    pub error: Option<String>,
}

/// Answers the questions of expressions.
pub trait Authorizer {
    /// Whether that is allowed.
    fn authorize(&self, check: &Check) -> Decision;
}

/// Values of the library.
#[derive(Clone)]
pub enum Authz<'a> {
    /// `authorizer`, perhaps for another service account.
    Authorizer(&'a dyn Authorizer, Check),
    /// `.path(p)`.
    Path(&'a dyn Authorizer, Check),
    /// `.group(g)`.
    Group(&'a dyn Authorizer, Check),
    /// `.resource(r)` and what follows; `authorizer.requestResource`.
    Resource(&'a dyn Authorizer, Check),
    /// `.check(verb)`.
    Decision(Rc<Decision>),
}

impl fmt::Debug for Authz<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_name())
    }
}

impl<'a> Authz<'a> {
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Authz::Authorizer(..) => "kubernetes.authorization.Authorizer",
            Authz::Path(..) => "kubernetes.authorization.PathCheck",
            Authz::Group(..) => "kubernetes.authorization.GroupCheck",
            Authz::Resource(..) => "kubernetes.authorization.ResourceCheck",
            Authz::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}
