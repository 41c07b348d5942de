//! Service-account tokens as credentials: the claims must hold, and so must the objects they speak of.
//!
//! Checking a signature is the expensive part and its result never changes: it is remembered by the token's digest.
//! Whether account, pod, secret and node still exist is asked anew at each request, so that a token dies with them.

use super::{Rejected, TokenIdentity};
use crate::attributes::UserInfo;
use crate::objects::Objects;
use crate::server::metrics::head;
use crate::tokens::{self, Claims, Reference, ServiceAccountTokens};
use ferrokube_api::Object;
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tokens remembered at most; when full, those that end first go.
const REMEMBERED: usize = 4096;
/// Seconds for which an object may be on its way out and still vouch for its tokens.
const LEEWAY: i64 = 60;
const EXTRA_PREFIX: &str = "authentication.kubernetes.io/";

type Digest = [u8; 32];

/// Tokens whose signature was verified.
#[derive(Default)]
pub(super) struct VerifiedTokens {
    claims: Mutex<HashMap<Digest, Claims>>,
    /// Used in time, and used after they should have been renewed.
    uses: [AtomicU64; 2],
}

impl VerifiedTokens {
    pub(super) fn identify(
        &self,
        keys: &ServiceAccountTokens,
        objects: &dyn Objects,
        token: &str,
        audiences: &[String],
        now: i64,
    ) -> Result<TokenIdentity, Rejected> {
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let digest: Digest = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
        let known = self.claims.lock().get(&digest).cloned();
        let reject = |e: tokens::TokenError| Rejected(e.to_string());
        let verified = match known {
            Some(claims) => keys.check(claims, audiences, now).map_err(reject)?,
            None => {
                let verified = keys.verify(token, audiences, now).map_err(reject)?;
                self.remember(digest, verified.claims.clone(), now);
                verified
            }
        };
        check_objects(objects, &verified.claims, now)?;
        let stale = verified.claims.kubernetes.warnafter.is_some_and(|at| at > 0 && now > at);
        self.uses[usize::from(stale)].fetch_add(1, Ordering::Relaxed);
        Ok(TokenIdentity { user: user(&verified.claims), audiences: verified.audiences })
    }

    pub(super) fn metrics(&self, out: &mut String) {
        let names = ["serviceaccount_valid_tokens_total", "serviceaccount_stale_tokens_total"];
        let helps = [
            "[ALPHA] Cumulative valid projected service account tokens used",
            "[ALPHA] Cumulative stale projected service account tokens used",
        ];
        for ((name, help), uses) in names.into_iter().zip(helps).zip(&self.uses) {
            head(out, name, "counter", help);
            let _ = writeln!(out, "{name} {}", uses.load(Ordering::Relaxed));
        }
    }

    fn remember(&self, digest: Digest, claims: Claims, now: i64) {
        let mut known = self.claims.lock();
        if known.len() >= REMEMBERED {
            known.retain(|_, c| c.exp > now);
        }
        if known.len() >= REMEMBERED {
            let mut ends: Vec<i64> = known.values().map(|c| c.exp).collect();
            let middle = *ends.select_nth_unstable(REMEMBERED / 2).1;
            known.retain(|_, c| c.exp > middle);
        }
        known.insert(digest, claims);
    }
}

fn check_objects(objects: &dyn Objects, claims: &Claims, now: i64) -> Result<(), Rejected> {
    let k = &claims.kubernetes;
    if claims.sub != tokens::username(&k.namespace, &k.serviceaccount.name) {
        return Err(Rejected("subject and kubernetes.io claims contradict each other".into()));
    }
    exists(objects, "serviceaccounts", &k.namespace, &k.serviceaccount, now)?;
    if let Some(secret) = &k.secret {
        exists(objects, "secrets", &k.namespace, secret, now)?;
    }
    if let Some(pod) = &k.pod {
        exists(objects, "pods", &k.namespace, pod, now)?;
    }
    // The node of a pod is information; a token bound to the node itself dies with it.
    if let (Some(node), None) = (&k.node, &k.pod) {
        exists(objects, "nodes", "", node, now)?;
    }
    Ok(())
}

pub(super) fn exists(
    objects: &dyn Objects,
    resource: &str,
    namespace: &str,
    reference: &Reference,
    now: i64,
) -> Result<Arc<Object>, Rejected> {
    let Some(object) = objects.get("", resource, namespace, &reference.name) else {
        return Err(gone(resource, || format!("{resource} {:?} not found", reference.name)));
    };
    if *object.uid != reference.uid {
        return Err(Rejected(another(resource, &object.uid, &reference.uid)));
    }
    if being_deleted(&object).is_some_and(|at| at < now - LEEWAY) {
        return Err(gone(resource, || format!("service account {namespace}/{} has been deleted", reference.name)));
    }
    Ok(object)
}

/// Of what a token is bound to nothing is told, of the account itself what became of it.
fn gone(resource: &str, account: impl FnOnce() -> String) -> Rejected {
    Rejected(if resource == "serviceaccounts" { account() } else { "service account token has been invalidated".to_owned() })
}

fn another(resource: &str, there: &str, claimed: &str) -> String {
    match resource.strip_suffix('s') {
        Some(kind) if kind != "serviceaccount" => {
            format!("{kind} UID ({there}) does not match service account {kind} ref claim ({claimed})")
        }
        _ => format!("service account UID ({there}) does not match claim ({claimed})"),
    }
}

/// `metadata.deletionTimestamp` in seconds. The bytes are searched before they are parsed: most objects are not being deleted.
fn being_deleted(object: &Object) -> Option<i64> {
    #[derive(Deserialize)]
    struct Outer {
        metadata: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        #[serde(rename = "deletionTimestamp")]
        at: Option<String>,
    }
    if !object.mentions(b"\"deletionTimestamp\"") {
        return None;
    }
    let at = object.decode::<Outer>().ok()?.metadata.at?;
    at.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

fn user(claims: &Claims) -> UserInfo {
    let k = &claims.kubernetes;
    let mut extra = BTreeMap::new();
    let mut put = |key: &str, value: String| {
        if !value.is_empty() {
            extra.insert(format!("{EXTRA_PREFIX}{key}"), vec![value]);
        }
    };
    if !claims.jti.is_empty() {
        put("credential-id", format!("JTI={}", claims.jti));
    }
    if let Some(pod) = &k.pod {
        put("pod-name", pod.name.clone());
        put("pod-uid", pod.uid.clone());
    }
    if let Some(node) = &k.node {
        put("node-name", node.name.clone());
        put("node-uid", node.uid.clone());
    }
    UserInfo { name: claims.sub.clone(), uid: k.serviceaccount.uid.clone(), groups: tokens::groups(&k.namespace), extra }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_an_account_is_told_and_of_other_objects_only_that_the_token_is_over() {
        let missing = |resource| gone(resource, || "serviceaccounts \"s\" not found".to_owned()).0;
        assert_eq!(missing("serviceaccounts"), "serviceaccounts \"s\" not found");
        assert_eq!(missing("pods"), "service account token has been invalidated");
        assert_eq!(another("serviceaccounts", "new", "old"), "service account UID (new) does not match claim (old)");
        assert_eq!(another("secrets", "new", "old"), "secret UID (new) does not match service account secret ref claim (old)");
    }
}
