//! Service-account tokens: issue them for `serviceaccounts/token`, verify them for authentication, publish the keys.
//!
//! A token is a JWT signed with the cluster's service-account key (ES256 or RS256). Only signatures and claims are
//! judged here; whether the objects a token is bound to still exist is asked by `authn` at each request, so that a
//! deleted pod's token dies with the pod. Source of the rules: KEP-1205, `pkg/serviceaccount`.

mod jwt;
mod keys;
mod request;

pub use jwt::{Claims, Kubernetes, LegacyClaims, Reference};
pub use keys::KeyError;
pub use request::default_request;

use keys::{PublicKey, SigningKey};

/// `iss` of tokens in Secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// Group prefix and user prefix of service accounts.
const USER_PREFIX: &str = "system:serviceaccount:";

/// How tokens are issued and accepted.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// `iss` of new tokens: `--service-account-issuer`.
    pub issuer: String,
    /// Audiences that mean this API server: `--api-audiences`; the issuer when empty.
    pub api_audiences: Vec<String>,
    /// The private key in PEM (PKCS#8, SEC 1 or PKCS#1): `--service-account-signing-key-file`.
    pub signing_key: String,
    /// Further public (or private) keys in PEM that are accepted: `--service-account-key-file`. The signing key always is.
    pub verify_keys: Vec<String>,
    /// Whether tokens of 3607 s bound to pods live a year and only warn: `--service-account-extend-token-expiration`.
    pub extend_expiration: bool,
    /// `--service-account-max-token-expiration` in seconds; 0 is no limit.
    pub max_expiration_seconds: i64,
}

/// Issues and verifies.
pub struct ServiceAccountTokens {
    issuer: String,
    api_audiences: Vec<String>,
    signing: SigningKey,
    accepted: Vec<PublicKey>,
    extend_expiration: bool,
    max_expiration_seconds: i64,
}

/// A token whose signature, time and audience hold.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What it says.
    pub claims: Claims,
    /// Those of the wanted audiences that it is for.
    pub audiences: Vec<String>,
}

/// Why a token is not accepted. For the log, never for the client.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TokenError {
    #[error("not a JSON web token")]
    Malformed,
    #[error("issued by somebody else")]
    ForeignIssuer,
    #[error("signature does not match any service-account key")]
    BadSignature,
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYet,
    #[error("token audiences {have:?} is invalid for the target audiences {want:?}")]
    Audience { have: Vec<String>, want: Vec<String> },
}

impl ServiceAccountTokens {
    /// Reads the keys.
    pub fn new(config: TokenConfig) -> Result<Self, KeyError> {
        let signing = SigningKey::from_pem(&config.signing_key)?;
        let mut accepted = vec![signing.public().clone()];
        for pem in &config.verify_keys {
            for key in keys::public_keys(pem)? {
                if accepted.iter().all(|k| k.id() != key.id()) {
                    accepted.push(key);
                }
            }
        }
        let api_audiences = if config.api_audiences.is_empty() { vec![config.issuer.clone()] } else { config.api_audiences };
        Ok(ServiceAccountTokens {
            issuer: config.issuer,
            api_audiences,
            signing,
            accepted,
            extend_expiration: config.extend_expiration,
            max_expiration_seconds: config.max_expiration_seconds,
        })
    }

    /// Audiences that mean this API server.
    pub fn api_audiences(&self) -> &[String] {
        &self.api_audiences
    }

    /// Signs claims. The issuer is the configured one whatever the claims say.
    pub fn sign(&self, mut claims: Claims) -> String {
        claims.iss.clone_from(&self.issuer);
        jwt::sign(&self.signing, &claims)
    }

    /// Checks signature, issuer, time and audience. `now` in seconds since the epoch; an empty `audiences` means the API server's.
    pub fn verify(&self, token: &str, audiences: &[String], now: i64) -> Result<Verified, TokenError> {
        let claims: Claims = jwt::verify(token, &self.issuer, &self.accepted)?;
        self.check(claims, audiences, now)
    }

    /// Checks the signature of a token that lives in a Secret.
    pub fn verify_legacy(&self, token: &str) -> Result<LegacyClaims, TokenError> {
        jwt::verify(token, LEGACY_ISSUER, &self.accepted)
    }

    /// Checks time and audience of claims whose signature was verified before.
    pub fn check(&self, claims: Claims, audiences: &[String], now: i64) -> Result<Verified, TokenError> {
        if now >= claims.exp {
            return Err(TokenError::Expired);
        }
        if now < claims.nbf {
            return Err(TokenError::NotYet);
        }
        let want = if audiences.is_empty() { &self.api_audiences } else { audiences };
        let both: Vec<String> = want.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if both.is_empty() {
            return Err(TokenError::Audience { have: claims.aud, want: want.to_vec() });
        }
        Ok(Verified { claims, audiences: both })
    }

    /// The document at `/.well-known/openid-configuration`. `jwks_uri` is the external address of `/openid/v1/jwks`.
    pub fn openid_configuration(&self, jwks_uri: &str) -> String {
        let mut algorithms: Vec<&str> = self.accepted.iter().map(PublicKey::algorithm).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        serde_json::json!({
            "issuer": self.issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
        .to_string()
    }

    /// The document at `/openid/v1/jwks`.
    pub fn jwks(&self) -> String {
        let keys: Vec<_> = self.accepted.iter().map(PublicKey::jwk).collect();
        serde_json::json!({ "keys": keys }).to_string()
    }
}

/// Signs claims as they are: tokens that live in Secrets, which the tokens controller makes.
pub struct Signer(SigningKey);

impl Signer {
    /// Reads the private key in PEM.
    pub fn new(pem: &str) -> Result<Self, KeyError> {
        SigningKey::from_pem(pem).map(Signer)
    }

    /// The token of these claims.
    pub fn sign(&self, claims: &serde_json::Value) -> String {
        jwt::sign(&self.0, claims)
    }
}

/// `(namespace, name)` of a service account's user name.
pub fn split_username(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix(USER_PREFIX)?.split_once(':')
}

/// The user name of a service account.
pub fn username(namespace: &str, name: &str) -> String {
    format!("{USER_PREFIX}{namespace}:{name}")
}

/// The groups of a service account, `system:authenticated` not included.
pub fn groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

#[cfg(test)]
mod tests;
