//! Signs approved requests of the four signers of `kubernetes.io` with the cluster's CA, or a CA of their own.
//!
//! Reads requests; writes their status: the certificate, or condition `Failed` when a request is not what its signer signs.

use super::issue::Authority;
use super::{SIGNERS, add_condition, certificate, condition, each, rules};
use crate::Context;
use ferrokube_client::controller::Next;
use ferrokube_client::{Error, Named, Optional};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use std::collections::HashMap;

/// Runs the controller; without a CA it does nothing.
pub(crate) async fn run(context: Context) {
    let config = &context.config;
    let authority = |signer| {
        let signing = config.signers.get(signer).or(config.signing.as_ref())?;
        let made = Authority::new(signing).inspect_err(|e| tracing::error!(signer, "certificates are not signed: {e}"));
        Some((signer, made.ok()?))
    };
    let authorities: HashMap<&str, Authority> = SIGNERS.into_iter().filter_map(authority).collect();
    if authorities.is_empty() {
        return std::future::pending().await;
    }
    let (client, authorities) = (&context.client, &authorities);
    let sign = |mut csr: CertificateSigningRequest| async move {
        let authority = authorities.get(csr.spec.signer_name.as_str());
        if authority.is_some_and(|a| decide(&mut csr, a, Timestamp::now())) {
            client.update_status(&csr).await.optional()?;
        }
        Ok::<_, Error>(Next::Wait)
    };
    each(&context, "csrsigning", sign).await;
}

/// Signs or refuses; whether there was anything to do.
fn decide(csr: &mut CertificateSigningRequest, authority: &Authority, now: Timestamp) -> bool {
    let open = condition(csr, "Approved").is_some() && condition(csr, "Denied").is_none() && condition(csr, "Failed").is_none();
    if !open || certificate(csr).is_some() {
        return false;
    }
    let usages = csr.spec.usages.clone().unwrap_or_default();
    let checked = rules::read(&csr.spec.request.0).and_then(|asked| rules::check(&csr.spec.signer_name, &asked, &usages).map(|()| asked));
    let asked = match checked {
        Ok(asked) => asked,
        Err(why) => {
            add_condition(csr, "Failed", "SignerValidationFailure", &why);
            return true;
        }
    };
    match authority.issue(&asked, &usages, csr.spec.expiration_seconds, now) {
        Ok(pem) => {
            csr.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
            true
        }
        Err(e) => {
            tracing::warn!(request = csr.name(), "certificate not signed: {e}");
            false
        }
    }
}
