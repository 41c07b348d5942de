//! The keys of an issuer: discovery document, key set, signatures.

use super::super::AuthnConfigError;
use super::B64;
use crate::outbound::Remote;
use arc_swap::ArcSwap;
use base64::Engine;
use parking_lot::Mutex;
use ring::signature as sig;
use serde::Deserialize;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long an issuer may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Between tries to discover an issuer that does not answer.
const RETRY: Duration = Duration::from_secs(10);
/// Keys are fetched anew at least this often...
const REFRESH: Duration = Duration::from_secs(3600);
/// ...and for unknown keys at most this often.
const AT_MOST: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: String,
    #[serde(default, rename = "use")]
    purpose: String,
    #[serde(default)]
    alg: String,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    P521(Vec<u8>),
}

struct Key {
    id: String,
    /// Empty: any that fits.
    algorithm: String,
    material: Material,
}

impl Key {
    fn read(value: &serde_json::Value) -> Option<Self> {
        let jwk = Jwk::deserialize(value).ok()?;
        if !jwk.purpose.is_empty() && jwk.purpose != "sig" {
            return None;
        }
        let bytes = |text: &str| B64.decode(text.trim_end_matches('=')).ok();
        let point = |size: usize| {
            let (x, y) = (bytes(&jwk.x)?, bytes(&jwk.y)?);
            if x.len() > size || y.len() > size {
                return None;
            }
            let mut point = vec![4];
            point.resize(1 + size - x.len(), 0);
            point.extend(x);
            point.resize(1 + 2 * size - y.len(), 0);
            point.extend(y);
            Some(point)
        };
        let material = match (jwk.kty.as_str(), jwk.crv.as_str()) {
            ("RSA", _) => Material::Rsa { n: bytes(&jwk.n)?, e: bytes(&jwk.e)? },
            ("EC", "P-256") => Material::P256(point(32)?),
            ("EC", "P-384") => Material::P384(point(48)?),
            ("EC", "P-521") => Material::P521(point(66)?),
            _ => return None,
        };
        Some(Key { id: jwk.kid, algorithm: jwk.alg, material })
    }

    fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        let rsa = |parameters: &'static sig::RsaParameters, n: &[u8], e: &[u8]| {
            sig::RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
        };
        let ec = |parameters: &'static sig::EcdsaVerificationAlgorithm, point: &[u8]| {
            sig::UnparsedPublicKey::new(parameters, point).verify(message, signature).is_ok()
        };
        match (algorithm, &self.material) {
            ("RS256", Material::Rsa { n, e }) => rsa(&sig::RSA_PKCS1_2048_8192_SHA256, n, e),
            ("RS384", Material::Rsa { n, e }) => rsa(&sig::RSA_PKCS1_2048_8192_SHA384, n, e),
            ("RS512", Material::Rsa { n, e }) => rsa(&sig::RSA_PKCS1_2048_8192_SHA512, n, e),
            ("PS256", Material::Rsa { n, e }) => rsa(&sig::RSA_PSS_2048_8192_SHA256, n, e),
            ("PS384", Material::Rsa { n, e }) => rsa(&sig::RSA_PSS_2048_8192_SHA384, n, e),
            ("PS512", Material::Rsa { n, e }) => rsa(&sig::RSA_PSS_2048_8192_SHA512, n, e),
            ("ES256", Material::P256(point)) => ec(&sig::ECDSA_P256_SHA256_FIXED, point),
            ("ES384", Material::P384(point)) => ec(&sig::ECDSA_P384_SHA384_FIXED, point),
            ("ES512", Material::P521(point)) => es512(point, message, signature),
            _ => false,
        }
    }
}

/// With the one curve that ring does not have.
fn es512(point: &[u8], message: &[u8], signature: &[u8]) -> bool {
    use p521::ecdsa::signature::Verifier;
    use p521::ecdsa::{Signature, VerifyingKey};
    match (VerifyingKey::from_sec1_bytes(point), Signature::from_slice(signature)) {
        (Ok(key), Ok(signature)) => key.verify(message, &signature).is_ok(),
        _ => false,
    }
}

#[derive(Default)]
struct Known {
    keys: Vec<Key>,
    /// Where the keys are; `None` before discovery.
    source: Option<Arc<Remote>>,
}

/// The keys of an issuer, kept current.
pub(super) struct KeySet {
    issuer: String,
    discovery: Remote,
    ca: String,
    known: ArcSwap<Known>,
    fetched: Mutex<Option<Instant>>,
}

impl KeySet {
    /// Begins to discover the keys.
    pub fn start(issuer: &str, discovery_url: &str, ca: &str) -> Result<Arc<Self>, AuthnConfigError> {
        let url = if discovery_url.is_empty() {
            format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
        } else {
            discovery_url.to_owned()
        };
        let fail = |e: crate::outbound::OutboundError| AuthnConfigError::Issuer { issuer: issuer.to_owned(), why: e.to_string() };
        let discovery = Remote::from_url(&url, ca).map_err(fail)?;
        let (issuer, ca) = (issuer.to_owned(), ca.to_owned());
        let keys = Arc::new(KeySet { issuer, discovery, ca, known: ArcSwap::default(), fetched: Mutex::new(None) });
        tokio::spawn(keep(Arc::downgrade(&keys)));
        Ok(keys)
    }

    async fn discover(&self) -> Result<Arc<Remote>, String> {
        let document = self.discovery.get(TIMEOUT).await.map_err(|e| e.to_string())?;
        let document: Discovery = serde_json::from_slice(&document).map_err(|e| format!("unreadable discovery document: {e}"))?;
        if document.issuer != self.issuer {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {:?}",
                self.issuer, document.issuer
            ));
        }
        Remote::from_url(&document.jwks_uri, &self.ca).map(Arc::new).map_err(|e| e.to_string())
    }

    async fn fetch(&self) -> Result<(), String> {
        let known = self.known.load().source.clone();
        let source = match known {
            Some(source) => source,
            None => self.discover().await?,
        };
        let body = source.get(TIMEOUT).await.map_err(|e| e.to_string())?;
        let jwks: Jwks = serde_json::from_slice(&body).map_err(|e| format!("unreadable key set: {e}"))?;
        // Keys of kinds that nobody here verifies are no reason to do without the others.
        let keys = jwks.keys.iter().filter_map(Key::read).collect();
        self.known.store(Arc::new(Known { keys, source: Some(source) }));
        Ok(())
    }

    fn find(&self, algorithm: &str, kid: &str, message: &[u8], signature: &[u8]) -> Option<bool> {
        let known = self.known.load();
        let mut fitting = known
            .keys
            .iter()
            .filter(|k| (kid.is_empty() || k.id == kid) && (k.algorithm.is_empty() || k.algorithm == algorithm))
            .peekable();
        fitting.peek()?;
        Some(fitting.any(|k| k.verify(algorithm, message, signature)))
    }

    /// Whether it may be asked again; then this is the asking.
    fn may_fetch(&self) -> bool {
        let mut fetched = self.fetched.lock();
        let may = fetched.is_none_or(|at| at.elapsed() >= AT_MOST);
        if may {
            *fetched = Some(Instant::now());
        }
        may
    }

    /// Checks a signature; a key that is not known may be new.
    pub async fn verify(&self, algorithm: &str, kid: &str, message: &[u8], signature: &[u8]) -> Result<(), String> {
        let mut found = self.find(algorithm, kid, message, signature);
        if found != Some(true) && self.may_fetch() {
            if let Err(why) = self.fetch().await {
                tracing::warn!(issuer = self.issuer, why, "keys of an issuer cannot be fetched");
            }
            found = self.find(algorithm, kid, message, signature);
        }
        match found {
            Some(true) => Ok(()),
            _ if self.known.load().source.is_none() => Err("authenticator not initialized".to_owned()),
            _ => Err("failed to verify signature: failed to verify id token signature".to_owned()),
        }
    }
}

async fn keep(keys: Weak<KeySet>) {
    loop {
        let Some(held) = keys.upgrade() else { return };
        let fetched = held.fetch().await;
        if let Err(why) = &fetched {
            tracing::warn!(issuer = held.issuer, why, "keys of an issuer cannot be fetched");
        }
        drop(held);
        tokio::time::sleep(if fetched.is_ok() { REFRESH } else { RETRY }).await;
    }
}
