//! Who asks for a certificate: a CertificateSigningRequest carries the user that made it, whatever the client wrote there.
//! Source: `pkg/registry/certificates/certificates`.

use crate::authz::reviews;
use crate::pipeline::Request;
use serde_json::Value;

/// Writes the user of the request into a new CertificateSigningRequest.
pub fn stamp(request: &Request<'_>, new: &mut Value) {
    if !request.entry.is("certificates.k8s.io", "certificatesigningrequests") {
        return;
    }
    let mut user = reviews::user_info(&request.user);
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for key in ["username", "uid", "groups", "extra"] {
        match user.get_mut(key) {
            Some(value) => _ = spec.insert(key.to_owned(), value.take()),
            None => _ = spec.remove(key),
        }
    }
}
