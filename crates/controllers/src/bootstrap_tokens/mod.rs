//! Bootstrap tokens: Secrets of `kube-system` that let a machine join. One loop signs ConfigMap `kube-public/cluster-info`
//! with them, so that who knows a token can trust what it says; the other deletes those that have run out.
//!
//! Source: `pkg/controller/bootstrap`, KEP-130. Both are off unless asked for, as in kube-controller-manager.

pub(crate) mod clean;
pub(crate) mod sign;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

/// Namespace of the Secrets.
const NAMESPACE: &str = "kube-system";
/// `type` of the Secrets.
const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAME_PREFIX: &str = "bootstrap-token-";

/// A token's text fields.
fn field<'a>(secret: &'a Secret, name: &str) -> Option<&'a str> {
    std::str::from_utf8(&secret.data.as_ref()?.get(name)?.0).ok()
}

fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TYPE)
}

/// Nanoseconds until a token runs out; `None` when it never does. What cannot be read has run out.
fn time_left(secret: &Secret, now: Timestamp) -> Option<i128> {
    let expiration = field(secret, "expiration").filter(|e| !e.is_empty())?;
    Some(expiration.parse::<Timestamp>().map_or(0, |at| at.as_nanosecond() - now.as_nanosecond()))
}
