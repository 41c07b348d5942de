//! CertificateSigningRequests: one loop approves those of kubelets, one signs what is approved, one cleans up.
//!
//! Source: `pkg/controller/certificates`. What a request must look like for a signer of `kubernetes.io` is in [`rules`].

pub(crate) mod approve;
pub(crate) mod clean;
mod der;
mod issue;
mod rules;
pub(crate) mod sign;

use ferrokube_client::queue::Queue;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use std::time::Duration;

/// The queue of both loops that work on requests, with their own backoff.
fn queue(context: &crate::Context) -> Queue<Box<str>> {
    context.queue("certificate").backoff(Duration::from_millis(200), Duration::from_secs(1000))
}

fn condition<'a>(csr: &'a CertificateSigningRequest, kind: &str) -> Option<&'a CertificateSigningRequestCondition> {
    csr.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// Adds a condition that is true.
fn add_condition(csr: &mut CertificateSigningRequest, kind: &str, reason: &str, message: &str) {
    csr.status.get_or_insert_default().conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        ..CertificateSigningRequestCondition::default()
    });
}

/// The certificate, unless it is empty.
fn certificate(csr: &CertificateSigningRequest) -> Option<&[u8]> {
    csr.status.as_ref()?.certificate.as_ref().map(|c| c.0.as_slice()).filter(|c| !c.is_empty())
}
