//! Who may ask the kubelet: TokenReview and SubjectAccessReview at the API server, as `--authentication-token-webhook`
//! and `--authorization-mode=Webhook` do.

use ferrokube_client::reviews::{Reviews, User};
use ferrokube_client::{Client, Result};
use http::{HeaderMap, Method};
use rustls::pki_types::CertificateDer;
use serde_json::json;

/// What a request wants, as attributes of the Node resource: any of the subresources will do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Verb by the method.
    pub verb: &'static str,
    /// The finest subresource first, `proxy` last.
    pub subresources: Vec<&'static str>,
}

/// The attributes of a request (`pkg/kubelet/server/auth.go`).
pub fn attributes(method: &Method, path: &str) -> Wanted {
    let verb = match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "get",
    };
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let subresources = match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "checkpoint" => vec!["checkpoint"],
        "statusz" => vec!["statusz"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "healthz" => vec!["healthz", "proxy"],
        "configz" | "flagz" => vec!["configz", "proxy"],
        _ => vec!["proxy"],
    };
    Wanted { verb, subresources }
}

/// Asks the API server and remembers for a while.
pub struct Auth {
    reviews: Reviews,
    node: String,
}

impl Auth {
    /// For the node of that name.
    pub fn new(client: Client, node: &str) -> Self {
        Auth { reviews: Reviews::new(client), node: node.to_owned() }
    }

    /// Who is asking; `None` when nobody we know.
    pub async fn user(&self, headers: &HeaderMap, peer: Option<&CertificateDer<'_>>) -> Option<User> {
        match peer {
            Some(certificate) => User::of_certificate(certificate),
            None => self.reviews.bearer(headers).await,
        }
    }

    /// Whether the user may do this to the node.
    pub async fn allowed(&self, user: &User, wanted: &Wanted) -> Result<bool> {
        for subresource in &wanted.subresources {
            let attributes = json!({"resourceAttributes":
                {"verb": wanted.verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": self.node}});
            if self.reviews.allowed(user, attributes).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_authorized_as_subresources_of_the_node() {
        let cases = [
            ("GET", "/stats/summary", "get", vec!["stats"]),
            ("GET", "/metrics/resource", "get", vec!["metrics"]),
            ("POST", "/exec/ns/pod/c", "create", vec!["proxy"]),
            ("GET", "/pods", "get", vec!["pods", "proxy"]),
            ("GET", "/containerLogs/ns/pod/c", "get", vec!["proxy"]),
        ];
        for (method, path, verb, subresources) in cases {
            assert_eq!(attributes(&method.parse().unwrap(), path), Wanted { verb, subresources }, "{method} {path}");
        }
    }
}
