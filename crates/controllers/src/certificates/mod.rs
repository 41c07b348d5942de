//! CertificateSigningRequests: one loop approves those of kubelets, one signs what is approved, one cleans up.
//!
//! Source: `pkg/controller/certificates`. What a request must look like for a signer of `kubernetes.io` is in [`rules`].

pub(crate) mod approve;
pub(crate) mod clean;
mod der;
mod issue;
mod rules;
pub(crate) mod sign;

use crate::Context;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use std::sync::Arc;
use std::time::Duration;

/// The signers of `kubernetes.io`.
pub const SIGNERS: [&str; 4] = [rules::KUBELET_SERVING, rules::KUBELET_CLIENT, rules::CLIENT, rules::LEGACY];

/// Looks at each request whenever it changes, with the backoff of both loops that work on requests.
async fn each<F, Fut, E>(context: &Context, name: &'static str, reconcile: F)
where
    F: Fn(CertificateSigningRequest) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Next, E>> + Send,
    E: From<Error> + std::fmt::Display + Send,
{
    let queue: Queue<Arc<str>> = context.queue("certificate").backoff(Duration::from_millis(200), Duration::from_secs(1000));
    let requests: Cache<CertificateSigningRequest> = context.caches.of();
    let add = queue.clone();
    requests.on_change(move |d| add.add(d.key().name.clone()));
    requests.synced().await;
    let look = |name: Arc<str>| {
        let (requests, reconcile) = (&requests, &reconcile);
        async move {
            match requests.read("", &name)? {
                Some(csr) => reconcile(csr).await,
                None => Ok(Next::Wait),
            }
        }
    };
    controller::run::<_, E, _, _>(name, queue, 5, look).await;
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
