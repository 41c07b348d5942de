//! What a request must look like for the signers of `kubernetes.io`. Pure.
//!
//! Source: `pkg/apis/certificates/helpers.go`, `pkg/controller/certificates/signer`.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use std::net::IpAddr;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

pub(super) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(super) const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// What a request in DER asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Common name.
    pub common_name: String,
    /// Organizations, which are groups.
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub emails: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub uris: Vec<String>,
    /// The subject as it was encoded.
    pub subject: Vec<u8>,
    /// The public key as it was encoded.
    pub public_key: Vec<u8>,
}

/// Reads a request in PEM and checks that whoever made it has its key.
pub(super) fn read(pem: &[u8]) -> Result<Asked, String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err("PEM block type must be CERTIFICATE REQUEST".into());
    }
    let (_, csr) = X509CertificationRequest::from_der(&pem.contents).map_err(|e| e.to_string())?;
    csr.verify_signature().map_err(|e| format!("the request is not signed with its own key: {e}"))?;
    let info = &csr.certification_request_info;
    let mut asked = Asked {
        common_name: info.subject.iter_common_name().next().and_then(|n| n.as_str().ok()).unwrap_or_default().to_owned(),
        organizations: info.subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect(),
        subject: info.subject.as_raw().to_vec(),
        public_key: info.subject_pki.raw.to_vec(),
        ..Asked::default()
    };
    for extension in csr.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(n) => asked.dns_names.push((*n).to_owned()),
                GeneralName::RFC822Name(n) => asked.emails.push((*n).to_owned()),
                GeneralName::URI(n) => asked.uris.push((*n).to_owned()),
                GeneralName::IPAddress(bytes) => asked.addresses.extend(address(bytes)),
                _ => {}
            }
        }
    }
    Ok(asked)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Why a signer of `kubernetes.io` does not sign this, in Kubernetes' words.
pub(super) fn check(signer: &str, asked: &Asked, usages: &[String]) -> Result<(), String> {
    match signer {
        KUBELET_CLIENT => kubelet_client(asked, usages),
        KUBELET_SERVING => kubelet_serving(asked, usages),
        CLIENT => client_usages(usages),
        LEGACY => Ok(()),
        _ => Err(format!("unrecognized signer {signer:?}")),
    }
}

fn client_usages(usages: &[String]) -> Result<(), String> {
    const ALLOWED: [&str; 3] = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|u| !ALLOWED.contains(&u.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if !usages.iter().any(|u| u == "client auth") {
        return Err("missing required usage for client certificate: client auth".into());
    }
    Ok(())
}

/// What every kubelet's request has.
fn of_node(asked: &Asked) -> (bool, &'static str) {
    (asked.organizations != ["system:nodes"], "subject organization is not system:nodes")
}

fn named_as_node(asked: &Asked) -> (bool, &'static str) {
    (!asked.common_name.starts_with("system:node:"), "subject common name does not begin with system:node:")
}

/// A kubelet's usages: these three; one without an RSA key enciphers no keys.
fn kubelet_usages(usages: &[String], purpose: &str) -> Result<(), String> {
    let required = ["digital signature", purpose];
    let known = |u: &String| required.contains(&u.as_str()) || u == "key encipherment";
    if required.iter().all(|r| usages.iter().any(|u| u == r)) && usages.iter().all(known) {
        return Ok(());
    }
    let mut all = ["digital signature", "key encipherment", purpose];
    all.sort_unstable();
    Err(format!("usages did not match [{}]", all.join(" ")))
}

fn first(reasons: &[(bool, &str)]) -> Result<(), String> {
    reasons.iter().find(|(bad, _)| *bad).map_or(Ok(()), |(_, why)| Err((*why).to_owned()))
}

fn kubelet_client(asked: &Asked, usages: &[String]) -> Result<(), String> {
    first(&[
        of_node(asked),
        (!asked.dns_names.is_empty(), "DNS subjectAltNames are not allowed"),
        (!asked.emails.is_empty(), "Email subjectAltNames are not allowed"),
        (!asked.addresses.is_empty(), "IP subjectAltNames are not allowed"),
        (!asked.uris.is_empty(), "URI subjectAltNames are not allowed"),
        named_as_node(asked),
    ])?;
    kubelet_usages(usages, "client auth")
}

fn kubelet_serving(asked: &Asked, usages: &[String]) -> Result<(), String> {
    first(&[
        of_node(asked),
        (asked.dns_names.is_empty() && asked.addresses.is_empty(), "DNS or IP subjectAltName is required"),
        (!asked.emails.is_empty(), "Email subjectAltNames are not allowed"),
        (!asked.uris.is_empty(), "URI subjectAltNames are not allowed"),
    ])?;
    kubelet_usages(usages, "server auth")?;
    first(&[named_as_node(asked)])
}

/// Whether this is a kubelet that asks for its client certificate.
pub(super) fn is_kubelet_client(csr: &CertificateSigningRequest, asked: &Asked) -> bool {
    csr.spec.signer_name == KUBELET_CLIENT && kubelet_client(asked, csr.spec.usages.as_deref().unwrap_or_default()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usages(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    fn node() -> Asked {
        Asked { common_name: "system:node:n".into(), organizations: vec!["system:nodes".into()], ..Asked::default() }
    }

    #[test]
    fn each_signer_takes_only_what_is_its_own() {
        let served = || Asked { dns_names: vec!["n".into()], ..node() };
        let cases: [(&str, Asked, &str, Result<(), &str>); 14] = [
            (KUBELET_CLIENT, node(), "digital signature,client auth", Ok(())),
            (KUBELET_CLIENT, node(), "digital signature,client auth,key encipherment", Ok(())),
            (
                KUBELET_CLIENT,
                node(),
                "digital signature,server auth",
                Err("usages did not match [client auth digital signature key encipherment]"),
            ),
            (KUBELET_CLIENT, served(), "digital signature,client auth", Err("DNS subjectAltNames are not allowed")),
            (
                KUBELET_CLIENT,
                Asked { common_name: "n".into(), ..node() },
                "digital signature,client auth",
                Err("subject common name does not begin with system:node:"),
            ),
            (KUBELET_CLIENT, Asked { organizations: vec![], ..node() }, "client auth", Err("subject organization is not system:nodes")),
            (KUBELET_SERVING, served(), "digital signature,server auth", Ok(())),
            (KUBELET_SERVING, node(), "digital signature,server auth", Err("DNS or IP subjectAltName is required")),
            (KUBELET_SERVING, served(), "server auth", Err("usages did not match [digital signature key encipherment server auth]")),
            (CLIENT, Asked::default(), "client auth", Ok(())),
            (CLIENT, Asked::default(), "client auth,server auth", Err("invalid usage for client certificate: server auth")),
            (CLIENT, Asked::default(), "key encipherment", Err("missing required usage for client certificate: client auth")),
            (LEGACY, Asked::default(), "any", Ok(())),
            ("example.com/own", Asked::default(), "any", Err("unrecognized signer \"example.com/own\"")),
        ];
        for (signer, asked, uses, expected) in cases {
            assert_eq!(check(signer, &asked, &usages(uses)), expected.map_err(str::to_owned), "{signer} {uses} {asked:?}");
        }
    }
}
