//! Whom a server is believed to be: by CAs, as everywhere, and by a certificate that stands itself among them.
//!
//! Somebody who makes one certificate for a webhook makes it with `openssl req -x509`, which says that it is a CA, and names it as its own
//! `caBundle`. Go takes it; the path builder here takes no CA for a server. So what the bundle holds literally is looked at once more: by its
//! name, its time and its purpose. Nothing else is let through that a chain would not let through.

use super::{OutboundError, config};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// Believes chains that end in one of the CAs, and the certificates of the bundle themselves.
#[derive(Debug)]
struct Bundle {
    chains: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

/// Trust in `roots`, which were read from the bundle `pem`.
pub(crate) fn verifier(
    roots: RootCertStore,
    pem: &[u8],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, OutboundError> {
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(config)?;
    let certificates = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
    Ok(Arc::new(Bundle { chains, certificates }))
}

/// Whether a certificate may be a server's at this time.
fn serves(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet);
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired);
    }
    match parsed.extended_key_usage() {
        Ok(None) => Ok(()),
        Ok(Some(usage)) if usage.value.server_auth || usage.value.any => Ok(()),
        Ok(Some(_)) => Err(CertificateError::InvalidPurpose),
        Err(_) => Err(CertificateError::BadEncoding),
    }
}

impl ServerCertVerifier for Bundle {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chained = self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if chained.is_ok() || !self.certificates.iter().any(|c| c == end_entity) {
            return chained;
        }
        serves(end_entity, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    use std::time::Duration;

    /// As `openssl req -x509` makes one.
    fn own(change: impl FnOnce(&mut CertificateParams)) -> rcgen::Certificate {
        let mut params = CertificateParams::new(vec!["webhook.test".to_owned()]).expect("a name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate")
    }

    fn judge(bundle: &rcgen::Certificate, shown: &rcgen::Certificate, name: &str, now: UnixTime) -> Result<(), Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let pem = bundle.pem();
        let verifier = verifier(super::super::roots(&pem).expect("a CA"), pem.as_bytes(), provider).expect("a verifier");
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        verifier.verify_server_cert(shown.der(), &[], &name, &[], now).map(drop)
    }

    #[test]
    fn a_certificate_that_is_its_own_ca_is_believed_by_name_time_and_purpose() {
        let certificate = own(|_| {});
        let now = UnixTime::now();
        assert_eq!(judge(&certificate, &certificate, "webhook.test", now), Ok(()));
        assert!(judge(&certificate, &certificate, "other.test", now).is_err());
        assert!(judge(&own(|_| {}), &certificate, "webhook.test", now).is_err(), "only one that is in the bundle");

        let late = UnixTime::since_unix_epoch(Duration::from_secs(1 << 38));
        assert_eq!(judge(&certificate, &certificate, "webhook.test", late), Err(Error::InvalidCertificate(CertificateError::Expired)));
        let client = own(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
        assert_eq!(judge(&client, &client, "webhook.test", now), Err(Error::InvalidCertificate(CertificateError::InvalidPurpose)));
    }
}
