//! Approves the client certificates of kubelets whose user may ask for them.
//!
//! Reads requests; asks the API server by SubjectAccessReview whether the user may create
//! `certificatesigningrequests/selfnodeclient` (its own certificate anew) or `/nodeclient` (a first one); writes the approval.

use super::{add_condition, certificate, condition, each, rules};
use crate::Context;
use ferrokube_client::controller::Next;
use ferrokube_client::{Error, Optional, Resource, Target};
use http::Method;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::{Value, json};

/// A kind of request that may be approved: the permission that it takes and what the approval says.
const RECOGNIZED: [(&str, &str); 2] = [
    ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."),
    ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."),
];

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let context = &context;
    each(context, "csrapproving", |csr| reconcile(context, csr)).await;
}

/// Why a request is not approved now.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("recognized csr {0:?} as [{1}] but subject access review was not approved")]
    Refused(String, String),
    #[error(transparent)]
    Failed(#[from] Error),
}

async fn reconcile(context: &Context, mut csr: CertificateSigningRequest) -> Result<Next, Stop> {
    let decided = condition(&csr, "Approved").or(condition(&csr, "Denied")).is_some();
    if decided || certificate(&csr).is_some() {
        return Ok(Next::Wait);
    }
    let tried = recognized(&csr);
    for (permission, message) in RECOGNIZED.iter().filter(|(p, _)| tried.contains(p)) {
        if may(context, &csr, permission).await? {
            add_condition(&mut csr, "Approved", "AutoApproved", message);
            let target = Target::of::<CertificateSigningRequest>("", csr.metadata.name.as_deref().unwrap_or_default()).sub("approval");
            let body: Value = serde_json::from_slice(&csr.encode()).unwrap_or_default();
            context.client.request(Method::PUT, &target, "", Some(&body)).await.optional()?;
            return Ok(Next::Wait);
        }
    }
    if tried.is_empty() {
        return Ok(Next::Wait);
    }
    // The user may get the permission later: asked again after the backoff, unless somebody approves by hand before.
    Err(Stop::Refused(csr.metadata.name.unwrap_or_default(), tried.join(" ")))
}

/// The permissions by which a request could be approved.
fn recognized(csr: &CertificateSigningRequest) -> Vec<&'static str> {
    let Ok(asked) = rules::read(&csr.spec.request.0) else { return Vec::new() };
    if !rules::is_kubelet_client(csr, &asked) {
        return Vec::new();
    }
    let own = csr.spec.username.as_deref() == Some(&asked.common_name);
    if own { vec!["selfnodeclient", "nodeclient"] } else { vec!["nodeclient"] }
}

async fn may(context: &Context, csr: &CertificateSigningRequest, permission: &str) -> Result<bool, Error> {
    let spec = &csr.spec;
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
            "resourceAttributes": {"group": "certificates.k8s.io", "version": "*", "resource": "certificatesigningrequests", "subresource": permission, "verb": "create"},
        },
    });
    let target =
        Target { group: "authorization.k8s.io".into(), version: "v1".into(), resource: "subjectaccessreviews".into(), ..Target::default() };
    let answer = context.client.request(Method::POST, &target, "", Some(&review)).await?;
    Ok(answer["status"]["allowed"] == true)
}
