//! The server's certificates, replaceable while it runs, and the client certificates it asks for.

use super::config::{NamedCertificate, Tls};
use super::names::Certificates;
use super::serving::{ServingConfig, ServingError};
use crate::authn::{AuthnConfigError, client_certificate_verifier};
use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// Why certificate and key cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The PEM does not hold what it should.
    #[error("{what} is not usable PEM: {source}")]
    Pem {
        /// Certificate or key.
        what: &'static str,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// They do not fit, or the algorithm is not known.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    /// Versions and suites.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// The client CA.
    #[error(transparent)]
    ClientCa(#[from] AuthnConfigError),
}

/// Certificates and key of a PEM pair.
pub fn pair(tls: &Tls) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = CertificateDer::pem_slice_iter(tls.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|source| TlsError::Pem { what: "certificate", source })?;
    let key = PrivateKeyDer::from_pem_slice(tls.key.as_bytes()).map_err(|source| TlsError::Pem { what: "private key", source })?;
    Ok((chain, key))
}

pub(super) fn read(tls: &Tls) -> Result<Arc<CertifiedKey>, TlsError> {
    let (chain, key) = pair(tls)?;
    let key = ring::sign::any_supported_type(&key)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match()?;
    Ok(Arc::new(certified))
}

/// How connections are taken. All of it can be replaced while the server runs.
pub struct Terms {
    certificates: Arc<Certificates>,
    serving: ServingConfig,
    config: ArcSwap<rustls::ServerConfig>,
}

impl Terms {
    /// Serves with a certificate, or those for the names that clients ask for, and asks for those of the given CAs.
    pub fn new(tls: &Tls, named: &[NamedCertificate], client_cas: &[&str], serving: ServingConfig) -> Result<Self, TlsError> {
        let certificates = Arc::new(Certificates::new(tls, named)?);
        let config = ArcSwap::from_pointee(server_config(certificates.clone(), client_cas, &serving)?);
        Ok(Terms { certificates, serving, config })
    }

    /// For the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Serves with another certificate from the next handshake on.
    pub fn serve_with(&self, tls: &Tls) -> Result<(), TlsError> {
        self.certificates.replace(tls)
    }

    /// The same for the certificates of names.
    pub fn serve_names_with(&self, named: &[NamedCertificate]) -> Result<(), TlsError> {
        self.certificates.replace_named(named)
    }

    /// Asks for certificates of other CAs from the next handshake on, and resumes no session from before.
    pub fn ask_for(&self, client_cas: &[&str]) -> Result<(), TlsError> {
        self.config.store(Arc::new(server_config(self.certificates.clone(), client_cas, &self.serving)?));
        Ok(())
    }
}

/// The TLS configuration: 1.2 and 1.3 unless told otherwise, HTTP/2 preferred, client certificates asked for but not required.
fn server_config(certificates: Arc<Certificates>, client_cas: &[&str], serving: &ServingConfig) -> Result<rustls::ServerConfig, TlsError> {
    let builder = rustls::ServerConfig::builder_with_provider(Arc::new(serving.provider()?)).with_protocol_versions(serving.versions())?;
    let builder = if client_cas.iter().all(|ca| ca.is_empty()) {
        builder.with_no_client_auth()
    } else {
        builder.with_client_cert_verifier(client_certificate_verifier(client_cas)?)
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
