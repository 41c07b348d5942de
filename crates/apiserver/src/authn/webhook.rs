//! The webhook: tokens that nobody here knows are shown to another server as a TokenReview. Answers are remembered.

use super::{AuthnConfigError, Rejected, TokenIdentity};
use crate::attributes::UserInfo;
use crate::expiring::Expiring;
use crate::outbound::{OutboundError, Remote};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How long the server may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Answers remembered at most.
const MOST: usize = 4096;

/// `--authentication-token-webhook-*`.
#[derive(Clone, Debug)]
pub struct TokenWebhookConfig {
    /// The kubeconfig file that says where.
    pub kubeconfig: PathBuf,
    /// `v1` or `v1beta1`.
    pub version: String,
    /// How long an answer is remembered.
    pub cache: Duration,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Review {
    status: ReviewStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ReviewStatus {
    authenticated: bool,
    user: ReviewUser,
    audiences: Option<Vec<String>>,
    error: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ReviewUser {
    username: String,
    uid: String,
    groups: Option<Vec<String>>,
    extra: Option<BTreeMap<String, Vec<String>>>,
}

type Answer = Result<TokenIdentity, Rejected>;

/// The server that is asked.
pub(super) struct TokenWebhook {
    remote: Remote,
    version: String,
    ttl: Duration,
    known: Expiring<[u8; 32], Answer>,
}

fn digest(token: &str, audiences: &[String]) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in std::iter::once(token).chain(audiences.iter().map(String::as_str)) {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl TokenWebhook {
    pub fn new(config: &TokenWebhookConfig) -> Result<Self, AuthnConfigError> {
        if !matches!(config.version.as_str(), "v1" | "v1beta1") {
            return Err(AuthnConfigError::Webhook(format!("unsupported TokenReview version {:?}", config.version)));
        }
        let remote = Remote::from_kubeconfig_file(&config.kubeconfig).map_err(|e| AuthnConfigError::Webhook(e.to_string()))?;
        Ok(TokenWebhook { remote, version: config.version.clone(), ttl: config.cache, known: Expiring::new(MOST) })
    }

    pub async fn identify(&self, token: &str, audiences: &[String]) -> Answer {
        let digest = digest(token, audiences);
        if let Some(answer) = self.known.get(&digest) {
            return answer;
        }
        let body = json!({
            "apiVersion": format!("authentication.k8s.io/{}", self.version), "kind": "TokenReview", "metadata": {},
            "spec": { "token": token, "audiences": audiences }, "status": { "user": {} },
        });
        // An answer is remembered, a failure to get one is not.
        let answer = self.ask(body.to_string().into()).await.map_err(|e| Rejected(format!("webhook: {e}")))?;
        let answer = judge(answer, audiences);
        self.known.remember(digest, answer.clone(), self.ttl);
        answer
    }

    async fn ask(&self, body: Bytes) -> Result<ReviewStatus, OutboundError> {
        let answer = self.remote.post_patiently(body, TIMEOUT).await?;
        let review: Review = serde_json::from_slice(&answer).map_err(|e| OutboundError::Answer(e.to_string()))?;
        Ok(review.status)
    }
}

fn judge(status: ReviewStatus, audiences: &[String]) -> Answer {
    if !status.authenticated {
        let why = if status.error.is_empty() { "not authenticated".to_owned() } else { status.error };
        return Err(Rejected(format!("webhook: {why}")));
    }
    // A server that says nothing of audiences does not know of them: it vouches for the API server's own.
    let meant = match status.audiences.filter(|a| !a.is_empty()) {
        None => audiences.to_vec(),
        Some(said) => audiences.iter().filter(|a| said.contains(a)).cloned().collect(),
    };
    if !audiences.is_empty() && meant.is_empty() {
        return Err(Rejected("webhook: the token is not for the audiences asked for".to_owned()));
    }
    let ReviewUser { username, uid, groups, extra } = status.user;
    let user = UserInfo { name: username, uid, groups: groups.unwrap_or_default(), extra: extra.unwrap_or_default() };
    Ok(TokenIdentity { user, audiences: meant })
}
