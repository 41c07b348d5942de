//! Tokens in Secrets of type `kubernetes.io/service-account-token`: without end, they live as long as their Secret does, or until it
//! is marked. The day of the last use stands in a label of the Secret, so that a controller can find those that nobody needs.
//!
//! Source: `pkg/serviceaccount/legacy.go`, `pkg/controlplane/controller/legacytokentracking`.

use super::service_account::exists;
use super::{Rejected, TokenIdentity};
use crate::ApiServer;
use crate::attributes::UserInfo;
use crate::local::loopback_user;
use crate::objects::Objects;
use crate::server::metrics::head;
use crate::tokens::{self, LegacyClaims, Reference, ServiceAccountTokens};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ferrokube_api::Object;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// The day of the last use.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The day since which a token does not count any more.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// Namespace and name of Secrets whose tokens were used on a day that their label does not say yet.
#[derive(Default)]
pub(crate) struct Uses {
    pending: Mutex<BTreeSet<(String, String)>>,
    more: Notify,
    /// Of all such tokens; of those that were made for an account by themselves, of those that a person asked for; and of those of the
    /// first sort that do not count any more.
    counts: [AtomicU64; 4],
}

const COUNTS: [(&str, &str); 4] = [
    ("serviceaccount_legacy_tokens_total", "[ALPHA] Cumulative legacy service account tokens used"),
    ("serviceaccount_legacy_auto_token_uses_total", "[ALPHA] Cumulative auto-generated legacy tokens used"),
    ("serviceaccount_legacy_manual_token_uses_total", "[ALPHA] Cumulative manually created legacy tokens used"),
    ("serviceaccount_invalid_legacy_auto_token_uses_total", "[ALPHA] Cumulative invalid auto-generated legacy tokens used"),
];

impl Uses {
    fn note(&self, claims: &LegacyClaims) {
        self.pending.lock().insert((claims.namespace.clone(), claims.secret.clone()));
        self.more.notify_one();
    }

    fn count(&self, which: usize) {
        self.counts[which].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn metrics(&self, out: &mut String) {
        for ((name, help), count) in COUNTS.into_iter().zip(&self.counts) {
            head(out, name, "counter", help);
            let _ = writeln!(out, "{name} {}", count.load(Ordering::Relaxed));
        }
    }

    pub(super) async fn take(&self) -> BTreeSet<(String, String)> {
        loop {
            let pending = std::mem::take(&mut *self.pending.lock());
            if !pending.is_empty() {
                return pending;
            }
            self.more.notified().await;
        }
    }
}

fn day(now: i64) -> String {
    jiff::Timestamp::from_second(now).unwrap_or_default().strftime("%Y-%m-%d").to_string()
}

/// Writes the days of use. A write that fails is made up for by the next use.
pub(crate) async fn follow(server: Arc<ApiServer>) {
    loop {
        for (namespace, name) in server.authenticator.legacy_uses().take().await {
            let body = json!({ "metadata": { "labels": { LAST_USED: day(jiff::Timestamp::now().as_second()) } } });
            let request = http::Request::patch(format!("/api/v1/namespaces/{namespace}/secrets/{name}"))
                .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
                .header(http::header::USER_AGENT, "kube-apiserver/ferrokube")
                .body(Bytes::from(body.to_string()));
            let Ok(request) = request else { continue };
            let code = server.call(loopback_user(), request).await.status();
            if !code.is_success() {
                tracing::warn!(namespace, name, %code, "the last use of a service account token is not written down");
            }
        }
    }
}

/// The user of such a token; `None` when it is none. It has no audience: it is for the API server alone.
pub(super) fn identify(
    keys: &ServiceAccountTokens,
    objects: &dyn Objects,
    uses: &Uses,
    token: &str,
    audiences: &[String],
    now: i64,
) -> Option<Result<TokenIdentity, Rejected>> {
    let claims = match keys.verify_legacy(token) {
        Err(tokens::TokenError::ForeignIssuer | tokens::TokenError::Malformed) => return None,
        Err(why) => return Some(Err(Rejected(why.to_string()))),
        Ok(claims) => claims,
    };
    Some(check(objects, uses, &claims, token, now).and_then(|secret| {
        let own = keys.api_audiences();
        let meant: Vec<String> =
            if audiences.is_empty() { own.to_vec() } else { audiences.iter().filter(|a| own.contains(a)).cloned().collect() };
        if meant.is_empty() {
            return Err(Rejected("the token is for the API server only".to_owned()));
        }
        // Days written like this sort by time.
        if secret.label(LAST_USED).is_none_or(|last| last < day(now).as_str()) {
            uses.note(&claims);
        }
        let user = UserInfo { name: claims.sub, uid: claims.uid, groups: tokens::groups(&claims.namespace), ..UserInfo::default() };
        Ok(TokenIdentity { user, audiences: meant })
    }))
}

fn check(objects: &dyn Objects, uses: &Uses, claims: &LegacyClaims, token: &str, now: i64) -> Result<Arc<Object>, Rejected> {
    let reject = |why: &str| Rejected(format!("legacy service account token: {why}"));
    if claims.sub != tokens::username(&claims.namespace, &claims.account) {
        return Err(reject("subject and claims contradict each other"));
    }
    let secret = objects.get("", "secrets", &claims.namespace, &claims.secret).ok_or_else(|| reject("Token has been invalidated"))?;
    let stored: Value = secret.decode().map_err(|_| reject("unreadable secret"))?;
    let same = stored["data"]["token"].as_str().and_then(|t| STANDARD.decode(t).ok()).is_some_and(|t| t == token.as_bytes());
    if !same || !stored["metadata"]["deletionTimestamp"].is_null() {
        return Err(reject("Token does not match server's copy, or its secret is being deleted"));
    }
    let account = Reference { name: claims.account.clone(), uid: claims.uid.clone() };
    let owner = exists(objects, "serviceaccounts", &claims.namespace, &account, now)?;
    let listed = owner.decode::<Value>().ok().and_then(|owner| owner["secrets"].as_array().cloned()).unwrap_or_default();
    let automatic = listed.iter().any(|reference| reference["name"] == claims.secret.as_str());
    if secret.label(INVALID_SINCE).is_some_and(|since| !since.is_empty()) {
        if automatic {
            uses.count(3);
        }
        return Err(Rejected(format!(
            "the token in secret {}/{} for service account {}/{} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token",
            claims.namespace, claims.secret, claims.namespace, claims.account
        )));
    }
    uses.count(0);
    uses.count(if automatic { 1 } else { 2 });
    Ok(secret)
}
