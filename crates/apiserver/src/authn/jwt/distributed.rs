//! Distributed claims (OpenID Connect Core 5.6.2): an issuer with too many groups for a token says where they are to be had, as a token
//! of whoever knows them.
//!
//! Only the claim that groups are mapped from is looked for elsewhere, as upstream does it, and only when the token itself does not have
//! it. Where to look is said by a token whose signature has been checked.

use super::keys::KeySet;
use super::{Issuer, Source, decoded};
use crate::authn::Rejected;
use crate::outbound::Remote;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a source may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Other issuers whose keys are kept at most; a provider has one or two.
const MOST: usize = 16;

/// Keys of other issuers, by their URL.
#[derive(Default)]
pub(super) struct Sources(Mutex<HashMap<String, Arc<KeySet>>>);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    endpoint: String,
    access_token: String,
}

fn fail<T>(why: impl std::fmt::Display) -> Result<T, Rejected> {
    Err(Rejected(format!("oidc: could not expand distributed claims: {why}")))
}

/// Where a claim is to be had; `None` when nobody says so.
fn place(claims: &Value, claim: &str) -> Result<Option<Endpoint>, Rejected> {
    if claims.get(claim).is_some() {
        return Ok(None);
    }
    let Some(names) = claims.get("_claim_names") else { return Ok(None) };
    let names: HashMap<String, String> = match Deserialize::deserialize(names) {
        Ok(names) => names,
        Err(error) => return fail(format_args!("oidc: error parsing distributed claim names: {error}")),
    };
    let (Some(source), Some(sources)) = (names.get(claim), claims.get("_claim_sources")) else { return Ok(None) };
    let mut sources: HashMap<String, Endpoint> = match Deserialize::deserialize(sources) {
        Ok(sources) => sources,
        Err(error) => return fail(format_args!("oidc: error parsing distributed claim sources: {error}")),
    };
    match sources.remove(source) {
        // One with the claim in it (aggregated) is not read.
        Some(endpoint) => Ok((!endpoint.endpoint.is_empty()).then_some(endpoint)),
        None => fail(format_args!("id token _claim_names contained a source {source} missing in _claims_sources")),
    }
}

impl Issuer {
    /// The claims with what others say in them; `None` when that is nothing.
    pub(super) async fn expand(&self, claims: &Value, now: i64) -> Result<Option<Value>, Rejected> {
        let Some(Source::Claim { name, .. }) = &self.config.mapping.groups else { return Ok(None) };
        let Some(endpoint) = place(claims, name)? else { return Ok(None) };
        let token = match self.fetch(&endpoint).await {
            Ok(token) => token,
            Err(error) => return fail(format_args!("while getting distributed claim {name:?}: {error}")),
        };
        let theirs: Value = match token.split('.').nth(1).and_then(decoded) {
            Some(theirs) => theirs,
            None => {
                let url = &endpoint.endpoint;
                return fail(format_args!("getting untrusted issuer from endpoint {url} failed for claim {name:?}: malformed jwt"));
            }
        };
        let keys = self.keys_of(theirs["iss"].as_str().unwrap_or_default())?;
        if let Err(Rejected(why)) = self.verify(&keys, &token, &theirs, now).await {
            return fail(format_args!("verify distributed claim token: {why}"));
        }
        let Some(value) = theirs.get(name) else {
            let url = &endpoint.endpoint;
            return fail(format_args!("jwt returned by distributed claim endpoint {url:?} did not contain claim: {name}"));
        };
        let mut claims = claims.clone();
        claims[name] = value.clone();
        Ok(Some(claims))
    }

    async fn fetch(&self, endpoint: &Endpoint) -> Result<String, String> {
        let remote = Remote::from_url(&endpoint.endpoint, &self.config.ca).map_err(|e| e.to_string())?;
        let remote = if endpoint.access_token.is_empty() { remote } else { remote.with_token(&endpoint.access_token)? };
        let body = remote.get(TIMEOUT).await.map_err(|e| format!("error while getting distributed claim JWT: {e}"))?;
        String::from_utf8(body.into()).map(|token| token.trim().to_owned()).map_err(|e| e.to_string())
    }

    fn keys_of(&self, issuer: &str) -> Result<Arc<KeySet>, Rejected> {
        if issuer == self.config.issuer {
            return Ok(self.keys.clone());
        }
        let mut sources = self.sources.0.lock();
        if let Some(keys) = sources.get(issuer) {
            return Ok(keys.clone());
        }
        if sources.len() >= MOST {
            return fail(format_args!("too many issuers of distributed claims: {issuer:?}"));
        }
        let keys = match KeySet::start(issuer, "", &self.config.ca) {
            Ok(keys) => keys,
            Err(error) => return fail(format_args!("verifier for issuer {issuer:?}: {error}")),
        };
        sources.insert(issuer.to_owned(), keys.clone());
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_is_looked_for_where_the_token_says_and_only_when_it_is_missing() {
        let sources = json!({"a": {"endpoint": "https://a", "access_token": "t"}, "b": {"JWT": "x.y.z"}});
        let claims = |names: Value| json!({"_claim_names": names, "_claim_sources": sources});
        let at = |claims: &Value| place(claims, "groups").map(|e| e.map(|e| (e.endpoint, e.access_token))).map_err(|r| r.0);
        assert_eq!(at(&claims(json!({"groups": "a"}))), Ok(Some(("https://a".to_owned(), "t".to_owned()))));
        assert_eq!(at(&json!({})), Ok(None));
        assert_eq!(at(&claims(json!({"roles": "a"}))), Ok(None));
        assert_eq!(at(&claims(json!({"groups": "b"}))), Ok(None), "what is in the token already is another thing");
        let mut own = claims(json!({"groups": "a"}));
        own["groups"] = json!([]);
        assert_eq!(at(&own), Ok(None));
        assert!(at(&claims(json!({"groups": "c"}))).is_err_and(|why| why.contains("missing in _claims_sources")));
        assert!(at(&claims(json!("groups"))).is_err());
    }
}
