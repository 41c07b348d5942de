//! Client certificates: the common name is the user, the organizations are the groups.
//!
//! The TLS layer only proves that the client holds the key of the certificate it shows; whether a CA we trust signed
//! it is decided here, so that a foreign certificate gets a 401 `Status` and not a broken handshake. Source:
//! `request/x509`, KEP-3926 for the uid.

use super::{AuthnConfigError, Rejected, version_one};
use crate::attributes::UserInfo;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The attribute of the subject that carries the uid.
const UID_OID: &str = "1.3.6.1.4.1.57683.2";

/// CAs that vouch for clients.
pub(super) struct CaPool {
    /// As they came, for certificates of version 1.
    pem: String,
    verifier: Arc<dyn ClientCertVerifier>,
    /// No two have the same: what was proved to one says nothing to another.
    number: u64,
}

impl CaPool {
    pub(super) fn from_pem(what: &'static str, pem: &str) -> Result<Self, AuthnConfigError> {
        let fail = |why: String| AuthnConfigError::Ca { what, why };
        let roots = roots(pem).map_err(fail)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        Ok(CaPool { pem: pem.to_owned(), verifier: verifier.build().map_err(|e| fail(e.to_string()))?, number })
    }

    /// Checks the chain, and gives the facts of its first certificate.
    fn verify(&self, chain: &[CertificateDer<'static>], now: i64) -> Result<Proven, Rejected> {
        let (leaf, rest) = chain.split_first().ok_or_else(|| Rejected("no certificate".into()))?;
        if let Some(leaf) = version_one::parse(leaf) {
            version_one::verify(&leaf, &self.pem, now)?;
            return Proven::read(chain);
        }
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs()));
        self.verifier.verify_client_cert(leaf, rest, time).map_err(|e| Rejected(format!("verifying certificate failed: {e}")))?;
        Proven::read(chain)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(cert.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    }
    if roots.is_empty() { Err("empty".to_owned()) } else { Ok(roots) }
}

/// What a verified chain says.
#[derive(Clone, Debug)]
struct Proven {
    user: UserInfo,
    /// Seconds since the epoch at which the first certificate of the presented chain ends.
    not_after: i64,
}

impl Proven {
    fn read(chain: &[CertificateDer<'static>]) -> Result<Self, Rejected> {
        let mut not_after = i64::MAX;
        let mut user = None;
        for der in chain {
            let (_, cert) = X509Certificate::from_der(der).map_err(|e| Rejected(format!("unreadable certificate: {e}")))?;
            not_after = not_after.min(cert.validity().not_after.timestamp());
            if user.is_none() {
                user = Some(UserInfo { extra: credential(der), ..user_of(&cert)? });
            }
        }
        Ok(Proven { user: user.unwrap_or_default(), not_after })
    }
}

/// Which certificate it was, for audit and `kubectl auth whoami`.
fn credential(der: &CertificateDer<'_>) -> BTreeMap<String, Vec<String>> {
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    BTreeMap::from([("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={hex}")])])
}

fn user_of(cert: &X509Certificate<'_>) -> Result<UserInfo, Rejected> {
    let subject = cert.subject();
    let texts = |attributes: &mut dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>>| -> Vec<String> {
        attributes.filter_map(|a| a.as_str().ok().map(str::to_owned)).collect()
    };
    let name = texts(&mut subject.iter_common_name()).pop().unwrap_or_default();
    if name.is_empty() {
        return Err(Rejected("the certificate has no common name".into()));
    }
    let mut uids = texts(&mut subject.iter_attributes().filter(|a| a.attr_type().to_id_string() == UID_OID));
    if uids.len() > 1 {
        return Err(Rejected("the certificate has more than one uid".into()));
    }
    Ok(UserInfo { name, uid: uids.pop().unwrap_or_default(), groups: texts(&mut subject.iter_organization()), ..UserInfo::default() })
}

/// What a chain proved or did not prove, and to which CAs.
type Memory = Mutex<Option<(u64, Result<Proven, String>)>>;

/// The certificates a TLS client presented. One per connection: what they prove is checked once and remembered until other CAs count.
#[derive(Debug, Default)]
pub struct PeerCertificates {
    chain: Vec<CertificateDer<'static>>,
    client: Memory,
    proxy: Memory,
}

impl PeerCertificates {
    /// From the handshake, end entity first.
    pub fn new(chain: Vec<CertificateDer<'static>>) -> Self {
        PeerCertificates { chain, ..PeerCertificates::default() }
    }

    pub(super) fn client_identity(&self, ca: &CaPool, now: i64) -> Result<UserInfo, Rejected> {
        remembered(&self.client, ca, &self.chain, now)
    }

    pub(super) fn proxy_identity(&self, ca: &CaPool, now: i64) -> Result<UserInfo, Rejected> {
        remembered(&self.proxy, ca, &self.chain, now)
    }
}

fn remembered(memory: &Memory, ca: &CaPool, chain: &[CertificateDer<'static>], now: i64) -> Result<UserInfo, Rejected> {
    let mut memory = memory.lock();
    if memory.as_ref().is_none_or(|(number, _)| *number != ca.number) {
        *memory = None;
    }
    let (_, proven) = memory.get_or_insert_with(|| (ca.number, ca.verify(chain, now).map_err(|e| e.0)));
    match proven {
        Ok(proven) if now < proven.not_after => Ok(proven.user.clone()),
        Ok(_) => Err(Rejected("the certificate has expired".into())),
        Err(why) => Err(Rejected(why.clone())),
    }
}

/// For the server's TLS configuration: asks for a certificate of the given CAs (PEM), requires none, and leaves the
/// judgement of the chain to [`super::Authenticator`].
pub fn client_certificate_verifier(ca_pems: &[&str]) -> Result<Arc<dyn ClientCertVerifier>, AuthnConfigError> {
    let mut subjects = Vec::new();
    for pem in ca_pems.iter().filter(|p| !p.is_empty()) {
        subjects.extend(roots(pem).map_err(|why| AuthnConfigError::Ca { what: "client CA", why })?.subjects());
    }
    Ok(Arc::new(AnyCertificate { subjects, provider: provider() }))
}

#[derive(Debug)]
struct AnyCertificate {
    subjects: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let supported = &self.provider.signature_verification_algorithms;
        match version_one::parse(cert) {
            Some(cert) => version_one::signed_tls12(message, &cert, dss, supported),
            None => rustls::crypto::verify_tls12_signature(message, cert, dss, supported),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let supported = &self.provider.signature_verification_algorithms;
        match version_one::parse(cert) {
            Some(cert) => version_one::signed_tls13(message, &cert, dss, supported),
            None => rustls::crypto::verify_tls13_signature(message, cert, dss, supported),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
