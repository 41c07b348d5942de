//! Credentials towards kubelets, and the TLS used towards pods and services.

use crate::server::Tls;
use crate::server::config::KubeletAccess;
use crate::server::tls::{TlsError, pair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::{Arc, OnceLock};

/// How the server reaches kubelets.
#[derive(Clone, Debug)]
pub struct Kubelets {
    tls: Arc<ClientConfig>,
    /// For those who would rather have the log than know whose it is (`insecureSkipTLSVerifyBackend`).
    unverified: Arc<ClientConfig>,
}

impl Kubelets {
    /// Reads certificate, key and CA.
    pub fn new(access: &KubeletAccess) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(access.ca.as_bytes()) {
            roots.add(certificate.map_err(|source| TlsError::Pem { what: "kubelet CA", source })?)?;
        }
        let (chain, key) = pair(&Tls { certificate: access.certificate.clone(), key: access.key.clone() })?;
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions()?;
        let config = builder.clone().with_root_certificates(roots).with_client_auth_cert(chain.clone(), key.clone_key())?;
        let anything = Arc::new(Anything(Arc::new(ring::default_provider())));
        let unverified = builder.dangerous().with_custom_certificate_verifier(anything).with_client_auth_cert(chain, key)?;
        Ok(Kubelets { tls: Arc::new(config), unverified: Arc::new(unverified) })
    }

    /// The TLS configuration.
    pub fn tls(&self, verify: bool) -> Arc<ClientConfig> {
        if verify { self.tls.clone() } else { self.unverified.clone() }
    }
}

/// TLS towards pods and services behind `https:` proxies: their certificates are their own affair, as upstream has it.
pub fn unverified() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let make = || {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3");
        let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anything(provider))).with_no_client_auth();
        Arc::new(config)
    };
    CONFIG.get_or_init(make).clone()
}

/// Takes any certificate.
#[derive(Debug)]
pub struct Anything(Arc<CryptoProvider>);

impl Anything {
    /// Signatures are still checked, by this provider.
    pub fn new(provider: Arc<CryptoProvider>) -> Self {
        Anything(provider)
    }
}

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
