//! Keys of service-account tokens: PEM files in, ring keys and JWKs out.
//!
//! A key's id is the SHA-256 of its SubjectPublicKeyInfo, base64url, as the Go server computes it: tokens survive a
//! change of implementation.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use ring::rand::SystemRandom;
use ring::signature::{self as sig, EcdsaKeyPair, KeyPair, RsaKeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey as Parsed;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum KeyError {
    #[error("no PEM block with a private key")]
    NoPrivateKey,
    #[error("no PEM block with a public or private key")]
    NoKey,
    #[error("the private key is neither ECDSA P-256 nor RSA of 2048 bits or more: {0}")]
    Unusable(String),
    #[error("the public key is neither ECDSA P-256 nor RSA")]
    UnusablePublic,
}

enum Private {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// The key that signs.
pub(super) struct SigningKey {
    private: Private,
    public: PublicKey,
}

#[derive(Clone, Debug)]
enum Material {
    /// Uncompressed point, 65 bytes.
    Ec(Vec<u8>),
    /// Modulus and exponent, big endian.
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

/// A key that verifies.
#[derive(Clone, Debug)]
pub(super) struct PublicKey {
    id: String,
    material: Material,
}

/// DER of a tag with its length and content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        n @ 0..=0x7f => out.push(n as u8),
        n @ 0x80..=0xff => out.extend([0x81, n as u8]),
        n => out.extend([0x82, (n >> 8) as u8, n as u8]),
    }
    out.extend_from_slice(content);
    out
}

/// SubjectPublicKeyInfo of an algorithm identifier's content and the key bits.
fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let mut bits = vec![0];
    bits.extend_from_slice(key);
    let mut body = der(0x30, algorithm);
    body.extend(der(0x03, &bits));
    der(0x30, &body)
}

/// OIDs id-ecPublicKey and prime256v1.
const EC_P256: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// OID rsaEncryption and NULL.
const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

impl SigningKey {
    pub(super) fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::NoPrivateKey)?;
        let private = match &key {
            PrivateKeyDer::Pkcs8(k) => {
                ec_from_pkcs8(k.secret_pkcs8_der()).or_else(|_| rsa(RsaKeyPair::from_pkcs8(k.secret_pkcs8_der())))?
            }
            PrivateKeyDer::Sec1(k) => ec_from_pkcs8(&pkcs8_of_sec1(k.secret_sec1_der()))?,
            PrivateKeyDer::Pkcs1(k) => rsa(RsaKeyPair::from_der(k.secret_pkcs1_der()))?,
            _ => return Err(KeyError::NoPrivateKey),
        };
        let info = match &private {
            Private::Ec(k) => spki(EC_P256, k.public_key().as_ref()),
            Private::Rsa(k) => spki(RSA, k.public_key().as_ref()),
        };
        Ok(SigningKey { private, public: PublicKey::from_spki(&info)? })
    }

    pub(super) fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.private {
            Private::Ec(k) => k.sign(&random, message).expect("the system's random source works").as_ref().to_vec(),
            Private::Rsa(k) => {
                let mut out = vec![0; k.public().modulus_len()];
                k.sign(&sig::RSA_PKCS1_SHA256, &random, message, &mut out).expect("the buffer has the length of the modulus");
                out
            }
        }
    }
}

fn ec_from_pkcs8(der: &[u8]) -> Result<Private, KeyError> {
    EcdsaKeyPair::from_pkcs8(&sig::ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new())
        .map(Private::Ec)
        .map_err(|e| KeyError::Unusable(e.to_string()))
}

fn rsa(key: Result<RsaKeyPair, ring::error::KeyRejected>) -> Result<Private, KeyError> {
    key.map(Private::Rsa).map_err(|e| KeyError::Unusable(e.to_string()))
}

/// Wraps an `EC PRIVATE KEY` into PKCS#8, which is all that ring reads.
fn pkcs8_of_sec1(sec1: &[u8]) -> Vec<u8> {
    let mut body = vec![0x02, 0x01, 0x00];
    body.extend(der(0x30, EC_P256));
    body.extend(der(0x04, sec1));
    der(0x30, &body)
}

/// All keys of a PEM file, public ones or the public halves of private ones.
pub(super) fn public_keys(pem: &str) -> Result<Vec<PublicKey>, KeyError> {
    let mut keys = Vec::new();
    for block in SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes()) {
        keys.push(PublicKey::from_spki(&block.map_err(|_| KeyError::NoKey)?)?);
    }
    if keys.is_empty() {
        keys.push(SigningKey::from_pem(pem).map_err(|_| KeyError::NoKey)?.public);
    }
    Ok(keys)
}

impl PublicKey {
    fn from_spki(info: &[u8]) -> Result<Self, KeyError> {
        let (_, parsed) = SubjectPublicKeyInfo::from_der(info).map_err(|_| KeyError::UnusablePublic)?;
        let material = match parsed.parsed().map_err(|_| KeyError::UnusablePublic)? {
            Parsed::EC(point) if point.data().len() == 65 => Material::Ec(point.data().to_vec()),
            Parsed::RSA(k) => Material::Rsa { n: strip(k.modulus), e: strip(k.exponent) },
            _ => return Err(KeyError::UnusablePublic),
        };
        let id = B64.encode(ring::digest::digest(&ring::digest::SHA256, info));
        Ok(PublicKey { id, material })
    }

    /// `kid`.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// `alg`.
    pub(super) fn algorithm(&self) -> &'static str {
        match self.material {
            Material::Ec(_) => "ES256",
            Material::Rsa { .. } => "RS256",
        }
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Ec(point) => sig::UnparsedPublicKey::new(&sig::ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok(),
            Material::Rsa { n, e } => {
                sig::RsaPublicKeyComponents { n, e }.verify(&sig::RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
        }
    }

    pub(super) fn jwk(&self) -> Value {
        let common = |kty: &str| json!({ "use": "sig", "kty": kty, "kid": self.id, "alg": self.algorithm() });
        match &self.material {
            Material::Ec(point) => {
                let mut jwk = common("EC");
                jwk["crv"] = json!("P-256");
                jwk["x"] = json!(B64.encode(&point[1..33]));
                jwk["y"] = json!(B64.encode(&point[33..65]));
                jwk
            }
            Material::Rsa { n, e } => {
                let mut jwk = common("RSA");
                jwk["n"] = json!(B64.encode(n));
                jwk["e"] = json!(B64.encode(e));
                jwk
            }
        }
    }
}

/// An integer without DER's leading zero.
fn strip(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    bytes[zeros..].to_vec()
}
