//! Tokens in Secrets of type `kubernetes.io/service-account-token`: without end, they live as long as their Secret does.
//!
//! Source: `pkg/serviceaccount/legacy.go`.

use super::service_account::exists;
use super::{Rejected, TokenIdentity};
use crate::attributes::UserInfo;
use crate::objects::Objects;
use crate::tokens::{self, LegacyClaims, Reference, ServiceAccountTokens};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The user of such a token; `None` when it is none. It has no audience: it is for the API server alone.
pub(super) fn identify(
    keys: &ServiceAccountTokens,
    objects: &dyn Objects,
    token: &str,
    audiences: &[String],
    now: i64,
) -> Option<Result<TokenIdentity, Rejected>> {
    let claims = match keys.verify_legacy(token) {
        Err(tokens::TokenError::ForeignIssuer | tokens::TokenError::Malformed) => return None,
        Err(why) => return Some(Err(Rejected(why.to_string()))),
        Ok(claims) => claims,
    };
    Some(check(objects, &claims, token, now).and_then(|()| {
        let own = keys.api_audiences();
        let meant: Vec<String> =
            if audiences.is_empty() { own.to_vec() } else { audiences.iter().filter(|a| own.contains(a)).cloned().collect() };
        if meant.is_empty() {
            return Err(Rejected("the token is for the API server only".to_owned()));
        }
        let user = UserInfo { name: claims.sub, uid: claims.uid, groups: tokens::groups(&claims.namespace), ..UserInfo::default() };
        Ok(TokenIdentity { user, audiences: meant })
    }))
}

fn check(objects: &dyn Objects, claims: &LegacyClaims, token: &str, now: i64) -> Result<(), Rejected> {
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
    exists(objects, "serviceaccounts", &claims.namespace, &account, now)
}
