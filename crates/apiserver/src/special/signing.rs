//! Requests for certificates and their answers, as X.509: what is no request that its sender signed is not kept for a signer, and what
//! is no certificate is not handed out. The form of the PEM around it is the kind's own business.
//!
//! Source: `pkg/apis/certificates/validation` (`validateCSR`, `validateCertificate`).

use crate::registry::Entry;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferrokube_api::field::{Errors, Path};
use serde_json::Value;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

/// Checks a new request, and a certificate that is new in a stored one.
pub fn check(entry: &Entry, new: &Value, old: Option<&Value>, errors: &mut Errors) {
    if !entry.is("certificates.k8s.io", "certificatesigningrequests") {
        return;
    }
    let request = &new["spec"]["request"];
    if old.is_none()
        && let Some(why) = blocks(request).first().and_then(broken_request)
    {
        errors.invalid(&Path::new("spec").child("request"), request, &why);
    }
    let certificate = &new["status"]["certificate"];
    if old.is_some_and(|old| old["status"]["certificate"] != *certificate) && blocks(certificate).iter().any(is_broken) {
        errors.invalid(&Path::new("status").child("certificate"), &"<certificate data>".into(), "x509: malformed certificate");
    }
}

/// The blocks of PEM in base64; those that cannot be read end the list.
fn blocks(text: &Value) -> Vec<Pem> {
    let pem = text.as_str().and_then(|t| STANDARD.decode(t).ok()).unwrap_or_default();
    Pem::iter_from_buffer(&pem).map_while(Result::ok).collect()
}

/// What is wrong with a request; one of another type has been told already.
fn broken_request(pem: &Pem) -> Option<String> {
    if !pem.label.ends_with("CERTIFICATE REQUEST") {
        return None;
    }
    let Ok((_, request)) = X509CertificationRequest::from_der(&pem.contents) else {
        return Some("asn1: structure error: malformed certificate request".to_owned());
    };
    let algorithm = request.signature_algorithm.algorithm.to_id_string();
    request.verify_signature().is_err().then(|| {
        let why = match algorithm.as_str() {
            rsa if rsa.starts_with("1.2.840.113549.1.1.") => "crypto/rsa: verification error",
            "1.3.101.112" => "x509: Ed25519 verification failure",
            _ => "x509: ECDSA verification failure",
        };
        why.to_owned()
    })
}

fn is_broken(pem: &Pem) -> bool {
    pem.label == "CERTIFICATE" && X509Certificate::from_der(&pem.contents).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

    fn pem(request: &str) -> Pem {
        blocks(&STANDARD.encode(request).into()).remove(0)
    }

    #[test]
    fn a_request_is_signed_by_who_sends_it() {
        for (algorithm, failure) in [(&PKCS_ECDSA_P256_SHA256, "ECDSA"), (&PKCS_ED25519, "Ed25519")] {
            let key = KeyPair::generate_for(algorithm).expect("a key");
            let request = CertificateParams::default().serialize_request(&key).expect("a request").pem().expect("PEM");
            let mut good = pem(&request);
            assert_eq!(broken_request(&good), None);
            // Another bit of the signature, which comes last.
            *good.contents.last_mut().expect("bytes") ^= 1;
            assert_eq!(broken_request(&good), Some(format!("x509: {failure} verification failure")));
        }
        let odd = pem("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n");
        assert_eq!(broken_request(&odd).as_deref(), Some("asn1: structure error: malformed certificate request"));
    }
}
