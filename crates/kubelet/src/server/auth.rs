//! Who may ask the kubelet: TokenReview and SubjectAccessReview at the API server, as `--authentication-token-webhook`
//! and `--authorization-mode=Webhook` do, with the same cache times.

use ferrokube_client::{Client, Result, Target};
use http::{HeaderMap, Method, header};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

const TOKENS_KEPT: Duration = Duration::from_secs(120);
const ALLOWED_KEPT: Duration = Duration::from_secs(300);
const DENIED_KEPT: Duration = Duration::from_secs(30);
const CACHE_SIZE: usize = 1024;

/// An authenticated user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    /// Name.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
}

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
    client: Client,
    node: String,
    tokens: Mutex<HashMap<String, (Option<User>, Instant)>>,
    decisions: Mutex<HashMap<(User, Wanted), (bool, Instant)>>,
}

impl Auth {
    /// For the node of that name.
    pub fn new(client: Client, node: &str) -> Self {
        Auth { client, node: node.to_owned(), tokens: Mutex::default(), decisions: Mutex::default() }
    }

    /// Who is asking; `None` when nobody we know.
    pub async fn user(&self, headers: &HeaderMap, peer: Option<&CertificateDer<'_>>) -> Option<User> {
        if let Some(certificate) = peer {
            return subject(certificate);
        }
        let token = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?.trim().to_owned();
        if let Some((user, until)) = self.tokens.lock().get(&token)
            && *until > Instant::now()
        {
            return user.clone();
        }
        let user = self.review(&token).await.inspect_err(|e| tracing::warn!("token review: {e}")).ok()?;
        let mut tokens = self.tokens.lock();
        trim(&mut tokens, |(_, until)| *until);
        tokens.insert(token, (user.clone(), Instant::now() + TOKENS_KEPT));
        user
    }

    async fn review(&self, token: &str) -> Result<Option<User>> {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let answer = self.post("authentication.k8s.io", "tokenreviews", &body).await?;
        let status = &answer["status"];
        if status["authenticated"] != Value::Bool(true) {
            return Ok(None);
        }
        let groups = status["user"]["groups"].as_array().into_iter().flatten().filter_map(|g| g.as_str().map(str::to_owned)).collect();
        Ok(Some(User { name: status["user"]["username"].as_str().unwrap_or_default().to_owned(), groups }))
    }

    /// Whether the user may do this to the node.
    pub async fn allowed(&self, user: &User, wanted: &Wanted) -> Result<bool> {
        let key = (user.clone(), wanted.clone());
        if let Some((allowed, until)) = self.decisions.lock().get(&key)
            && *until > Instant::now()
        {
            return Ok(*allowed);
        }
        let mut allowed = false;
        for subresource in &wanted.subresources {
            if self.access(user, wanted.verb, subresource).await? {
                allowed = true;
                break;
            }
        }
        let kept = if allowed { ALLOWED_KEPT } else { DENIED_KEPT };
        let mut decisions = self.decisions.lock();
        trim(&mut decisions, |(_, until)| *until);
        decisions.insert(key, (allowed, Instant::now() + kept));
        Ok(allowed)
    }

    async fn access(&self, user: &User, verb: &str, subresource: &str) -> Result<bool> {
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": user.name, "groups": user.groups,
                "resourceAttributes": {"verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": self.node},
            },
        });
        let answer = self.post("authorization.k8s.io", "subjectaccessreviews", &body).await?;
        Ok(answer["status"]["allowed"] == Value::Bool(true))
    }

    async fn post(&self, group: &str, resource: &str, body: &Value) -> Result<Value> {
        let target = Target { group: group.into(), version: "v1".into(), resource: resource.into(), ..Target::default() };
        self.client.request(Method::POST, &target, "", Some(body)).await
    }
}

fn trim<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, until: impl Fn(&V) -> Instant) {
    if map.len() >= CACHE_SIZE {
        let now = Instant::now();
        map.retain(|_, v| until(v) > now);
        if map.len() >= CACHE_SIZE {
            map.clear();
        }
    }
}

/// Common name and organizations of a verified client certificate.
fn subject(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
    let name = parsed.subject().iter_common_name().next().and_then(text)?;
    let mut groups: Vec<String> = parsed.subject().iter_organization().filter_map(text).collect();
    groups.push("system:authenticated".into());
    Some(User { name, groups })
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
