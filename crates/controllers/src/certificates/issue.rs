//! A CA that signs requests: lifetimes and extensions as kube-controller-manager gives them.
//!
//! Source: `pkg/controller/certificates/authority` (`PermissiveSigningPolicy`).

use super::der::{self, OCTET_STRING, bits, named_bits, oid, sequence, tagged, unsigned};
use super::rules::Asked;
use crate::config::Signing;
use jiff::{SignedDuration, Timestamp};
use rcgen::{KeyPair, SigningKey};
use std::net::IpAddr;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Clocks of other machines may be this much behind.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// What lives shorter is not cut by the backdate.
const SHORT: SignedDuration = SignedDuration::from_hours(8);
/// Nothing lives shorter (`MinDuration`).
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    #[error("the CA's certificate is not readable")]
    Certificate,
    #[error("the CA's key is not usable")]
    Key(#[source] rcgen::Error),
    #[error("the CA's key is of a kind that is not supported")]
    Algorithm,
    #[error("the signer has expired: NotAfter={0}")]
    Expired(Timestamp),
    #[error("unrecognized usage {0:?}")]
    Usage(String),
}

/// A CA with its key.
pub(super) struct Authority {
    key: KeyPair,
    /// The subject as it is encoded.
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
    not_after: Timestamp,
    longest: SignedDuration,
}

impl Authority {
    pub(super) fn new(signing: &Signing) -> Result<Self, IssueError> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(signing.certificate.as_bytes()).map_err(|_| IssueError::Certificate)?;
        let (_, ca) = X509Certificate::from_der(&pem.contents).map_err(|_| IssueError::Certificate)?;
        let key_id = ca.extensions().iter().find_map(|e| match e.parsed_extension() {
            x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        Ok(Authority {
            key: KeyPair::from_pem(&signing.key).map_err(IssueError::Key)?,
            subject: ca.subject().as_raw().to_vec(),
            key_id,
            not_after: Timestamp::from_second(ca.validity().not_after.timestamp()).map_err(|_| IssueError::Certificate)?,
            longest: SignedDuration::try_from(signing.duration).unwrap_or(SignedDuration::MAX),
        })
    }

    /// From when and until when.
    fn life(&self, seconds: Option<i32>, now: Timestamp) -> Result<(Timestamp, Timestamp), IssueError> {
        if now >= self.not_after {
            return Err(IssueError::Expired(self.not_after));
        }
        let asked = seconds.map_or(self.longest, |s| SignedDuration::from_secs(s.into()).min(self.longest).max(SHORTEST));
        let end = if asked < SHORT { now + asked } else { now + asked - BACKDATE };
        Ok((now - BACKDATE, end.min(self.not_after)))
    }

    /// A certificate in PEM for what is asked.
    pub(super) fn issue(&self, asked: &Asked, usages: &[String], seconds: Option<i32>, now: Timestamp) -> Result<String, IssueError> {
        let (from, until) = self.life(seconds, now)?;
        let algorithm = self.algorithm()?;
        let serial: [u8; 16] = rand::random();
        let body = sequence(&[
            tagged(0xa0, &unsigned(&[2])), // Version 3.
            unsigned(&serial),
            algorithm.clone(),
            self.subject.clone(),
            sequence(&[der::time(from), der::time(until)]),
            asked.subject.clone(),
            asked.public_key.clone(),
            tagged(0xa3, &self.extensions(asked, usages)?),
        ]);
        let signature = self.key.sign(&body).map_err(IssueError::Key)?;
        Ok(pem(&sequence(&[body, algorithm, bits(&signature)])))
    }

    /// The `AlgorithmIdentifier` of the signature.
    fn algorithm(&self) -> Result<Vec<u8>, IssueError> {
        let algorithm = self.key.algorithm();
        let identifier = if *algorithm == rcgen::PKCS_ECDSA_P256_SHA256 {
            sequence(&[oid(&[1, 2, 840, 10045, 4, 3, 2])])
        } else if *algorithm == rcgen::PKCS_ECDSA_P384_SHA384 {
            sequence(&[oid(&[1, 2, 840, 10045, 4, 3, 3])])
        } else if *algorithm == rcgen::PKCS_ED25519 {
            sequence(&[oid(&[1, 3, 101, 112])])
        } else if *algorithm == rcgen::PKCS_RSA_SHA256 {
            sequence(&[oid(&[1, 2, 840, 113_549, 1, 1, 11]), vec![5, 0]])
        } else {
            return Err(IssueError::Algorithm);
        };
        Ok(identifier)
    }

    fn extensions(&self, asked: &Asked, usages: &[String]) -> Result<Vec<u8>, IssueError> {
        let (bits, extended) = key_usages(usages)?;
        let mut all = Vec::new();
        if !bits.is_empty() {
            all.push(extension(&[2, 5, 29, 15], true, &named_bits(&bits)));
        }
        if !extended.is_empty() {
            all.push(extension(&[2, 5, 29, 37], false, &sequence(&extended)));
        }
        all.push(extension(&[2, 5, 29, 19], true, &sequence(&[]))); // No CA.
        if let Some(id) = &self.key_id {
            all.push(extension(&[2, 5, 29, 35], false, &sequence(&[tagged(0x80, id)])));
        }
        let names = alternative_names(asked);
        if !names.is_empty() {
            // Critical when the subject says nothing, as RFC 5280 wants it.
            all.push(extension(&[2, 5, 29, 17], asked.subject == [der::SEQUENCE, 0], &sequence(&names)));
        }
        Ok(sequence(&all))
    }
}

fn alternative_names(asked: &Asked) -> Vec<Vec<u8>> {
    let text = |tag: u8, names: &[String]| names.iter().map(|n| tagged(tag, n.as_bytes())).collect::<Vec<_>>();
    let mut names = text(0x82, &asked.dns_names);
    names.extend(text(0x81, &asked.emails));
    names.extend(asked.addresses.iter().map(|ip| match ip {
        IpAddr::V4(ip) => tagged(0x87, &ip.octets()),
        IpAddr::V6(ip) => tagged(0x87, &ip.octets()),
    }));
    names.extend(text(0x86, &asked.uris));
    names
}

fn extension(id: &[u64], critical: bool, value: &[u8]) -> Vec<u8> {
    let mut parts = vec![oid(id)];
    if critical {
        parts.push(tagged(der::BOOLEAN, &[0xff]));
    }
    parts.push(tagged(OCTET_STRING, value));
    sequence(&parts)
}

/// Numbers of the key usage bits, and object identifiers of the extended usages.
fn key_usages(usages: &[String]) -> Result<(Vec<u8>, Vec<Vec<u8>>), IssueError> {
    let (mut bits, mut extended) = (Vec::new(), Vec::new());
    for usage in usages {
        let bit = match usage.as_str() {
            "signing" | "digital signature" => Some(0),
            "content commitment" => Some(1),
            "key encipherment" => Some(2),
            "data encipherment" => Some(3),
            "key agreement" => Some(4),
            "cert sign" => Some(5),
            "crl sign" => Some(6),
            "encipher only" => Some(7),
            "decipher only" => Some(8),
            _ => None,
        };
        if let Some(bit) = bit {
            bits.push(bit);
            continue;
        }
        let purpose = |n: u64| vec![1, 3, 6, 1, 5, 5, 7, 3, n];
        let id = match usage.as_str() {
            "any" => vec![2, 5, 29, 37, 0],
            "server auth" => purpose(1),
            "client auth" => purpose(2),
            "code signing" => purpose(3),
            "email protection" | "s/mime" => purpose(4),
            "ipsec end system" => purpose(5),
            "ipsec tunnel" => purpose(6),
            "ipsec user" => purpose(7),
            "timestamping" => purpose(8),
            "ocsp signing" => purpose(9),
            "microsoft sgc" => vec![1, 3, 6, 1, 4, 1, 311, 10, 3, 3],
            "netscape sgc" => vec![2, 16, 840, 1, 113_730, 4, 1],
            other => return Err(IssueError::Usage(other.to_owned())),
        };
        extended.push(oid(&id));
    }
    extended.sort();
    extended.dedup();
    Ok((bits, extended))
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for at in (0..text.len()).step_by(64) {
        out.push_str(&text[at..text.len().min(at + 64)]);
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::super::rules;
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa};
    use std::time::Duration;

    fn authority(longest: Duration) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority::new(&Signing { certificate, key: key.serialize_pem(), duration: longest }).unwrap()
    }

    #[test]
    fn a_certificate_says_what_was_asked_and_bears_the_cas_signature() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["n.example".to_owned(), "10.0.0.7".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, "system:node:n");
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        let asked = rules::read(request.as_bytes()).unwrap();
        assert_eq!((asked.common_name.as_str(), asked.dns_names.len(), asked.addresses.len()), ("system:node:n", 1, 1));
        let ca = authority(Duration::from_secs(365 * 24 * 3600));
        let usages = ["server auth".to_owned(), "digital signature".to_owned()];
        let made = ca.issue(&asked, &usages, Some(3600), Timestamp::now()).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(made.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
        assert_eq!(certificate.subject().as_raw(), asked.subject);
        assert_eq!(certificate.public_key().raw, asked.public_key);
        assert!(!certificate.is_ca());
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_encipherment());
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && !extended.client_auth);
        assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 2);
        let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_ASN1, ca.key.public_key_raw());
        key.verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data).unwrap();
    }

    #[test]
    fn lifetimes_have_bounds_and_a_backdate() {
        let ca = authority(Duration::from_secs(24 * 3600));
        let now = Timestamp::now();
        let lives = |seconds| {
            let (from, until) = ca.life(seconds, now).unwrap();
            (now.duration_since(from).as_mins(), until.duration_since(now).as_mins())
        };
        assert_eq!(lives(None), (5, 24 * 60 - 5));
        assert_eq!(lives(Some(3600)), (5, 60), "a short life is not cut");
        assert_eq!(lives(Some(1)), (5, 10));
        assert_eq!(lives(Some(i32::MAX)), (5, 24 * 60 - 5));
        assert!(ca.life(None, ca.not_after).is_err());
    }
}
