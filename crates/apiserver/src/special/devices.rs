//! Claims with access to devices that others use: only in namespaces whose administrators said so.
//! Source: `pkg/registry/resource` (`AuthorizedForAdmin`).

use crate::pipeline::Request;
use ferrokube_api::field::{Errors, Path};
use serde_json::Value;

/// The label by which a namespace allows it.
const LABEL: &str = "resource.kubernetes.io/admin-access";

/// Refuses `adminAccess` in a new claim or template where the namespace does not have the label.
pub fn check_admin_access(request: &Request<'_>, new: &Value, errors: &mut Errors) {
    let spec = if request.entry.is("resource.k8s.io", "resourceclaims") {
        &new["spec"]
    } else if request.entry.is("resource.k8s.io", "resourceclaimtemplates") {
        &new["spec"]["spec"]
    } else {
        return;
    };
    let mut requests = spec["devices"]["requests"].as_array().into_iter().flatten();
    let Some(at) = requests.position(|r| r["exactly"]["adminAccess"] == true) else { return };
    let namespace = request.server.caches.get("", "namespaces").and_then(|cache| cache.get("", request.namespace()));
    if namespace.is_none_or(|ns| ns.label(LABEL) != Some("true")) {
        let path = Path::new("spec.devices.requests").index(at).child("adminAccess");
        errors.forbidden(&path, &format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace"));
    }
}
