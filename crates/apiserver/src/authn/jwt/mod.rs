//! Tokens of OpenID providers: structured authentication, and the `--oidc-*` flags, which are one issuer of it.
//!
//! An issuer's keys are discovered in the background and fetched anew when a token names one that is not known. Nothing
//! of a token counts before its signature was checked. Source: KEP-3331, `plugin/pkg/authenticator/token/oidc`.

mod claims;
mod distributed;
mod expressions;
mod keys;

pub use claims::{Mapping, Rule, Source};
pub use expressions::{Expression, Subject, Wanted};

use super::{AuthnConfigError, Rejected};
use crate::attributes::UserInfo;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use keys::KeySet;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// Seconds for which an accepted token is remembered.
const REMEMBERED: i64 = 10;
/// Tokens remembered at most.
const MOST: usize = 4096;

/// One issuer and what its tokens must be like.
#[derive(Clone, Debug)]
pub struct JwtConfig {
    /// `iss`, and where discovery starts unless `discovery_url` says otherwise.
    pub issuer: String,
    /// The discovery document, when it is elsewhere.
    pub discovery_url: String,
    /// CAs of the issuer in PEM; empty: those that the system trusts.
    pub ca: String,
    /// A token must be for one of these.
    pub audiences: Vec<String>,
    /// Accepted `alg`s.
    pub algorithms: Vec<String>,
    /// What else must hold of the claims.
    pub rules: Vec<Rule>,
    /// From claims to a user.
    pub mapping: Mapping,
    /// What must hold of the user.
    pub user_rules: Vec<Expression>,
}

/// The algorithms of structured authentication.
pub const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"];

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// One issuer at work.
struct Issuer {
    config: JwtConfig,
    keys: Arc<KeySet>,
    /// Who else speaks for its users.
    sources: distributed::Sources,
}

/// All issuers.
#[derive(Default)]
pub(super) struct JwtAuthenticator {
    issuers: Vec<Issuer>,
    accepted: Mutex<HashMap<[u8; 32], (UserInfo, i64)>>,
}

fn digest(token: &str) -> [u8; 32] {
    ring::digest::digest(&ring::digest::SHA256, token.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn decoded<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&B64.decode(part).ok()?).ok()
}

impl JwtAuthenticator {
    /// Begins to discover the issuers' keys.
    pub fn start(configs: Vec<JwtConfig>) -> Result<Self, AuthnConfigError> {
        let issuer = |config: JwtConfig| {
            let keys = KeySet::start(&config.issuer, &config.discovery_url, &config.ca)?;
            Ok(Issuer { config, keys, sources: distributed::Sources::default() })
        };
        Ok(JwtAuthenticator {
            issuers: configs.into_iter().map(issuer).collect::<Result<_, AuthnConfigError>>()?,
            accepted: Mutex::default(),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// The user of a token; `None` when it is not of any issuer here.
    pub async fn identify(&self, token: &str, now: i64) -> Option<Result<UserInfo, Rejected>> {
        let (head, _) = token.rsplit_once('.')?;
        let (_, body) = head.split_once('.')?;
        let claims: Value = decoded(body)?;
        let issuer = self.issuers.iter().find(|i| claims["iss"] == i.config.issuer.as_str())?;
        let digest = digest(token);
        let known = self.accepted.lock().get(&digest).filter(|(_, until)| now < *until).map(|(user, _)| user.clone());
        if let Some(user) = known {
            return Some(Ok(user));
        }
        let identified = issuer.identify(token, &claims, now).await;
        if let Ok(user) = &identified {
            let until = (now + REMEMBERED).min(claims["exp"].as_i64().unwrap_or(now));
            self.remember(digest, user.clone(), until, now);
        }
        Some(identified)
    }

    fn remember(&self, digest: [u8; 32], user: UserInfo, until: i64, now: i64) {
        let mut accepted = self.accepted.lock();
        if accepted.len() >= MOST {
            accepted.retain(|_, (_, until)| now < *until);
        }
        if accepted.len() < MOST {
            accepted.insert(digest, (user, until));
        }
    }
}

impl Issuer {
    /// `claims` are those of the token, not yet to be believed.
    async fn identify(&self, token: &str, claims: &Value, now: i64) -> Result<UserInfo, Rejected> {
        self.verify(&self.keys, token, claims, now).await?;
        let expanded = self.expand(claims, now).await?;
        let claims = expanded.as_ref().unwrap_or(claims);
        claims::check(&self.config.rules, claims).map_err(Rejected)?;
        let user = self.config.mapping.user(claims).map_err(Rejected)?;
        self.config.user_rules.iter().try_for_each(|rule| rule.check_user(&user)).map_err(Rejected)?;
        Ok(user)
    }

    /// Signature, time and audience.
    async fn verify(&self, keys: &KeySet, token: &str, claims: &Value, now: i64) -> Result<(), Rejected> {
        let reject = |why: &str| Rejected(format!("oidc: {why}"));
        let (message, signature) = token.rsplit_once('.').ok_or_else(|| reject("malformed jwt"))?;
        let header: Header = message.split_once('.').and_then(|(h, _)| decoded(h)).ok_or_else(|| reject("malformed jwt"))?;
        if !self.config.algorithms.contains(&header.alg) {
            return Err(reject(&format!(
                "verify token: oidc: id token signed with unsupported algorithm, expected {:?} got {:?}",
                self.config.algorithms, header.alg
            )));
        }
        let signature = B64.decode(signature).map_err(|_| reject("malformed jwt"))?;
        keys.verify(&header.alg, &header.kid, message.as_bytes(), &signature).await.map_err(|why| reject(&why))?;
        self.check(claims, now)
    }

    /// Time and audience.
    fn check(&self, claims: &Value, now: i64) -> Result<(), Rejected> {
        let reject = |why: String| Err(Rejected(format!("oidc: verify token: {why}")));
        let time = |name: &str| claims[name].as_f64().map(|t| t as i64);
        match time("exp") {
            Some(end) if now < end => {}
            Some(end) => return reject(format!("token is expired (Token Expiry: {end})")),
            None => return reject("token has no expiry".to_owned()),
        }
        if time("nbf").is_some_and(|start| now + 300 < start) {
            return reject("current time is before the nbf (not before) time".to_owned());
        }
        let meant = match &claims["aud"] {
            Value::String(one) => self.config.audiences.contains(one),
            Value::Array(many) => many.iter().filter_map(Value::as_str).any(|a| self.config.audiences.iter().any(|own| own == a)),
            _ => false,
        };
        if meant { Ok(()) } else { reject(format!("expected audience in {:?} got {}", self.config.audiences, claims["aud"])) }
    }
}
