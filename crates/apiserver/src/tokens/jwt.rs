//! The JWT itself: three base64url parts, and the claims of a bound service-account token.

use super::TokenError;
use super::keys::{PublicKey, SigningKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// Name and uid of an object a token speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid` at the time of issue; empty when the object did not exist (a pod's node).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    /// Namespace of the service account.
    pub namespace: String,
    /// Node that the token, or its pod, is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// Pod that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// Secret that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The service account.
    pub serviceaccount: Reference,
    /// Seconds since the epoch after which use of the token is reported as stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Audiences.
    #[serde(deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// End of life, seconds since the epoch.
    pub exp: i64,
    /// Time of issue.
    #[serde(default)]
    pub iat: i64,
    /// Issuer.
    pub iss: String,
    /// Identity of the token.
    #[serde(default)]
    pub jti: String,
    /// What Kubernetes needs.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Kubernetes,
    /// Not valid before.
    #[serde(default)]
    pub nbf: i64,
    /// User name.
    pub sub: String,
}

/// What a token in a Secret says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyClaims {
    /// User name.
    pub sub: String,
    /// Namespace of the service account and of the Secret.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    /// The Secret.
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    /// The service account.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    /// Its uid.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub uid: String,
}

/// `aud` may be a string when there is only one.
fn one_or_many<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Either::deserialize(d)? {
        Either::One(one) => vec![one],
        Either::Many(many) => many,
    })
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

pub(super) fn sign(key: &SigningKey, claims: &impl Serialize) -> String {
    let header = serde_json::json!({ "alg": key.public().algorithm(), "kid": key.public().id() });
    let body = serde_json::to_vec(claims).expect("claims hold only strings and numbers");
    let mut token = format!("{}.{}", B64.encode(header.to_string()), B64.encode(body));
    let signature = key.sign(token.as_bytes());
    token.push('.');
    token.push_str(&B64.encode(signature));
    token
}

/// Checks the signature and the issuer. The issuer is looked at first, so that tokens of others cost no signature check.
pub(super) fn verify<C: DeserializeOwned>(token: &str, issuer: &str, keys: &[PublicKey]) -> Result<C, TokenError> {
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, body) = message.split_once('.').ok_or(TokenError::Malformed)?;
    let decode = |part: &str| B64.decode(part).map_err(|_| TokenError::Malformed);
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
    let body = decode(body)?;
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let said: Issuer = serde_json::from_slice(&body).map_err(|_| TokenError::Malformed)?;
    if said.iss != issuer {
        return Err(TokenError::ForeignIssuer);
    }
    let signature = decode(signature)?;
    // The algorithm comes from the key, never from the header alone: a header cannot talk us into another scheme.
    let mut candidates = keys.iter().filter(|k| k.algorithm() == header.alg && (header.kid.is_empty() || k.id() == header.kid));
    if !candidates.any(|k| k.verify(message.as_bytes(), &signature)) {
        return Err(TokenError::BadSignature);
    }
    serde_json::from_slice(&body).map_err(|_| TokenError::Malformed)
}
