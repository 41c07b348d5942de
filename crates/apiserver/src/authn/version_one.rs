//! Client certificates of X.509 version 1: what `openssl x509 -req` makes without extensions, as many a tutorial does.
//!
//! The library that checks chains refuses them, Go takes them as the first certificate of a chain. So what that library does
//! for others is done here for them alone: a key proves itself, and a CA that we trust has signed. They cannot sign others,
//! and only a CA itself vouches for them, not one in between.

use super::Rejected;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::{DigitallySignedStruct, PeerMisbehaved};
use x509_parser::oid_registry::{
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
    OID_SIG_ED25519,
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// The certificate, if it is one.
pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (rest, cert) = X509Certificate::from_der(der).ok()?;
    (rest.is_empty() && cert.version() == X509Version::V1).then_some(cert)
}

/// Checks that one of the CAs (PEM) has signed the certificate and that it is valid now, in seconds since the epoch.
pub(super) fn verify(cert: &X509Certificate<'_>, cas: &str, now: i64) -> Result<(), Rejected> {
    let validity = cert.validity();
    if now < validity.not_before.timestamp() || now > validity.not_after.timestamp() {
        return Err(Rejected("verifying certificate failed: certificate has expired or is not yet valid".into()));
    }
    // Those that Go takes as well: nothing with SHA-1.
    let algorithms = [
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ED25519,
    ];
    let signed = cert.signature_algorithm == cert.tbs_certificate.signature && algorithms.contains(&cert.signature_algorithm.algorithm);
    let by = |ca: &CertificateDer<'_>| {
        let Ok((_, ca)) = X509Certificate::from_der(ca) else { return false };
        ca.subject().as_raw() == cert.issuer().as_raw() && cert.verify_signature(Some(ca.public_key())).is_ok()
    };
    if signed && CertificateDer::pem_slice_iter(cas.as_bytes()).flatten().any(|ca| by(&ca)) {
        return Ok(());
    }
    Err(Rejected("verifying certificate failed: certificate signed by unknown authority".into()))
}

/// Whether the holder of the certificate's key has signed the handshake of TLS 1.2.
pub(super) fn signed_tls12(
    message: &[u8],
    cert: &X509Certificate<'_>,
    dss: &DigitallySignedStruct,
    supported: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let known = supported.mapping.iter().find(|(scheme, _)| *scheme == dss.scheme);
    let (_, algorithms) = known.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    let key = &cert.public_key().subject_public_key.data;
    // In TLS 1.2 a scheme does not say which curve, so several may be meant.
    if algorithms.iter().any(|algorithm| algorithm.verify_signature(key, message, dss.signature()).is_ok()) {
        return Ok(HandshakeSignatureValid::assertion());
    }
    Err(rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature))
}

/// The same for TLS 1.3.
pub(super) fn signed_tls13(
    message: &[u8],
    cert: &X509Certificate<'_>,
    dss: &DigitallySignedStruct,
    supported: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let key = SubjectPublicKeyInfoDer::from(cert.public_key().raw);
    verify_tls13_signature_with_raw_key(message, &key, dss, supported)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::x509::{CaPool, PeerCertificates, client_certificate_verifier};
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SigningKey};
    use rustls::client::ResolvesClientCert;
    use rustls::crypto::ring;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::sign::CertifiedKey;
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConnection, RootCertStore, ServerConnection, SignatureScheme, SupportedProtocolVersion};
    use std::sync::Arc;

    struct Ca {
        pem: String,
        key: Vec<u8>,
        issuer: Issuer<'static, KeyPair>,
    }

    fn ca() -> Ca {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ca");
        let pem = params.self_signed(&key).expect("signed").pem();
        let der = key.serialize_der();
        Ca { issuer: Issuer::from_ca_cert_pem(&pem, key).expect("a CA"), key: der, pem }
    }

    /// One element of DER.
    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).expect("short").to_be_bytes();
        [&[tag, 0x82], &length[..], content].concat()
    }

    /// The certificate of a key, with neither version nor extensions.
    fn version_one(ca: &Ca, key: &KeyPair) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "dev");
        params.distinguished_name.push(DnType::CommonName, "jane");
        let whole = params.signed_by(key, &ca.issuer).expect("signed");
        let (_, cert) = X509Certificate::from_der(whole.der()).expect("readable");
        let raw = cert.tbs_certificate.as_ref();
        // What stands between the version and the extensions: from the serial number to the end of the key.
        let place = |part: &[u8]| part.as_ptr() as usize - raw.as_ptr() as usize;
        let version = raw.windows(5).position(|w| w == [0xa0, 3, 2, 1, 2]).expect("a version") + 5;
        let key_end = place(cert.public_key().raw) + cert.public_key().raw.len();
        let tbs = element(0x30, &raw[version..key_end]);
        let signing = KeyPair::try_from(ca.key.as_slice()).expect("the CA's key");
        let signature = signing.sign(&tbs).expect("signed");
        // ecdsa-with-SHA256.
        let algorithm = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
        let signature = element(3, &[&[0][..], &signature].concat());
        CertificateDer::from(element(0x30, &[&tbs[..], &algorithm, &signature].concat()))
    }

    #[derive(Debug)]
    struct Shows(Arc<CertifiedKey>);

    impl ResolvesClientCert for Shows {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            Some(self.0.clone())
        }

        fn has_certs(&self) -> bool {
            true
        }
    }

    /// A handshake in memory in which the client shows a certificate and signs with a key.
    fn handshake(
        ca: &Ca,
        cert: &CertificateDer<'static>,
        key: &KeyPair,
        version: &'static SupportedProtocolVersion,
    ) -> Result<(), rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let server_key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["server".to_owned()]).expect("a name");
        let server_cert = params.signed_by(&server_key, &ca.issuer).expect("signed").der().clone();
        let server = rustls::ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[version])?;
        let server = server.with_client_cert_verifier(client_certificate_verifier(&[&ca.pem]).expect("a CA"));
        let server = server.with_single_cert(vec![server_cert], PrivateKeyDer::try_from(server_key.serialize_der()).expect("a key"))?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).expect("a certificate"))?;
        let client =
            rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version])?.with_root_certificates(roots);
        let key = ring::sign::any_supported_type(&PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))?;
        let client = client.with_client_cert_resolver(Arc::new(Shows(Arc::new(CertifiedKey::new(vec![cert.clone()], key)))));
        let mut client = ClientConnection::new(Arc::new(client), "server".try_into().expect("a name"))?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).expect("memory");
            }
            let mut rest = &wire[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).expect("memory");
                server.process_new_packets()?;
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).expect("memory");
            }
            let mut rest = &wire[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).expect("memory");
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_certificate_of_version_one_shakes_hands_with_its_own_key_only() {
        let ca = ca();
        let (key, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let cert = version_one(&ca, &key);
        for version in [&TLS12, &TLS13] {
            handshake(&ca, &cert, &key, version).expect("its own key");
            handshake(&ca, &cert, &other, version).expect_err("not its key");
        }
    }

    #[test]
    fn a_certificate_of_version_one_is_who_it_says_if_our_ca_signed_it_and_it_is_valid() {
        let (ours, theirs) = (ca(), ca());
        let pool = CaPool::from_pem("client CA", &ours.pem).expect("a CA");
        let key = KeyPair::generate().expect("a key");
        let (good, foreign) = (version_one(&ours, &key), version_one(&theirs, &key));
        let now = jiff::Timestamp::now().as_second();
        let user = PeerCertificates::new(vec![good.clone()]).client_identity(&pool, now).expect("known");
        assert_eq!((user.name.as_str(), &user.groups[..]), ("jane", &["dev".to_owned()][..]));
        // The other CA has the same name.
        for (what, cert, at) in [("foreign", &foreign, now), ("long ago", &good, 0)] {
            PeerCertificates::new(vec![cert.clone()]).client_identity(&pool, at).expect_err(what);
        }
        let mut changed = good.to_vec();
        let name = changed.windows(4).position(|w| w == b"jane").expect("the name");
        changed[name] = b'J';
        PeerCertificates::new(vec![changed.into()]).client_identity(&pool, now).expect_err("changed");
    }
}
