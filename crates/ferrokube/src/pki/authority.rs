//! A CA and what it signs. Pure X.509 apart from reading and writing the files.

use super::files::Folder;
use super::{Credential, PkiError};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::net::IpAddr;
use std::time::Duration;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY: i64 = 24 * 3600;
/// CAs live ten years, what they sign one year, as with kubeadm.
const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;
/// What has less than a fifth of its life left is renewed.
const RENEW_PART: i64 = 5;
/// Clocks of other machines may be this much behind.
const BACKDATE: i64 = 300;

/// A CA with its key.
pub(super) struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    /// Public key, to tell whose signature a certificate of an earlier run carries.
    key_id: Vec<u8>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(..)")
    }
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Server,
    Client,
}

/// A certificate that must exist.
pub(super) struct Leaf<'a> {
    /// Name of its files without ending.
    pub(super) file: &'a str,
    pub(super) common_name: &'a str,
    /// Empty: none.
    pub(super) organization: &'a str,
    /// Names and addresses.
    pub(super) sans: Vec<String>,
    pub(super) usage: Use,
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn sign_error(name: &str) -> impl Fn(rcgen::Error) -> PkiError {
    move |e| PkiError::Sign { name: name.to_owned(), why: e.to_string() }
}

fn params(common_name: &str, organization: &str, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if !organization.is_empty() {
        subject.push(DnType::OrganizationName, organization);
    }
    subject.push(DnType::CommonName, common_name);
    params.distinguished_name = subject;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |seconds: i64| epoch + Duration::from_secs(seconds.unsigned_abs());
    params.not_before = at(now() - BACKDATE);
    params.not_after = at(now() + days * DAY);
    params.use_authority_key_identifier_extension = true;
    params
}

/// The parsed first certificate of a PEM text, given to a function.
fn with_certificate<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    Some(look(&certificate))
}

/// Loads or makes a private key; its public half is kept beside it.
pub(super) fn private_key(folder: &Folder, name: &str) -> Result<String, PkiError> {
    let (private, public) = (format!("{name}.key"), format!("{name}.pub"));
    let key = match folder.read(&private)? {
        Some(pem) => {
            // Keys that kubeadm made are RSA; their public half stands beside them.
            if folder.read(&public)?.is_some() {
                return Ok(pem);
            }
            KeyPair::from_pem(&pem).map_err(|e| PkiError::Broken { path: folder.path(&private), why: e.to_string() })?
        }
        None => {
            let key = KeyPair::generate().map_err(sign_error(name))?;
            folder.write(&private, &key.serialize_pem())?;
            key
        }
    };
    folder.write(&public, &key.public_key_pem())?;
    Ok(key.serialize_pem())
}

impl Authority {
    /// Loads the CA, or makes it when neither certificate nor key is there. A certificate near its end is made anew with
    /// the same key and name, so that everything it signed stays valid.
    pub(super) fn ensure(folder: &Folder, file: &str, common_name: &str) -> Result<Self, PkiError> {
        let (crt, key) = (format!("{file}.crt"), format!("{file}.key"));
        let broken = |name: &str, why: &str| PkiError::Broken { path: folder.path(name), why: why.to_owned() };
        let (certificate, pair) = match (folder.read(&crt)?, folder.read(&key)?) {
            (None, None) => {
                let pair = KeyPair::generate().map_err(sign_error(common_name))?;
                folder.write(&key, &pair.serialize_pem())?;
                (None, pair)
            }
            (Some(_), None) => return Err(broken(&key, "the certificate is there, its key is missing")),
            (certificate, Some(pem)) => {
                let pair = KeyPair::from_pem(&pem).map_err(|e| broken(&key, &e.to_string()))?;
                (certificate, pair)
            }
        };
        let left = certificate.as_deref().map(|pem| {
            let fits = with_certificate(pem, |c| (c.public_key().subject_public_key.data.to_vec(), c.validity().not_after.timestamp()));
            let (public, end) = fits.ok_or_else(|| broken(&crt, "not a certificate"))?;
            if public != pair.public_key_raw() {
                return Err(broken(&crt, "the certificate does not belong to its key"));
            }
            Ok(end - now())
        });
        let certificate = match (certificate, left.transpose()?) {
            (Some(pem), Some(left)) if left > LEAF_DAYS * DAY => pem,
            (_, left) => {
                if left.is_some() {
                    tracing::info!(file, "renewing the CA certificate with the same key");
                }
                let pem = self_signed(common_name, &pair)?;
                folder.write(&crt, &pem)?;
                pem
            }
        };
        let key_id = pair.public_key_raw().to_vec();
        let issuer = Issuer::from_ca_cert_pem(&certificate, pair).map_err(|e| broken(&crt, &e.to_string()))?;
        Ok(Authority { certificate, issuer, key_id })
    }

    pub(super) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Loads the certificate, or makes it (with a new key) when it is absent or no longer fits.
    pub(super) fn leaf(&self, folder: &Folder, leaf: &Leaf<'_>) -> Result<Credential, PkiError> {
        let (crt, key) = (format!("{}.crt", leaf.file), format!("{}.key", leaf.file));
        if let (Some(certificate), Some(key)) = (folder.read(&crt)?, folder.read(&key)?) {
            match self.unfit(leaf, &certificate, &key) {
                None => return Ok(Credential { certificate, key }),
                Some(why) => tracing::info!(file = leaf.file, why, "renewing a certificate"),
            }
        }
        let made = self.sign(leaf)?;
        folder.write(&key, &made.key)?;
        folder.write(&crt, &made.certificate)?;
        Ok(made)
    }

    fn sign(&self, leaf: &Leaf<'_>) -> Result<Credential, PkiError> {
        let fail = sign_error(leaf.file);
        let mut params = params(leaf.common_name, leaf.organization, LEAF_DAYS);
        params.subject_alt_names = CertificateParams::new(leaf.sans.clone()).map_err(&fail)?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![match leaf.usage {
            Use::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Use::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let pair = KeyPair::generate().map_err(&fail)?;
        let certificate = params.signed_by(&pair, &self.issuer).map_err(&fail)?;
        Ok(Credential { certificate: certificate.pem(), key: pair.serialize_pem() })
    }

    /// Why an existing certificate cannot stay; `None` when it can.
    fn unfit(&self, leaf: &Leaf<'_>, certificate: &str, key: &str) -> Option<&'static str> {
        let Ok(pair) = KeyPair::from_pem(key) else { return Some("its key is unreadable") };
        let why = with_certificate(certificate, |c| {
            if c.public_key().subject_public_key.data != pair.public_key_raw() {
                return Some("it does not belong to its key");
            }
            if !self.signed(c) {
                return Some("another CA signed it");
            }
            if c.validity().not_after.timestamp() - now() < LEAF_DAYS * DAY / RENEW_PART {
                return Some("it ends soon");
            }
            let text = |mut names: Box<dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>> + '_>| {
                names.next().and_then(|n| n.as_str().ok()).unwrap_or_default().to_owned()
            };
            let subject = (text(Box::new(c.subject().iter_common_name())), text(Box::new(c.subject().iter_organization())));
            if subject != (leaf.common_name.to_owned(), leaf.organization.to_owned()) {
                return Some("its subject changed");
            }
            let present = sans(c);
            leaf.sans.iter().any(|wanted| !present.contains(wanted)).then_some("a name or address is missing")
        });
        why.unwrap_or(Some("it is unreadable"))
    }

    /// Whether this CA's key signed the certificate.
    fn signed(&self, certificate: &X509Certificate<'_>) -> bool {
        let message = certificate.tbs_certificate.as_ref();
        let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_ASN1, &self.key_id);
        if key.verify(message, &certificate.signature_value.data).is_ok() {
            return true;
        }
        // A CA with an RSA key, made by kubeadm.
        let key = ring::signature::UnparsedPublicKey::new(&ring::signature::RSA_PKCS1_2048_8192_SHA256, &self.key_id);
        key.verify(message, &certificate.signature_value.data).is_ok()
    }
}

fn self_signed(common_name: &str, pair: &KeyPair) -> Result<String, PkiError> {
    let fail = sign_error(common_name);
    let mut params = params(common_name, "", CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = CertificateParams::new(vec![common_name.to_owned()]).map_err(&fail)?.subject_alt_names;
    Ok(params.self_signed(pair).map_err(&fail)?.pem())
}

/// Names and addresses of a certificate, as text.
fn sans(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut all = Vec::new();
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { continue };
        all.extend(names.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
                16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
                _ => None,
            },
            _ => None,
        }));
    }
    all
}
