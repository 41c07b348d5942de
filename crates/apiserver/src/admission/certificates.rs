//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction: who may let whom sign what.

use super::{Context, Operation, Outcome, list};
use crate::attributes::Attributes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferrokube_api::Status;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

fn is(c: &Context<'_>, subresource: &str, operation: Operation) -> bool {
    c.group == GROUP && c.resource == "certificatesigningrequests" && c.subresource == subresource && c.operation == operation
}

/// Whether the user may `verb` for the signer, by its name or by its domain (`example.com/*`).
fn may(c: &Context<'_>, verb: &str, signer: &str) -> bool {
    let ask = |name: String| {
        let attributes = Attributes {
            user: c.user.clone(),
            verb: verb.into(),
            group: GROUP.into(),
            version: "*".into(),
            resource: "signers".into(),
            name,
            ..Attributes::default()
        };
        c.questions.authorize(&attributes).allowed()
    };
    ask(signer.to_owned()) || ask(format!("{}/*", signer.split('/').next().unwrap_or_default()))
}

fn signer<'a>(c: &Context<'a>) -> &'a str {
    c.review.old.and_then(|old| old["spec"]["signerName"].as_str()).unwrap_or_default()
}

/// CertificateApproval.
pub(super) fn approval(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    if !is(c, "approval", Operation::Update) || may(c, "approve", signer(c)) {
        return Ok(());
    }
    Err(c.forbidden(object, format!("user not permitted to approve requests with signerName {:?}", signer(c))))
}

/// CertificateSigning.
pub(super) fn signing(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let (Some(new), Some(old)) = (object.filter(|_| is(c, "status", Operation::Update)), c.old) else { return Ok(()) };
    let failed = |o: &Value| list(&o["status"], "conditions").filter(|x| x["type"] == "Failed").cloned().collect::<Vec<_>>();
    let same = old["status"]["certificate"] == new["status"]["certificate"] && failed(old) == failed(new);
    if same || may(c, "sign", signer(c)) {
        return Ok(());
    }
    Err(c.forbidden(object, format!("user not permitted to sign requests with signerName {:?}", signer(c))))
}

/// CertificateSubjectRestriction: nobody asks for system:masters.
pub(super) fn subject(c: &Context<'_>, object: Option<&Value>, _: &mut Outcome) -> Result<(), Status> {
    let Some(request) = object.filter(|o| is(c, "", Operation::Create) && o["spec"]["signerName"] == CLIENT_SIGNER) else { return Ok(()) };
    let unreadable = || c.forbidden(object, "failed to parse CSR");
    let (_, organizations) = subject_of(&request["spec"]["request"]).ok_or_else(unreadable)?;
    if organizations.iter().any(|o| o == "system:masters") {
        return Err(c.forbidden(object, format!("use of {CLIENT_SIGNER} signer with system:masters group is not allowed")));
    }
    Ok(())
}

/// Common name and organizations of a CSR in base64 of PEM.
pub(super) fn subject_of(request: &Value) -> Option<(String, Vec<String>)> {
    let pem = STANDARD.decode(request.as_str()?).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let (_, csr) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let subject = &csr.certification_request_info.subject;
    let name = subject.iter_common_name().next().and_then(|n| n.as_str().ok()).unwrap_or_default().to_owned();
    Some((name, subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect()))
}
