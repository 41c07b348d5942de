//! Who asks a component's own server, and whether they may: the API server is asked (TokenReview, SubjectAccessReview), and
//! its answers are kept as long as upstream's components keep them.
//!
//! A component never decides by itself: what cannot be reviewed is refused.

use crate::{Client, Result, Target};
use http::{HeaderMap, Method, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::hash::Hash;
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

impl User {
    /// Common name and organizations of a client certificate that the TLS layer has verified.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
        let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
        let name = parsed.subject().iter_common_name().next().and_then(text)?;
        let mut groups: Vec<String> = parsed.subject().iter_organization().filter_map(text).collect();
        groups.push("system:authenticated".into());
        Some(User { name, groups })
    }
}

/// Something that is known until a time.
struct Kept<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K: Eq + Hash, V: Clone> Kept<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        self.0.lock().get(key).filter(|(_, until)| *until > Instant::now()).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V, kept: Duration) {
        let (mut map, now) = (self.0.lock(), Instant::now());
        if map.len() >= CACHE_SIZE {
            map.retain(|_, (_, until)| *until > now);
        }
        if map.len() >= CACHE_SIZE {
            map.clear();
        }
        map.insert(key, (value, now + kept));
    }
}

/// Asks the API server and remembers for a while.
pub struct Reviews {
    client: Client,
    tokens: Kept<String, Option<User>>,
    decisions: Kept<(User, String), bool>,
}

impl Reviews {
    /// Asks through this client, whose user must be allowed to review.
    pub fn new(client: Client) -> Self {
        Reviews { client, tokens: Kept(Mutex::default()), decisions: Kept(Mutex::default()) }
    }

    /// Whose bearer token comes with a request; `None` when there is none, or nobody we know.
    pub async fn bearer(&self, headers: &HeaderMap) -> Option<User> {
        let token = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?.trim().to_owned();
        if let Some(user) = self.tokens.get(&token) {
            return user;
        }
        let user = self.review(&token).await.inspect_err(|e| tracing::warn!("token review: {e}")).ok()?;
        self.tokens.put(token, user.clone(), TOKENS_KEPT);
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

    /// Whether a user may do what `attributes` say: `{"resourceAttributes": ...}` or `{"nonResourceAttributes": ...}`.
    pub async fn allowed(&self, user: &User, attributes: Value) -> Result<bool> {
        let key = (user.clone(), attributes.to_string());
        if let Some(allowed) = self.decisions.get(&key) {
            return Ok(allowed);
        }
        let mut spec = attributes;
        spec["user"] = user.name.as_str().into();
        spec["groups"] = user.groups.clone().into();
        let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
        let answer = self.post("authorization.k8s.io", "subjectaccessreviews", &body).await?;
        let allowed = answer["status"]["allowed"] == Value::Bool(true);
        self.decisions.put(key, allowed, if allowed { ALLOWED_KEPT } else { DENIED_KEPT });
        Ok(allowed)
    }

    async fn post(&self, group: &str, resource: &str, body: &Value) -> Result<Value> {
        let target = Target { group: group.into(), version: "v1".into(), resource: resource.into(), ..Target::default() };
        self.client.request(Method::POST, &target, "", Some(body)).await
    }
}
