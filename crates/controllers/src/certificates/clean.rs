//! Deletes requests that nobody will look at any more. Reads and deletes requests, once an hour.

use super::{certificate, condition};
use crate::Context;
use ferrokube_client::{Cache, DeleteOptions, Named, Optional};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

const PERIOD: Duration = Duration::from_secs(3600);
/// Since a decision. One that was approved and has no certificate yet stays: its signer may take its time.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// Since the request, when nobody has decided.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let requests: Cache<CertificateSigningRequest> = context.caches.of();
    requests.synced().await;
    let mut tick = tokio::time::interval(PERIOD);
    loop {
        tick.tick().await;
        for csr in requests.list().iter().filter(|csr| is_over(csr, Timestamp::now())) {
            let options = DeleteOptions::of_uid(csr.uid());
            if let Err(e) = context.client.delete::<CertificateSigningRequest>("", csr.name(), &options).await.optional() {
                tracing::warn!(request = csr.name(), "certificate request not cleaned up: {e}");
            }
        }
    }
}

fn is_over(csr: &CertificateSigningRequest, now: Timestamp) -> bool {
    let old = |at: Option<Timestamp>, limit| at.is_some_and(|at| now.duration_since(at) > limit);
    if csr.status.as_ref().and_then(|s| s.conditions.as_ref()).is_none_or(Vec::is_empty) {
        return old(csr.metadata.creation_timestamp.as_ref().map(|t| t.0), PENDING);
    }
    let refused = ["Denied", "Failed"].iter().filter_map(|kind| condition(csr, kind));
    let issued = condition(csr, "Approved").filter(|_| certificate(csr).is_some());
    let over = issued.is_some() && certificate(csr).is_some_and(|pem| has_ended(pem, now));
    over || refused.chain(issued).any(|c| old(c.last_update_time.as_ref().map(|t| t.0), DECIDED))
}

fn has_ended(pem: &[u8], now: Timestamp) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(pem) else { return false };
    X509Certificate::from_der(&pem.contents).is_ok_and(|(_, c)| c.validity().not_after.timestamp() < now.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_go_an_hour_after_the_decision_and_a_day_without_one() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let cases = [
            (None, "2026-01-01T23:00:00Z", "", false),
            (None, "2025-12-31T23:00:00Z", "", true),
            (Some(("Approved", "2026-01-01T23:30:00Z")), "2025-12-01T00:00:00Z", "Q0VSVA==", false),
            (Some(("Approved", "2026-01-01T22:30:00Z")), "2025-12-01T00:00:00Z", "Q0VSVA==", true),
            (Some(("Approved", "2026-01-01T22:30:00Z")), "2025-12-01T00:00:00Z", "", false),
            (Some(("Denied", "2026-01-01T22:30:00Z")), "2025-12-01T00:00:00Z", "", true),
            (Some(("Failed", "2026-01-01T22:30:00Z")), "2025-12-01T00:00:00Z", "", true),
        ];
        for (decision, created, certificate, expected) in cases {
            let conditions: Vec<_> =
                decision.iter().map(|(kind, at)| json!({"type": kind, "status": "True", "lastUpdateTime": at})).collect();
            let csr = serde_json::from_value(json!({"metadata": {"name": "c", "creationTimestamp": created},
                "spec": {"request": "", "signerName": "s"}, "status": {"conditions": conditions, "certificate": certificate}}))
            .unwrap();
            assert_eq!(is_over(&csr, now), expected, "{decision:?} {created}");
        }
    }
}
